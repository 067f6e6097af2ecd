"""The still restorer: a residual encoder-decoder that is told how its input was degraded.

Pixels are folded two by two into channels, three scales of residual blocks follow with skips between equal scales, and
what comes out is added to the input. Every block is scaled and shifted, channel by channel, by a small network of the
condition, as the QP gate of DCNGAN (Zhang et al., ICASSP 2022) scales its blocks. Freshly built it returns its input.

The network of the paper that proposes dataset restoration (Katakol et al., "Distributed Learning and Inference with
Compressed Images", TIP 2021) was not readable to us: this one is our own, made for two processor cores.

Not here: what the condition says (`condition`), losses and training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadbits.restoration.condition import vector_size

STRIDE = 8
"""Sides are padded to multiples of this; crops begin at multiples of it, in phase with the blocks of codecs."""


@dataclass(frozen=True)
class RestorerSpec:
    """Which network.

    Attributes:
        codecs: it is trained for, in the order of the condition's vector.
        channels: of the finest scale; twice and four times as many below.
        blocks: of each scale, finest first; the two finer ones have as many on the way up.
    """

    codecs: tuple[str, ...]
    channels: int = 32
    blocks: tuple[int, int, int] = (1, 2, 4)


class _Block(nn.Module):
    """Two convolutions around a gate of the condition, added to the input."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Linear(told, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(cast(Tensor, self.second.bias))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.gate(told)[:, :, None, None].chunk(2, 1)
        hidden = functional.silu(self.first(x) * (1 + scale) + shift)
        result: Tensor = x + self.second(hidden)
        return result


class Restorer(nn.Module):
    """Degraded images and conditions to restored images."""

    def __init__(self, spec: RestorerSpec) -> None:
        """Build the network of a spec."""
        super().__init__()
        self.spec = spec
        told, (fine, middle, coarse) = 64, (spec.channels * factor for factor in (1, 2, 4))
        first, second, third = spec.blocks
        self.tell = nn.Sequential(
            nn.Linear(vector_size(spec.codecs), told), nn.SiLU(), nn.Linear(told, told), nn.SiLU()
        )
        self.head = nn.Conv2d(12, fine, 3, padding=1)
        self.fine_in = _blocks(first, fine, told)
        self.down_1 = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_in = _blocks(second, middle, told)
        self.down_2 = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = _blocks(third, coarse, told)
        self.up_2 = nn.Conv2d(coarse, 4 * middle, 1)
        self.middle_out = _blocks(second, middle, told)
        self.up_1 = nn.Conv2d(middle, 4 * fine, 1)
        self.fine_out = _blocks(first, fine, told)
        self.tail = nn.Conv2d(fine, 12, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: float32 (B, 3, H, W) in 0..1; H and W multiples of `STRIDE`.
            conditions: float32 (B, D) of `condition_vector`.

        Returns:
            float32 (B, 3, H, W), not clipped.
        """
        told = self.tell(conditions)
        folded = functional.pixel_unshuffle(x, 2) - 0.5
        fine = _run(self.fine_in, self.head(folded), told)
        middle = _run(self.middle_in, self.down_1(fine), told)
        coarse = _run(self.coarse, self.down_2(middle), told)
        middle = _run(self.middle_out, middle + functional.pixel_shuffle(self.up_2(coarse), 2), told)
        fine = _run(self.fine_out, fine + functional.pixel_shuffle(self.up_1(middle), 2), told)
        return x + functional.pixel_shuffle(self.tail(fine), 2).float()


def _blocks(num: int, channels: int, told: int) -> nn.ModuleList:
    return nn.ModuleList(_Block(channels, told) for _ in range(num))


def _run(blocks: nn.ModuleList, x: Tensor, told: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, told)
    return x


def padded(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) with sides repeated at the edges to multiples of `STRIDE`."""
    height, width = x.shape[-2:]
    return functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def names_of(codecs: Sequence[str]) -> tuple[str, ...]:
    """Return codecs as a spec lists them: each once, in order of name."""
    return tuple(sorted(set(codecs)))
