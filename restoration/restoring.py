"""Restoring images with a trained network, each as it was degraded.

Not here: training (`training`), filters without a network (`unsharp`).
"""

from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from roadbits.codecs.codec import Image
from roadbits.codecs.precision import best_device, reduced_precision
from roadbits.restoration.condition import Condition, condition_vector
from roadbits.restoration.network import Restorer, RestorerSpec, padded

Network = TypeVar("Network", bound=nn.Module)


class RestorerWeightsError(Exception):
    """Weights that are not those of the network they are given for, or not finite."""


def open_restorer(spec: RestorerSpec, weights: bytes) -> Restorer:
    """Return a network with its weights.

    Args:
        spec: the network.
        weights: safetensors.

    Raises:
        RestorerWeightsError: if they do not fit or hold a number that is not finite.
    """
    return with_weights(Restorer(spec), weights)


def with_weights(network: Network, weights: bytes) -> Network:
    """Return a network with its weights, ready to restore.

    Args:
        network: a restorer of stills or clips.
        weights: safetensors.

    Raises:
        RestorerWeightsError: if they do not fit or hold a number that is not finite.
    """
    try:
        tensors = load_tensors(weights)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise RestorerWeightsError(f"these are no weights of this restorer: {error}") from error
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise RestorerWeightsError(f"{broken[0]} of the restorer is not finite: damaged weights?")
    return network.eval().to(best_device())


def restore(restorer: Restorer, image: Image, condition: Condition) -> Image:
    """Return an image uint8 (H, W, 3) restored, of any size.

    Raises:
        RestorerWeightsError: if what comes out is not finite.
    """
    height, width = image.shape[:2]
    device = next(restorer.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device).float().div(255)
    told = torch.from_numpy(condition_vector(condition, restorer.spec.codecs))[None].to(device)
    with torch.inference_mode(), reduced_precision(device):
        restored = restorer(padded(x).to(memory_format=torch.channels_last), told)[0, :, :height, :width]
    return pixels_of(restored)


def pixels_of(restored: Tensor) -> Image:
    """Return what a restorer gives, (3, H, W) in 0..1, as an image uint8 (H, W, 3).

    Raises:
        RestorerWeightsError: if a number of it is not finite, as after a training that diverged in its last step.
    """
    if not torch.isfinite(restored).all():
        raise RestorerWeightsError("what the restorer gives is not finite: train it with a lower learning rate")
    result: Image = restored.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return result
