import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.fleet.uplink import MAX_RATE_MBPS, Trace, TraceUplink, UplinkError

MS = 1000


def fluid(*segments: tuple[int, int], repeat_from_us: int = 0) -> Trace:
    """Return a trace of (microseconds, bits) segments."""
    spans, bits = zip(*segments, strict=True)
    return Trace(np.array([0, *itertools.accumulate(spans)]), np.array(bits), repeat_from_us=repeat_from_us)


def packets(*at_ms: int) -> Trace:
    """Return a trace of one 1500-byte packet at the end of each of these rising milliseconds."""
    return Trace(np.array([0, *at_ms]) * MS, np.full(len(at_ms), 12_000), in_packets=True)


def arrivals_ms(trace: Trace, sent_ms: Sequence[float], sizes: Sequence[int], offset_ms: int = 0) -> list[float]:
    link = TraceUplink(trace, offset_ms * MS)
    return [1000 * float(at) for at in link.delivery_times(np.array(sent_ms) / 1000, sizes)]


def test_a_megabit_takes_a_second_at_one_megabit_per_second() -> None:
    assert TraceUplink(Trace.constant(1.0)).delivery_times([0.0], [125_000]).tolist() == [1.0]
    assert TraceUplink(Trace.constant(2.0)).delivery_times([3.5], [125_000]).tolist() == [4.0]
    assert TraceUplink(Trace.constant(0.5)).delivery_times([0.25], [125_000]).tolist() == [2.25]


def test_uploads_wait_for_those_before_them() -> None:
    arrivals = TraceUplink(Trace.constant(1.0)).delivery_times([0, 0, 0.5, 0.6], [125_000, 250_000, 125, 125_000])
    assert arrivals.tolist() == [1.0, 3.0, 3.001, 4.001]


def test_capacity_that_passes_while_nothing_waits_is_lost() -> None:
    arrivals = TraceUplink(Trace.constant(1.0)).delivery_times([0, 10], [125_000, 125_000])
    assert arrivals.tolist() == [1.0, 11.0]


def test_an_upload_spans_segments_of_different_rates() -> None:
    # 2 bit/us for 1 s, then nothing for 1 s, then 1 bit/us for 1 s.
    trace = fluid((1_000_000, 2_000_000), (1_000_000, 0), (1_000_000, 1_000_000))
    assert arrivals_ms(trace, [0], [250_000]) == [1000]
    assert arrivals_ms(trace, [0], [312_500]) == [2500]
    assert arrivals_ms(trace, [500], [187_500]) == [2500]
    assert arrivals_ms(trace, [1200], [125]) == [2001]
    assert arrivals_ms(trace, [0], [375_000]) == [3000]
    assert arrivals_ms(trace, [0], [500_000]) == [3500]


def test_a_packet_passes_at_its_millisecond_whatever_it_carries() -> None:
    trace = packets(5, 9, 20)
    for size in (1, 100, 1499, 1500):
        assert arrivals_ms(trace, [0], [size]) == [5]
    assert arrivals_ms(trace, [0], [1501]) == [9]
    assert arrivals_ms(trace, [0], [3000]) == [9]
    assert arrivals_ms(trace, [0], [3001]) == [20]


def test_an_upload_that_becomes_ready_at_a_packet_has_missed_it() -> None:
    assert arrivals_ms(packets(5, 9, 20), [5], [100]) == [9]
    assert arrivals_ms(packets(5, 9, 20), [4.999], [100]) == [5]


def test_waiting_uploads_share_a_packet() -> None:
    assert arrivals_ms(packets(5, 9, 20), [0, 1, 2, 3], [700, 700, 100, 1]) == [5, 5, 5, 9]


def test_the_rest_of_a_packet_is_lost_to_what_comes_later() -> None:
    assert arrivals_ms(packets(5, 9, 20), [0, 6], [100, 1500]) == [5, 9]


def test_several_packets_at_one_millisecond_pass_together() -> None:
    trace = Trace(np.array([0, 4, 10]) * MS, np.array([36_000, 12_000]), in_packets=True)
    assert arrivals_ms(trace, [0], [4500]) == [4]
    assert arrivals_ms(trace, [0], [4501]) == [10]


@pytest.mark.parametrize("period", [1, 2, 100, 10_000])
def test_the_trace_repeats_for_ever(period: int) -> None:
    assert arrivals_ms(packets(5, 9, 20), [20 * period], [1501]) == [20 * period + 9]
    trace = fluid((1_000_000, 0), (1_000_000, 1_000_000))
    assert arrivals_ms(trace, [2000 * period], [125]) == [2000 * period + 1001]
    assert arrivals_ms(trace, [0], [125_000 * period]) == [2000 * period]


