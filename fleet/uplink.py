"""The uplink: exact FIFO delivery over a capacity that changes with time, in virtual time.

Time is counted in whole microseconds and capacity in whole bits, so that arrivals do not depend on rounding: 1 Mbit/s
is exactly 1 bit per microsecond. With A(t) the bits the link could have carried by time t, an upload that becomes ready
at time r behind others ends when A reaches f = max(A(r), f of the one before) + its bits; capacity that passes while
nothing waits is gone. Over many uploads the recursion is a running maximum, so `delivery_times` is vectorised.

Not here: what is sent and what is dropped (`roadbits.fleet.vehicle`), traces from files and generators (`traces`).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
US_PER_S = 1_000_000
MAX_RATE_MBPS = 10_000
"""No link is faster: what it carries in 10 s, in bits, times 10 s, in microseconds, still fits 63 bits."""
_MAX_SENT_S = 1e9


class Uplink(Protocol):
    """A link that delivers uploads in the order in which they become ready."""

    def delivery_times(self, sent_s: ArrayLike, sizes_bytes: ArrayLike) -> NDArray[np.float64]:
        """Return the arrival times in seconds of uploads sent at rising times, in seconds, of sizes in bytes."""
        ...


class UplinkError(ValueError):
    """A capacity that no upload could ever pass, or a request that makes no sense."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A capacity over one period; it repeats for ever, all of it or from some edge on.

    Attributes:
        edges_us: int64 (n + 1,), rising, from 0: ends of the segments, in microseconds.
        bits: int64 (n,): what each segment carries.
        in_packets: a segment's bits pass at its end (mahimahi's rule) instead of evenly over it.
        repeat_from_us: the edge where the period begins; what lies before happens once.
    """

    edges_us: Int64
    bits: Int64
    in_packets: bool = False
    repeat_from_us: int = 0

    def __post_init__(self) -> None:
        """Check the shape of the trace.

        Raises:
            UplinkError: if there is no segment, time does not rise, nothing can pass in a whole period, or a segment is
                so long and fast that counting its bits would overflow.
        """
        if len(self.edges_us) != len(self.bits) + 1 or len(self.bits) == 0 or self.edges_us[0] != 0:
            raise UplinkError(
                f"a trace needs n + 1 edges from 0 and n bits, got {len(self.edges_us)}, {len(self.bits)}"
            )
        if (np.diff(self.edges_us) <= 0).any() or (self.bits < 0).any():
            raise UplinkError("a trace needs rising times and capacities of 0 or more")
        if self.repeat_from_us not in self.edges_us[:-1]:
            raise UplinkError(f"a trace must repeat from one of its edges, got {self.repeat_from_us} us")
        if not self.bits[self.edges_us[:-1] >= self.repeat_from_us].any():
            raise UplinkError("the trace carries nothing in a whole period: no upload would ever arrive")
        products = np.diff(self.edges_us).astype(np.float64) * (1 if self.in_packets else self.bits)
        if products.max() >= 2**62 or float(self.bits.sum(dtype=np.float64)) >= 2**62:
            raise UplinkError("a segment is too long and fast to count its bits: cut it into shorter ones")

    @property
    def period_us(self) -> int:
        """Length of what repeats, in microseconds."""
        return int(self.edges_us[-1]) - self.repeat_from_us

    @property
    def mean_mbps(self) -> float:
        """Mean capacity of what repeats, in Mbit/s."""
        return int(self.bits[self.edges_us[:-1] >= self.repeat_from_us].sum()) / self.period_us

    @classmethod
    def constant(cls, rate_mbps: float) -> "Trace":
        """Return a link of one rate.

        Raises:
            UplinkError: if the rate is under one bit per second or above `MAX_RATE_MBPS`.
        """
        if not 1 / US_PER_S <= rate_mbps <= MAX_RATE_MBPS:
            raise UplinkError(f"rate is {rate_mbps} Mbit/s, expected 0.000001 to {MAX_RATE_MBPS}")
        return cls(np.array([0, US_PER_S]), np.array([round(rate_mbps * US_PER_S)]))

    def rates_mbps(self, step_us: int = US_PER_S) -> NDArray[np.float64]:
        """Return the mean capacity over consecutive steps up to the trace's end, in Mbit/s."""
        link = _Capacity(self, 0)
        edges = np.arange(0, self.edges_us[-1] + 1, step_us)
        return np.diff(link.bits_by(edges)) / step_us


