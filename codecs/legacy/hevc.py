"""HEVC intra stills through PyAV's x265: the open stand-in for BPG, whose own tools are abandoned.

One key frame per image as raw Annex B, 4:2:0, full-range BT.601 as in JPEG, preset medium. The number of encoding
threads changes x265's bytes, so it is pinned to one. Odd sides are padded by repeating the last row or column; the
container knows the true size. Each still carries about 80 bytes of parameter sets, which are part of its rate.

Not here: clips (`clips`); 4:4:4; BPG's own container.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from roadbits.codecs.bitstream import BitstreamError, CodecId, Container, expect, pack
from roadbits.codecs.codec import Complexity, Image, OperatingPoint, check_image
from roadbits.codecs.legacy.yuv420 import bounded_decoder, coded_size, padded, to_rgb, to_yuv420

_SMALLEST_SIDE = 16
_LADDER = (48, 44, 41, 38, 35, 32, 29, 26, 22, 18)
_LOWEST_RATE_QP, _HIGHEST_RATE_QP = 51, 4


@dataclass(frozen=True)
class HevcIntra:
    """HEVC intra stills; the knob is the quantisation parameter `qp`, 51 the coarsest."""

    name: str = "hevc-intra"

    @property
    def model_hash(self) -> bytes:
        """Return nothing: it has no weights."""
        return b""

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Ten values of qp."""
        return tuple(OperatingPoint.of(qp=qp) for qp in _LADDER)

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """Every value of qp."""
        return tuple(OperatingPoint.of(qp=qp) for qp in range(_LOWEST_RATE_QP, _HIGHEST_RATE_QP - 1, -1))

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """The same: none costs less computation than another of its quality."""
        return self.fine_points

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if the point is not one qp."""
        if point not in self.fine_points:
            raise ValueError(
                f"hevc-intra has no point {point}: expected qp=N, N a whole number "
                f"{_HIGHEST_RATE_QP}..{_LOWEST_RATE_QP}"
            )

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        """Return the payload of an image uint8 (H, W, 3).

        Raises:
            ValueError: if x265 has no level for the image, as for a side of 16 pixels by one of more than 4216.
        """
        height, width = check_image(image)
        self.check(point)
        qp = int(point["qp"])
        frame = to_yuv420(padded(image, *coded_size(height, width, _SMALLEST_SIDE)))
        encoder = _encoder(frame.width, frame.height, qp)
        try:
            packets = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
        except FFmpegError as error:
            raise ValueError(f"hevc-intra cannot encode {height} x {width} pixels: {error}") from error
        return pack(Container(CodecId.HEVC_INTRA, height, width, (qp,), b"".join(packets)))

    def decode(self, payload: bytes) -> Image:
        """Return the image uint8 (H, W, 3) of a payload.

        Raises:
            BitstreamError: if the payload is damaged or not this codec's.
        """
        container = expect(payload, CodecId.HEVC_INTRA, 1)
        height, width = coded_size(container.height, container.width, _SMALLEST_SIDE)
        decoder = bounded_decoder("hevc", height, width)
        try:
            frames = [*decoder.decode(av.Packet(container.body)), *decoder.decode(None)]
        except (FFmpegError, ValueError, MemoryError) as error:
            raise BitstreamError(f"hevc-intra body does not decode: {error}") from error
        if len(frames) != 1:
            raise BitstreamError(f"hevc-intra body holds {len(frames)} frames, expected 1")
        frame = frames[0]
        if (frame.height, frame.width, frame.format.name) != (height, width, "yuvj420p"):
            raise BitstreamError(
                f"hevc-intra body is {frame.height} x {frame.width} {frame.format.name}, "
                f"its header needs {height} x {width} yuvj420p"
            )
        return to_rgb(frame)[: container.height, : container.width]

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return zeros: there is no network."""
        return Complexity(0, 0, 0, 0, 0)


def _encoder(width: int, height: int, qp: int) -> VideoCodecContext:
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.color_range = ColorRange.JPEG
    encoder.options = {
        "preset": "medium",
        "x265-params": f"qp={qp}:keyint=1:info=0:repeat-headers=1:pools=none:frame-threads=1:log-level=none",
    }
    return encoder


HEVC_INTRA = HevcIntra()
