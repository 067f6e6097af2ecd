"""HEVC intra stills through PyAV's x265: the open stand-in for BPG, whose own tools are abandoned.

One key frame per image as raw Annex B, 4:2:0, full-range BT.601 as in JPEG, preset medium. The number of encoding
threads changes x265's bytes, so it is pinned to one. Odd sides are padded by repeating the last row or column; the
container knows the true size. Each still carries about 80 bytes of parameter sets, which are part of its rate.

Not here: inter-coded clips; 4:4:4; BPG's own container.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import PIL.Image
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from roadbits.codecs.bitstream import BitstreamError, CodecId, Container, expect, pack
from roadbits.codecs.codec import Complexity, Image, OperatingPoint, check_image

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
        frame = _to_yuv420(_padded(image))
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
        height, width = _padded_size(container.height, container.width)
        decoder = av.CodecContext.create("hevc", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        # FFmpeg refuses a parameter set that claims more, before it allocates a picture.
        decoder.options = {"max_pixels": str(2 * (height + 64) * (width + 64))}
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
        return _to_rgb(frame)[: container.height, : container.width]

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


def _padded_size(height: int, width: int) -> tuple[int, int]:
    """Return the coded size: even, and no side under x265's smallest."""
    return max(_SMALLEST_SIDE, height + height % 2), max(_SMALLEST_SIDE, width + width % 2)


def _padded(image: Image) -> Image:
    height, width = image.shape[:2]
    rows, columns = _padded_size(height, width)
    return np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")


def _to_yuv420(image: Image) -> av.VideoFrame:
    """Return the frame with each chroma value the rounded mean of its four pixels."""
    planes = np.asarray(PIL.Image.fromarray(image).convert("YCbCr"))
    height, width = image.shape[:2]
    chroma = planes[..., 1:].astype(np.uint16).reshape(height // 2, 2, width // 2, 2, 2)
    halved = ((chroma.sum((1, 3)) + 2) // 4).astype(np.uint8)
    rows = [planes[..., 0].ravel(), halved[..., 0].ravel(), halved[..., 1].ravel()]
    packed = np.concatenate(rows).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(packed, format="yuvj420p")


def _to_rgb(frame: av.VideoFrame) -> Image:
    """Return uint8 (H, W, 3); chroma is interpolated linearly between sample centres, in whole numbers."""
    packed = frame.to_ndarray().astype(np.uint8, copy=False)
    height, width = frame.height, frame.width
    luma, blue, red = np.split(packed.ravel(), [height * width, height * width * 5 // 4])
    planes = [luma.reshape(height, width)]
    planes += [_doubled(chroma.reshape(height // 2, width // 2)) for chroma in (blue, red)]
    return np.asarray(PIL.Image.fromarray(np.stack(planes, 2), "YCbCr").convert("RGB"))


def _doubled(chroma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return chroma (h, w) at (2h, 2w): weights 3/4 and 1/4 towards the nearer samples, edges repeated."""
    wide = chroma.astype(np.uint16)
    for axis in (0, 1):
        ends = [(1, 1) if axis == k else (0, 0) for k in (0, 1)]
        padded = np.pad(wide, ends, mode="edge")
        before, after = (np.take(padded, np.arange(n, n + wide.shape[axis]), axis) for n in (0, 2))
        pair = np.stack((3 * wide + before, 3 * wide + after), axis + 1)
        shape = list(wide.shape)
        shape[axis] *= 2
        wide = pair.reshape(shape)
    return ((wide + 8) // 16).astype(np.uint8)


HEVC_INTRA = HevcIntra()
