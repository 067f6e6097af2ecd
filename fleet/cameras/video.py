"""Frames of a video file, through PyAV: mp4, avi, mkv and whatever else FFmpeg reads.

One frame about every `interval_s` by the timestamps in the file, never by counting: frame k is the first at or after
`k * interval_s` from the first key frame on, half a millisecond forgiven since Matroska rounds to milliseconds. Nothing
is decoded to count frames: the timestamps of the packets tell. Decoding runs in one thread and conversion to RGB in
FFmpeg's exact mode, so that a file gives the same frames each time.

RGB is made with the matrix and range that the file states. If it states none: BT.709 for a height of 720 or more,
BT.601 below, and limited range, except for the `yuvj` formats, which are full. Rotation by quarter turns is applied.

A video is already lossy: results on it measure coding of an old codec's output and must say so.

Not here: labels; deinterlacing, tone mapping of HDR, pixels that are not square, all of which are left as stored;
sound; the other ones of several video streams, of which FFmpeg's choice, commonly the largest, is read.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from roadbits.codecs.bitstream import MAX_PIXELS
from roadbits.codecs.legacy.camera_rgb import camera_rgb
from roadbits.fleet.cameras.classes import CAMVID11, ClassSet
from roadbits.fleet.cameras.frame import DataError, Frame

_ROUNDING_S = Fraction(1, 2000)
_MISSING_S = Fraction(1, 2)
"""A file that ends this much earlier than its header promises is truncated; headers are seldom exact.

