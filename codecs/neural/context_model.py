"""The frozen context of a latent: in which order its symbols are coded, and what moves that under which they are.

One function runs it for both ends: the encoder hands out the symbols that it knows, the decoder those that it reads.

Not here: what a context is (`context`), its file (`model_file`), making one (`training.context_freezing`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.integer import LARGEST_ACTIVATION, ExactTransform
from roadbits.codecs.symbol_tables import Symbols, SymbolTables

STEPS_OF_A_SCALE = 64
"""Steps in which a deviation of one scale enters a network."""
_STEPS_OF_A_RUNG, _MIDDLE = 8, 252
"""A table's number enters as so many steps, around that of the middle of 64."""
RUNGS_OF_A_MOVE = 8
"""By how many tables a network's output of 1 moves."""
_EIGHTHS_BITS = 3
MEAN_STEPS = 1 << _EIGHTHS_BITS
"""Into so many parts a symbol's width is divided for means."""
_LARGEST_MEAN = 2**20


class Begun(NamedTuple):
    """What is expected of symbols before anything is known of the latent.

    Attributes:
        rungs: int32, the scale of each.
        eighths: likewise the mean of each, in eighths of a symbol; None where means do not move.
    """

    rungs: Tensor
    eighths: Tensor | None

    def reshaped(self, *shape: int) -> "Begun":
        """Return the same in another shape."""
        return Begun(self.rungs.reshape(shape), None if self.eighths is None else self.eighths.reshape(shape))

    def at(self, position: int) -> "Begun":
        """Return what is expected at one of the positions (positions, M), for all places alike: (1, M, 1, 1)."""
        rows = (None if each is None else each[position][None, :, None, None] for each in self)
        rungs, eighths = rows
        assert rungs is not None
        return Begun(rungs, eighths)

    def picked(self, channels: Tensor | slice) -> "Begun":
        """Return that of some channels."""
        return Begun(self.rungs[:, channels], None if self.eighths is None else self.eighths[:, channels])


class Expected(NamedTuple):
    """What is expected of symbols.

    Attributes:
        tables: int32 (n,): the table of each.
        centres: int32 (n,): what is subtracted from each symbol before it is looked up.
    """

    tables: NDArray[np.integer]
    centres: NDArray[np.integer]


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
    def own(self) -> slice:
        """Its channels."""
        return slice(self.begin, self.end)

    def num_inputs(self, with_means: bool) -> int:
        """Return how many channels its network looks at; see `looked_at`."""
        return self.known * (1 + with_means) + self.end

    def num_outputs(self, with_means: bool) -> int:
        """Return how many channels its network has: moves of its own channels' scales, and of means."""
        return (self.end - self.begin) * (1 + with_means)

    def places(self, height: int, width: int) -> Tensor:
        """Return which places are its own, bool (height, width)."""
        if self.half is None:
            return torch.ones(height, width, dtype=torch.bool)
        return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == self.half

    def picked(self, values: Tensor) -> Tensor:
        """Return what is at its channels and places (n,) of values (1, M, h, w)."""
        return self.picked_of_own(values[:, self.own])

    def picked_of_own(self, own: Tensor) -> Tensor:
        """Return what is at its places (n,) of its own channels' values (1, end - begin, h, w)."""
        if self.half is None:
            return own.reshape(-1)
        return own[0].reshape(own.shape[1], -1).index_select(1, self._flat_places(*own.shape[2:])).reshape(-1)

    def put(self, values: Tensor, picked: Tensor) -> None:
        """Write what `picked` gives into values (1, M, h, w)."""
        own = values[0, self.own]
        if self.half is None:
            own.copy_(picked.reshape(own.shape))
        else:
            own.view(len(own), -1).index_copy_(1, self._flat_places(*own.shape[1:]), picked.reshape(len(own), -1))

    def _flat_places(self, height: int, width: int) -> Tensor:
        return self.places(height, width).reshape(-1).nonzero()[:, 0]


def stages_of(groups: Sequence[int]) -> tuple[Stage, ...]:
    """Return the stages of groups of channels: the first group's two halves, then every other group at once."""
    stages: list[Stage] = []
    for begin, end in pairwise((0, *accumulate(groups))):
        stages += [Stage(begin, end, half) for half in (0, 1)] if begin == 0 else [Stage(begin, end, None)]
    return tuple(stages)


def centred_rungs(rungs: Tensor) -> Tensor:
    """Return numbers of tables (B, M, h, w) as networks look at them, in steps."""
    steps = rungs.to(torch.float32, memory_format=torch.channels_last, copy=True)
    return steps.mul_(_STEPS_OF_A_RUNG).sub_(_MIDDLE)


