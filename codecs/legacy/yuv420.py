"""RGB images as the 4:2:0 planes that video codecs take, full-range BT.601 as in JPEG, and back, in whole numbers.

Here too: the size at which they are coded, a decoder that takes no more memory than that size needs, and what it reads.

Not here: other matrices and ranges, which only videos of others have.
"""

from collections.abc import Iterator

import av
import numpy as np
import PIL.Image
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from roadbits.codecs.codec import Image

_SLICE_BYTES = 64 * 1024


def coded_size(height: int, width: int, smallest: int) -> tuple[int, int]:
    """Return the even height and width at which an image is coded, no side under the smallest."""
    return max(smallest, height + height % 2), max(smallest, width + width % 2)


def padded(image: Image, height: int, width: int) -> Image:
    """Return the image (H, W, 3) at a larger size, its last row and column repeated."""
    rows, columns = height - image.shape[0], width - image.shape[1]
    return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")


def to_yuv420(image: Image, pixel_format: str = "yuvj420p") -> av.VideoFrame:
    """Return the frame of an image uint8 (H, W, 3) of even sides, each chroma value the rounded mean of four pixels.

    Args:
        image: to convert.
        pixel_format: name under which an encoder takes the planes; their values are of full range in any case.
    """
    planes = np.asarray(PIL.Image.fromarray(image).convert("YCbCr"))
    height, width = image.shape[:2]
    chroma = planes[..., 1:].astype(np.uint16).reshape(height // 2, 2, width // 2, 2, 2)
    halved = ((chroma.sum((1, 3)) + 2) // 4).astype(np.uint8)
    rows = [planes[..., 0].ravel(), halved[..., 0].ravel(), halved[..., 1].ravel()]
    packed = np.concatenate(rows).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(packed, format=pixel_format)


def to_rgb(frame: av.VideoFrame) -> Image:
    """Return uint8 (H, W, 3); chroma is interpolated linearly between sample centres, in whole numbers."""
    packed = frame.to_ndarray().astype(np.uint8, copy=False)
    height, width = frame.height, frame.width
    luma, blue, red = np.split(packed.ravel(), [height * width, height * width * 5 // 4])
    planes = [luma.reshape(height, width)]
    planes += [_doubled(chroma.reshape(height // 2, width // 2)) for chroma in (blue, red)]
    return np.asarray(PIL.Image.fromarray(np.stack(planes, 2), "YCbCr").convert("RGB"))


def bounded_decoder(name: str, height: int, width: int) -> VideoCodecContext:
    """Return FFmpeg's decoder of that name on one thread, for frames of a coded size."""
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    # FFmpeg refuses a parameter set that claims more, before it allocates a picture.
    decoder.options = {"max_pixels": str(2 * (height + 64) * (width + 64))}
    return decoder


def pictures_of(decoder: VideoCodecContext, body: bytes) -> Iterator[av.VideoFrame]:
    """Yield the frames of a raw stream as its bytes are read, so that one that never ends fills no memory."""
    for first in range(0, len(body), _SLICE_BYTES):
        for packet in decoder.parse(body[first : first + _SLICE_BYTES]):
            yield from decoder.decode(packet)
    for packet in decoder.parse():
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


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