class _Capacity:
    """A(t) of a repeated trace, in bits, and its inverse; begins at an offset into the trace."""

    def __init__(self, trace: Trace, offset_us: int) -> None:
        self._trace = trace
        self._sum = np.concatenate(([0], np.cumsum(trace.bits)))
        self._once = int(self._sum[np.searchsorted(trace.edges_us, trace.repeat_from_us)])
        self._total = int(self._sum[-1]) - self._once
        self._offset_us = offset_us
        self._before = 0
        self._before = int(self.bits_by(np.array([0]))[0])

    def bits_by(self, time_us: Int64) -> Int64:
        """Return A at times of 0 or more."""
        at_us, edges = time_us + self._offset_us, self._trace.edges_us
        periods = np.maximum(0, (at_us - self._trace.repeat_from_us) // self._trace.period_us)
        rest = at_us - periods * self._trace.period_us
        k = np.searchsorted(edges, rest, side="right") - 1
        part = np.zeros_like(rest)
        if not self._trace.in_packets:
            part = (rest - edges[k]) * self._trace.bits[k] // (edges[k + 1] - edges[k])
        total: Int64 = periods * self._total + self._sum[k] + part - self._before
        return total

    def time_of(self, bits: Int64) -> Int64:
        """Return the first whole microsecond by which A reaches each of these, all above 0."""
        at_bits, edges = bits + self._before, self._trace.edges_us
        periods = np.maximum(0, (at_bits - self._once - 1) // self._total)
        rest = at_bits - periods * self._total
        k = np.searchsorted(self._sum, rest, side="left") - 1
        span, carried = edges[k + 1] - edges[k], self._trace.bits[k]
        part = span if self._trace.in_packets else -(-(rest - self._sum[k]) * span // carried)
        time: Int64 = periods * self._trace.period_us + edges[k] + part - self._offset_us
        return time


class TraceUplink:
    """One vehicle's link: a trace entered at an offset, used from time 0 on."""

    def __init__(self, trace: Trace, offset_us: int = 0) -> None:
        """Open the link at an offset into the trace, in microseconds."""
        self._capacity = _Capacity(trace, offset_us)
        self._finished_bits = 0

    def delivery_times(self, sent_s: ArrayLike, sizes_bytes: ArrayLike) -> NDArray[np.float64]:
        """Return arrival times in seconds, float64 (n,), of uploads on an idle link.

        Args:
            sent_s: (n,) when each upload is ready, in seconds; must not fall.
            sizes_bytes: (n,) sizes, above 0.

        Raises:
            UplinkError: if the times fall, are negative or not finite, or a size is not positive.
        """
        ready_s, sizes = np.asarray(sent_s, np.float64), np.asarray(sizes_bytes, np.int64)
        if len(ready_s) != len(sizes) or (sizes <= 0).any():
            raise UplinkError(f"expected one size above 0 per time, got {len(ready_s)} times, {len(sizes)} sizes")
        if len(ready_s) == 0:
            return np.zeros(0)
        if not ((ready_s >= 0) & (ready_s <= _MAX_SENT_S)).all() or (np.diff(ready_s) < 0).any():
            raise UplinkError("uploads must be given in the order in which they become ready, from time 0 on")
        ready_us = np.rint(ready_s * US_PER_S).astype(np.int64)
        sent_bits = np.cumsum(8 * sizes)
        waiting = np.maximum.accumulate(self._capacity.bits_by(ready_us) - sent_bits + 8 * sizes)
        return self._capacity.time_of(waiting + sent_bits) / US_PER_S

    @property
    def finished_bits(self) -> int:
        """Where the queue ends, in bits of capacity since the link was opened: all the state there is."""
        return self._finished_bits

    @finished_bits.setter
    def finished_bits(self, bits: int) -> None:
        self._finished_bits = bits

    def offer(self, ready_us: int, size_bytes: int) -> int:
        """Queue one upload behind all earlier ones and return its arrival, in microseconds.

        Raises:
            UplinkError: if the time is negative or the size not positive.
        """
        if ready_us < 0 or size_bytes < 1:
            raise UplinkError(f"expected a time from 0 on and a size above 0, got {ready_us} us, {size_bytes} bytes")
        begin = max(int(self._capacity.bits_by(np.array([ready_us]))[0]), self._finished_bits)
        self._finished_bits = begin + 8 * size_bytes
        return int(self._capacity.time_of(np.array([self._finished_bits]))[0])
