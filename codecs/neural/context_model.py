"""The frozen scale context of a hyperprior: in which order its symbols are coded, and what moves their scales.

One function runs it for both ends: the encoder hands out the symbols that it knows, the decoder those that it reads.

Not here: what a scale context is (`scale_context`), the file that holds it (`model_file`), making one
(`training.context_freezing`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.integer import LARGEST_ACTIVATION, ExactTransform
from roadbits.codecs.symbol_tables import Symbols

STEPS_OF_A_SCALE = 64
"""Steps in which a magnitude of one scale enters a network."""
_STEPS_OF_A_RUNG, _MIDDLE = 8, 252
"""A table's number enters as so many steps, around that of the middle of 64."""
RUNGS_OF_A_MOVE = 8
"""By how many tables a network's output of 1 moves."""


@dataclass(frozen=True)
class Stage:
    """Symbols that are coded at once.

    Attributes:
        begin: the first of its channels.
        end: of its channels.
        half: of its places, like the squares of a chessboard: the first or the second; all if None.
    """

    begin: int
    end: int
    half: Literal[0, 1] | None

    @property
    def known(self) -> int:
        """How many channels something is known of before."""
        return self.end if self.half == 1 else self.begin

    @property
    def num_inputs(self) -> int:
        """How many channels its network looks at: magnitudes of those known, rungs of those and of its own."""
        return self.known + self.end

    @property
    def own(self) -> slice:
        """Its channels."""
        return slice(self.begin, self.end)

    def places(self, height: int, width: int) -> Tensor:
        """Return which places are its own, bool (height, width)."""
        if self.half is None:
            return torch.ones(height, width, dtype=torch.bool)
        return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == self.half

    def picked(self, values: Tensor) -> Tensor:
        """Return what is at its channels and places (n,) of values (1, M, h, w)."""
        own = values[0, self.own]
        return own.reshape(-1) if self.half is None else own[:, self.places(*own.shape[1:])].reshape(-1)

    def put(self, values: Tensor, picked: Tensor) -> None:
        """Write what `picked` gives into values (1, M, h, w)."""
        own = values[0, self.own]
        if self.half is None:
            own.copy_(picked.reshape(own.shape))
        else:
            own[:, self.places(*own.shape[1:])] = picked.reshape(len(own), -1)


def stages_of(groups: Sequence[int]) -> tuple[Stage, ...]:
    """Return the stages of groups of channels: the first group's two halves, then every other group at once."""
    stages: list[Stage] = []
    for begin, end in pairwise((0, *accumulate(groups))):
        stages += [Stage(begin, end, half) for half in (0, 1)] if begin == 0 else [Stage(begin, end, None)]
    return tuple(stages)


def centred_rungs(rungs: Tensor) -> Tensor:
    """Return numbers of tables, int64 (B, M, h, w), as networks look at them, in steps."""
    return (_STEPS_OF_A_RUNG * rungs - _MIDDLE).float().contiguous(memory_format=torch.channels_last)


def looked_at(stage: Stage, magnitudes: Tensor, rungs: Tensor) -> Tensor:
    """Return what a stage's network takes, in steps (B, C, h, w).

    Args:
        stage: whose.
        magnitudes: of all symbols in scales, in steps (B, M, h, w); of the own channels of a second half the first
            half's alone are looked at.
        rungs: as `centred_rungs` gives them.
    """
    known = magnitudes[:, : stage.known]
    if stage.half == 1:
        known = known * ~stage.places(*known.shape[2:])
    return torch.cat((known, rungs[:, : stage.end]), 1).contiguous(memory_format=torch.channels_last)


def magnitudes_of(symbols: Tensor, rungs: Tensor, inverse_scales: Tensor) -> Tensor:
    """Return the magnitudes of symbols (..., h, w) in scales, in steps of a 64th, bounded as activations are."""
    steps = symbols.float().abs() * inverse_scales[rungs] * STEPS_OF_A_SCALE
    return steps.add_(0.5).floor_().clamp_(max=LARGEST_ACTIVATION)


Exchange = Callable[[Stage, NDArray[np.int64]], Symbols]
"""Gives the symbols of a stage (n,), given their tables (n,)."""


@dataclass(frozen=True, eq=False)
class ContextModel:
    """A scale context in use.

    Attributes:
        order: int64 (M,): the channels of y as they are coded.
        groups: how many of them are coded at once, one after the other.
        networks: of each stage.
        inverse_scales: float32 (tables,): one over the scale of each table.
    """

    order: Tensor
    groups: tuple[int, ...]
    networks: tuple[ExactTransform, ...]
    inverse_scales: Tensor

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        channels = len(self.order)
        if self.order.dtype != torch.int64 or not torch.equal(self.order.sort().values, torch.arange(channels)):
            raise ValueError("the order of a scale context must name every channel once: damaged weights?")
        if not self.groups or min(self.groups) < 1 or sum(self.groups) != channels:
            raise ValueError(f"groups {self.groups} of a scale context do not hold its {channels} channels")
        expected = [(stage.num_inputs, stage.end - stage.begin) for stage in self.stages]
        if [(network.num_inputs, network.num_outputs) for network in self.networks] != expected:
            raise ValueError(f"expected networks of a scale context with {expected} inputs and outputs")
        if self.inverse_scales.dtype != torch.float32 or not (
            torch.isfinite(self.inverse_scales).all() and (self.inverse_scales > 0).all()
        ):
            raise ValueError("expected finite scales above 0 of a scale context: damaged weights?")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is coded at once, in order."""
        return stages_of(self.groups)

    def run(self, rungs: Tensor, exchange: Exchange) -> Tensor:
        """Go through all symbols in the order in which they are decoded.

        Args:
            rungs: int64 (1, M, h, w): the table of each symbol as h_s has it.
            exchange: gives each stage's symbols.

        Returns:
            The symbols, int32 (1, M, h, w).
        """
        rungs = rungs[:, self.order].contiguous(memory_format=torch.channels_last)
        centred, last = centred_rungs(rungs), len(self.inverse_scales) - 1
        symbols, magnitudes = torch.zeros_like(rungs, dtype=torch.int32), torch.zeros_like(centred)
        for stage, network in zip(self.stages, self.networks, strict=True):
            moves = network(looked_at(stage, magnitudes, centred))
            moved = moves.mul_(RUNGS_OF_A_MOVE).add_(rungs[:, stage.own]).add_(0.5).floor_().clamp_(0, last)
            tables = Stage(0, moved.shape[1], stage.half).picked(moved).long()
            stage.put(symbols, torch.from_numpy(exchange(stage, tables.numpy())))
            if stage.end < len(self.order) or stage.half == 0:
                magnitudes[:, stage.own] = magnitudes_of(
                    symbols[:, stage.own], rungs[:, stage.own], self.inverse_scales
                )
        restored = torch.empty(symbols.shape, dtype=torch.int32)
        restored[:, self.order] = symbols
        return restored

    def macs(self, height: int, width: int) -> int:
        """Return the multiply-accumulates for y of that size."""
        return sum(network.macs(height, width) for network in self.networks)

    def num_parameters(self) -> int:
        """Return the number of weights and offsets."""
        return sum(network.num_parameters() for network in self.networks)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file must hold."""
        tensors = {"context.order": self.order, "context.inverse_scales": self.inverse_scales}
        for number, network in enumerate(self.networks):
            tensors |= network.tensors(f"context.{number}")
        return tensors