def test_what_lies_before_the_period_happens_once() -> None:
    trace = fluid((1_000_000, 0), (1_000_000, 1_000_000), (1_000_000, 2_000_000), repeat_from_us=1_000_000)
    assert (trace.period_us, trace.mean_mbps) == (2_000_000, 1.5)
    assert arrivals_ms(trace, [0], [125_000]) == [2000]
    assert arrivals_ms(trace, [3000], [125_000]) == [4000]
    assert arrivals_ms(trace, [4000], [250_000]) == [5000]
    assert arrivals_ms(trace, [0], [375_000 * 10]) == [21_000]


@pytest.mark.parametrize("offset", [0, 4, 5, 19, 20, 27, 2_000_000_005])
def test_an_offset_enters_the_trace_later(offset: int) -> None:
    trace = packets(5, 9, 20)
    passed = offset % 20
    expected = [at - passed for at in (5, 9, 20, 25, 29, 40) if at > passed][:3]
    for count, at in enumerate(expected, 1):
        assert arrivals_ms(trace, [0], [1500 * count], offset) == [at]


def test_an_offset_into_a_segment_takes_its_share() -> None:
    trace = fluid((1_000_000, 1_000_000), (1_000_000, 4_000_000))
    assert arrivals_ms(trace, [0], [62_500], offset_ms=500) == [500]
    assert arrivals_ms(trace, [0], [125_000], offset_ms=500) == [625]


def test_no_uploads_have_no_arrivals() -> None:
    assert TraceUplink(Trace.constant(1.0)).delivery_times([], []).shape == (0,)


def test_delivery_times_leaves_the_queue_alone() -> None:
    link = TraceUplink(Trace.constant(1.0))
    assert link.delivery_times([0], [125_000]).tolist() == link.delivery_times([0], [125_000]).tolist()
    assert link.finished_bits == 0


def test_the_queue_of_a_link_can_be_put_into_another() -> None:
    first, second = TraceUplink(packets(5, 9, 20)), TraceUplink(packets(5, 9, 20))
    first.offer(0, 1501)
    second.finished_bits = first.finished_bits
    assert first.offer(1 * MS, 1400) == second.offer(1 * MS, 1400) == 9 * MS
    assert first.offer(1 * MS, 1400) == second.offer(1 * MS, 1400) == 20 * MS


def test_mean_and_mean_rates_are_in_megabits_per_second() -> None:
    trace = fluid((1_000_000, 2_000_000), (500_000, 500_000), (1_500_000, 300_000))
    assert trace.mean_mbps == pytest.approx(2_800_000 / 3_000_000)
    assert trace.rates_mbps() == pytest.approx([2.0, 0.6, 0.2])
    assert packets(250, 1000, 1500, 2000).rates_mbps() == pytest.approx([0.024, 0.024])


def test_an_hour_at_a_high_rate_is_counted_without_overflow() -> None:
    link = TraceUplink(Trace.constant(MAX_RATE_MBPS))
    assert link.delivery_times([3600.0], [10**9]).tolist() == [3600.8]
    assert TraceUplink(fluid((10_000_000, 10_000 * 10_000_000))).offer(9_000_000, 10**9) == 9_800_000


@pytest.mark.parametrize(
    ("edges", "bits", "fault"),
    [
        ([0], [], "n \\+ 1 edges from 0 and n bits, got 1, 0"),
        ([0, 1], [1, 1], "n \\+ 1 edges"),
        ([1, 2], [1], "n \\+ 1 edges"),
        ([0, 2, 2], [1, 1], "rising times"),
        ([0, 2, 1], [1, 1], "rising times"),
        ([0, 1], [-1], "capacities of 0 or more"),
        ([0, 1, 2], [0, 0], "carries nothing in a whole period"),
        ([0, 3_600_000_000], [3_600_000_000 * 10], "too long and fast"),
        ([0, 1, 2], [2**62, 1], "too long and fast"),
    ],
)
def test_an_impossible_trace_is_refused(edges: list[int], bits: list[int], fault: str) -> None:
    with pytest.raises(UplinkError, match=fault):
        Trace(np.array(edges), np.array(bits, np.int64))


@pytest.mark.parametrize("repeat_from", [-1, 1, 2, 5])
def test_a_trace_repeats_from_an_edge_after_which_something_passes(repeat_from: int) -> None:
    with pytest.raises(UplinkError, match=r"from one of its edges|carries nothing"):
        Trace(np.array([0, 2, 5]), np.array([1, 0]), repeat_from_us=repeat_from)


@pytest.mark.parametrize("rate", [0, -1, 1e-7, math.nan, math.inf, MAX_RATE_MBPS * 1.01])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(UplinkError, match=r"expected 0\.000001 to"):
        Trace.constant(rate)


