"""Exact twins: a trained transform and its ranges become a transform in whole numbers.

The largest magnitude of an activation becomes 511 steps; the steps of an input are folded into weights, those of an
output into multipliers and offsets. What a level does to a channel, its modulation, becomes part of the layer before
it, with a row for each position.

Not here: measuring ranges (`ranges`), rounding weights (`whole_weights`), the arithmetic (`codecs.integer`).
"""

import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roadbits.codecs.integer import (
    LARGEST_ACTIVATION,
    LARGEST_PIXEL,
    LARGEST_SQUARE,
    ExactLayer,
    ExactTransform,
    Output,
    Shape,
)
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.modulation import Modulation, Transform
from roadbits.codecs.training.ranges import Ranges, Reach
from roadbits.codecs.training.whole_weights import WholeWeights, whole_weights

_SQUARE = 2.0 ** math.floor(math.log2(LARGEST_SQUARE / LARGEST_ACTIVATION**2))

Wholes = MutableMapping[int, WholeWeights]


@dataclass(frozen=True)
class _Rows:
    """A modulation at every position: scales and shifts, double (positions, C), or (1, C) where there is none."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, module: nn.Module | None, levels: Tensor, channels: int) -> "_Rows":
        if not isinstance(module, Modulation):
            return cls(torch.ones(1, channels).double(), torch.zeros(1, channels).double())
        scale, shift = module.scale(levels).double(), module.shift(levels)
        return cls(scale, torch.zeros_like(scale) if shift is None else shift.double())


def stored_rows(rows: Tensor) -> Tensor:
    """Return float32 rows (positions, C), or (C,) if there is but one."""
    return (rows[0] if len(rows) == 1 else rows).float().contiguous()


def _stored_alike(multiplier: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 multipliers and offsets of one shape."""
    num_rows = max(len(multiplier), len(offset))
    return stored_rows(multiplier.expand(num_rows, -1)), stored_rows(offset.expand(num_rows, -1))


@dataclass(frozen=True)
class _Step:
    """What becomes one exact layer.

    Attributes:
        module: a convolution or GDN.
        begin: its index in the transform.
        end: index behind the modulation and ReLU that follow it.
        modulation: if there is one.
        rectified: whether there is a ReLU.
    """

    module: nn.Module
    begin: int
    end: int
    modulation: nn.Module | None
    rectified: bool


def _steps(transform: Transform) -> Iterator[_Step]:
    modules = list(transform)
    index = 0
    while index < len(modules):
        begin, end = index, index + 1
        modulated = end < len(modules) and isinstance(modules[end], Modulation)
        end += modulated
        rectified = end < len(modules) and isinstance(modules[end], nn.ReLU)
        end += rectified
        yield _Step(modules[begin], begin, end, modules[begin + 1] if modulated else None, rectified)
        index = end


def exact_twin(
    transform: Transform, ranges: Ranges, levels: Tensor, last: Output, wholes: Wholes, of_pixels: bool
) -> ExactTransform:
    """Return the exact twin of a transform.

    Args:
        transform: as trained.
        ranges: of its activations.
        levels: of every position (P,).
        last: what the last layer gives.
        wholes: whole weights of convolutions that exist already, by index in the transform; others are added.
        of_pixels: whether it takes grey levels.
    """
    layers = []
    taken = ranges.entry
    for step in _steps(transform):
        output: Output = last if step.end == len(transform) else "relu" if step.rectified else "steps"
        rows = _Rows.of(step.modulation, levels, len(ranges.outputs[step.begin].channels))
        given = ranges.outputs[step.end - 1] if output in ("steps", "relu") else _whole_reach(output, rows)
        if isinstance(step.module, GDN):
            layers.append(_exact_gdn(step.module, rows, taken, given, output))
        else:
            assert isinstance(step.module, nn.Conv2d | nn.ConvTranspose2d)
            if step.begin not in wholes:
                largest_input = LARGEST_PIXEL if of_pixels and step.begin == 0 else LARGEST_ACTIVATION
                wholes[step.begin] = _whole_convolution(step.module, taken, output, largest_input)
            layers.append(_exact_convolution(step.module, wholes[step.begin], rows, taken, given))
        taken = given
    return ExactTransform(tuple(layers))


def _whole_reach(output: Output, rows: _Rows) -> Reach:
    """Return the reach of a last output, whose steps are 1, or grey levels."""
    return Reach.fixed(torch.full_like(rows.scale[0], LARGEST_ACTIVATION / (255 if output == "pixels" else 1)))


def _whole_convolution(
    module: nn.Conv2d | nn.ConvTranspose2d, taken: Reach, output: Output, largest_input: int
) -> WholeWeights:
    """Return whole weights of a convolution, its input's steps folded in."""
    up = isinstance(module, nn.ConvTranspose2d)
    weight = module.weight.double() * (taken.step[:, None, None, None] if up else taken.step[:, None, None])
    return whole_weights(weight, Shape("up" if up else "down", module.stride[0], output, largest_input, 1))


def _exact_convolution(
    module: nn.Conv2d | nn.ConvTranspose2d, whole: WholeWeights, rows: _Rows, taken: Reach, given: Reach
) -> ExactLayer:
    """Return a convolution in whole numbers."""
    bias = torch.zeros_like(given.step) if module.bias is None else module.bias.double()
    out_steps = given.step * given.positions
    multiplier = rows.scale * taken.positions / (whole.scale * out_steps)
    offset = (rows.scale * bias + rows.shift) / out_steps
    return ExactLayer(whole.shape, whole.stored, *_stored_alike(multiplier, offset), torch.ones(()))


def _exact_gdn(module: GDN, rows: _Rows, taken: Reach, given: Reach, output: Output) -> ExactLayer:
    """Return a GDN in whole numbers: steps and scales go under its root."""
    assert not rows.shift.any(), "a GDN's output cannot be shifted"
    in_steps, out_steps = rows.scale * taken.step * taken.positions, given.step * given.positions
    ratio = (in_steps / out_steps if module.inverse else out_steps / in_steps) ** 2
    gamma = (module.gamma().double() * taken.step**2 / _SQUARE)[:, :, None, None]
    whole = whole_weights(gamma, Shape("igdn" if module.inverse else "gdn", 1, output, LARGEST_SQUARE, 1))
    multiplier, offset = ratio * taken.positions**2 / whole.scale, module.beta().double() * ratio
    return ExactLayer(whole.shape, whole.stored, *_stored_alike(multiplier, offset), torch.tensor(_SQUARE))
