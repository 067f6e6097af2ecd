from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from roadbits.fleet.links import link_for, trace_for
from roadbits.fleet.scenario import ConstantUplink, Device, Faults, Fleet, TraceFileUplink, TwoStateUplink, Uplink
from roadbits.fleet.uplink import US_PER_S, TraceUplink, UplinkError

DEVICE = Device(encode_mpx_per_s={"jpeg": 1.0}, encode_watts=1.0, radio_joules_per_mbit=1.0)
CSV = "seconds,Mbit/s\n0,1\n1,0\n2,3\n4,0.5\n5,0.5\n"
MAHIMAHI = "3\n3\n10\n50\n51\n51\n51\n120\n"


def fleet(uplink: Uplink, *outages: tuple[float, float]) -> Fleet:
    return Fleet(vehicles=20, uplink=uplink, device=DEVICE, faults=Faults(outages_s=outages))


def trace_file(folder: Path, name: str) -> TraceFileUplink:
    path = folder / name
    path.write_text(CSV if name.endswith(".csv") else MAHIMAHI)
    return TraceFileUplink(kind="trace", path=str(path))


def offers() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ready times in seconds and sizes in bytes of many uploads, some queued, some on an idle link."""
    generator = np.random.default_rng(5)
    ready_us = np.cumsum(generator.integers(0, 400_000, 300))
    return ready_us / US_PER_S, generator.integers(1, 9000, 300)


def arrivals(link: TraceUplink) -> NDArray[np.float64]:
    return link.delivery_times(*offers())


def test_a_constant_link_delivers_at_its_rate() -> None:
    link = link_for(fleet(ConstantUplink(kind="constant", rate_mbps=2.0)), 0, 0)
    assert link.delivery_times([0.0, 0.0, 5.0], [1000, 1000, 250]).tolist() == [0.004, 0.008, 5.001]


@pytest.mark.parametrize("name", ["a.csv", "a.mahimahi"])
def test_each_vehicle_enters_a_trace_at_its_own_offset(name: str, tmp_path: Path) -> None:
    words = fleet(trace_file(tmp_path, name))
    found = [tuple(arrivals(link_for(words, 7, vehicle))) for vehicle in range(6)]
    assert len(set(found)) == 6
    assert found == [tuple(arrivals(link_for(words, 7, vehicle))) for vehicle in range(6)]
    assert found[0] != tuple(arrivals(link_for(words, 8, 0)))


@pytest.mark.parametrize(("offset_s", "begin_s"), [(0.0, 0.0), (2.5, 2.5), (6.25 * 3 + 1.0, 1.0)])
def test_an_offset_that_is_given_is_every_vehicle_s_and_counts_in_the_repeated_trace(
    offset_s: float, begin_s: float, tmp_path: Path
) -> None:
    uplink = trace_file(tmp_path, "a.csv").model_copy(update={"offset_s": offset_s})
    words = fleet(uplink)
    assert trace_for(words, 7, 0).period_us == 6.25 * US_PER_S
    expected = arrivals(TraceUplink(trace_for(words, 7, 0), round(begin_s * US_PER_S)))
    for seed, vehicle in ((7, 0), (7, 5), (8, 1)):
        np.testing.assert_array_equal(arrivals(link_for(words, seed, vehicle)), expected)


def test_an_offset_that_is_not_given_is_not_told_so_that_keys_of_collections_stay(tmp_path: Path) -> None:
    uplink = trace_file(tmp_path, "a.csv")
    assert set(uplink.model_dump(mode="json")) == {"kind", "path"}
    begun = uplink.model_copy(update={"offset_s": 0.0})
    assert begun.model_dump(mode="json")["offset_s"] == 0
    assert fleet(begun).model_dump(mode="json")["uplink"]["offset_s"] == 0
    assert "offset_s" not in fleet(uplink).model_dump(mode="json")["uplink"]


@pytest.mark.parametrize("name", ["a.csv", "a.mahimahi"])
@pytest.mark.parametrize("vehicle", range(8))
def test_an_outage_long_past_changes_no_arrival_after_it(name: str, vehicle: int, tmp_path: Path) -> None:
    uplink = trace_file(tmp_path, name)
    plain, hit = link_for(fleet(uplink), 3, vehicle), link_for(fleet(uplink, (0.25, 0.5)), 3, vehicle)
    ready_s, sizes = offers()
    # The queue from before the outage must have run empty: begin anew well after it.
    late_s = ready_s + 100.0
    difference_us = np.rint((hit.delivery_times(late_s, sizes) - plain.delivery_times(late_s, sizes)) * US_PER_S)
    # Whole bits are shared out anew where a rate segment is cut: at most one bit, 2 us at the trace's slowest rate.
    assert np.abs(difference_us).max() <= (0 if name.endswith("mahimahi") else 2)


@pytest.mark.parametrize("name", ["a.csv", "a.mahimahi"])
@pytest.mark.parametrize("vehicle", range(8))
def test_a_trace_begun_at_an_offset_is_the_link_of_that_offset(name: str, vehicle: int, tmp_path: Path) -> None:
    uplink = trace_file(tmp_path, name)
    plain = arrivals(link_for(fleet(uplink), 3, vehicle))
    # An outage after everything has arrived changes nothing, but makes the link be built from a rolled trace.
    rolled = arrivals(link_for(fleet(uplink, (plain[-1] + 1, plain[-1] + 2)), 3, vehicle))
    difference_us = np.rint((rolled - plain) * US_PER_S)
    assert np.abs(difference_us).max() <= (0 if name.endswith("mahimahi") else 2)


@pytest.mark.parametrize("kind", ["constant", "two-state", "a.csv", "a.mahimahi"])
def test_an_outage_hits_every_vehicle_at_the_same_time(kind: str, tmp_path: Path) -> None:
    uplinks: dict[str, Uplink] = {
        "constant": ConstantUplink(kind="constant", rate_mbps=1.0),
        "two-state": TwoStateUplink(kind="two-state", mean_outage_s=0.0),
    }
    uplink = uplinks.get(kind) or trace_file(tmp_path, kind)
    ready_s = np.arange(0, 40, 0.01)
    for vehicle in range(5):
        for outages in ([(10.0, 17.0)], [(3.0, 5.5), (10.0, 17.0)]):
            found = link_for(fleet(uplink, *outages), 7, vehicle).delivery_times(ready_s, np.ones(len(ready_s), int))
            for begin, end in outages:
                assert not ((found > begin + 1e-6) & (found <= end)).any()
            assert ((found > 8) & (found < 10)).any()
            assert (found > 17).any()


def test_vehicles_have_generated_links_of_their_own() -> None:
    words = fleet(TwoStateUplink(kind="two-state"))
    rates = [tuple(trace_for(words, 7, vehicle).bits) for vehicle in range(6)]
    assert len(set(rates)) == 6
    assert rates[2] == tuple(trace_for(words, 7, 2).bits)
    assert rates[2] != tuple(trace_for(words, 8, 2).bits)


def test_a_generated_link_has_the_median_of_its_words() -> None:
    words = fleet(TwoStateUplink(kind="two-state", median_mbps=3.0, sigma=0.5, mean_outage_s=0.0, memory=0.0))
    rates = np.concatenate([trace_for(words, 0, vehicle).rates_mbps() for vehicle in range(20)])
    assert np.median(rates) == pytest.approx(3.0, rel=0.05)
    assert np.std(np.log(rates)) == pytest.approx(0.5, rel=0.05)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    words = fleet(TraceFileUplink(kind="trace", path=str(tmp_path / "gone.csv")))
    with pytest.raises(UplinkError, match=r"gone\.csv: cannot be read as an uplink trace"):
        link_for(words, 0, 0)
