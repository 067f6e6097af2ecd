import pickle

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.symbol_tables import (
    TOTAL,
    Symbols,
    SymbolTables,
    check_read,
    coder_bytes,
    coder_of,
    whole_frequencies,
)

FARTHEST = 2**21

masses = st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda mass: sum(mass) > 1e-6)
tables_of_random_sizes = st.lists(st.tuples(st.integers(-60, 60), masses), min_size=1, max_size=6)
anywhere = st.integers(-80, 80) | st.integers(-FARTHEST, FARTHEST) | st.sampled_from((-FARTHEST, FARTHEST))


def new_coder() -> constriction.stream.stack.AnsCoder:
    return constriction.stream.stack.AnsCoder()


def built(tables: list[tuple[int, list[float]]]) -> SymbolTables:
    return SymbolTables.of([(lowest, whole_frequencies(np.array(mass))) for lowest, mass in tables])


def bells(*scales: float) -> SymbolTables:
    """Return one table around 0 for each scale."""
    tables = []
    for scale in scales:
        reach = int(4 * scale) + 1
        mass = np.exp(-0.5 * (np.arange(-reach, reach + 1) / scale) ** 2)
        tables.append((-reach, whole_frequencies(np.append(mass / mass.sum(), 2.0**-17))))
    return SymbolTables.of(tables)


def coded(tables: SymbolTables, values: Symbols, chosen: NDArray[np.int64]) -> bytes:
    coder = new_coder()
    tables.push(coder, values, chosen)
    return coder_bytes(coder)


def ideal_bits(tables: SymbolTables, values: Symbols, chosen: NDArray[np.int64]) -> float:
    """Return the sum of -log2(frequency / TOTAL) of values within their tables."""
    starts = np.concatenate(([0], np.cumsum(tables.lengths)[:-1]))
    frequencies = tables.frequencies[starts[chosen] + values - tables.lowest[chosen]]
    return float(-np.log2(frequencies / TOTAL).sum())


@given(masses)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_whole_frequencies_are_at_least_one_and_sum_to_the_total(mass: list[float]) -> None:
    frequencies = whole_frequencies(np.array(mass))
    assert frequencies.dtype == np.int32
    assert frequencies.min() >= 1
    assert frequencies.sum() == TOTAL


@given(masses)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_whole_frequencies_are_near_the_masses(mass: list[float]) -> None:
    share = np.array(mass) / sum(mass)
    assert np.abs(whole_frequencies(np.array(mass)) / TOTAL - share).max() <= (len(mass) + 1) / TOTAL


def test_whole_frequencies_of_a_hand_computed_table() -> None:
    assert whole_frequencies(np.array([1.0, 1.0])).tolist() == [TOTAL // 2, TOTAL // 2]
    assert whole_frequencies(np.array([3.0, 1.0, 0.0, -1.0])).tolist() == [49150, 16384, 1, 1]


@given(tables_of_random_sizes, st.data())
@settings(deadline=None, derandomize=True, max_examples=150)
def test_values_survive_the_round_trip_however_far_outside(
    tables: list[tuple[int, list[float]]], data: st.DataObject
) -> None:
    symbol_tables = built(tables)
    values = np.array(data.draw(st.lists(anywhere, min_size=1, max_size=60)), dtype=np.int32)
    chosen = np.array(
        data.draw(st.lists(st.integers(0, len(tables) - 1), min_size=len(values), max_size=len(values))), dtype=np.int64
    )
    coder = coder_of(coded(symbol_tables, values, chosen))
    popped = symbol_tables.pop(coder, chosen)
    assert popped.dtype == np.int32
    assert popped.tolist() == values.tolist()
    check_read(coder)


@given(st.lists(st.tuples(tables_of_random_sizes, st.lists(anywhere, min_size=1, max_size=20)), min_size=2, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=80)
def test_several_pushes_come_back_in_reverse_order(
    pushes: list[tuple[list[tuple[int, list[float]]], list[int]]],
) -> None:
    coder = new_coder()
    parts = []
    for tables, numbers in pushes:
        values = np.array(numbers, dtype=np.int32)
        part = (built(tables), values, np.arange(len(values)) % len(tables))
        part[0].push(coder, values, part[2])
        parts.append(part)
    reader = coder_of(coder_bytes(coder))
    for symbol_tables, values, chosen in reversed(parts):
        assert symbol_tables.pop(reader, chosen).tolist() == values.tolist()
    check_read(reader)


def test_every_value_around_the_ends_of_a_table_survives() -> None:
    tables = SymbolTables.of([(-2, whole_frequencies(np.array([1.0, 2.0, 3.0, 2.0, 1.0, 0.1])))])
    values = np.arange(-3000, 3000, dtype=np.int32)
    chosen = np.zeros(len(values), dtype=np.int64)
    assert tables.pop(coder_of(coded(tables, values, chosen)), chosen).tolist() == values.tolist()


@pytest.mark.parametrize("value", [2**23 + 10, -(2**23) - 10, 2**31 - 1, -(2**31)])
def test_a_value_too_far_outside_is_refused_by_the_encoder(value: int) -> None:
    with pytest.raises(ValueError, match="outside its table"):
        coded(bells(1.0), np.array([value], dtype=np.int32), np.zeros(1, dtype=np.int64))


def test_a_hundred_thousand_symbols_take_little_more_than_their_entropy() -> None:
    scales = np.geomspace(0.2, 200, 20)
    tables, generator = bells(*scales), np.random.default_rng(0)
    chosen = generator.integers(0, 20, 100_000)
    values = np.clip(np.round(generator.normal(0, scales[chosen])), -4 * scales[chosen], 4 * scales[chosen])
    body = coded(tables, values.astype(np.int32), chosen)
    ideal = ideal_bits(tables, values.astype(np.int32), chosen) / 8
    assert ideal <= len(body) + 4
    assert len(body) < 1.01 * ideal + 16


@pytest.mark.parametrize(("distance", "most_bits"), [(0, 8), (1, 10), (100, 24), (10_000, 38), (FARTHEST, 54)])
def test_an_escape_costs_two_bits_for_each_doubling_of_its_distance_or_less(distance: int, most_bits: int) -> None:
    frequencies = np.array([TOTAL // 2, TOTAL // 2], dtype=np.int32)
    tables = SymbolTables.of([(0, frequencies)])
    num = 800
    values = np.full(num, 1 + distance, dtype=np.int32)
    body = coded(tables, values, np.zeros(num, dtype=np.int64))
    assert 8 * len(body) <= num * (1 + most_bits) + 64


def test_the_bytes_of_these_symbols_are_these() -> None:
    tables = SymbolTables.of([
        (-1, np.array([16384, 32768, 16383, 1], dtype=np.int32)),
        (5, np.array([65000, 536], dtype=np.int32)),
    ])  # fmt: skip
    values = np.array([0, 1, -1, 5, 5, 900, -7, 0, 0, 5], dtype=np.int32)
    chosen = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1])
    body = coded(tables, values, chosen)
    assert tables.pop(coder_of(body), chosen).tolist() == values.tolist()
    assert body.hex() == "9dff3fe3adee865703000000"


def test_tables_that_do_not_sum_are_refused() -> None:
    good, bad = np.array([TOTAL - 1, 1], dtype=np.int32), np.array([TOTAL - 2, 1], dtype=np.int32)
    with pytest.raises(ValueError, match=f"table 1 sums to {TOTAL - 1}, expected {TOTAL}"):
        SymbolTables.of([(0, good), (0, bad)])


@pytest.mark.parametrize("low", [0, -1])
def test_a_frequency_below_one_is_refused(low: int) -> None:
    with pytest.raises(ValueError, match="below 1"):
        SymbolTables.of([(0, np.array([TOTAL - low, low], dtype=np.int32))])


def test_wrong_lengths_are_refused() -> None:
    good = bells(1.0, 2.0)
    with pytest.raises(ValueError, match=r"promise \d+ entries"):
        SymbolTables(good.frequencies[:-1], good.lengths, good.lowest)
    with pytest.raises(ValueError, match="a length and a lowest value for each"):
        SymbolTables(good.frequencies, good.lengths, good.lowest[:1])
    with pytest.raises(ValueError, match="a length and a lowest value for each"):
        SymbolTables(good.frequencies[None], good.lengths, good.lowest)
    with pytest.raises(ValueError, match="2 to 4096 entries"):
        SymbolTables.of([(0, np.array([TOTAL], dtype=np.int32))])
    with pytest.raises(ValueError, match="2 to 4096 entries"):
        SymbolTables.of([(0, whole_frequencies(np.ones(4097)))])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 401])