mp4 and avi show a shorter loss by an incomplete last packet; in Matroska it goes unnoticed.
"""


@dataclass(frozen=True)
class VideoFrames:
    """Unlabelled frames of one video file; the camera is the file's stem, the domain `day`.

    Opening reads the file once without decoding; the file is held open only while iterating, and one frame at a time is
    in memory.

    Attributes:
        path: the file.
        split: `train`, `reference` or `test`: what the frames may be used for.
        interval_s: seconds between frames taken; every frame is taken if it is shorter than the file's own interval.
        max_frames: take at most that many, from the beginning; all if None.

    Raises:
        ValueError: for an interval or a number out of range.
        DataError: if the file is missing, unreadable, truncated, too large a picture or without video or timestamps;
            while iterating, if it does not decode, with the time reached.
    """

    path: Path
    split: str = field(kw_only=True)
    interval_s: float = field(kw_only=True)
    max_frames: int | None = field(default=None, kw_only=True)
    _chosen: tuple[int, ...] = field(init=False, repr=False)
    """Timestamps of the frames taken, in ticks."""
    _last_time_s: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the arguments and index the file."""
        if not 0 < self.interval_s < math.inf:
            raise ValueError(f"interval_s must be a finite number greater than 0, got {self.interval_s}")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")
        with _opened(self.path) as (container, stream):
            ticks = _timestamps(self.path, container, stream)
            chosen = _evenly_in_time(ticks, _tick_s(stream), self.interval_s)[: self.max_frames]
            last_time_s = float((chosen[-1] - chosen[0]) * _tick_s(stream))
        object.__setattr__(self, "_chosen", tuple(chosen))
        object.__setattr__(self, "_last_time_s", last_time_s)

    @property
    def classes(self) -> ClassSet:
        """CamVid's 11 classes, though no frame is labelled."""
        return CAMVID11

    @property
    def last_time_s(self) -> float:
        """When the last frame is taken, in seconds since the drive began."""
        return self._last_time_s

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._chosen)

    def domain(self, index: int) -> str:
        """Return the domain of frame `index`: nothing in a file tells of any."""
        return "day"

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order of time."""
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Frame]:
        """Yield the frames from position `first` on, decoded from the last key frame before it."""
        if 0 < first < len(self):
            with _opened(self.path) as (container, stream):
                if (pictures := self._sought(container, stream, first)) is not None:
                    yield from self._frames(pictures, stream, first)
                    return
        if first < len(self):
            with _opened(self.path) as (container, stream):
                yield from self._frames(_decoded(self.path, container, stream, self._chosen[0]), stream, first)

    def _sought(self, container: InputContainer, stream: VideoStream, first: int) -> Iterator[av.VideoFrame] | None:
        """Return the pictures from one of those taken on; None where no key frame of the file's index leads to it."""
        due = self._chosen[first]
        try:
            container.seek(due, stream=stream)
            pictures = _decoded(self.path, container, stream, self._chosen[0])
            found = _with_timestamp(pictures, due)
        except (DataError, FFmpegError):
            return None
        return None if found is None else itertools.chain([found], pictures)

    def _frames(self, pictures: Iterator[av.VideoFrame], stream: VideoStream, first: int) -> Iterator[Frame]:
        """Yield the frames from position `first` on of what is decoded.

        Raises:
            DataError: if one is not among it.
        """
        for index in range(first, len(self)):
            tick = self._chosen[index]
            time_s = float((tick - self._chosen[0]) * _tick_s(stream))
            picture = _with_timestamp(pictures, tick)
            if picture is None:
                raise DataError(f"{self.path}: the frame at {time_s:.3f} s is missing: damaged or truncated?")
            yield Frame(_rgb(self.path, picture), None, self.path.stem, index, time_s, self.domain(index))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's first video stream for decoding in one thread."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name video files with --set cameras.paths=[FILE]")
    try:
        # Resolved, for FFmpeg would take `a:b.mp4` for a protocol.
        container = av.open(str(path.resolve()), "r")
    except (FFmpegError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a video: {error}") from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise DataError(f"{path}: holds no video stream that FFmpeg can decode, expected one")
        context = stream.codec_context
        if not 0 < context.width * context.height <= MAX_PIXELS:
            raise DataError(f"{path}: {context.height} x {context.width} pixels, expected 1 to {MAX_PIXELS} in all")
        context.thread_type = "NONE"
        context.thread_count = 1
        context.options = {"max_pixels": str(2 * MAX_PIXELS)}
        yield container, stream


def _tick_s(stream: VideoStream) -> Fraction:
    assert stream.time_base is not None, "every demuxer gives its streams a clock"
    return stream.time_base


def _timestamps(path: Path, container: InputContainer, stream: VideoStream) -> list[int]:
    """Return the timestamps of all frames from the first key frame on, sorted, in ticks.

    Raises:
        DataError: if the file is broken or truncated, holds no key frame, or lacks timestamps.
    """
    stored: list[int] = []
    shown: list[int] = []
    start: int | None = None
    end = 0
    for packet in _packets(path, container, stream):
        if packet.pts is None:
            raise DataError(f"{path}: frames without timestamps: remux or encode it anew, for example to mkv")
        stored.append(packet.pts)
        end = max(end, packet.pts + (packet.duration or 0))
        start = packet.pts if start is None and packet.is_keyframe else start
        # What is shown before the first key frame cannot be decoded; an edit list may hide more.
        if start is not None and packet.pts >= start and not packet.is_discard:
            shown.append(packet.pts)
    if not shown:
        raise DataError(f"{path}: holds no key frame, expected one or more")
    _check_length(path, container, stream, sorted(stored), end)
    return sorted(set(shown))


def _packets(path: Path, container: InputContainer, stream: VideoStream) -> "Iterator[av.Packet[VideoStream]]":
    """Yield the packets that hold something.

    Raises:
        DataError: at the first broken one.
    """
    reached_s = 0.0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise DataError(f"{path}: breaks off after {reached_s:.3f} s: truncated?")
            if packet.size:
                yield packet
                reached_s = float(((packet.pts or 0) - (stream.start_time or 0)) * _tick_s(stream))
    except FFmpegError as error:
        raise DataError(f"{path}: breaks off after {reached_s:.3f} s: {error}") from error


def _check_length(path: Path, container: InputContainer, stream: VideoStream, ticks: list[int], end: int) -> None:
    """Raise DataError if the frames with these sorted timestamps, the last until `end`, end before what is promised."""
    last_interval = ticks[-1] - ticks[-2] if len(ticks) > 1 else 0
    # Some writers count from 0, others from the first frame: what both allow is let pass.
    reached_s = (max(ticks[-1] + last_interval, end) - min(0, ticks[0])) * _tick_s(stream)
    promised_s = _promised_s(container, stream)
    if promised_s is not None and promised_s - reached_s > _MISSING_S:
        raise DataError(
            f"{path}: ends at {float(reached_s):.3f} s, its header promises {float(promised_s):.3f} s: truncated?"
        )


def _promised_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the length in seconds that the header states of the video, None if it states none."""
    # Of a truncated avi FFmpeg guesses the duration anew; that of mp4 heeds the edit list, its frame count does not.
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / stream.average_rate
    if stream.duration is not None:
        return stream.duration * _tick_s(stream)
    # Matroska states the length of the whole; sound may outlast the picture.
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


def _evenly_in_time(ticks: list[int], tick_s: Fraction, interval_s: float) -> list[int]:
    """Return the first of the sorted timestamps at or after each multiple of an interval."""
    # The decimal that was written, not its nearest binary number: 0.1 must not fall behind a frame at 0.1 s.
    step_s = Fraction(str(interval_s))
    chosen: list[int] = []
    due_s = Fraction(0)
    for tick in ticks:
        passed_s = (tick - ticks[0]) * tick_s + _ROUNDING_S
        if passed_s >= due_s:
            chosen.append(tick)
            due_s = (passed_s // step_s + 1) * step_s
    return chosen


def _decoded(path: Path, container: InputContainer, stream: VideoStream, start: int) -> Iterator[av.VideoFrame]:
    """Yield the decoded frames in order of time.

    Raises:
        DataError: at the first frame that is damaged, with the time in seconds reached after `start` ticks.
    """
    reached_s = 0.0
    try:
        for packet in container.demux(stream):
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise DataError(f"{path}: damaged picture after {reached_s:.3f} s")
                if picture.pts is not None:
                    reached_s = float((picture.pts - start) * _tick_s(stream))
                yield picture
    except (FFmpegError, MemoryError) as error:
        raise DataError(f"{path}: does not decode after {reached_s:.3f} s: {error}") from error


def _with_timestamp(pictures: Iterator[av.VideoFrame], tick: int) -> av.VideoFrame | None:
    """Return the next picture with a timestamp; None if one without any, or a later one, comes before it."""
    found = next((picture for picture in pictures if picture.pts is None or picture.pts >= tick), None)
    return found if found is not None and found.pts == tick else None


def _rgb(path: Path, picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Return a picture as uint8 (H, W, 3), RGB of full range, quarter turns applied.

    Raises:
        DataError: if the file states a matrix that swscale does not know.
    """
    try:
        image = camera_rgb(picture)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return np.ascontiguousarray(np.rot90(image, round(picture.rotation / 90)))
