import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.training import exactness
from roadbits.codecs.training.exactness import cost_of_exactness
from roadbits.codecs.training.freezing import freeze

LAMBDAS = (0.002, 0.05)


def waves(height: int, width: int) -> Image:
    y, x = np.mgrid[:height, :width]
    channels = [127 + 60 * np.sin(x / (6 + k)) + 50 * np.cos(y / (9 - k)) for k in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["cae", "hyperprior"])
def test_the_exact_model_and_the_float_network_have_about_the_same_rate_and_quality(kind: str) -> None:
    torch.manual_seed(0)
    network = CAE(16, LAMBDAS) if kind == "cae" else Hyperprior(16, 24, LAMBDAS)
    image = waves(128, 192)
    model = freeze(network, [image], 0)
    for level, position in enumerate(model.description.trained):
        exact = exactness._exact_point(model, position, image)
        floating = exactness._float_point(network, level, image)
        assert exact[0] == pytest.approx(floating[0], rel=0.03, abs=8 * 16 / (128 * 192))
        assert exact[1] == pytest.approx(floating[1], abs=0.1)


@pytest.mark.parametrize("images", [[], [waves(128, 120)]], ids=["none", "a side of 120"])
def test_images_that_would_be_padded_are_refused(images: list[Image]) -> None:
    network = CAE(8, LAMBDAS)
    with pytest.raises(ValueError, match="multiples of 16"):
        cost_of_exactness(network, freeze(network, [waves(64, 64)], 0), images)
