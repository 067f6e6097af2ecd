"""Gain vectors: several rates from one model.

Before quantisation each latent channel is multiplied by a gain, and divided by (nearly) the same after it; a rate level
owns one vector for each. As the transforms do not know the level, the latent's density is one for all levels, only
scaled, and so is the entropy model. Between two levels gains are interpolated geometrically, which gives every rate in
between.

Sources: Cui et al., "Asymmetric gained deep image compression with continuous rate adaptation", CVPR 2021; the scaling
of a frozen autoencoder's bottleneck, Theis et al., ICLR 2017, is the same device tuned afterwards.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import Density, FactorisedModel
from roadbits.codecs.neural.modulation import Method, Position

STEPS_PER_LEVEL = 8
_RATE_EXPONENT = 0.3


def starting_logs(channels: int, lambdas: Sequence[float]) -> Tensor:
    """Return logarithms of gains (levels, C) that grow with lambda, about 1 in the middle of the levels."""
    relative = torch.log(torch.tensor(lambdas, dtype=torch.float32))
    return (_RATE_EXPONENT * (relative - relative.mean()))[:, None].repeat(1, channels)


def interpolated(table: Tensor, levels: Tensor) -> Tensor:
    """Return rows (B, C) of a table (levels, C) at levels (B,), which may lie between two whole ones."""
    low = levels.floor().long().clamp(max=max(len(table) - 2, 0))
    high = (low + 1).clamp(max=len(table) - 1)
    share = (levels - low)[:, None]
    return (1 - share) * table[low] + share * table[high]


class Gain(nn.Module):
    """The gains and inverse gains of every level."""

    def __init__(self, channels: int, lambdas: Sequence[float]) -> None:
        """Start with gains that grow with lambda, about 1 in the middle of the levels."""
        super().__init__()
        start = starting_logs(channels, lambdas)
        self.log_gain = nn.Parameter(start)
        self.log_inverse = nn.Parameter(-start.clone())

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains and inverse gains (B, C, 1, 1) at levels (B,), which may lie between two whole ones."""
        gain, inverse = (
            torch.exp(interpolated(table, levels))[:, :, None, None] for table in (self.log_gain, self.log_inverse)
        )
        return gain, inverse


class Gained:
    """The gain model: gains around the quantiser, nothing in the transforms; see `modulation.RateMethod`."""

    name: Method = "gain"

    def __init__(self, lambdas: Sequence[float]) -> None:
        """Take the lambda of each level."""
        self.lambdas = tuple(lambdas)

    def behind_down(self, channels: int) -> list[nn.Module]:
        """Return nothing."""
        return []

    behind_hyper = behind_up = before_up = behind_down

    def density(self, channels: int) -> Density:
        """Return one density, which serves all levels."""
        return FactorisedModel(channels)

    def latents(self, channels: int) -> nn.Module:
        """Return gains."""
        return Gain(channels, self.lambdas)

    def bin_widths(self, num_images: int) -> Tensor | float:
        """Return 1."""
        return 1.0

    def positions(self) -> list[Position]:
        """Return the levels and seven steps between each two."""
        num = (len(self.lambdas) - 1) * STEPS_PER_LEVEL + 1
        return [Position(float(level)) for level in np.linspace(0, len(self.lambdas) - 1, num)]
