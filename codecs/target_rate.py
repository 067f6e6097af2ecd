"""Hitting a target rate: bisection over a codec's fine points on real bytes.

Not here: rate control over a drive, where each frame's rate may differ.
"""

import math
from typing import NamedTuple

from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image, OperatingPoint
from roadbits.codecs.metrics import bpp


class Encoded(NamedTuple):
    """A payload and the point that made it."""

    payload: bytes
    point: OperatingPoint


def encode_at(codec: Codec | ClipCodec, image: Image | Clip, target_bpp: float) -> Encoded:
    """Encode an image (H, W, 3), or a clip (T, H, W, 3), at the point whose measured rate comes nearest to a target.

    Rates are taken to rise along `fine_points`; where they do not quite, the nearest of the points tried is kept. At
    most 1 + log2 of their number are tried.

    Raises:
        ValueError: if the target is not positive and finite.
    """
    if not 0 < target_bpp < math.inf:
        raise ValueError(f"target rate is {target_bpp} bpp, expected more than 0 and finite")
    pixels = image[..., 0].size
    points = codec.fine_points
    tried: dict[int, bytes] = {}
    low, high = 0, len(points) - 1
    while low <= high:
        middle = (low + high) // 2
        tried[middle] = codec.encode(image, points[middle])
        if bpp(len(tried[middle]), pixels, 1) < target_bpp:
            low = middle + 1
        else:
            high = middle - 1
    nearest = min(tried, key=lambda k: (abs(bpp(len(tried[k]), pixels, 1) - target_bpp), k))
    return Encoded(tried[nearest], points[nearest])
