"""The plainest restorer: an unsharp mask, its radius and amount tuned on reference frames.

A filter that has no network is what a network has to beat; tuned by the same measure, on reference frames, too.

Not here: restorers that learn (`network`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import PIL.Image
import PIL.ImageFilter

from roadbits.codecs.codec import Image

_RADII = (0.5, 1.0, 2.0, 3.0)
_PERCENTS = (25, 50, 100, 200)


@dataclass(frozen=True)
class Unsharp:
    """An unsharp mask.

    Attributes:
        radius: of the blur that is taken away, in pixels.
        percent: of the difference that is added; 0 leaves images as they are.
    """

    radius: float
    percent: int

    def restore(self, image: Image) -> Image:
        """Return an image uint8 (H, W, 3) with its edges raised."""
        if not self.percent:
            return image
        mask = PIL.ImageFilter.UnsharpMask(self.radius, self.percent, 0)
        return np.array(PIL.Image.fromarray(image).filter(mask))


UNTOUCHED = Unsharp(1.0, 0)
"""The mask that leaves images as they are."""


def tuned(distance: Callable[[Unsharp], float]) -> Unsharp:
    """Return the mask of the least distance to the originals, which may be none at all."""
    choices: Sequence[Unsharp] = [UNTOUCHED, *(Unsharp(*each) for each in product(_RADII, _PERCENTS))]
    return min(choices, key=distance)
