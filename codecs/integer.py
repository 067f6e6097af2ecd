"""Exact networks: transforms that give the same numbers on every machine, thread count and memory format.

Floating-point convolutions depend on the order of their sums, so two machines can disagree in a last digit, and one
disagreement about a scale garbles a whole payload. Here weights and activations are whole numbers carried in float32,
and every sum that a convolution takes is bounded:

    sum |weight| * largest input < 2^24,

so that every partial sum is exact in whatever order it is taken. Where the bound would leave weights too coarse, the
input channels are taken in groups, each with its own exact sums, which are then added in a fixed order. Everything
between two convolutions is one IEEE operation per value (multiply, add, divide, square root, floor), each correctly
rounded by every processor. A convolution so runs nearly at the speed of float32; in float64 it would take four times
as long.

Activations of one channel are multiples of one step; the steps of the input are folded into the weights, those of the
output into `multiplier` and `offset`.

Not here: how a trained network becomes exact (`training.freezing`); the file it is kept in (`neural.model_file`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Literal, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roadbits.codecs.layers import gathered_kernel, gathers

LARGEST_SUM = 2**24 - 1
"""Whole numbers up to here are exact in float32."""
LARGEST_PIXEL = 255
LARGEST_ACTIVATION = 511
LARGEST_SQUARE = 2047
MOST_GROUPS = 64
"""Into so many the input channels of a layer are divided at most."""
_NORMALISED_AT_ONCE = 1 << 16
"""So many values of a GDN are computed at once, for less memory: from 2^15 to 2^20 takes the same time."""

Kind = Literal["down", "up", "gdn", "igdn", "residual"]
Output = Literal["steps", "relu", "pixels", "values"]


class InexactArithmeticError(Exception):
    """A machine or a setting whose float32 sums are not exact on whole numbers."""


@dataclass(frozen=True)
class Shape:
    """What a layer is, beside its numbers.

    Attributes:
        kind: a strided convolution, a transposed one, GDN or its inverse, or a 1x1 convolution that is added to its
            input.
        stride: of a convolution.
        output: `steps` and `relu` give whole steps in -511..511 and 0..511, `pixels` gives 0..255, `values` gives
            float32 numbers as they are.
        largest_input: the largest magnitude that the convolution meets.
        groups: into how many the input channels are divided.
    """

    kind: Kind
    stride: int
    output: Output
    largest_input: int
    groups: int


@dataclass(frozen=True, eq=False)
class ExactLayer:
    """One layer of an exact network.

    Attributes:
        shape: what it is.
        weight: whole numbers in float32: (out, in, k, k), for `up` (in, out, k, k), for GDN (C, C, 1, 1).
        multiplier: float32 (out,), from sums to the output's steps; (positions, out) in a modulated layer.
        offset: float32, of the same shape, added thereafter.
        square: float32 (), the power of two that makes squares fit, of GDN.
    """

    shape: Shape
    weight: Tensor
    multiplier: Tensor
    offset: Tensor
    square: Tensor

    def __post_init__(self) -> None:
        """Check what came from a file.

        Raises:
            ValueError: if a number is not finite or not whole, or sums could exceed what float32 holds exactly.
        """
        for name in ("weight", "multiplier", "offset", "square"):
            if not torch.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} of a layer holds NaN or infinity: damaged weights?")
        self._check_shapes()
        if not torch.equal(self.weight, self.weight.round()):
            raise ValueError("weights of an exact layer must be whole numbers")
        if self.shape.kind in ("gdn", "igdn") and (
            self.weight.min() < 0 or self.multiplier.min() < 0 or self.offset.min() <= 0
        ):
            raise ValueError("a GDN's weights and multipliers must be at least 0, its offsets more: damaged weights?")
        largest = float(largest_sums(self.weight, self.shape).max()) * self.shape.largest_input
        if largest > LARGEST_SUM:
            raise ValueError(f"sums of an exact layer may reach {largest:.0f}, expected at most {LARGEST_SUM}")

    def _check_shapes(self) -> None:
        kernel, stride = self.weight.shape[2:], self.shape.stride
        fits = len(kernel) == 2 and kernel[0] == kernel[1] and kernel[0] % 2 == 1
        if self.shape.kind == "up":
            fits = fits and kernel[0] // 2 == stride
        if self.shape.kind in ("gdn", "igdn", "residual"):
            fits = fits and kernel[0] == 1 and self.num_inputs == self.num_outputs
        if self.shape.kind == "residual":
            fits = fits and stride == 1 and self.shape.output == "steps"
        rows = self.multiplier.shape
        fits = fits and rows == self.offset.shape and len(rows) in (1, 2) and rows[-1] == self.num_outputs
        if not fits or self.square.ndim:
            raise ValueError(f"a layer {self.shape} cannot have weights {tuple(self.weight.shape)}: damaged weights?")

    @property
    def num_positions(self) -> int | None:
        """Return how many positions a modulated layer knows; None for a layer that serves all."""
        return len(self.multiplier) if self.multiplier.ndim == 2 else None

    @property
    def num_inputs(self) -> int:
        """Return the number of input channels."""
        return self.weight.shape[0 if self.shape.kind == "up" else 1]

    @property
    def num_outputs(self) -> int:
        """Return the number of output channels."""
        return self.weight.shape[1 if self.shape.kind == "up" else 0]

    @cached_property
    def _slices(self) -> tuple[Tensor, ...]:
        """Return the weights of each group, as the convolution that is run takes them."""
        weight = gathered_kernel(self.weight, self.shape.stride) if self._gathers else self.weight
        inputs = 0 if self.shape.kind == "up" and not self._gathers else 1
        return tuple(
            part.contiguous(memory_format=torch.channels_last) for part in weight.chunk(self.shape.groups, inputs)
        )

    @property
    def _gathers(self) -> bool:
        """Whether a transposed convolution runs as a convolution and a pixel shuffle."""
        return self.shape.kind == "up" and gathers(self.num_outputs, self.weight.shape[2], self.shape.stride)

    def _convolved(self, x: Tensor) -> Tensor:
        """Return the exact sums of every group, added in order."""
        total: Tensor | None = None
        for part, weight in zip(x.chunk(self.shape.groups, dim=1), self._slices, strict=True):
            sums = self._one_convolution(part.contiguous(memory_format=torch.channels_last), weight)
            total = sums if total is None else total.add_(sums)
        assert total is not None
        return functional.pixel_shuffle(total, self.shape.stride) if self._gathers else total

    def _one_convolution(self, x: Tensor, weight: Tensor) -> Tensor:
        kernel, stride = weight.shape[2], self.shape.stride
        if kernel == 1 and stride == 1:
            # As a matrix product, since on one thread torch would copy a channels-last image and its result.
            return functional.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0]).permute(0, 3, 1, 2)
        if self.shape.kind != "up":
            return functional.conv2d(x, weight, None, stride, kernel // 2)
        if self._gathers:
            return functional.conv2d(x, weight, None, 1, 1)
        return functional.conv_transpose2d(x, weight, None, stride, kernel // 2, stride - 1)

    def __call__(self, x: Tensor, position: int = 0) -> Tensor:
        """Return the output for whole numbers (B, in, H, W) at a position, which only a modulated layer needs."""
        multiplier, offset = row_of(self.multiplier, position), row_of(self.offset, position)
        if self._is_gdn:
            return self._normalised(x, multiplier, offset)
        sums = self._convolved(x).mul_(multiplier[:, None, None]).add_(offset[:, None, None])
        if self.shape.kind == "residual":
            # Whole steps are added to whole steps: with weights of zero the input passes as it is.
            return sums.add_(0.5).floor_().add_(x).clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
        return _finish(sums, self.shape.output)

    def _normalised(self, x: Tensor, multiplier: Tensor, offset: Tensor) -> Tensor:
        """Return the output of a GDN, some places after the others."""
        output = torch.empty_like(x, memory_format=torch.channels_last)
        taken, given = (each.permute(0, 2, 3, 1).reshape(-1, self.num_inputs) for each in (x, output))
        for begin in range(0, len(taken), self._places_at_once):
            here = slice(begin, begin + self._places_at_once)
            given[here] = self._normalised_places(taken[here], multiplier, offset)
        return output

    def _normalised_places(self, places: Tensor, multiplier: Tensor, offset: Tensor) -> Tensor:
        """Return the output of a GDN at some places (n, C)."""
        squares = torch.square(places).mul_(self.square).round_().clamp_(max=LARGEST_SQUARE)
        parts = zip(squares.chunk(len(self._slices), 1), self._slices, strict=True)
        sums, *more = (part @ weight[:, :, 0, 0].T for part, weight in parts)
        for each in more:
            sums.add_(each)
        sums.mul_(multiplier).add_(offset)
        # Not torch's own root: where MKL gives it, one value in five is off in its last digit.
        np.sqrt(sums.numpy(), out=sums.numpy())
        sums = torch.div(places, sums, out=sums) if self.shape.kind == "gdn" else sums.mul_(places)
        return _finish(sums, self.shape.output)

    @property
    def _is_gdn(self) -> bool:
        return self.shape.kind in ("gdn", "igdn")

    @property
    def _places_at_once(self) -> int:
        """How many places a GDN takes at once."""
        return max(1, _NORMALISED_AT_ONCE // self.num_inputs)

    def macs(self, height: int, width: int) -> tuple[int, int, int]:
        """Return multiply-accumulates for an input of that size, and the output's height and width."""
        out_height, out_width = height, width
        if self.shape.kind == "down":
            out_height, out_width = -(-height // self.shape.stride), -(-width // self.shape.stride)
            places = out_height * out_width
        elif self.shape.kind == "up":
            out_height, out_width, places = height * self.shape.stride, width * self.shape.stride, height * width
        else:
            places = height * width
        return places * self.weight.numel(), out_height, out_width

    def peak_values(self, height: int, width: int) -> int:
        """Return the most numbers that are alive at once while the layer runs on an input of that size, it included.

        While a group is convolved there are its inputs (copied, where there are several groups), the running total,
        the sums of the group before and its own. GDN keeps the squares of some places, and the sums of all groups
        there; a gathered layer's sums are shuffled into a tensor of their own.
        """
        _, out_height, out_width = self.macs(height, width)
        taken, given = self.num_inputs * height * width, self.num_outputs * out_height * out_width
        if self._is_gdn:
            at_once = min(self._places_at_once, height * width) * self.num_inputs
            return taken + given + (1 + len(self._slices)) * at_once
        copied = [part.shape[1 if self.shape.kind != "up" or self._gathers else 0] for part in self._slices]
        if len(copied) == 1:
            copied = [0]
        convolving = max(
            channels * height * width + min(group, 3) * given for group, channels in enumerate(copied, start=1)
        )
        if self._gathers:
            convolving = max(convolving, (2 + (len(copied) > 1)) * given)
        return taken + convolving


def row_of(rows: Tensor, position: int) -> Tensor:
    """Return the row (C,) of a position, of rows (positions, C) or of one (C,) that serves all."""
    return rows if rows.ndim == 1 else rows[position]


def largest_sums(weight: Tensor, shape: Shape) -> Tensor:
    """Return, for every output channel (out,), the largest sum of magnitudes that one output of one group takes.

    An output of a transposed convolution meets only the taps of its own phase, one in stride^2.
    """
    magnitudes = weight.double().abs()
    if shape.kind != "up":
        return torch.stack([part.sum(dim=(1, 2, 3)) for part in magnitudes.chunk(shape.groups, 1)]).amax(dim=0)
    phases = [
        part[:, :, row :: shape.stride, column :: shape.stride].sum(dim=(0, 2, 3))
        for part in magnitudes.chunk(shape.groups, 0)
        for row in range(shape.stride)
        for column in range(shape.stride)
    ]
    return torch.stack(phases).amax(dim=0)


def _finish(values: Tensor, output: Output) -> Tensor:
    """Return values rounded and bounded as the output asks; half a step is part of the rounding."""
    match output:
        case "steps":
            return values.add_(0.5).floor_().clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
        case "relu":
            return values.add_(0.5).floor_().clamp_(0, LARGEST_ACTIVATION)
        case "pixels":
            return values.add_(0.5).floor_().clamp_(0, 255)
        case "values":
            return values
        case unknown:
            assert_never(unknown)


@dataclass(frozen=True, eq=False)
class ExactTransform:
    """A sequence of exact layers: g_a, g_s, h_a or h_s."""

    layers: tuple[ExactLayer, ...]

    def __post_init__(self) -> None:
        """Check that every layer takes what the one before gives.

        Raises:
            ValueError: if not.
        """
        for before, after in pairwise(self.layers):
            if before.num_outputs != after.num_inputs:
                raise ValueError(f"a layer gives {before.num_outputs} channels, the next takes {after.num_inputs}")

    @property
    def num_inputs(self) -> int:
        """Return the number of channels of the input."""
        return self.layers[0].num_inputs

    @property
    def num_outputs(self) -> int:
        """Return the number of channels of the output."""
        return self.layers[-1].num_outputs

    def __call__(self, x: Tensor, position: int = 0) -> Tensor:
        """Return the output of the last layer at a position, which only a modulated transform needs."""
        check_exactness()
        # Autocast would run the convolutions in bfloat16, which holds whole numbers up to 256 only.
        with torch.autocast("cpu", enabled=False):
            for layer in self.layers:
                x = layer(x, position)
        return x

    def macs(self, height: int, width: int) -> int:
        """Return the multiply-accumulates for an input of that size."""
        total = 0
        for layer in self.layers:
            macs, height, width = layer.macs(height, width)
            total += macs
        return total

    def peak_bytes(self, height: int, width: int) -> int:
        """Return the most bytes that activations take at once, for an input of that size, which lives throughout.

        Counted are the float32 tensors of `__call__`, weights and what a convolution allocates inside aside.
        """
        given = self.num_inputs * height * width
        peak = 0
        for index, layer in enumerate(self.layers):
            peak = max(peak, layer.peak_values(height, width) + (given if index else 0))
            _, height, width = layer.macs(height, width)
        return 4 * peak

    def num_parameters(self) -> int:
        """Return the number of weights and offsets; a modulated layer has scales, too."""
        return sum(
            layer.weight.numel() + layer.offset.numel() + (layer.multiplier.numel() if layer.num_positions else 0)
            for layer in self.layers
        )

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return what a file must hold, weights as int16."""
        return {
            f"{name}.{index}.{part}": value
            for index, layer in enumerate(self.layers)
            for part, value in (
                ("weight", layer.weight.to(torch.int16)),
                ("multiplier", layer.multiplier),
                ("offset", layer.offset),
                ("square", layer.square),
            )
        }

    @classmethod
    def of(cls, name: str, shapes: Sequence[Shape], tensors: Mapping[str, Tensor]) -> "ExactTransform":
        """Build a transform from what `tensors` gave.

        Raises:
            KeyError: if a tensor is missing.
            ValueError: if a layer is not sound.
        """
        layers = []
        for index, shape in enumerate(shapes):
            parts = {
                part: tensors[f"{name}.{index}.{part}"].to(torch.float32)
                for part in ("weight", "multiplier", "offset", "square")
            }
            parts["weight"] = parts["weight"].contiguous(memory_format=torch.channels_last)
            layers.append(ExactLayer(shape, **parts))
        return cls(tuple(layers))


def check_exactness() -> None:
    """Check that sums here are what they are taken for, once under each precision that torch is set to.

    Settings such as `torch.set_float32_matmul_precision("medium")` let some processors compute in bfloat16.

    Raises:
        InexactArithmeticError: if a sum that float32 holds exactly comes out otherwise.
    """
    _check_exactness_under(_precisions())


def _precisions() -> tuple[str, ...]:
    """Return every setting of torch by which float32 may be computed in less, as far as this torch has it."""
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # where the settings below were made beside it, torch refuses to name one for all
        overall = "mixed"
    mkldnn = torch.backends.mkldnn
    offering = (torch.backends, mkldnn, getattr(mkldnn, "conv", None), getattr(mkldnn, "matmul", None))
    return overall, *(str(getattr(each, "fp32_precision", None)) for each in offering)


@cache
def _check_exactness_under(precisions: tuple[str, ...]) -> None:
    """Check the sums of every operation that layers use, under the precisions that torch is set to now.

    Numbers need more bits than bfloat16 and TF32 have. There are more than 16^3 products, as torch keeps smaller matrix
    products from the libraries that take less.
    """
    weight = torch.zeros(16, 32, 3, 3)
    weight[:, :, 1, 1] = 1023.0
    weight[:, 0] = 1.0
    weight[:, 1, 1, 1] = 2049.0
    x = torch.full((1, 32, 8, 8), float(LARGEST_ACTIVATION))
    expected = LARGEST_ACTIVATION * (30 * 1023 + 2049 + 9)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        laid_out, kernel, mirrored = (
            values.contiguous(memory_format=memory_format) for values in (x, weight, weight.transpose(0, 1))
        )
        with torch.autocast("cpu", enabled=False):
            _expect(expected, functional.conv2d(laid_out, kernel, None, 1, 1)[inner])
            _expect(expected, functional.conv_transpose2d(laid_out, mirrored, None, 1, 1)[inner])
    mixing = torch.full((16, 32), 131.0)
    mixing[:, 1] = 4097.0
    squares = torch.full((64, 32), float(LARGEST_SQUARE))
    expected = LARGEST_SQUARE * (31 * 131 + 4097)
    with torch.autocast("cpu", enabled=False):
        _expect(expected, functional.linear(squares.reshape(1, 8, 8, 32), mixing))
        _expect(expected, squares @ mixing.T)


def _expect(expected: int, sums: Tensor) -> None:
    """Refuse sums that are others than expected.

    Raises:
        InexactArithmeticError: if one is.
    """
    if not (sums == expected).all():
        raise InexactArithmeticError(
            f"float32 sums are not exact here: expected {expected}, got {sums.flatten()[0]:.0f}; "
            "set torch.set_float32_matmul_precision('highest') and every fp32_precision of torch.backends to 'ieee', "
            "and unset DNNL_DEFAULT_FPMATH_MODE"
        )
