"""Uplink traces: read from files, or generated.

Files: mahimahi's format (each line the millisecond at which one 1500-byte packet may leave; the file repeats) and a CSV
of `seconds,Mbit/s` (each rate holds until the next line's time). Generated: a two-state process, coverage and outage
with exponential stays, and a log-normal rate in coverage that is redrawn every second with a first-order memory.
A scenario's defaults come near the one-second means of mahimahi's ATT-LTE-driving-2016 uplink but in its lowest tail:
mean, 5th, 50th, 95th percentile 2.0, .36, 1.6, 5.0 Mbit/s and 3.4 % without any, against 1.9, .03, 1.6, 4.8 and 3.3 %.

Not here: delivery (`uplink`).
"""

import csv
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadbits.fleet.uplink import MAX_RATE_MBPS, US_PER_S, Trace, UplinkError

_PACKET_BITS = 1500 * 8
_MAX_LINES = 20_000_000
_MAX_SECONDS = 10_000_000
_MOST_SEGMENTS = 5_000_000
_LONGEST_SEGMENT_US = 10 * US_PER_S


def read_trace(path: Path) -> Trace:
    """Read a trace: `.csv` as seconds and Mbit/s, anything else as mahimahi.

    Raises:
        UplinkError: if the file cannot be read or a line is malformed; the message names both.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UplinkError(f"{path}: cannot be read as an uplink trace: {error}") from error
    if len(lines) > _MAX_LINES:
        raise UplinkError(f"{path}: {len(lines)} lines, expected at most {_MAX_LINES}")
    try:
        return _from_csv(lines) if path.suffix.lower() == ".csv" else _from_mahimahi(lines)
    except (UplinkError, csv.Error) as error:
        raise UplinkError(f"{path}: {error}") from error


def _from_mahimahi(lines: list[str]) -> Trace:
    """Return the trace of packet opportunities, each a millisecond."""
    times_ms = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if not text.isdecimal() or len(text) > 10:
            if any(map(_is_csv, lines[number - 1 : number + 1])):
                raise UplinkError(f"line {number}: this looks like seconds,Mbit/s: name the file .csv")
            raise UplinkError(f"line {number}: expected a whole number of milliseconds below 10^10, got {text[:40]!r}")
        times_ms.append(int(text))
        if len(times_ms) > 1 and times_ms[-1] < times_ms[-2]:
            raise UplinkError(f"line {number}: {times_ms[-1]} ms comes before {times_ms[-2]} ms, expected rising times")
    if not times_ms or times_ms[-1] == 0:
        raise UplinkError("expected at least one packet after millisecond 0")
    # A packet "at 0" and one at the last millisecond fall on the same instant of the repeated trace.
    instants, packets = np.unique(np.maximum(1, times_ms), return_counts=True)
    edges = np.concatenate(([0], instants * 1000)).astype(np.int64)
    return Trace(edges, packets.astype(np.int64) * _PACKET_BITS, in_packets=True)


def _is_csv(line: str) -> bool:
    """Return whether a line holds two numbers, as a CSV's first or the one below its header does."""
    try:
        _, _ = map(float, line.split(",")[:2])
    except ValueError:
        return False
    return True


def _from_csv(lines: list[str]) -> Trace:
    """Return the trace of piecewise constant rates; a header line is skipped, the last rate holds one mean step."""
    rows: list[tuple[float, float]] = []
    for number, row in enumerate(csv.reader(lines), 1):
        try:
            seconds, rate = float(row[0]), float(row[1])
        except (ValueError, IndexError):
            if number == 1 or not row:
                continue
            raise UplinkError(f"line {number}: expected 'seconds,Mbit/s', got {','.join(row)[:60]!r}") from None
        if not (math.isfinite(seconds) and 0 <= rate <= MAX_RATE_MBPS):
            raise UplinkError(
                f"line {number}: expected a finite time and a rate of 0 to {MAX_RATE_MBPS}, got {seconds},{rate}"
            )
        if rows and seconds <= rows[-1][0]:
            raise UplinkError(f"line {number}: {seconds} s does not come after {rows[-1][0]} s")
        rows.append((seconds, rate))
        if seconds - rows[0][0] > _MAX_SECONDS:
            raise UplinkError(f"line {number}: {seconds} s is more than {_MAX_SECONDS} s after the first line")
    if len(rows) < 2:
        raise UplinkError(f"expected two or more lines of 'seconds,Mbit/s', got {len(rows)}")
    times = np.array([seconds for seconds, _ in rows]) - rows[0][0]
    ends = np.rint(np.append(times, times[-1] * len(rows) / (len(rows) - 1)) * US_PER_S).astype(np.int64)
    # A long stay is cut up: bits times microseconds of one segment must fit 63 bits.
    pieces = [np.arange(begin, end, _LONGEST_SEGMENT_US) for begin, end in itertools.pairwise(ends)]
    edges = np.concatenate([*pieces, ends[-1:]])
    rates = np.repeat([rate for _, rate in rows], [len(piece) for piece in pieces])
    return Trace(edges, np.rint(rates * np.diff(edges)).astype(np.int64))


