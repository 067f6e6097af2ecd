"""A camera's own video as a payload, without encoding it anew: its real bytes are the rate.

The body is the file's H.264 or HEVC stream as raw Annex B, from its first key frame on; sound and the file's index are
left out. Frames decode as the camera's stream says, to the RGB of `camera_rgb`; rotation by a file's header is not part
of a stream.

Not here: clips that are encoded (`clips`), frames of video files as a camera's (`roadbits.fleet.cameras.video`).
"""

from collections.abc import Iterator
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.error import FFmpegError
from av.video.stream import VideoStream

from roadbits.codecs.bitstream import MAX_BODY_BYTES, BitstreamError, CodecId, Container, clip_from, expect, pack
from roadbits.codecs.codec import MAX_CLIP_PIXELS, Clip, Image
from roadbits.codecs.legacy.camera_rgb import camera_rgb
from roadbits.codecs.legacy.yuv420 import bounded_decoder, pictures_of

NAME = "passthrough"
_STREAMS = ("h264", "hevc")
"""How a payload numbers its stream's codec."""
_MOST_FRAMES = 65535


class VideoFileError(Exception):
    """A video file whose stream cannot be passed through; the message says why."""


def passed_through(path: Path) -> bytes:
    """Return the payload of a video file.

    Raises:
        VideoFileError: if it is missing, broken, holds no H.264 or HEVC, no key frame to decode from, or too much for
            one payload.
    """
    if not path.is_file():
        raise VideoFileError(f"{path}: no such file")
    frames, body = 0, bytearray()
    try:
        # Resolved, for FFmpeg would take `a:b.mp4` for a protocol.
        with av.open(str(path.resolve()), "r") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise VideoFileError(f"{path}: holds no video stream, expected H.264 or HEVC")
            kind, height, width = stream.codec_context.name, stream.codec_context.height, stream.codec_context.width
            if kind not in _STREAMS:
                raise VideoFileError(f"{path}: its stream is {kind}, expected {' or '.join(_STREAMS)}")
            annexed = BitStreamFilterContext(f"{kind}_mp4toannexb", stream)
            begun = False
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise VideoFileError(f"{path}: breaks off after {frames} frames: truncated?")
                begun = begun or packet.is_keyframe
                if not packet.size or not begun:
                    continue
                frames += 1
                for raw in annexed.filter(packet):
                    body += bytes(raw)
                if len(body) > MAX_BODY_BYTES or frames > _MOST_FRAMES or frames * height * width > MAX_CLIP_PIXELS:
                    raise VideoFileError(
                        f"{path}: more than {MAX_BODY_BYTES} bytes, {_MOST_FRAMES} frames or {MAX_CLIP_PIXELS} pixels "
                        "in all: cut it into shorter files"
                    )
    except (FFmpegError, ValueError) as error:
        raise VideoFileError(f"{path}: cannot be read as a video: {error}") from error
    if not frames:
        raise VideoFileError(f"{path}: holds no key frame, expected one or more")
    # Frames that lean on what lies before the first key frame are in the file and decode nowhere.
    passed = bytes(body)
    frames = _decodable(path, kind, height, width, passed)
    return pack(Container(CodecId.PASSTHROUGH, height, width, (frames, _STREAMS.index(kind)), passed))


def _decodable(path: Path, kind: str, height: int, width: int, body: bytes) -> int:
    """Return how many frames come out of a stream.

    Raises:
        VideoFileError: if none does.
    """
    try:
        frames = sum(1 for _ in pictures_of(bounded_decoder(kind, height, width), body))
    except (FFmpegError, ValueError, MemoryError) as error:
        raise VideoFileError(
            f"{path}: does not decode from its first key frame on ({error}): cut it at an IDR frame, or encode it anew"
        ) from error
    if not frames:
        raise VideoFileError(f"{path}: no frame decodes from its first key frame on: cut it at an IDR frame")
    return frames


def decoded(payload: bytes) -> Clip:
    """Return the clip uint8 (T, H, W, 3) of a payload.

    Raises:
        BitstreamError: if it is damaged or another codec's.
    """
    container = expect(payload, CodecId.PASSTHROUGH, 2)
    frames, kind = container.point
    pixels = container.height * container.width
    if frames < 1 or frames * pixels > MAX_CLIP_PIXELS or kind >= len(_STREAMS):
        raise BitstreamError(
            f"payload claims {frames} frames of {container.height} x {container.width} pixels in stream {kind}, "
            f"expected at least one, at most {MAX_CLIP_PIXELS} pixels in all, and a stream of 0..{len(_STREAMS) - 1}"
        )
    return clip_from(_frames(container, _STREAMS[kind]), frames)


def _frames(container: Container, stream: str) -> Iterator[Image]:
    decoder, frames, count = bounded_decoder(stream, container.height, container.width), container.point[0], 0

    try:
        for picture in pictures_of(decoder, container.body):
            count += 1
            if (picture.height, picture.width) != (container.height, container.width):
                raise BitstreamError(
                    f"stream holds a frame of {picture.height} x {picture.width}, its header says "
                    f"{container.height} x {container.width}"
                )
            if count > frames:
                break
            yield camera_rgb(picture)
    except (FFmpegError, ValueError, MemoryError) as error:
        raise BitstreamError(f"stream does not decode beyond {count} frames: {error}") from error
    if count != frames:
        raise BitstreamError(f"stream does not hold the {frames} frames that its header promises")
