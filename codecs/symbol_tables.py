"""Integer probability tables, and symbols into bytes with them: one asymmetric-numeral coder for a whole frame.

A table gives the values lowest .. lowest + n - 1 and, last, an *escape*; each has a whole-number frequency of at least
one, and the frequencies of a table sum to `TOTAL`. Tables are built once, when a trained model is frozen, and stored:
recomputed ones could differ in a last digit on another machine, and then every symbol after it would. A value outside
its table is coded as the escape, followed at the end by its distance in a prefix code: never clipped.

The coder is constriction's (Bamler, "Understanding entropy coding with asymmetric numeral systems", 2022), a stack: the
encoder pushes everything in the reverse of the order in which the decoder reads. Symbols that share a table are coded
in one call, which is what makes it fast.

Not here: what the symbols mean, and which table belongs to which (`integer` for the scales of the hyperprior).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import constriction
import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.bitstream import BitstreamError

PRECISION = 16
TOTAL = 1 << PRECISION
_LARGEST_TABLE = 4096
_LARGEST_DISTANCE = 1 << 24
_CLASSES = 25

Symbols = NDArray[np.int32]
Coder: TypeAlias = constriction.stream.stack.AnsCoder
"""A stack of coded symbols; empty to begin with."""


def whole_frequencies(mass: NDArray[np.float64]) -> Symbols:
    """Return frequencies of at least 1 and `TOTAL` in sum, as near to the masses as whole numbers come."""
    spare = TOTAL - len(mass)
    ideal = np.clip(mass, 0.0, None) / np.clip(mass, 0.0, None).sum() * spare
    frequencies = np.floor(ideal).astype(np.int32)
    missing = spare - int(frequencies.sum())
    frequencies[np.argsort(frequencies - ideal, kind="stable")[:missing]] += 1
    whole: Symbols = frequencies + 1
    return whole


@dataclass(frozen=True)
class SymbolTables:
    """Stored tables, one after the other.

    Attributes:
        frequencies: int32 (sum of lengths,), every table with its escape at its end.
        lengths: int32 (number of tables,): entries of each table, its escape included.
        lowest: int32 (number of tables,): first value of each.
    """

    frequencies: Symbols
    lengths: Symbols
    lowest: Symbols

    def __post_init__(self) -> None:
        """Check what came from a file.

        Raises:
            ValueError: if a table does not sum to `TOTAL`, holds a zero, or the lengths disagree.
        """
        if self.lengths.ndim != 1 or self.lowest.shape != self.lengths.shape or self.frequencies.ndim != 1:
            raise ValueError("expected flat entropy tables with a length and a lowest value for each: damaged weights?")
        if np.any(self.lengths < 2) or np.any(self.lengths > _LARGEST_TABLE):
            raise ValueError(f"expected entropy tables of 2 to {_LARGEST_TABLE} entries: damaged weights?")
        if self.lengths.sum() != len(self.frequencies):
            raise ValueError(
                f"entropy tables promise {self.lengths.sum()} entries, {len(self.frequencies)} came: damaged weights?"
            )
        if np.any(self.frequencies < 1):
            raise ValueError("an entropy table holds a frequency below 1: damaged weights?")
        sums = np.add.reduceat(self.frequencies.astype(np.int64), self._starts)
        for row in np.flatnonzero(sums != TOTAL):
            raise ValueError(f"entropy table {row} sums to {sums[row]}, expected {TOTAL}: damaged weights?")

    @classmethod
    def of(cls, tables: Sequence[tuple[int, Symbols]]) -> "SymbolTables":
        """Join tables, each given as its lowest value and its frequencies."""
        lengths = np.array([len(frequencies) for _, frequencies in tables], dtype=np.int32)
        lowest = np.array([low for low, _ in tables], dtype=np.int32)
        return cls(np.concatenate([frequencies for _, frequencies in tables]).astype(np.int32), lengths, lowest)

    def __len__(self) -> int:
        """Return the number of tables."""
        return len(self.lengths)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(self.lengths[:-1], dtype=np.int64)))

    @cached_property
    def _models(self) -> dict[int, constriction.stream.model.Categorical]:
        return {}

    def _model(self, table: int) -> constriction.stream.model.Categorical:
        """Return the coder's model of one table; multiples of 2^-16 are exact in its 24-bit fixed point."""
        model = self._models.get(table)
        if model is None:
            start = self._starts[table]
            probabilities = self.frequencies[start : start + self.lengths[table]] / TOTAL
            model = self._models[table] = constriction.stream.model.Categorical(probabilities, perfect=False)
        return model

    def deviation(self, table: int) -> float:
        """Return the standard deviation of a table's values, its escape aside."""
        start, inside = self._starts[table], self.lengths[table] - 1
        weights = self.frequencies[start : start + inside].astype(np.float64)
        values = np.arange(inside)
        mean = np.average(values, weights=weights)
        return float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))

    def moments(self, steps: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return each table's mean, in whole steps of which a value has so many, and variance; its escape aside.

        In whole numbers up to one division each, so that any machine gets the same.
        """
        values = np.arange(len(self.frequencies)) - np.repeat(self._starts, self.lengths)
        weights = self.frequencies.astype(np.int64)
        weights[self._starts + self.lengths - 1] = 0
        total, first, second = (
            np.add.reduceat(part, self._starts) for part in (weights, weights * values, weights * values**2)
        )
        means = steps * self.lowest.astype(np.int64) + (2 * steps * first + total) // (2 * total)
        return means, (second * total - first**2) / total**2

    def bits(self, values: Symbols, tables: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return what values (n,) cost under these tables (n,); what lies outside one is taken for its escape alone."""
        offsets, escapes = values.astype(np.int64) - self.lowest[tables], self.lengths[tables] - 1
        inside = (offsets >= 0) & (offsets < escapes)
        bits: NDArray[np.float64] = -np.log2(
            self.frequencies[self._starts[tables] + np.where(inside, offsets, escapes)] / TOTAL
        )
        return bits

    def __reduce__(self) -> tuple[type["SymbolTables"], tuple[Symbols, Symbols, Symbols]]:
        """Leave the coder's models behind, which cannot be copied to another process."""
        return SymbolTables, (self.frequencies, self.lengths, self.lowest)

    def push(self, coder: Coder, values: Symbols, tables: NDArray[np.integer]) -> None:
        """Put values onto the coder, so that `pop` with the same tables returns them.

        Args:
            coder: to be read back in reverse order of pushing.
            values: int32 (n,), any but 2^23 or farther outside of their tables.
            tables: (n,), the table of each value.
        """
        if not len(tables):
            return
        order, runs = _runs(tables)
        offsets, escapes = values[order].astype(np.int64) - runs.each(self.lowest), runs.each(self.lengths) - 1
        outside = (offsets < 0) | (offsets >= escapes)
        symbols = np.where(outside, escapes, offsets).astype(np.int32)
        if outside.any():
            escaped = _by_place(outside, order)
            above = offsets[escaped] - escapes[escaped]
            _push_distances(coder, np.where(above >= 0, 2 * above, -2 * offsets[escaped] - 1))
        for table, begin, end in reversed(runs.spans):
            coder.encode_reverse(symbols[begin:end], self._model(table))

    def pop(self, coder: Coder, tables: NDArray[np.integer]) -> Symbols:
        """Return the values (n,) that were pushed with these tables.

        Raises:
            BitstreamError: if an escaped value is farther off than any encoder writes.
        """
        values = np.empty(len(tables), dtype=np.int32)
        if not len(tables):
            return values
        order, runs = _runs(tables)
        symbols = np.empty(len(tables), dtype=np.int64)
        for table, begin, end in runs.spans:
            symbols[begin:end] = coder.decode(self._model(table), end - begin)
        escapes = runs.each(self.lengths) - 1
        outside = symbols == escapes
        if outside.any():
            escaped = _by_place(outside, order)
            distances = _pop_distances(coder, len(escaped))
            beyond = np.where(distances % 2 == 0, escapes[escaped] + distances // 2, -(distances + 1) // 2)
            symbols[escaped] = beyond
        values[order] = symbols + runs.each(self.lowest)
        return values


@dataclass(frozen=True)
class _Runs:
    """Values sorted by their tables.

    Attributes:
        tables: that occur, rising.
        bounds: (tables + 1,), where the values of each begin, and where the last one's end.
    """

    tables: NDArray[np.integer]
    bounds: NDArray[np.intp]

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Each table with where its values begin and end."""
        bounds = self.bounds.tolist()
        return list(zip(self.tables.tolist(), bounds[:-1], bounds[1:], strict=True))

    def each(self, of_tables: Symbols) -> Symbols:
        """Return of every value (n,) what its table has."""
        return np.repeat(of_tables[self.tables], np.diff(self.bounds))


def _runs(tables: NDArray[np.integer]) -> tuple[NDArray[np.intp], _Runs]:
    """Return the places (n,) in the order of their tables (n,), and where each table's are; n is not 0."""
    # numpy sorts narrow integers by radix, several times faster.
    order = np.argsort(tables.astype(np.uint16) if tables.max() < 1 << 16 else tables, kind="stable")
    ordered = tables[order]
    bounds = np.concatenate(([0], np.flatnonzero(np.diff(ordered)) + 1, [len(ordered)]))
    return order, _Runs(ordered[bounds[:-1]], bounds)


def _by_place(chosen: NDArray[np.bool_], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return where in an order its chosen places are, the lowest place first."""
    found = np.flatnonzero(chosen)
    return found[np.argsort(order[found])]


def _push_distances(coder: Coder, distances: NDArray[np.int64]) -> None:
    """Code distances >= 0: the number of their bits uniformly, then those bits after the first."""
    if distances.max() >= _LARGEST_DISTANCE:
        raise ValueError(f"a latent value is {distances.max() // 2} outside its table, expected less than 2^23")
    classes = np.floor(np.log2(distances + 1)).astype(np.int32)
    for size in reversed(range(1, _CLASSES)):
        members = classes == size
        if members.any():
            rest = (distances[members] + 1 - (1 << size)).astype(np.int32)
            coder.encode_reverse(rest, constriction.stream.model.Uniform(1 << size))
    coder.encode_reverse(classes, constriction.stream.model.Uniform(_CLASSES))


def _pop_distances(coder: Coder, num: int) -> NDArray[np.int64]:
    """Return what `_push_distances` coded."""
    classes = coder.decode(constriction.stream.model.Uniform(_CLASSES), num)
    distances = np.zeros(num, dtype=np.int64)
    for size in range(1, _CLASSES):
        members = classes == size
        if members.any():
            rest = coder.decode(constriction.stream.model.Uniform(1 << size), int(members.sum()))
            distances[members] = rest.astype(np.int64) + (1 << size) - 1
    if num and distances.max() >= _LARGEST_DISTANCE:
        raise BitstreamError("payload holds an escaped value beyond any that an encoder writes: damaged?")
    return distances


def coder_bytes(coder: Coder) -> bytes:
    """Return what the coder holds, as little-endian 32-bit words."""
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def coder_of(body: bytes) -> Coder:
    """Return a coder that reads the words of a payload's body.

    Raises:
        BitstreamError: if the body is no run of words that an encoder can have written.
    """
    if len(body) % 4:
        raise BitstreamError(f"body is {len(body)} bytes, expected whole words of 4")
    words = np.frombuffer(body, dtype="<u4").astype(np.uint32)
    try:
        return Coder(words)
    except (ValueError, RuntimeError) as error:
        raise BitstreamError(f"body is no output of the entropy coder: {error}") from error


def check_read(coder: Coder) -> None:
    """Check that a decoder has read everything.

    Raises:
        BitstreamError: if something is left, which no sound payload leaves.
    """
    if not coder.is_empty():
        raise BitstreamError("the entropy coder has something left after the last symbol: damaged payload?")
