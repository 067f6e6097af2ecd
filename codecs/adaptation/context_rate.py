"""What a latent costs under its source's context while a codec adapts: a frozen context, made differentiable.

The context's networks look at the rounded symbols, as in use, from where the source's tables are, and pass no gradient
on; what they expect is moved from where the density, or h_s, puts it, and that gradient flows. So neither residuals nor
the density's warp are paid for saving bits that the context saves already.

Not here: the context in use (`neural.context_model`), its own training (`neural.context`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.entropy import SCALE_BOUND, gaussian_symbol_bits
from roadbits.codecs.layers import lower_bound
from roadbits.codecs.neural.context_model import (
    RUNGS_OF_A_MOVE,
    Begun,
    ContextModel,
    centred_rungs,
    deviations_of,
    looked_at,
)

ESCAPE_BITS = 21.0
"""Of a symbol outside its table, and of how many bits its distance has: 16 and log2(25)."""
_WIDEST = 256
"""So far from zero symbols are looked at for a density's moments."""


class Moments(NamedTuple):
    """With what a context begins, before rungs and eighths are made of it; with gradients.

    Attributes:
        scales: of each symbol (B, M, h, w), or what broadcasts to it.
        means: likewise; 0 where they do not move.
    """

    scales: Tensor
    means: Tensor


def density_moments(density: WarpedDensity, gain: Tensor) -> Moments:
    """Return the moments of a density's symbols, both (1, M, 1, 1), as a context takes them from its tables.

    Args:
        density: of a factorised latent.
        gain: that it is multiplied by (M, 1, 1).
    """
    reach = int((density.edges.abs().amax() * gain.max()).clamp(1, _WIDEST))
    symbols = torch.arange(-reach, reach + 1).float()
    mass = density.likelihood(symbols.expand(len(gain), -1)[None, :, None], gain[None])[0, :, 0]
    mass = mass / mass.sum(dim=1, keepdim=True)
    means = (mass * symbols).sum(dim=1)
    variances = (mass * (symbols - means[:, None]) ** 2).sum(dim=1)
    # Without what rounding adds to a variance.
    scales = lower_bound(variances - 1 / 12, SCALE_BOUND**2).sqrt()
    return Moments(scales[None, :, None, None], means[None, :, None, None])


def context_bits(
    context: ContextModel,
    noisy: Tensor,
    symbols: Tensor,
    begun: Moments,
    origin: Begun | None = None,
    own_bits: Tensor | None = None,
) -> Tensor:
    """Return the bits (B,) of a latent.

    Args:
        context: frozen.
        noisy: the latent in training, (B, M, h, w), in symbols; less the means that h_s predicts.
        symbols: the same rounded, without gradient.
        begun: with what the context begins.
        origin: from where its networks look, (1, M, 1, 1); from what it begins with if None, as for a hyperprior.
        own_bits: of each symbol under the codec's own tables (B, M, h, w), which code a first stage; None where they do
            not.
    """
    noisy, symbols = noisy[:, context.order], symbols[:, context.order]
    ladder = 1 / context.inverse_scales
    scales, means = (each.expand(noisy.shape)[:, context.order] for each in begun)
    scales = lower_bound(scales, float(ladder[0]))
    with torch.no_grad():
        if origin is None:
            rungs, eighths = torch.bucketize(scales.contiguous(), (ladder[1:] * ladder[:-1]).sqrt()), None
        else:
            rungs, eighths = origin.picked(context.order)
        deviations, centred = deviations_of(symbols, eighths, rungs, context.inverse_scales), centred_rungs(rungs)
        centred = centred.expand(noisy.shape)
        networks = [
            network(looked_at(stage, deviations, centred, context.with_means))
            for stage, network in zip(context.stages[context.with_means :], context.networks, strict=True)
        ]
    per_rung = float(torch.log(ladder[1] / ladder[0]))
    total = torch.zeros(len(noisy))
    if own_bits is not None:
        first = context.stages[0]
        total = own_bits[:, context.order][:, first.own][:, :, first.places(*noisy.shape[2:])].sum(dim=(1, 2))
    for stage, predicted in zip(context.stages[context.with_means :], networks, strict=True):
        own, channels, places = stage.own, stage.end - stage.begin, stage.places(*noisy.shape[2:])
        moved = scales[:, own] * torch.exp(per_rung * RUNGS_OF_A_MOVE * predicted[:, :channels])
        centres = means[:, own]
        if context.with_means:
            centres = centres + predicted[:, channels:] / context.inverse_scales[rungs[:, own]]
        parts = noisy[:, own], symbols[:, own].float(), centres, moved.clamp(max=float(ladder[-1]))
        total = total + _rounded_bits(*(each[:, :, places] for each in parts)).sum(dim=(1, 2))
    return total


def _rounded_bits(noisy: Tensor, symbols: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Return the bits of each symbol under a Gaussian; their gradient is that of what is in noise.

    A context knows many symbols for certain. In noise these would cost bits, and teach scales to be wide.
    """
    smooth = _escaping(noisy, means.detach(), scales.detach())
    return _escaping(symbols, means, scales) + smooth - smooth.detach()


def _escaping(values: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Return the bits of each value under a Gaussian, or those of an escape and a distance where these are fewer."""
    escape = ESCAPE_BITS + torch.log2(1 + 2 * torch.abs(values - means))
    return -torch.logaddexp2(-gaussian_symbol_bits(values, means, scales), -escape)
