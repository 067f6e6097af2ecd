"""What a restorer is told about a degraded image: which codec made it, where on its ladder, and at what rate.

All of it is known to whoever holds the payload. A codec the restorer was not trained for is told as none at all;
training hides the codec from time to time, so that this has a meaning.

Not here: the network that listens (`network`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIDDLE_BPP = 0.25
_NUM_FACTS = 3


@dataclass(frozen=True)
class Condition:
    """How an image was degraded.

    Attributes:
        codec: its name; empty if it is not told.
        position: of the operating point among all of its codec's, by rate, in 0..1.
        bpp: of the image's own payload.
    """

    codec: str
    position: float
    bpp: float

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of its range.
        """
        if not (0 <= self.position <= 1 and 0 < self.bpp < math.inf):
            raise ValueError(f"position must be in 0..1 and bpp above 0, got {self.position} and {self.bpp}")


def vector_size(codecs: Sequence[str]) -> int:
    """Return D of a restorer for these codecs."""
    return len(codecs) + _NUM_FACTS


def condition_vector(condition: Condition, codecs: Sequence[str], is_told: bool = True) -> NDArray[np.float32]:
    """Return a condition as float32 (D,): the codec as one of several, its position, and the rate on a log scale.

    Args:
        condition: how an image was degraded.
        codecs: that the restorer is trained for; another is not told.
        is_told: whether to tell the codec. Its position is left out with it: it counts within a codec's own ladder.
    """
    is_known = is_told and condition.codec in codecs
    rate = math.log2(condition.bpp / _MIDDLE_BPP)
    named = [float(is_known and condition.codec == name) for name in codecs]
    position = (2 * condition.position - 1) if is_known else 0.0
    return np.array([*named, float(is_known), position, rate / 2], np.float32)