@pytest.mark.parametrize(
    ("sent", "sizes", "fault"),
    [
        ([0, 1], [1], "one size above 0 per time, got 2 times, 1 sizes"),
        ([0], [0], "one size above 0"),
        ([0, 1], [5, -5], "one size above 0"),
        ([1, 0.5], [1, 1], "in the order in which they become ready"),
        ([-0.1], [1], "from time 0 on"),
        ([math.nan], [1], "from time 0 on"),
        ([0, math.inf], [1, 1], "from time 0 on"),
        ([1e12], [1], "from time 0 on"),
    ],
)
def test_impossible_uploads_are_refused(sent: list[float], sizes: list[int], fault: str) -> None:
    with pytest.raises(UplinkError, match=fault):
        TraceUplink(Trace.constant(1.0)).delivery_times(sent, sizes)


@pytest.mark.parametrize(("ready_us", "size"), [(-1, 5), (0, 0), (0, -3)])
def test_an_impossible_offer_is_refused(ready_us: int, size: int) -> None:
    with pytest.raises(UplinkError, match="a time from 0 on and a size above 0"):
        TraceUplink(Trace.constant(1.0)).offer(ready_us, size)


@st.composite
def traces(draw: st.DrawFn, longest_us: int = 3_000_000, most_bits: int = 5_000_000) -> Trace:
    segments = draw(st.lists(st.tuples(st.integers(1, longest_us), st.integers(0, most_bits)), min_size=1, max_size=8))
    spans, bits = (np.array(column, np.int64) for column in zip(*segments, strict=True))
    bits[-1] += not bits[-1]
    edges = np.concatenate(([0], np.cumsum(spans)))
    repeat_from = int(edges[draw(st.integers(0, len(bits) - 1))])
    return Trace(edges, bits, draw(st.booleans()), repeat_from)


def uploads(latest_us: int, largest: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Return (ready, size) pairs in order of time; times are often equal."""
    times = st.integers(0, latest_us) | st.sampled_from([0, latest_us // 2])
    return st.lists(st.tuples(times, st.integers(1, largest)), min_size=1, max_size=12).map(
        lambda pairs: sorted(pairs, key=lambda pair: pair[0])
    )


def carried_by(trace: Trace, time_us: int) -> int:
    """Return what a trace carries by a time, counted segment by segment."""
    total, begin, segment = 0, 0, 0
    loop = int(np.searchsorted(trace.edges_us, trace.repeat_from_us))
    while True:
        span = int(trace.edges_us[segment + 1] - trace.edges_us[segment])
        bits = int(trace.bits[segment])
        if begin + span > time_us:
            return total + (0 if trace.in_packets else bits * (time_us - begin) // span)
        total, begin, segment = total + bits, begin + span, segment + 1
        if segment == len(trace.bits):
            segment = loop


def offered(trace: Trace, offset_us: int, queue: list[tuple[int, int]]) -> list[int]:
    link = TraceUplink(trace, offset_us)
    return [link.offer(ready_us, size) for ready_us, size in queue]


@given(traces(), st.integers(0, 10_000_000), uploads(20_000_000, 400_000))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_offers_one_by_one_agree_exactly_with_delivery_times(
    trace: Trace, offset_us: int, queue: list[tuple[int, int]]
) -> None:
    ready_us, sizes = zip(*queue, strict=True)
    arrivals = TraceUplink(trace, offset_us).delivery_times(np.array(ready_us) / 1e6, sizes)
    assert np.array_equal(arrivals, np.array(offered(trace, offset_us, queue)) / 1e6)


@given(traces(longest_us=12, most_bits=40), st.integers(0, 60), uploads(80, 12))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_arrivals_are_the_first_microsecond_at_which_enough_has_passed(
    trace: Trace, offset_us: int, queue: list[tuple[int, int]]
) -> None:
    def passed(time_us: int) -> int:
        return carried_by(trace, offset_us + time_us) - carried_by(trace, offset_us)

    finished = 0
    for (ready_us, size), arrival_us in zip(queue, offered(trace, offset_us, queue), strict=True):
        finished = max(finished, passed(ready_us)) + 8 * size
        assert passed(arrival_us) >= finished > passed(arrival_us - 1)


@given(traces(), st.integers(0, 10_000_000), uploads(20_000_000, 400_000))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_uploads_arrive_in_order_and_after_they_are_ready(
    trace: Trace, offset_us: int, queue: list[tuple[int, int]]
) -> None:
    arrivals = offered(trace, offset_us, queue)
    assert arrivals == sorted(arrivals)
    assert all(arrival > ready_us for arrival, (ready_us, _) in zip(arrivals, queue, strict=True))


@given(traces(longest_us=400, most_bits=4000), uploads(3000, 100))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_no_more_bits_pass_in_any_window_than_the_trace_allows(trace: Trace, queue: list[tuple[int, int]]) -> None:
    arrivals = offered(trace, 0, queue)
    for first, last in itertools.combinations(range(len(queue)), 2):
        bits = 8 * sum(size for _, size in queue[first + 1 : last + 1])
        window = carried_by(trace, arrivals[last]) - carried_by(trace, arrivals[first] - 1)
        assert bits <= window
    assert 8 * sum(size for _, size in queue) <= carried_by(trace, arrivals[-1])
