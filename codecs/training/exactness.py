"""What freezing costs: the exact model's real bytes against the float network's likelihoods, at equal PSNR.

Both code the same images. The container's header is left out, since likelihoods have none; what the entropy coder's
tables and words cost is in.

Not here: freezing itself (`freezing`).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from roadbits.codecs.bitstream import unpack
from roadbits.codecs.codec import Image
from roadbits.codecs.metrics import BdRate, RateQuality, bd_rate, psnr
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.ranges import cut_to_stride


def cost_of_exactness(network: CAE | Hyperprior, model: FrozenModel, images: Sequence[Image]) -> BdRate:
    """Return the BD-rate of a frozen model against the network that it was made of.

    Args:
        network: with at least two levels; it is left in evaluation mode.
        model: its exact twin.
        images: uint8 (H, W, 3), sides multiples of the network's stride.

    Raises:
        ValueError: if there are no images, or a side is no multiple of the stride.
    """
    if not images or any(side % network.stride for image in images for side in image.shape[:2]):
        raise ValueError(f"expected images with sides that are multiples of {network.stride}")
    exact, floating = [], []
    for level, position in enumerate(model.description.trained):
        exact.append(np.mean([_exact_point(model, position, image) for image in images], axis=0))
        floating.append(np.mean([_float_point(network, level, image) for image in images], axis=0))
    return bd_rate(*(RateQuality(*zip(*points, strict=True)) for points in (exact, floating)))


def _exact_point(model: FrozenModel, position: int, image: Image) -> tuple[float, float]:
    """Return bits per pixel of the body, and PSNR."""
    codec = NeuralStill(model.description.architecture, model)
    payload = codec.encode(image, codec.fine_points[position])
    return 8 * len(unpack(payload).body) / math.prod(image.shape[:2]), psnr(codec.decode(payload), image)


@torch.no_grad()
def _float_point(network: CAE | Hyperprior, level: int, image: Image) -> tuple[float, float]:
    """Return bits per pixel from the likelihoods of rounded values, and PSNR of pixels rounded as in an image."""
    forward = network.eval()(cut_to_stride(image, network.stride), torch.tensor([float(level)]))
    pixels = (forward.x_hat[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return float(forward.bits) / math.prod(image.shape[:2]), psnr(pixels, image)
