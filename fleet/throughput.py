"""What a vehicle knows of its link: what it queued, what has left its send buffer, and when.

Never what the link will carry: an estimate of throughput is a mean over what it has carried while it was busy, older
uploads weighing less; an upload that is long overdue lowers it before it has left.

Not here: the link itself (`uplink`), what is done with the estimate (`policies`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from roadbits.fleet.uplink import US_PER_S

_MEMORY_S = 10.0
"""Busy seconds after which an upload weighs 1/e: LTE's own fluctuations last about 5 s, outages 1 to 2 s."""


class Queued(NamedTuple):
    """An upload in the send buffer.

    Attributes:
        begun_us: when the link began with it.
        arrival_us: when it has left; a vehicle that asks before does not know.
        payload_bytes: its size.
    """

    begun_us: int
    arrival_us: int
    payload_bytes: int


@dataclass(frozen=True)
class Throughput:
    """A weighted mean of throughput.

    Attributes:
        bits: carried, weighted.
        busy_s: seconds in which they were, weighted.
    """

    bits: float = 0.0
    busy_s: float = 0.0

    def after(self, upload: Queued) -> "Throughput":
        """Return the mean with an upload that has left."""
        seconds = (upload.arrival_us - upload.begun_us) / US_PER_S
        kept = math.exp(-seconds / _MEMORY_S)
        return replace(self, bits=kept * self.bits + 8 * upload.payload_bytes, busy_s=kept * self.busy_s + seconds)

    def bits_per_s(self, now_us: int, waiting: Sequence[Queued]) -> float | None:
        """Return the estimate, or None before any upload has left.

        Args:
            now_us: when it is asked for.
            waiting: uploads that have not left by then, the oldest first.
        """
        bits, busy_s = self.bits, self.busy_s
        if not busy_s:
            return None
        if waiting:
            elapsed_s = max(0, now_us - waiting[0].begun_us) / US_PER_S
            oldest_bits = 8 * waiting[0].payload_bytes
            if elapsed_s * bits > oldest_bits * busy_s:
                bits, busy_s = bits + oldest_bits, busy_s + elapsed_s
        return bits / busy_s
