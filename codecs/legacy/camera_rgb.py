"""RGB of a camera's own video frames, with the matrix and range that the stream states.

If it states none: BT.709 for a height of 720 or more, BT.601 below, and limited range, except for the `yuvj` formats,
which are full. Conversion runs in FFmpeg's exact mode, so that a stream gives the same images each time.

Not here: the planes of our own clips, whose conversion is in whole numbers (`yuv420`).
"""

import av
import numpy as np
from av.video.reformatter import ColorRange

from roadbits.codecs.codec import Image

_BT709, _BT601 = 1, 5
_UNSTATED = 2
_MATRICES = {0: _BT709, 1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9}
"""A file's matrix coefficients (ITU-T H.273, table 4) -> swscale's; 0 is RGB, which needs none."""
_SMALLEST_BT709_HEIGHT = 720
# swscale's BILINEAR, FULL_CHR_H_INT, ACCURATE_RND and BITEXACT: without the last three, results depend on the processor
# and are up to 2 of 255 off. Numbers, for PyAV 17 does not name them all.
_EXACT = 0x2 | 0x2000 | 0x40000 | 0x80000


def camera_rgb(picture: av.VideoFrame) -> Image:
    """Return a picture as uint8 (H, W, 3), RGB of full range.

    Raises:
        ValueError: if the stream states a matrix that swscale does not know.
    """
    stated = picture.colorspace
    if stated == _UNSTATED:
        stated = _BT709 if picture.height >= _SMALLEST_BT709_HEIGHT else _BT601
    if stated not in _MATRICES:
        raise ValueError(f"states colour matrix {stated} of H.273, expected one of {sorted(_MATRICES)}")
    full = picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj") or picture.format.is_rgb
    converted = picture.reformat(
        format="rgb24",
        interpolation=_EXACT,
        src_colorspace=_MATRICES[stated],
        dst_colorspace=_BT709,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return np.ascontiguousarray(converted.to_ndarray().astype(np.uint8, copy=False))
