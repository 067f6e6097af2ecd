"""What a frozen network sees in an image: levels of features, through which gradients pass.

Of ImageNet's encoder: how an image looks to networks in general. Of a trained segmenter: what its task is made of.

Not here: what is compared with what (`roadbits.restoration.losses`).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from roadbits.codecs.precision import best_device
from roadbits.downstream.depthwise import speed_up_depthwise
from roadbits.downstream.pretrained import LITE0, load_lite0
from roadbits.downstream.segmenter import Segmenter

Sight = Callable[[Tensor], Sequence[Tensor]]


def imagenet_sight() -> tuple[Sight, list[int]]:
    """Return what EfficientNet-Lite0 of ImageNet sees, and the channels of its levels, at strides 2 to 32.

    Raises:
        PretrainedWeightsError: if the installed weights do not fit.
    """
    encoder: Any = smp.encoders.get_encoder(LITE0, weights=None)
    load_lite0(encoder)
    speed_up_depthwise(encoder)
    return _sight_of(encoder), [int(channels) for channels in encoder.out_channels[1:]]


def segmenter_sight(segmenter: Segmenter) -> tuple[Sight, list[int]]:
    """Return what a segmenter sees: its encoder's levels and its logits; and the channels of these."""
    network: Any = segmenter.network
    frozen = _frozen(segmenter)
    levels: list[Tensor] = []

    def keep(encoder: nn.Module, inputs: tuple[Tensor], outputs: Sequence[Tensor]) -> None:
        levels[:] = [level for level in outputs[1:] if level.shape[1]]

    network.encoder.register_forward_hook(keep)

    def see(x: Tensor) -> Sequence[Tensor]:
        logits = frozen(255 * x)
        seen = [*levels, logits]
        levels.clear()
        return seen

    num_classes = int(network.segmentation_head[0].out_channels)
    # Some encoders have no level of stride 2: it is there, without a channel.
    channels = [int(count) for count in network.encoder.out_channels[1:] if count]
    return see, [*channels, num_classes]


def _sight_of(encoder: nn.Module) -> Sight:
    frozen = _frozen(encoder)

    def see(x: Tensor) -> Sequence[Tensor]:
        scaled = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        return cast(Sequence[Tensor], frozen(scaled)[1:])

    return see


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False).to(best_device()).to(memory_format=torch.channels_last)
