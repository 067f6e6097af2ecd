"""Random blur, sharpening and JPEG for training crops: a segmenter that has seen many degradations minds none so much.

What can be done about covariate shift without any restorer, and so what restoration has to beat.

Not here: the crops themselves (`training`).
"""

import io

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

_LARGEST_RADIUS = 2.0
_LARGEST_PERCENT = 200
_QUALITIES = (10, 90)


def degraded(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image uint8 (H, W, 3) as it is, blurred, sharpened or put through JPEG, each one time in four."""
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    match int(generator.integers(4)):
        case 1:
            picture = picture.filter(PIL.ImageFilter.GaussianBlur(float(generator.uniform(0, _LARGEST_RADIUS))))
        case 2:
            radius = float(generator.uniform(0.5, _LARGEST_RADIUS))
            picture = picture.filter(PIL.ImageFilter.UnsharpMask(radius, int(generator.integers(_LARGEST_PERCENT)), 0))
        case 3:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=int(generator.integers(*_QUALITIES)))
            picture = PIL.Image.open(file)
        case _:
            pass
    return np.array(picture)
