"""cAE, the conditional autoencoder: lambda sets scales and shifts behind every convolution, a bin width the rest.

    y_k = softplus(u_k[level]) * conv(x)_k + v_k[level];        y_hat = bin * round(y / bin)

Lambda is one of the trained ones, one-hot; rates between them come from the width of the quantiser's bins, which in
training is drawn anew for each image, uniformly in its logarithm from 1/2 to 2. Differing from the paper, which has an
autoregressive entropy model conditioned on lambda: a factorised model for each lambda, or of a hyperprior.

Source: Choi, El-Khamy, Lee, "Variable rate deep image compression with a conditional autoencoder", ICCV 2019.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.entropy import Density, FactorisedLevels
from roadbits.codecs.neural.gain import Gained, interpolated
from roadbits.codecs.neural.mae import Unscaled
from roadbits.codecs.neural.modulation import Method, Modulation, Position

BINS_PER_OCTAVE = 8
_REACH = 4
"""Widths of a frozen model reach half an octave either way, where the neighbouring lambda takes over."""


class Conditioned(Modulation):
    """Scales and shifts behind one convolution, a row for each lambda."""

    def __init__(self, channels: int, num_levels: int) -> None:
        """Start with scales of 1 and shifts of 0."""
        super().__init__()
        self.scales = nn.Parameter(torch.full((num_levels, channels), math.log(math.e - 1)))
        self.shifts = nn.Parameter(torch.zeros(num_levels, channels))

    def begin(self, scales: Tensor) -> None:
        """Write the scales into the rows of their levels; see `Modulation.begin`."""
        with torch.no_grad():
            self.scales.copy_(torch.log(torch.expm1(scales))[:, None].expand_as(self.scales))

    def scale(self, levels: Tensor) -> Tensor:
        """Return the scales (B, C) at whole levels (B,)."""
        return functional.softplus(interpolated(self.scales, levels))

    def shift(self, levels: Tensor) -> Tensor:
        """Return the shifts (B, C) at whole levels (B,)."""
        return interpolated(self.shifts, levels)


class Conditional(Gained):
    """cAE; see `modulation.RateMethod`."""

    name: Method = "conditional"

    def behind_down(self, channels: int) -> list[nn.Module]:
        """Return scales and shifts."""
        return [Conditioned(channels, len(self.lambdas))]

    behind_hyper = behind_up = behind_down

    def density(self, channels: int) -> Density:
        """Return a factorised model for each level."""
        return FactorisedLevels(channels, len(self.lambdas))

    def latents(self, channels: int) -> nn.Module:
        """Return ones."""
        return Unscaled(channels)

    def bin_widths(self, num_images: int) -> Tensor | float:
        """Return widths from 1/2 to 2, (B, 1, 1, 1)."""
        return torch.exp2(torch.rand(num_images, 1, 1, 1) * 2 - 1)

    def positions(self) -> list[Position]:
        """Return every lambda with every width, wide bins first."""
        return [
            Position(float(level), 2.0 ** (-step / BINS_PER_OCTAVE))
            for level in range(len(self.lambdas))
            for step in range(-_REACH, _REACH + 1)
        ]
