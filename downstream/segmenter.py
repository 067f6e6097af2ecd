"""Segmentation networks: any architecture and encoder of segmentation-models-pytorch, by name.

The default is a light FPN (Kirillov 2019, as segmentation-models-pytorch builds it) on EfficientNet-Lite0 with ImageNet
weights that come with the installation: `pretrained`.

Not here: training (`training`) and mIoU (`confusion`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from roadbits.codecs.precision import reduced_precision
from roadbits.downstream.depthwise import speed_up_depthwise
from roadbits.downstream.pretrained import LITE0, load_lite0

_STRIDE = 32


class SegmenterDiverged(Exception):
    """A segmenter whose output is no number."""


@dataclass(frozen=True)
class SegmenterSpec:
    """Which network.

    Attributes:
        architecture: a name of segmentation-models-pytorch, for example `FPN`, `DeepLabV3Plus`, `Unet`.
        encoder: an encoder's name there.
        pretrained: start the encoder from ImageNet weights; only `LITE0` has them in the installation.
        options: further keyword arguments of the architecture.
    """

    architecture: str = "FPN"
    encoder: str = LITE0
    pretrained: bool = True
    options: Mapping[str, int | float | str | bool] = field(
        default_factory=lambda: {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64}
    )


class Segmenter(nn.Module):
    """A segmentation network that takes camera frames as they are."""

    def __init__(self, spec: SegmenterSpec, num_classes: int) -> None:
        """Build the network.

        Args:
            spec: which network.
            num_classes: K.

        Raises:
            ValueError: if segmentation-models-pytorch knows no such architecture or encoder, or the encoder has no
                installed weights though `pretrained` asks for them.
        """
        super().__init__()
        if spec.pretrained and spec.encoder != LITE0:
            raise ValueError(
                f"encoder {spec.encoder!r} has no ImageNet weights in the installation, only {LITE0!r} has: "
                "set pretrained to false or choose that encoder"
            )
        try:
            self.network: nn.Module = smp.create_model(
                spec.architecture, spec.encoder, encoder_weights=None, classes=num_classes, **spec.options
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"segmentation-models-pytorch cannot build {spec.architecture!r} on {spec.encoder!r} "
                f"with {dict(spec.options)}: {error}"
            ) from error
        if spec.pretrained:
            load_lite0(cast(nn.Module, self.network.encoder))
        speed_up_depthwise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, K, H, W) for RGB images (B, 3, H, W) of 0..255, any H and W."""
        height, width = images.shape[-2:]
        padding = (0, -width % _STRIDE, 0, -height % _STRIDE)
        # EfficientNet-Lite's own normalisation: the usual ImageNet mean costs 11 points of top-1.
        x = functional.pad(images.float() / 127.5 - 1, padding, mode="replicate")
        logits: torch.Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        # A slice has a gradient of zeros to fill, even where it takes everything.
        return (logits[..., :height, :width] if any(padding) else logits).float()


def predict(segmenter: Segmenter, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the predicted class ids uint8 (H, W) of an image uint8 (H, W, 3).

    Raises:
        SegmenterDiverged: if its logits are not finite, as after a training that diverged in its last step.
    """
    device = next(segmenter.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
    with torch.inference_mode(), reduced_precision(device):
        logits = segmenter.eval()(x)
    if not torch.isfinite(logits).all():
        raise SegmenterDiverged("what the segmenter gives is not finite: train it with a lower learning rate")
    classes = logits.argmax(1)[0]
    return cast(NDArray[np.uint8], classes.to(torch.uint8).cpu().numpy())
