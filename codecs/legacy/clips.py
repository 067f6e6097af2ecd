"""MPEG-2, H.264, HEVC and AV1 clips through PyAV: mpeg2video, x264, x265 and SVT-AV1, decoded by FFmpeg and dav1d.

A clip is one payload, a raw stream (Annex B, or OBUs with temporal delimiters) of closed groups of 32 frames at most,
each from a key frame on. Colours are 4:2:0, full-range BT.601 as in JPEG. x264, x265 and SVT-AV1 run with preset
medium, medium and 8; by default with B frames, in the variants named `-lowdelay` with tune zerolatency (AV1: low-delay
prediction), in which a frame waits for no later one. MPEG-2 has two B frames between others. All encoders run on one
thread, so that a clip always gives the same bytes on one machine; encoders choose other instructions, and sometimes
other bytes, on another.

Clips are padded to 80 x 80 pixels at least: x265 and SVT-AV1 damage the heap on those under 64, and where a frame has
one column of coding tree units only, 64 pixels wide, x265 gives other bytes every time.

Not here: stills (`stills`, `hevc`), files from cameras, whose own bytes count.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import torch
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from roadbits.codecs.bitstream import BitstreamError, CodecId, Container, clip_from, expect, pack
from roadbits.codecs.codec import MAX_CLIP_PIXELS, Clip, Complexity, Image, OperatingPoint, check_clip
from roadbits.codecs.legacy.yuv420 import bounded_decoder, coded_size, padded, pictures_of, to_rgb, to_yuv420

_GOP_FRAMES = 32
_SMALLEST_SIDE = 80
_OBU_DELIMITER, _OBU_FRAMES = 2, (3, 6, 7)
_MOST_FRAMES = 64
"""In one temporal unit, hidden ones included."""
_LARGEST_SHIFT = 56
_KNOBS = ("crf", "qp", "q")
"""How a payload numbers its knob."""

os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 prints its settings otherwise


@dataclass(frozen=True)
class LegacyClip:
    """A clip codec of PyAV's.

    Attributes:
        name: on the command line.
        codec_id: in the payload.
        encoder: FFmpeg's name.
        decoder: likewise.
        pixel_format: under which the encoder takes full-range planes.
        knobs: values of each, from the lowest rate to the highest.
        ladder: values of the first knob, from the lowest rate up.
        low_delay: whether no frame waits for a later one.
    """

    name: str
    codec_id: CodecId
    encoder: str
    decoder: str
    pixel_format: str
    knobs: Mapping[str, tuple[int, int]]
    ladder: tuple[int, ...]
    low_delay: bool = False

    @property
    def model_hash(self) -> bytes:
        """Return nothing: it has no weights."""
        return b""

    @property
    def gop_frames(self) -> int:
        """32: what random access decodes at most."""
        return _GOP_FRAMES

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """A ladder of the first knob."""
        return tuple(OperatingPoint.of(**{self._knob: value}) for value in self.ladder)

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """Every value of the first knob."""
        lowest, highest = self.knobs[self._knob]
        return tuple(OperatingPoint.of(**{self._knob: value}) for value in range(lowest, highest - 1, -1))

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """The same: none costs less computation than another of its quality."""
        return self.fine_points

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return zeros: there is no network."""
        return Complexity(0, 0, 0, 0, 0)

    @property
    def _knob(self) -> str:
        return next(iter(self.knobs))

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if the point is not one whole number of one knob."""
        settings = dict(point.settings)
        for knob, (lowest, highest) in self.knobs.items():
            if list(settings) == [knob] and settings[knob] in range(highest, lowest + 1):
                return
        choices = " or ".join(f"{knob}=N, N in {high}..{low}" for knob, (low, high) in self.knobs.items())
        raise ValueError(f"{self.name} has no point {point}: expected {choices}, a whole number")

    def encode(self, clip: Clip, point: OperatingPoint, /) -> bytes:
        """Return the payload of a clip uint8 (T, H, W, 3).

        Raises:
            ValueError: if the encoder has no level for the clip's size.
        """
        frames, height, width = check_clip(clip)
        self.check(point)
        ((knob, value),) = point.settings
        rows, columns = coded_size(height, width, _SMALLEST_SIDE)
        encoder = self._encoder(rows, columns, knob, int(value))
        packets = []
        try:
            for index, image in enumerate(clip):
                frame = to_yuv420(padded(image, rows, columns), self.pixel_format)
                frame.pts = index
                packets += encoder.encode(frame)
            packets += encoder.encode(None)
        except FFmpegError as error:
            raise ValueError(f"{self.name} cannot encode {frames} x {height} x {width} pixels: {error}") from error
        body = b"".join(map(bytes, packets))
        return pack(Container(self.codec_id, height, width, (frames, _KNOBS.index(knob), int(value)), body))

    def decode(self, payload: bytes) -> Clip:
        """Return the clip uint8 (T, H, W, 3) of a payload.

        Raises:
            BitstreamError: if the payload is damaged or not this codec's.
        """
        container = expect(payload, self.codec_id, 3)
        frames = container.point[0]
        if frames < 1 or frames * container.height * container.width > MAX_CLIP_PIXELS:
            raise BitstreamError(
                f"payload claims {frames} frames of {container.height} x {container.width} pixels, expected at least "
                f"one and at most {MAX_CLIP_PIXELS} pixels in all"
            )
        return clip_from(self._frames(container, frames), frames)

    def _frames(self, container: Container, frames: int) -> Iterator[Image]:
        height, width = coded_size(container.height, container.width, _SMALLEST_SIDE)
        decoder = bounded_decoder(self.decoder, height, width)
        count = 0
        try:
            for frame in self._decoded(decoder, container.body):
                count += 1
                if (frame.height, frame.width) != (height, width) or frame.format.name not in ("yuvj420p", "yuv420p"):
                    raise BitstreamError(
                        f"{self.name} body holds a frame of {frame.height} x {frame.width} {frame.format.name}, its "
                        f"header needs {height} x {width} in 4:2:0"
                    )
                if count > frames:
                    break
                yield to_rgb(frame)[: container.height, : container.width]
        except (FFmpegError, ValueError, MemoryError) as error:
            raise BitstreamError(f"{self.name} body does not decode beyond {count} frames: {error}") from error
        if count != frames:
            raise BitstreamError(f"{self.name} body does not hold the {frames} frames that its header promises")

    def _decoded(self, decoder: VideoCodecContext, body: bytes) -> Iterator[av.VideoFrame]:
        """Yield frames as their bytes are read, so that a stream that never ends fills no memory."""
        if self.codec_id == CodecId.AV1:
            for unit in _temporal_units(body):
                yield from decoder.decode(av.Packet(unit))
            yield from decoder.decode(None)
        else:
            yield from pictures_of(decoder, body)

    def _encoder(self, height: int, width: int, knob: str, value: int) -> VideoCodecContext:
        encoder = av.CodecContext.create(self.encoder, "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, self.pixel_format
        encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25, 1)
        encoder.color_range = ColorRange.JPEG
        encoder.gop_size = _GOP_FRAMES
        encoder.thread_count = 1
        if self.codec_id == CodecId.MPEG2:
            encoder.qmin = encoder.qmax = value
            encoder.max_b_frames = 2
        encoder.options = encoder_options(self, knob, value)
        return encoder


def encoder_options(codec: LegacyClip, knob: str, value: int) -> dict[str, str]:
    """Return FFmpeg's private options for a codec at a value of one of its knobs, beside a group of 32 frames."""
    match codec.codec_id:
        case CodecId.H264:
            delay = {"tune": "zerolatency"} if codec.low_delay else {}
            groups = f"threads=1:scenecut=0:keyint={_GOP_FRAMES}:min-keyint={_GOP_FRAMES}:open-gop=0"
            return {"preset": "medium", **delay, knob: str(value), "x264-params": groups + _X264_INSTRUCTIONS}
        case CodecId.HEVC:
            delay = {"tune": "zerolatency"} if codec.low_delay else {}
            groups = f"scenecut=0:keyint={_GOP_FRAMES}:min-keyint={_GOP_FRAMES}:open-gop=0"
            pinned = "info=0:pools=none:frame-threads=1:log-level=none"
            return {"preset": "medium", **delay, "x265-params": f"{knob}={value}:{groups}:{pinned}"}
        case CodecId.AV1:
            delay_struct = ":pred-struct=1" if codec.low_delay else ""
            return {"preset": "8", knob: str(value), "svtav1-params": f"lp=1{delay_struct}"}
        case _:
            return {"flags": "+cgop", "sc_threshold": "1000000000"}


