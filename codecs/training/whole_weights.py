"""Whole weights: the finest whole numbers for a convolution that keep every sum exact.

Not here: what multiplies sums afterwards (`exact_twins`), the bound itself (`codecs.integer`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roadbits.codecs.integer import LARGEST_SUM, MOST_GROUPS, Shape, largest_sums

_INT16 = 32767
_FINE_WEIGHT = 32.0
"""Root mean square of whole weights at which rounding them costs nothing that can be measured."""
_SMALLEST_GROUP = 16
_BACK_OFF = 0.9995


@dataclass(frozen=True)
class WholeWeights:
    """Weights of one convolution or GDN.

    Attributes:
        weight: double, whole, of the layout of the module's own.
        scale: (out,): what the weights were multiplied by.
        shape: of the layer, with its groups.
    """

    weight: Tensor
    scale: Tensor
    shape: Shape

    @property
    def stored(self) -> Tensor:
        """The weights as an exact layer takes them."""
        return self.weight.float().contiguous(memory_format=torch.channels_last)

    def narrowed(self, num_inputs: int, num_outputs: int) -> "WholeWeights":
        """Return the weights between the first channels, in as few groups as keep sums exact.

        Raises:
            ValueError: if no number of groups does that a layer can have.
        """
        narrow = self.weight[:num_inputs, :num_outputs] if self._is_up else self.weight[:num_outputs, :num_inputs]
        for groups in _group_counts(num_inputs):
            shape = replace(self.shape, groups=groups)
            if not _excess(narrow, shape).any():
                return WholeWeights(narrow.contiguous(), self.scale[:num_outputs], shape)
        raise ValueError(
            f"{num_inputs} channels cannot be divided into at most {MOST_GROUPS} groups whose sums are exact: "
            "train another width"
        )

    @property
    def _is_up(self) -> bool:
        return self.shape.kind == "up"


def whole_weights(weight: Tensor, shape: Shape) -> WholeWeights:
    """Return whole weights in the fewest groups of input channels that leave them fine enough.

    Args:
        weight: double, with the input's steps folded in.
        shape: of the layer, of one group.
    """
    num_inputs = weight.shape[0 if shape.kind == "up" else 1]
    while True:
        whole, scale = _finest(weight, shape)
        if whole.square().mean().sqrt() >= _FINE_WEIGHT or num_inputs // (2 * shape.groups) < _SMALLEST_GROUP:
            return WholeWeights(whole, scale, shape)
        shape = replace(shape, groups=2 * shape.groups)


def _group_counts(num_inputs: int) -> Iterator[int]:
    """Yield numbers of groups, from the fewest: those of equal size, then others, which primes need.

    Of up to `MOST_GROUPS` channels, groups of one each are the last that can be needed.
    """
    yield from sorted(range(1, min(num_inputs, MOST_GROUPS) + 1), key=lambda groups: num_inputs % groups != 0)


def _excess(whole: Tensor, shape: Shape) -> Tensor:
    """Return which output channels (out,) have sums that may be inexact."""
    return largest_sums(whole, shape) * shape.largest_input > LARGEST_SUM


def _finest(weight: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return whole weights at the finest scales (out,) that keep sums exact."""
    out_shape = (1, -1, 1, 1) if shape.kind == "up" else (-1, 1, 1, 1)
    inputs = (0, 2, 3) if shape.kind == "up" else (1, 2, 3)
    largest = weight.abs().amax(dim=inputs).clamp(min=1e-30)
    scale = torch.minimum(
        LARGEST_SUM / shape.largest_input / largest_sums(weight, shape).clamp(min=1e-30), _INT16 / largest
    )
    while True:
        whole = torch.round(weight * scale.reshape(out_shape))
        excess = _excess(whole, shape)
        if not excess.any():
            return whole, scale
        scale = torch.where(excess, scale * _BACK_OFF, scale)


def _stored(whole: Tensor) -> Tensor:
    return whole.float().contiguous(memory_format=torch.channels_last)
