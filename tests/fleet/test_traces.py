import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from roadbits.fleet.traces import TwoState, read_trace, with_outages
from roadbits.fleet.uplink import Trace, TraceUplink, UplinkError

DRIVE = TwoState(median_mbps=1.6, sigma=0.7, memory=0.8, mean_coverage_s=40, mean_outage_s=10)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def sent_at(trace: Trace, ready_s: float, size: int) -> float:
    return float(TraceUplink(trace).delivery_times([ready_s], [size])[0])


def test_a_mahimahi_file_lists_packets_of_1500_bytes(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "lte.up", "1\n\n4\n4\n 10 \n"))
    assert trace.in_packets
    assert trace.edges_us.tolist() == [0, 1000, 4000, 10_000]
    assert trace.bits.tolist() == [12_000, 24_000, 12_000]
    assert sent_at(trace, 0.001, 3000) == 0.004
    assert sent_at(trace, 0.001, 3001) == 0.010


def test_a_mahimahi_packet_at_zero_passes_in_the_first_millisecond(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "lte", "0\n1\n5\n"))
    assert trace.bits.tolist() == [24_000, 12_000]


def test_a_csv_file_holds_each_rate_until_the_next_line(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "link.CSV", "seconds,Mbit/s\n5,1\n6,0\n8,2.5\n"))
    assert not trace.in_packets
    assert trace.rates_mbps(500_000).tolist() == [1, 1, 0, 0, 0, 0, 2.5, 2.5, 2.5]
    assert trace.period_us == 4_500_000


def test_a_csv_file_needs_no_header_and_may_have_blank_lines_and_further_columns(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "link.csv", "0,1,tunnel\n\n2,3,bridge\n"))
    assert trace.rates_mbps().tolist() == [1, 1, 3, 3]