def begun_with(tables: SymbolTables, inverse_scales: Tensor) -> Begun:
    """Return what factorised tables say where nothing is known (tables,).

    Whole numbers and single roundings alone, so that both ends agree.

    Args:
        tables: whose moments count.
        inverse_scales: of every rung.
    """
    eighths, variances = tables.moments(MEAN_STEPS)
    scales = 1 / inverse_scales.double().numpy()
    deviations = np.sqrt(np.maximum(variances - 1 / 12, 0))
    rungs = np.searchsorted(np.sqrt(scales[1:] * scales[:-1]), deviations)
    return Begun(torch.from_numpy(rungs.astype(np.int32)), torch.from_numpy(eighths.astype(np.int32)))


def deviations_of(symbols: Tensor, eighths: Tensor | None, rungs: Tensor, inverse_scales: Tensor) -> Tensor:
    """Return how far symbols (..., h, w) lie from what is expected, in scales, in steps of a 64th, bounded.

    Args:
        symbols: whole numbers.
        eighths: what is expected, in eighths; 0 if None.
        rungs: of the scales.
        inverse_scales: of every rung.
    """
    distances = symbols.float() if eighths is None else (MEAN_STEPS * symbols - eighths).float() / MEAN_STEPS
    steps = distances * inverse_scales[rungs] * STEPS_OF_A_SCALE
    return steps.add_(0.5).floor_().clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def looked_at(stage: Stage, deviations: Tensor, rungs: Tensor, with_means: bool) -> Tensor:
    """Return what a stage's network takes, in steps (B, C, h, w): magnitudes of what is known, itself, and rungs.

    Args:
        stage: whose.
        deviations: of all symbols (B, M, h, w); of the own channels of a second half the first half's alone are
            looked at.
        rungs: as `centred_rungs` gives them; those of the channels known and its own are looked at.
        with_means: whether deviations are looked at with their signs too.
    """
    known = deviations[:, : stage.known]
    if stage.half == 1:
        known = known * ~stage.places(*known.shape[2:])
    signed = (known,) if with_means else ()
    return torch.cat((known.abs(), *signed, rungs[:, : stage.end]), 1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class OffsetTables:
    """Tables of Gaussians whose means lie between symbols: for each scale as many as it takes, fewer for wide ones.

    Attributes:
        parts: int64 (scales,): into how many of 1, 2, 4 or 8 parts a symbol's width is divided.
        tables: of each scale, of each part.
    """

    parts: Tensor
    tables: SymbolTables

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        if self.parts.dtype != torch.int64 or not set(self.parts.tolist()) <= {1, 2, 4, MEAN_STEPS}:
            raise ValueError("expected a scale's means in 1, 2, 4 or 8 parts of a symbol: damaged weights?")
        if int(self.parts.sum()) != len(self.tables):
            raise ValueError(f"expected {int(self.parts.sum())} tables of Gaussians, got {len(self.tables)}")

    @cached_property
    def _of_remainders(self) -> tuple[Tensor, Tensor]:
        """The table of each scale and each eighth of a symbol, and what is added to the symbol (scales * 8,), int32."""
        first = (torch.cumsum(self.parts, 0) - self.parts)[:, None]
        parts = self.parts[:, None]
        # In parts, rounded halves up; the last half of a part belongs to the next symbol.
        means = (2 * parts * torch.arange(MEAN_STEPS) + MEAN_STEPS) // (2 * MEAN_STEPS)
        return (first + means % parts).reshape(-1).int(), (means // parts).reshape(-1).int()

    def expected(self, rungs: Tensor, eighths: Tensor) -> Expected:
        """Return the tables and centres of symbols (n,), given their scales' rungs and means in eighths, int32 both."""
        places = (eighths & (MEAN_STEPS - 1)).add_(rungs, alpha=MEAN_STEPS)
        tables, above = (each.index_select(0, places) for each in self._of_remainders)
        # Shifted right, whole numbers are rounded down.
        return Expected(tables.numpy(), (eighths >> _EIGHTHS_BITS).add_(above).numpy())


Exchange = Callable[[Stage, Expected | None], Symbols]
"""Gives the symbols of a stage (n,), given what is expected of them; None stands for the codec's own tables."""


@dataclass(frozen=True, eq=False)
class ContextModel:
    """A context in use.

    Attributes:
        order: int64 (M,): the channels of y as they are coded.
        groups: how many of them are coded at once, one after the other.
        networks: of each stage; with means, whose first stage is coded under the codec's own tables, of each other.
        inverse_scales: float32 (scales,): one over each scale.
        offset_tables: of Gaussians beside moved means; None if scales alone move, along the codec's own tables.
        origin: from where the networks look, (positions, M) both, if the codec's tables have been adapted since the
            networks were trained; None if they look from where these tables are.
    """

    order: Tensor
    groups: tuple[int, ...]
    networks: tuple[ExactTransform, ...]
    inverse_scales: Tensor
    offset_tables: OffsetTables | None = None
    origin: Begun | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        channels = len(self.order)
        if self.order.dtype != torch.int64 or not torch.equal(self.order.sort().values, torch.arange(channels)):
            raise ValueError("the order of a context must name every channel once: damaged weights?")
        if not self.groups or min(self.groups) < 1 or sum(self.groups) != channels:
            raise ValueError(f"groups {self.groups} of a context do not hold its {channels} channels")
        means = self.with_means
        expected = [(stage.num_inputs(means), stage.num_outputs(means)) for stage in self.stages[means:]]
        if [(network.num_inputs, network.num_outputs) for network in self.networks] != expected:
            raise ValueError(f"expected networks of a context with {expected} inputs and outputs")
        if self.inverse_scales.dtype != torch.float32 or not (
            torch.isfinite(self.inverse_scales).all()
            and (self.inverse_scales > 0).all()
            and (self.inverse_scales.diff() < 0).all()
        ):
            raise ValueError("expected rising finite scales above 0 of a context: damaged weights?")
        if self.offset_tables and len(self.offset_tables.parts) != len(self.inverse_scales):
            raise ValueError(f"expected parts for {len(self.inverse_scales)} scales")

    def looking_from(self, tables: SymbolTables, positions: int) -> "ContextModel":
        """Return the same for a codec whose tables are about to be adapted: its networks go on to look from these.

        Networks look at how far symbols lie from what was expected, in scales. Looking from tables that follow a new
        domain they would see, and do, something else there, and undo what those tables gain.

        Args:
            tables: of the factorised latent, as they were when the networks were trained.
            positions: of the codec.
        """
        if not self.with_means or self.origin:
            return self
        return replace(self, origin=begun_with(tables, self.inverse_scales).reshaped(positions, -1))

    @property
    def with_means(self) -> bool:
        """Whether means move beside scales."""
        return self.offset_tables is not None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is coded at once, in order."""
        return stages_of(self.groups)

    def run(self, begun: Begun, origin: Begun, size: tuple[int, int], exchange: Exchange) -> Tensor:
        """Go through all symbols in the order in which they are decoded.

        Args:
            begun: what is expected of each symbol before anything is known, (1, M, h, w), or (1, M, 1, 1).
            origin: likewise, from where the networks look; most often the same.
            size: height and width of the latent.
            exchange: gives each stage's symbols.

        Returns:
            The symbols, int32 (1, M, h, w).
        """
        begun, origin = begun.picked(self.order), origin.picked(self.order)
        shape = (1, len(self.order), *size)
        centred = centred_rungs(origin.rungs).expand(shape)
        symbols = torch.zeros(shape, dtype=torch.int32)
        deviations = torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last).zero_()
        networks = (*(None,) * self.with_means, *self.networks)
        for stage, network in zip(self.stages, networks, strict=True):
            own, looked_from = begun.picked(stage.own), origin.picked(stage.own)
            expected = None
            if network is not None:
                predicted = network(looked_at(stage, deviations, centred, self.with_means))
                expected = self._expected(stage, predicted, own, looked_from)
            stage.put(symbols, torch.from_numpy(exchange(stage, expected)))
            if stage.end < len(self.order) or stage.half == 0:
                deviations[:, stage.own] = deviations_of(
                    symbols[:, stage.own], looked_from.eighths, looked_from.rungs, self.inverse_scales
                )
        restored = torch.empty(symbols.shape, dtype=torch.int32)
        restored[:, self.order] = symbols
        return restored

    def _expected(self, stage: Stage, predicted: Tensor, begun: Begun, origin: Begun) -> Expected:
        """Return what a network's output says of its stage's symbols.

        Args:
            stage: whose.
            predicted: the output, (1, C, h, w).
            begun: what it moves, of the stage's channels.
            origin: from where the network looked, likewise.
        """
        moves = predicted[:, : begun.rungs.shape[1]]
        moved = (moves * RUNGS_OF_A_MOVE).add_(begun.rungs).add_(0.5).floor_().clamp_(0, len(self.inverse_scales) - 1)
        tables = stage.picked_of_own(moved).int()
        if self.offset_tables is None or begun.eighths is None:
            return Expected(tables.numpy(), np.zeros(len(tables), np.int32))
        shifts = predicted[:, moves.shape[1] :] / self.inverse_scales[origin.rungs]
        shifted = (shifts * MEAN_STEPS).add_(0.5).floor_().clamp_(-_LARGEST_MEAN, _LARGEST_MEAN).int() + begun.eighths
        return self.offset_tables.expected(tables, stage.picked_of_own(shifted))

    def macs(self, height: int, width: int) -> int:
        """Return the multiply-accumulates for y of that size."""
        return sum(network.macs(height, width) for network in self.networks)

    def num_parameters(self) -> int:
        """Return the number of weights and offsets."""
        return sum(network.num_parameters() for network in self.networks)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file must hold, the offset tables' own numbers aside."""
        tensors = {"context.order": self.order, "context.inverse_scales": self.inverse_scales}
        for number, network in enumerate(self.networks):
            tensors |= network.tensors(f"context.{number}")
        if self.origin and self.origin.eighths is not None:
            tensors |= {"context.origin.rungs": self.origin.rungs, "context.origin.eighths": self.origin.eighths}
        return tensors if self.offset_tables is None else tensors | {"context.parts": self.offset_tables.parts}
