"""Bottleneck scaling: several rates from a codec trained for one, by tuning nothing but a vector per rate.

The latent is multiplied by a vector before rounding and divided by it afterwards; transforms and entropy model stay as
they were trained for the highest rate. Between two rates vectors are interpolated geometrically.

Source: Theis, Shi, Cunningham, Huszar, "Lossy image compression with compressive autoencoders", ICLR 2017, section 2.3.

Not here: vectors trained together with the transforms, which reach lower rates (`gain`).
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from roadbits.codecs.neural.gain import Gained, interpolated, starting_logs
from roadbits.codecs.neural.modulation import Method

TRAINED_GAINS = "log_trained"
"""What the parameter is called that holds the gains a codec was trained with."""


class Scale(nn.Module):
    """The scales of every level, beside the gains that the codec was trained with."""

    def __init__(self, channels: int, lambdas: Sequence[float]) -> None:
        """Start at 1 for the highest level, for which the rest was trained, and fall with lambda."""
        super().__init__()
        start = starting_logs(channels, lambdas)
        self.log_scale = nn.Parameter(start - start[-1])
        self.log_trained = nn.Parameter(torch.zeros(2, channels))

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors around the quantiser (B, C, 1, 1) at levels (B,), which may lie between two whole ones."""
        logs, trained = interpolated(self.log_scale, levels)[:, :, None, None], self.log_trained[:, None, :, None, None]
        return torch.exp(trained[0] + logs), torch.exp(trained[1] - logs)


class Scaled(Gained):
    """Bottleneck scaling; see `modulation.RateMethod`."""

    name: Method = "scaling"

    def latents(self, channels: int) -> nn.Module:
        """Return scales."""
        return Scale(channels, self.lambdas)


def train_scales_only(network: nn.Module) -> None:
    """Keep everything of a network but its scales as it is."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Scale):
            module.log_scale.requires_grad_(True)


def with_trained_gains(names: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a codec's weights with what its gains were at its highest level, under the names of a scaled network."""
    found = dict(weights)
    for name in names:
        gains = name.removesuffix(TRAINED_GAINS)
        if gains != name and f"{gains}log_gain" in weights:
            found[name] = torch.stack([weights[f"{gains}log_gain"][-1], weights[f"{gains}log_inverse"][-1]])
    return found
