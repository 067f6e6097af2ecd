"""Modulation: what a transform does differently at each rate level.

A modulated transform multiplies each channel by a scale behind some of its layers, and may add a shift; both depend on
the level alone. A frozen model keeps them as one row for each of its positions, so they cost nothing when it runs.

Not here: where scales come from (`mae`, `conditional`); gains of the latent alone (`gain`).
"""

from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from roadbits.codecs.entropy import Density

Method = Literal["gain", "scaling", "mae", "conditional"]


class Position(NamedTuple):
    """One rate of a model.

    Attributes:
        level: of a trained lambda, counted from 0; between two whole ones lambda is between theirs, geometrically.
        bin_width: of the quantiser, relative to the trained one.
    """

    level: float
    bin_width: float = 1.0


class Modulation(nn.Module):
    """Scales and shifts of every channel, by level."""

    def scale(self, levels: Tensor) -> Tensor:
        """Return what the channels are multiplied by, (B, C), above 0."""
        raise NotImplementedError

    def shift(self, levels: Tensor) -> Tensor | None:
        """Return what is added thereafter, (B, C), if anything is."""
        return None

    def begin(self, scales: Tensor) -> None:
        """Let every channel's scale at each level (levels,) be this one, above 0.

        Raises:
            ValueError: if there are more levels than its parameters can tell apart.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """Return the modulated (B, C, H, W)."""
        scaled = x * self.scale(levels)[:, :, None, None].to(x.dtype)
        shift = self.shift(levels)
        return scaled if shift is None else scaled + shift[:, :, None, None].to(x.dtype)


class Transform(nn.Sequential):
    """An analysis or synthesis transform, which hands its level to what needs it."""

    def forward(self, x: Tensor, levels: Tensor | None = None) -> Tensor:
        """Return the output for x (B, C, H, W) at levels (B,), which only a modulated transform needs."""
        for module in self:
            x = module(x, levels) if isinstance(module, Modulation) else module(x)
        return x


def binned(vectors: tuple[Tensor, Tensor], bin_widths: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return what a latent is multiplied by before and after a quantiser whose bins are wider by a factor."""
    before, after = vectors
    return before / bin_widths, after * bin_widths


class RateMethod(Protocol):
    """How one model reaches several rates: what it adds to a codec of one rate.

    Attributes:
        name: of the method.
        lambdas: of each level.
    """

    name: Method
    lambdas: tuple[float, ...]

    def behind_down(self, channels: int) -> list[nn.Module]:
        """Return the modulation, if any, behind a convolution of an analysis transform."""
        ...

    def before_up(self, channels: int) -> list[nn.Module]:
        """Return the modulation, if any, between an inverse GDN and a convolution of a synthesis transform."""
        ...

    def behind_up(self, channels: int) -> list[nn.Module]:
        """Return the modulation, if any, behind a convolution of a synthesis transform."""
        ...

    def behind_hyper(self, channels: int) -> list[nn.Module]:
        """Return the modulation, if any, behind a convolution of a hyper-transform."""
        ...

    def density(self, channels: int) -> Density:
        """Return the entropy model of a factorised latent."""
        ...

    def latents(self, channels: int) -> nn.Module:
        """Return what gives, at levels (B,), the vectors (B, C, 1, 1) before and after a latent's quantiser."""
        ...

    def bin_widths(self, num_images: int) -> Tensor | float:
        """Return the widths of the quantiser's bins in a step of training, (B, 1, 1, 1) or one for all."""
        ...

    def positions(self) -> list[Position]:
        """Return every rate of a frozen model, from about the lowest up."""
        ...
