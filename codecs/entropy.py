"""Entropy models: how probable each quantised latent value is, and so how many bits it costs.

In training a uniform noise of one quantisation step stands for the rounding (Balle 2017); the likelihood of a noisy or
a rounded value is the model's mass in the step around it. Once trained, a model is turned into integer tables
(`symbol_tables`), which is all that a deployed codec uses.

Sources: factorised model: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale
hyperprior", ICLR 2018, appendix 6.1; one for each rate level: Yang et al., "Variable rate deep image compression
with modulated autoencoder", SPL 2020. Gaussian conditional: the same, and Minnen, Balle, Toderici, "Joint
autoregressive and hierarchical priors for learned image compression", NeurIPS 2018, for its means.

Not here: coding symbols into bytes (`symbol_tables`).
"""

import math
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.layers import lower_bound

LIKELIHOOD_BOUND = 1e-9
SCALE_BOUND = 0.11
"""No Gaussian is narrower: below it a rounded value is certain to five digits."""
_FILTERS = (1, 3, 3, 3, 1)


class Density(nn.Module):
    """One density per channel, told by the logits of its cumulative.

    Attributes:
        channels: how many.
    """

    channels: int

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits of the cumulative at values (C, n), rising in each row."""
        raise NotImplementedError

    def at(self, level: float) -> "Density":
        """Return the density of one rate level: this one, where one serves them all."""
        return self

    def likelihood(self, values: Tensor, gain: Tensor | float = 1.0, levels: Tensor | None = None) -> Tensor:
        """Return the mass of the step around each value, both (B, C, h, w).

        Args:
            values: noisy or rounded, after a gain.
            gain: what they were multiplied by, (B, C, 1, 1): the model is of the values before it.
            levels: of the images (B,), where densities differ by level.
        """
        batch, channels, height, width = values.shape
        ends = torch.cat(((values - 0.5) / gain, (values + 0.5) / gain))
        lower, upper = self.logits(ends.transpose(0, 1).reshape(channels, -1).float()).chunk(2, dim=1)
        # On the side where both sigmoids are small: their difference keeps its digits there.
        # Never 0, which would leave no mass to a step that lies evenly around the median.
        sign = torch.where(lower.detach() + upper.detach() > 0, -1.0, 1.0)
        mass = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
        mass = lower_bound(mass, LIKELIHOOD_BOUND)
        return mass.reshape(channels, batch, height, width).transpose(0, 1)

    @torch.no_grad()
    def quantile(self, mass: float) -> NDArray[np.float64]:
        """Return, for every channel, the value below which `mass` of its density lies; found by bisection."""
        target = math.log(mass / (1 - mass))
        low = torch.full((self.channels, 1), -1.0)
        high = torch.full((self.channels, 1), 1.0)
        for _ in range(40):
            low = torch.where(self.logits(low) > target, 2 * low, low)
            high = torch.where(self.logits(high) < target, 2 * high, high)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.logits(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, 0].double().numpy()


class FactorisedModel(Density):
    """One density per channel, its cumulative a monotone network of four layers with 3 hidden units each."""

    def __init__(self, channels: int, width: float = 10.0) -> None:
        """Start as a density of about `width` quantisation steps around 0."""
        super().__init__()
        self.channels = channels
        scale = width ** (1 / (len(_FILTERS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(_FILTERS):
            start = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if fan_out > 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits of the cumulative at values (C, n)."""
        hidden = values[:, None, :]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, functional.softplus(matrix), hidden)
            if layer < len(self.factors):
                hidden = hidden + torch.tanh(self.factors[layer]) * torch.tanh(hidden)
        return hidden[:, 0, :]


class FactorisedLevels(Density):
    """A factorised model for each rate level, as MAE has it; between two levels their logits are mixed linearly.

    A mixture of rising logits rises, so every level between has a density.
    """

    def __init__(self, channels: int, num_levels: int, width: float = 10.0) -> None:
        """Start every level as a density of about `width` quantisation steps around 0."""
        super().__init__()
        self.channels = channels
        self.models = nn.ModuleList(FactorisedModel(channels, width) for _ in range(num_levels))

    def at(self, level: float) -> Density:
        """Return the density of a level, which may lie between two whole ones."""
        low = min(int(level), len(self.models) - 1)
        if level == low:
            return cast(Density, self.models[low])
        return _Mixed(cast(Density, self.models[low]), cast(Density, self.models[low + 1]), level - low)

    def likelihood(self, values: Tensor, gain: Tensor | float = 1.0, levels: Tensor | None = None) -> Tensor:
        """Return the mass of the step around each value; see `Density.likelihood`."""
        assert levels is not None
        gains = list(gain[:, None]) if isinstance(gain, Tensor) else [gain] * len(values)
        return torch.cat(
            [
                self.at(float(level)).likelihood(value, own)
                for value, own, level in zip(values[:, None], gains, levels, strict=True)
            ]
        )


class _Mixed(Density):
    """A density between two."""

    def __init__(self, low: Density, high: Density, share: float) -> None:
        super().__init__()
        self.channels = low.channels
        self.low, self.high, self.share = low, high, share

    def logits(self, values: Tensor) -> Tensor:
        return torch.lerp(self.low.logits(values), self.high.logits(values), self.share)


def gaussian_bits(values: Tensor, means: Tensor | float, scales: Tensor) -> Tensor:
    """Return the bits of each image (B,) under Gaussians; see `gaussian_symbol_bits`, shapes (B, C, h, w)."""
    return gaussian_symbol_bits(values, means, scales).sum(dim=(1, 2, 3))


def gaussian_symbol_bits(values: Tensor, means: Tensor | float, scales: Tensor) -> Tensor:
    """Return the bits of each value: of the mass of the step around it under a Gaussian; all of one shape.

    Computed from logarithms throughout: a value many scales from its mean keeps its gradient, where a mass that has
    underflowed would leave both to themselves.
    """
    scales = lower_bound(scales.float(), SCALE_BOUND)
    distance = torch.abs(values - means)
    near, far = (torch.special.log_ndtr((edge - distance) / scales) for edge in (0.5, -0.5))
    # Far out the difference drowns in rounding and may come out as zero.
    log_mass: Tensor = near + torch.log(-torch.expm1((far - near).clamp(max=-1e-6)))
    return -log_mass / math.log(2)


def bits(likelihood: Tensor) -> Tensor:
    """Return the bits of each image of a batch (B,), given likelihoods (B, C, h, w)."""
    return -torch.log2(likelihood).sum(dim=(1, 2, 3))


def quantised(values: Tensor, training: bool) -> Tensor:
    """Return noisy values in training, rounded ones otherwise."""
    return add_noise(values) if training else torch.round(values)


def add_noise(values: Tensor) -> Tensor:
    """Return the values with uniform noise of one quantisation step: the stand-in for rounding (Balle 2017)."""
    return values + torch.rand_like(values) - 0.5


def round_through(values: Tensor) -> Tensor:
    """Return rounded values with the gradient of the identity (Theis 2017)."""
    return values + (torch.round(values) - values).detach()