@dataclass(frozen=True)
class TwoState:
    """A generated uplink: log-normal in coverage, nothing in outage.

    Attributes:
        median_mbps: median rate in coverage.
        sigma: standard deviation of the rate's natural logarithm.
        memory: correlation of the log-rate from one second to the next, 0..1.
        mean_coverage_s: mean stay in coverage, in seconds.
        mean_outage_s: mean stay in outage, in seconds; 0 for none.
    """

    median_mbps: float
    sigma: float
    memory: float
    mean_coverage_s: float
    mean_outage_s: float

    def generate(self, seconds: int, generator: np.random.Generator) -> Trace:
        """Return a trace of that many seconds; coverage and outage are drawn per second.

        Raises:
            UplinkError: if it happens to carry nothing at all.
        """
        noise = generator.standard_normal(seconds)
        stays = generator.random(seconds)
        rates = np.zeros(seconds)
        log_rate, covered = noise[0], True
        for second in range(seconds):
            if second:
                log_rate = self.memory * log_rate + math.sqrt(1 - self.memory**2) * noise[second]
                leave = self.mean_coverage_s if covered else self.mean_outage_s
                covered = covered != bool(self.mean_outage_s > 0 and stays[second] < 1 / max(1.0, leave))
            rates[second] = self.median_mbps * math.exp(self.sigma * log_rate) if covered else 0.0
        edges = np.arange(seconds + 1, dtype=np.int64) * US_PER_S
        return Trace(edges, np.rint(rates * US_PER_S).astype(np.int64))


def with_outages(trace: Trace, outages_s: list[tuple[float, float]]) -> Trace:
    """Return the trace with nothing passing during the outages, which happen once; after them it repeats as before.

    Args:
        trace: the capacity without them, all of which repeats.
        outages_s: beginning and end of each, in seconds.

    Raises:
        UplinkError: if an outage ends before it begins, the trace has a beginning that happens once, or is so short
            that it would have to be written out too often.
    """
    if trace.repeat_from_us:
        raise UplinkError("expected a trace that repeats from its beginning: give all outages at once")
    for begin, end in outages_s:
        if not 0 <= begin < end <= _MAX_SECONDS:
            raise UplinkError(f"outage from {begin} to {end} s: expected 0 <= begin < end <= {_MAX_SECONDS}")
    last_us = round(max((end for _, end in outages_s), default=0) * US_PER_S)
    once = -(-last_us // trace.period_us)
    repeats = once + 1
    cuts = sorted({round(at * US_PER_S) for pair in outages_s for at in pair})
    if repeats * len(trace.bits) > _MOST_SEGMENTS:
        raise UplinkError(
            f"a trace of {trace.period_us / US_PER_S:g} s that repeats until {last_us / US_PER_S:g} s has more than "
            f"{_MOST_SEGMENTS} parts: end outages earlier, give a longer trace or, where its rate never changes, a "
            "constant uplink"
        )
    begins = trace.period_us * np.arange(repeats, dtype=np.int64)[:, None]
    starts = (begins + trace.edges_us[:-1]).ravel()
    edges = np.union1d(np.append(starts, repeats * trace.period_us), np.array(cuts, np.int64))
    if trace.in_packets:
        ends = (begins + trace.edges_us[1:]).ravel()
        bits = np.zeros(len(edges) - 1, np.int64)
        bits[np.searchsorted(edges, ends) - 1] = np.tile(trace.bits, repeats)
    else:
        owner = np.searchsorted(starts, edges[:-1], side="right") - 1
        share = np.diff(edges) / np.tile(np.diff(trace.edges_us), repeats)[owner]
        bits = np.rint(np.tile(trace.bits, repeats)[owner] * share).astype(np.int64)
    for begin, end in outages_s:
        inside = (edges[:-1] >= round(begin * US_PER_S)) & (edges[1:] <= round(end * US_PER_S))
        bits[inside] = 0
    return Trace(edges, bits, trace.in_packets, once * trace.period_us)