def test_a_body_of_odd_length_is_refused(size: int) -> None:
    with pytest.raises(BitstreamError, match=f"body is {size} bytes, expected whole words of 4"):
        coder_of(bytes(size))


def test_a_body_that_ends_in_a_zero_word_is_refused() -> None:
    body = coded(bells(3.0), np.arange(-5, 6, dtype=np.int32), np.zeros(11, dtype=np.int64))
    with pytest.raises(BitstreamError, match="no output of the entropy coder"):
        coder_of(body + bytes(4))


def test_what_is_left_over_is_refused() -> None:
    tables, chosen = bells(3.0), np.zeros(11, dtype=np.int64)
    coder = coder_of(coded(tables, np.arange(-5, 6, dtype=np.int32), chosen))
    tables.pop(coder, chosen[:-1])
    with pytest.raises(BitstreamError, match="something left"):
        check_read(coder)
    tables.pop(coder, chosen[-1:])
    check_read(coder)


def test_any_words_decode_or_are_refused() -> None:
    tables, generator = bells(0.3, 3.0, 30.0), np.random.default_rng(0)
    refused = 0
    for number in range(2000):
        body = generator.bytes(4 * (number % 30))
        chosen = generator.integers(0, 3, 50)
        try:
            assert tables.pop(coder_of(body), chosen).shape == (50,)
        except BitstreamError:
            refused += 1
    assert refused < 1000


def test_an_escape_that_no_encoder_writes_is_refused() -> None:
    tables = SymbolTables.of([(0, np.array([1, TOTAL - 1], dtype=np.int32))])
    coder = new_coder()
    uniform = constriction.stream.model.Uniform
    coder.encode_reverse(np.array([2**24 - 1], dtype=np.int32), uniform(1 << 24))
    coder.encode_reverse(np.array([24], dtype=np.int32), uniform(25))
    whole = constriction.stream.model.Categorical(np.array([1, TOTAL - 1]) / TOTAL, perfect=False)
    coder.encode_reverse(np.array([1], dtype=np.int32), whole)
    with pytest.raises(BitstreamError, match="beyond any that an encoder writes"):
        tables.pop(coder_of(coder_bytes(coder)), np.zeros(1, dtype=np.int64))


def test_tables_travel_to_other_processes() -> None:
    tables, chosen = bells(1.0, 5.0), np.array([0, 1, 1, 0])
    values = np.array([1, -4, 900, 0], dtype=np.int32)
    body = coded(tables, values, chosen)
    copy = pickle.loads(pickle.dumps(tables))
    assert len(copy) == 2
    assert copy.pop(coder_of(body), chosen).tolist() == values.tolist()
    assert coded(copy, values, chosen) == body
