"""From a scenario's words to one vehicle's link: which trace, and where in it the vehicle begins.

Not here: delivery (`uplink`), reading and generating traces (`traces`).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import assert_never

import numpy as np

from roadbits.fleet import scenario as words
from roadbits.fleet.seeds import Purpose, generator_for
from roadbits.fleet.traces import TwoState, read_trace, with_outages
from roadbits.fleet.uplink import US_PER_S, Trace, TraceUplink

_GENERATED_S = 600


def trace_for(fleet: words.Fleet, seed: int, vehicle: int) -> Trace:
    """Return the capacity of one vehicle's link, before outages.

    Raises:
        UplinkError: if a trace file cannot be read or nothing can pass.
    """
    return _trace(fleet.group_of(vehicle).uplink, seed, vehicle)


@lru_cache(maxsize=256)
def _trace(uplink: words.Uplink, seed: int, vehicle: int) -> Trace:
    match uplink:
        case words.ConstantUplink(rate_mbps=rate):
            return Trace.constant(rate)
        case words.TraceFileUplink(path=path):
            return _file(path)
        case words.TwoStateUplink() as process:
            model = TwoState(
                process.median_mbps, process.sigma, process.memory, process.mean_coverage_s, process.mean_outage_s
            )
            return model.generate(_GENERATED_S, generator_for(seed, Purpose.LINK, vehicle))
        case unknown:
            assert_never(unknown)


@lru_cache(maxsize=16)
def _file(path: str) -> Trace:
    """Return the trace of a file, which vehicles share."""
    return read_trace(Path(path))


def link_for(fleet: words.Fleet, seed: int, vehicle: int, taken_us: Sequence[tuple[int, int]] = ()) -> TraceUplink:
    """Return one vehicle's link; vehicles that share a trace enter it at seeded offsets, or all at the one given.

    Args:
        fleet: the vehicles and their links.
        seed: of the run.
        vehicle: its number.
        taken_us: beginnings and ends of times in which the link carries something else, in microseconds.

    Raises:
        UplinkError: if a trace file cannot be read or nothing can pass.
    """
    trace = trace_for(fleet, seed, vehicle)
    match fleet.group_of(vehicle).uplink:
        case words.TraceFileUplink(offset_s=None):
            offset_us = int(generator_for(seed, Purpose.LINK, vehicle).integers(trace.period_us))
        case words.TraceFileUplink(offset_s=float(given_s)):
            offset_us = round(given_s * US_PER_S) % trace.period_us
        case _:
            offset_us = 0
    outages = [*fleet.faults.outages_s, *((begin / US_PER_S, end / US_PER_S) for begin, end in taken_us)]
    if not outages:
        return TraceUplink(trace, offset_us)
    return TraceUplink(with_outages(_rolled(trace, offset_us), outages))


def _rolled(trace: Trace, offset_us: int) -> Trace:
    """Return the trace begun at an offset, so that an outage hits all vehicles at one time."""
    if offset_us == 0:
        return trace
    cut = int(np.searchsorted(trace.edges_us, offset_us, side="right")) - 1
    edges, bits = trace.edges_us, trace.bits
    passed = offset_us - edges[cut]
    first = bits[cut]
    if not trace.in_packets:
        first = first - passed * bits[cut] // (edges[cut + 1] - edges[cut])
    lengths = np.concatenate(([edges[cut + 1] - offset_us], np.diff(edges)[cut + 1 :], np.diff(edges)[:cut]))
    carried = np.concatenate(([first], bits[cut + 1 :], bits[:cut]))
    if passed:
        lengths = np.append(lengths, passed)
        carried = np.append(carried, bits[cut] - first)
    return Trace(np.concatenate(([0], np.cumsum(lengths))), carried, trace.in_packets)