_X264_INSTRUCTIONS = ":asm=avx2" if torch.backends.cpu.get_cpu_capability() == "AVX512" else ""
"""With AVX-512, x264's lookahead gave other bytes in most repetitions of 16 CamVid frames, even on one thread."""


def _temporal_units(body: bytes) -> Iterator[bytes]:
    """Yield the temporal units of an AV1 stream; each begins with a delimiter and shows one frame.

    Raises:
        BitstreamError: if the stream does not consist of such units (AV1 specification, section 5.3).
    """
    begin = at = frames = 0
    while at < len(body):
        kind, extended, sized = body[at] >> 3 & 15, body[at] >> 2 & 1, body[at] >> 1 & 1
        if at == 0 and kind != _OBU_DELIMITER:
            raise BitstreamError("av1 body does not begin with a temporal delimiter")
        if kind == _OBU_DELIMITER and at:
            yield body[begin:at]
            begin, frames = at, 0
        frames += kind in _OBU_FRAMES
        at += 1 + extended
        size = shift = 0
        while sized and at < len(body) and shift < _LARGEST_SHIFT:
            size |= (body[at] & 127) << shift
            shift += 7
            at += 1
            if body[at - 1] < 128:
                break
        at += size
        if not sized or at > len(body) or frames > _MOST_FRAMES:
            raise BitstreamError("av1 body is cut, or a unit of it holds too many frames")
    yield body[begin:]


MPEG2 = LegacyClip(
    "mpeg2", CodecId.MPEG2, "mpeg2video", "mpeg2video", "yuv420p", {"q": (31, 2)}, (31, 24, 17, 12, 8, 5, 3)
)
_X26_KNOBS = {"crf": (51, 1), "qp": (51, 1)}
_X26_LADDER = (43, 39, 35, 31, 27, 23, 19)
H264 = LegacyClip("h264", CodecId.H264, "libx264", "h264", "yuvj420p", _X26_KNOBS, _X26_LADDER)
HEVC = LegacyClip("hevc", CodecId.HEVC, "libx265", "hevc", "yuvj420p", _X26_KNOBS, _X26_LADDER)
AV1 = LegacyClip("av1", CodecId.AV1, "libsvtav1", "libdav1d", "yuv420p", {"crf": (63, 1)}, (62, 57, 52, 46, 40, 33, 26))
H264_LOWDELAY, HEVC_LOWDELAY, AV1_LOWDELAY = (
    replace(codec, name=f"{codec.name}-lowdelay", low_delay=True) for codec in (H264, HEVC, AV1)
)
CLIP_CODECS: tuple[LegacyClip, ...] = (MPEG2, H264, H264_LOWDELAY, HEVC, HEVC_LOWDELAY, AV1, AV1_LOWDELAY)