def test_a_csv_rate_that_is_held_for_hours_is_counted_exactly(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "link.csv", "0,300\n7200,1\n"))
    assert sent_at(trace, 3600.0, 37_500_000) == 3601.0
    assert sent_at(trace, 7199.0, 2 * 37_500_000) == 7500.0
    assert trace.mean_mbps == pytest.approx(150.5)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.up", "1\n2.5\n", r"line 2: expected a whole number of milliseconds below 10\^10, got '2\.5'"),
        ("a.up", "1\n-2\n", "line 2: expected a whole number"),
        ("a.up", "1\n\nx\n", "line 3: expected a whole number"),
        ("a.up", "²\n", "line 1: expected a whole number"),
        ("a.up", "1\n" + "9" * 30, "line 2: expected a whole number"),
        ("a.up", "1\n" + "9" * 6000, "line 2: expected a whole number"),
        ("a.up", "1\n5\n4\n", "line 3: 4 ms comes before 5 ms, expected rising times"),
        ("a.up", "0,1.5\n1,2\n", r"line 1: this looks like seconds,Mbit/s: name the file \.csv"),
        ("a.txt", "seconds,Mbit/s\n0,1.5,driving\n1,2\n", "line 1: this looks like seconds,Mbit/s"),
        ("a.up", "1,2,x,\n".replace(",", ";"), "line 1: expected a whole number"),
        ("a.up", "", "at least one packet after millisecond 0"),
        ("a.up", "0\n0\n", "at least one packet after millisecond 0"),
        ("a.csv", "t,r\n0,1\n1,fast\n", "line 3: expected 'seconds,Mbit/s', got '1,fast'"),
        ("a.csv", "0,1\n1\n", "line 2: expected 'seconds,Mbit/s', got '1'"),
        ("a.csv", "0,1\n1,-1\n", "line 2: expected a finite time and a rate of 0 to"),
        ("a.csv", "0,1\n1,inf\n", "line 2: expected a finite time"),
        ("a.csv", "0,1\n1,nan\n", "line 2: expected a finite time"),
        ("a.csv", "0,1\nnan,1\n", "line 2: expected a finite time"),
        ("a.csv", "0,1\n1,1e30\n", "line 2: expected a finite time"),
        ("a.csv", "0,1\n1e300,1\n", "line 2: 1e\\+300 s is more than"),
        ("a.csv", "0,1\n2,1\n2,1\n", "line 3: 2.0 s does not come after 2.0 s"),
        ("a.csv", "0,1\n", "two or more lines"),
        ("a.csv", "", "two or more lines"),
        ("a.csv", "0,0\n1,0\n", "carries nothing in a whole period"),
        ("a.csv", "0,1\n1," + "5" * 200_000, "field larger"),
    ],
)
def test_a_fault_names_the_file_and_the_line(tmp_path: Path, name: str, text: str, fault: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(UplinkError, match=fault) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_text_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "binary.up").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.up", tmp_path, tmp_path / "binary.up"):
        with pytest.raises(UplinkError, match="cannot be read as an uplink trace") as caught:
            read_trace(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_the_same_generator_seed_gives_the_same_trace() -> None:
    one, same, other = (DRIVE.generate(120, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(one.bits, same.bits)
    assert not np.array_equal(one.bits, other.bits)
    assert one.period_us == 120_000_000


def test_generated_traces_have_the_rates_and_outages_asked_for() -> None:
    rates = np.concatenate([DRIVE.generate(600, np.random.default_rng(seed)).rates_mbps() for seed in range(60)])
    covered = rates[rates > 0]
    assert 1 - len(covered) / len(rates) == pytest.approx(10 / (40 + 10), rel=0.15)
    assert np.median(covered) == pytest.approx(1.6, rel=0.05)
    assert np.log(covered).std() == pytest.approx(0.7, rel=0.05)
    assert covered.mean() == pytest.approx(1.6 * math.exp(0.7**2 / 2), rel=0.05)


def test_stays_in_coverage_and_outage_last_as_long_as_asked_on_average() -> None:
    stays: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(60):
        outage = DRIVE.generate(600, np.random.default_rng(seed)).rates_mbps() == 0
        changes = np.flatnonzero(np.diff(outage)) + 1
        for begin, end in itertools.pairwise(changes):
            stays[bool(outage[begin])].append(end - begin)
    assert np.mean(stays[True]) == pytest.approx(10, rel=0.15)
    assert np.mean(stays[False]) == pytest.approx(40, rel=0.15)


def test_the_log_rate_remembers_the_second_before() -> None:
    for memory in (0.0, 0.8):
        steady = TwoState(1.6, 0.7, memory, 40, 0)
        logs = np.log(steady.generate(20_000, np.random.default_rng(1)).rates_mbps())
        assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(memory, abs=0.03)


def test_without_outages_the_link_is_always_up() -> None:
    steady = TwoState(1.6, 0.7, 0.8, 40, 0)
    assert (steady.generate(600, np.random.default_rng(3)).bits > 0).all()


def test_without_spread_the_rate_is_the_median() -> None:
    flat = TwoState(2.0, 0.0, 0.5, 40, 0).generate(5, np.random.default_rng(3))
    assert flat.bits.tolist() == [2_000_000] * 5


SIX_PACKETS = Trace(np.array([0, 100, 300, 400, 700, 800, 1000]) * 1000, np.full(6, 12_000), in_packets=True)
FLUID = Trace(np.array([0, 250_000, 1_000_000]), np.array([500_000, 3_000_000]))


@pytest.mark.parametrize("trace", [Trace.constant(1.0), FLUID, SIX_PACKETS], ids=["constant", "fluid", "packets"])
def test_nothing_passes_in_an_outage_and_all_outside_is_as_before(trace: Trace) -> None:
    cut = with_outages(trace, [(3.25, 5.5), (1.0, 1.75)])
    step_us = 10_000
    # What has passed by the end of each step; a packet counts in the step that it ends.
    periods = -(-8_000_000 // trace.period_us)
    before = np.tile(trace.rates_mbps(step_us), periods)[: 8_000_000 // step_us]
    ends_s = np.arange(1, len(before) + 1) * 0.01
    inside = ((ends_s > 1.005) & (ends_s < 1.755)) | ((ends_s > 3.255) & (ends_s < 5.505))
    expected = np.where(inside, 0, before)
    unrolled = cut.rates_mbps(step_us)
    if not trace.in_packets:
        assert unrolled == pytest.approx(expected[: len(unrolled)], abs=2e-4)
    for end_s in (1.0, 1.75, 3.25, 5.5, len(unrolled) * 0.01):
        k = round(end_s / 0.01)
        assert unrolled[:k].sum() == pytest.approx(expected[:k].sum(), abs=1e-3)


@pytest.mark.parametrize(("ready_s", "arrival_s"), [(0.0, 0.1), (9.95, 20.05), (10.0, 20.1), (15, 20.1), (20, 20.1)])
def test_an_upload_waits_for_the_end_of_an_outage(ready_s: float, arrival_s: float) -> None:
    cut = with_outages(Trace.constant(1.0), [(10.0, 20.0)])
    assert sent_at(cut, ready_s, 12_500) == pytest.approx(arrival_s, abs=1e-9)


def test_a_packet_at_the_end_of_an_outage_is_lost_and_one_at_its_beginning_passes() -> None:
    cut = with_outages(SIX_PACKETS, [(0.3, 0.7)])
    assert sent_at(cut, 0.15, 1500) == 0.3
    assert sent_at(cut, 0.15, 1501) == 0.8
    assert sent_at(cut, 0.3, 1) == 0.8


@pytest.mark.parametrize("ready_s", [20.0, 30.5, 35.0, 1015.0, 86_400.0])
def test_an_outage_happens_once(ready_s: float) -> None:
    cut = with_outages(Trace.constant(1.0), [(10.0, 20.0)])
    assert sent_at(cut, ready_s, 12_500) == pytest.approx(ready_s + 0.1, abs=1e-9)


@pytest.mark.parametrize("trace", [FLUID, SIX_PACKETS], ids=["fluid", "packets"])
def test_after_the_last_outage_the_trace_goes_on_where_it_would_have_been(trace: Trace) -> None:
    cut = with_outages(trace, [(0.2, 2.4)])
    for ready_s in (3.0, 3.4, 7.7, 1000.2):
        assert sent_at(cut, ready_s, 2000) == sent_at(trace, ready_s, 2000)


def test_overlapping_outages_are_one() -> None:
    both = with_outages(Trace.constant(1.0), [(1, 3), (2, 5)])
    assert sent_at(both, 0.95, 12_500) == sent_at(with_outages(Trace.constant(1.0), [(1, 5)]), 0.95, 12_500) == 5.05


def test_no_outages_leave_the_trace_as_it_is() -> None:
    same = with_outages(FLUID, [])
    assert np.array_equal(same.bits, FLUID.bits)
    assert np.array_equal(same.edges_us, FLUID.edges_us)


@pytest.mark.parametrize("outage", [(2, 1), (1, 1), (-1, 1), (1, math.inf), (math.nan, 2), (1, math.nan)])
def test_an_impossible_outage_is_refused(outage: tuple[float, float]) -> None:
    with pytest.raises(UplinkError, match="expected 0 <= begin < end"):
        with_outages(Trace.constant(1.0), [outage])


def test_a_trace_of_a_millisecond_is_not_written_out_for_weeks() -> None:
    packets = Trace(np.array([0, 1000]), np.array([12_000]), in_packets=True)
    assert sent_at(with_outages(packets, [(10, 20)]), 15.0, 1500) == 20.001
    with pytest.raises(
        UplinkError, match=r"a trace of 0\.001 s that repeats until 1e\+07 s has more than 5000000 parts"
    ):
        with_outages(packets, [(1, 1e7)])


def test_outages_are_given_all_at_once() -> None:
    with pytest.raises(UplinkError, match="give all outages at once"):
        with_outages(with_outages(Trace.constant(1.0), [(1, 2)]), [(3, 4)])
