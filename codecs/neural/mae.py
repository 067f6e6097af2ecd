"""MAE, the modulated autoencoder: a small network per layer turns lambda into a scale for each channel.

    analysis: conv, scale, GDN        synthesis: IGDN, scale, up        entropy: one factorised model for each level

Following the authors' code where their figure differs: in the synthesis transform the scale stands behind the IGDN.
Of a hyperprior g_a and g_s are modulated; h_a and h_s see latents that already are. Between two levels the entropy
models' logits are mixed linearly, which the paper leaves open.

Source: Yang, Herranz, van de Weijer, Iglesias Guitian, Lopez, Mozerov, "Variable rate deep image compression with
modulated autoencoder", IEEE Signal Processing Letters 27, 2020, and github.com/FireFYF/modulatedautoencoder.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import Density, FactorisedLevels
from roadbits.codecs.neural.gain import Gained, interpolated
from roadbits.codecs.neural.modulation import Method, Modulation

_HIDDEN = 50
_LARGEST_LAMBDA = 2048 / 255**2
"""The unit of lambda: 2048 where the distortion is the mean squared error of x in 0..1, without 255^2."""


class Modulator(Modulation):
    """Scales of one layer: Linear 1 -> 50, ReLU, Linear 50 -> C, exp."""

    def __init__(self, channels: int, lambdas: Sequence[float]) -> None:
        """Start with scales of 1."""
        super().__init__()
        self.register_buffer("log_lambdas", torch.log(torch.tensor(lambdas))[:, None], persistent=False)
        self.hidden = nn.Linear(1, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def begin(self, scales: Tensor) -> None:
        """Bend the logarithms of the scales at each level's lambda, by one hidden unit each; see `Modulation.begin`."""
        lambdas, logs = self._relative_lambdas(torch.arange(len(scales)).float())[:, 0], torch.log(scales)
        num = len(lambdas) - 1
        if num > _HIDDEN:
            raise ValueError(
                f"scales of {len(scales)} lambdas: {_HIDDEN} hidden units can follow {_HIDDEN + 1} at most"
            )
        slopes = torch.diff(logs) / torch.diff(lambdas)
        bends = torch.diff(slopes, prepend=slopes.new_zeros(1))
        # Shared by both layers, so that a step of training moves neither much more than the other.
        shares = bends.abs().sqrt()
        with torch.no_grad():
            self.hidden.weight[:num] = shares[:, None]
            self.hidden.bias[:num] = -shares * lambdas[:num]
            self.out.weight.zero_()
            self.out.weight[:, :num] = torch.copysign(shares, bends)
            self.out.bias.fill_(float(logs[0]))

    def _relative_lambdas(self, levels: Tensor) -> Tensor:
        """Return lambdas (B, 1) at levels (B,), in units of the paper's largest."""
        assert isinstance(self.log_lambdas, Tensor)
        return torch.exp(interpolated(self.log_lambdas, levels)) / _LARGEST_LAMBDA

    def scale(self, levels: Tensor) -> Tensor:
        """Return the scales (B, C) at levels (B,)."""
        lambdas = self._relative_lambdas(levels)
        with torch.autocast(levels.device.type, enabled=False):
            scales: Tensor = torch.exp(self.out(torch.relu(self.hidden(lambdas))))
        return scales


class Unscaled(nn.Module):
    """A latent that is quantised as it is."""

    def __init__(self, channels: int) -> None:
        """Take the number of channels."""
        super().__init__()
        self.channels = channels

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ones (B, C, 1, 1), twice."""
        ones = levels.new_ones(len(levels), self.channels, 1, 1)
        return ones, ones


class Modulated(Gained):
    """MAE; see `modulation.RateMethod`."""

    name: Method = "mae"

    def behind_down(self, channels: int) -> list[nn.Module]:
        """Return a modulator."""
        return [Modulator(channels, self.lambdas)]

    before_up = behind_down

    def density(self, channels: int) -> Density:
        """Return a factorised model for each level."""
        return FactorisedLevels(channels, len(self.lambdas))

    def latents(self, channels: int) -> nn.Module:
        """Return ones."""
        return Unscaled(channels)
