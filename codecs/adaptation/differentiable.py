"""A frozen model made differentiable: the numbers that it computes, with gradients to what is put between its layers.

Every rounding passes its gradient on as it is, every clipping where it does not clip. In float32 what comes out is what
the exact layers give, so an adapter is trained on what it will meet; under autocast it comes near.

Not here: what is put in between and what for (`training`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.entropy import round_through
from roadbits.codecs.integer import (
    LARGEST_ACTIVATION,
    LARGEST_SQUARE,
    ExactLayer,
    ExactTransform,
    Output,
    Shape,
    row_of,
)
from roadbits.codecs.training.whole_weights import whole_weights


class Residual(nn.Module):
    """A 1x1 convolution that is added to its input: steps to steps (B, C, H, W), zero at first."""

    def __init__(self, channels: int) -> None:
        """Build it for that many channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return whole steps."""
        added = functional.conv2d(x, self.weight, self.bias)
        return (x + round_through(added.float())).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def run(transform: ExactTransform, residuals: Mapping[int, nn.Module], x: Tensor, position: int = 0) -> Tensor:
    """Return the output of a transform for whole numbers (B, in, H, W) at a position.

    Args:
        transform: of the source.
        residuals: by index of the layer that they follow.
        x: input.
        position: among the model's.
    """
    for index, layer in enumerate(transform.layers):
        x = _layer(layer, x, position)
        if index in residuals:
            x = residuals[index](x)
    return x


class ExactNumbers(NamedTuple):
    """The numbers of an exact layer, which need not be whole here."""

    shape: Shape
    weight: Tensor
    multiplier: Tensor
    offset: Tensor
    square: Tensor


def _layer(layer: ExactLayer | ExactNumbers, x: Tensor, position: int) -> Tensor:
    multiplier, offset = (row_of(rows, position)[:, None, None] for rows in (layer.multiplier, layer.offset))
    kind, kernel = layer.shape.kind, layer.weight.shape[2]
    if kind in ("gdn", "igdn"):
        squares = round_through(x.float() ** 2 * layer.square).clamp(max=LARGEST_SQUARE)
        root = torch.sqrt(functional.conv2d(squares, layer.weight).float() * multiplier + offset)
        return finished(x / root if kind == "gdn" else x * root, layer.shape.output)
    if kind == "up":
        sums = functional.conv_transpose2d(
            x, layer.weight, None, layer.shape.stride, kernel // 2, layer.shape.stride - 1
        )
    else:
        sums = functional.conv2d(x, layer.weight, None, layer.shape.stride, kernel // 2)
    sums = sums.float() * multiplier + offset
    return finished(sums if kind != "residual" else x + round_through(sums), layer.shape.output)


def finished(values: Tensor, output: Output) -> Tensor:
    """Return values rounded and bounded as an output asks, with gradients."""
    match output:
        case "steps":
            return _rounded(values).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
        case "relu":
            return _rounded(values).clamp(0, LARGEST_ACTIVATION)
        case "pixels":
            return _rounded(values).clamp(0, 255)
        case "values":
            return values


def _rounded(values: Tensor) -> Tensor:
    """Return values rounded as exact layers round, halves up, with the gradient of the identity."""
    return values + (torch.floor(values + 0.5) - values).detach()


class TunedLayer(nn.Module):
    """An exact layer whose weights and offsets move; it begins as the layer that it is made from."""

    def __init__(self, layer: ExactLayer) -> None:
        """Take over a layer's numbers.

        Raises:
            ValueError: if they differ by position.
        """
        if layer.num_positions is not None:
            raise ValueError("a layer that differs by position cannot be tuned")
        super().__init__()
        self._shape, self._is_gdn = layer.shape, layer.shape.kind in ("gdn", "igdn")
        outputs = (1, -1, 1, 1) if layer.shape.kind == "up" else (-1, 1, 1, 1)
        self.weight = nn.Parameter(layer.weight * layer.multiplier.reshape(outputs))
        self.bias = nn.Parameter(layer.offset.clone())
        self.register_buffer("square", layer.square)
        self._least = float(layer.offset.min()) / 100

    square: Tensor

    def _positive(self) -> tuple[Tensor, Tensor]:
        """Return weights and offsets, those of a GDN within bounds."""
        if not self._is_gdn:
            return self.weight, self.bias
        return self.weight.clamp(min=0), self.bias.clamp(min=self._least)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for whole numbers (B, in, H, W)."""
        weight, bias = self._positive()
        ones = torch.ones_like(bias)
        return _layer(ExactNumbers(self._shape, weight, ones, bias, self.square), x, 0)

    def frozen(self) -> ExactLayer:
        """Return the layer in whole numbers again."""
        weight, bias = (each.detach() for each in self._positive())
        whole = whole_weights(weight.double(), replace(self._shape, groups=1))
        return ExactLayer(whole.shape, whole.stored, (1 / whole.scale).float(), bias.float().clone(), self.square)
