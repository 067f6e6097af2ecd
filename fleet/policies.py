"""Policies: which operating point a vehicle gives the next frame, from nothing but what it can know.

A policy sees what every point is expected to take and give (`Expected`) and how the vehicle stands (`Situation`), and
returns a position on the ladder, or None to skip a frame that would come too late to be of use.

- `target-bpp` aims at a mean rate. The ladder's rates follow the frames by feedback on real bytes; what earlier frames
  took too much or too little is made up for by those after (a proportional and an integral part, on the logarithm of
  the rate; Xu, arXiv 2604.20104, controls an encoder's lambda so).
- `link` takes the highest rate that its uplink carries in time.
- `budget` takes the best quality that the uplink, the encoder's time and an allowance of energy permit. Quality is the
  PSNR that the vehicle measured itself on its first frame.

What "in time" means to `link` and `budget`: an upload and all that waits before it should leave within .35 of the
latency that remains after encoding, at the estimated throughput, so that the link may slow down to about a third
before anything is late. A frame takes at most 1.2 times its share of the link, as quality gains less from the second
bit than from the first. If nothing can be in time, the cheapest point is sent while it would still arrive within all
of that latency, and else the frame is skipped; an idle link is always tried, for how else would the vehicle learn that
it is back. Before the first upload has left, nothing is known of the link, and the cheapest point is sent. Where
quality is known, the best of the points that take about as few bytes counts as the cheapest: of several widths rarely
the narrowest.

Not here: measuring (`rate_profile`, `throughput`), encoding and feedback (`rate_control`).
"""

from dataclasses import dataclass, replace
from typing import Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet import rules as words
from roadbits.fleet.devices import Ladder

_HEADROOM = 0.35
"""Of the latency. In `mixed-fleet` half of it left 2 % of the frames late, a third none, for .1 dB less."""
_MOST_SHARES = 1.2
"""Of the link. Two shares now are paid for with frames at the lowest rate later: .1 to .5 dB less in `mixed-fleet`."""
_ROOM_MARGIN = 1.5
"""A payload may come out larger than expected, and what overfills the send buffer is lost."""
_ABOUT_AS_FEW = 1.1
_REPAID_PER_FRAME = 0.3
"""Share of the rate's excess so far that the next frame makes up for."""
_MOST_EXCESS = 3.0
"""In frames of the target's size: what a ladder's end cannot reach must not pile up."""
_DEBT_FRAMES = 50.0
"""Energy taken too much or too little so far is made up for over as many frames."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Expected:
    """What the points of a ladder are expected to take and give for the next frame.

    Attributes:
        usable: bool (n,): the device can hold it, and something like it was tried.
        bpp: float64 (n,).
        psnr_db: float64 (n,); zeros where quality was not measured.
        payload_bytes: float64 (n,).
        encode_s: float64 (n,).
        joules: float64 (n,), of encoding and sending.
    """

    usable: NDArray[np.bool_]
    bpp: Float64
    psnr_db: Float64
    payload_bytes: Float64
    encode_s: Float64
    joules: Float64


@dataclass(frozen=True)
class Situation:
    """How a vehicle stands when it is about to encode a frame.

    Attributes:
        now_s: virtual time.
        age_s: since the frame's capture.
        interval_s: between captures.
        backlog_bytes: in the send buffer.
        room_bytes: left in it.
        bits_per_s: estimated throughput; None before any upload has left.
    """

    now_s: float
    age_s: float
    interval_s: float
    backlog_bytes: int
    room_bytes: int
    bits_per_s: float | None


@dataclass(frozen=True)
class Account:
    """What a drive has taken so far.

    Attributes:
        excess_frames: rate above the target, summed over frames, in units of the target.
        joules: spent.
    """

    excess_frames: float = 0.0
    joules: float = 0.0


class Policy(Protocol):
    """Chooses points."""

    @property
    def needs_quality(self) -> bool:
        """Whether trials must measure quality."""
        ...

    def usable(self, ladder: Ladder, interval_s: float, duty: float) -> NDArray[np.bool_]:
        """Return which points of a ladder it would ever choose, bool (n,)."""
        ...

    def choose(self, expected: Expected, situation: Situation, account: Account) -> int | None:
        """Return a position on the ladder, or None to skip the frame."""
        ...

    def charged(self, account: Account, bpp: float | None, joules: float) -> Account:
        """Return the account after a frame of that rate, None if it was skipped, and energy."""
        ...


@dataclass(frozen=True)
class TargetBpp:
    """Hold a mean rate."""

    bpp: float
    needs_quality = False

    def usable(self, ladder: Ladder, interval_s: float, duty: float) -> NDArray[np.bool_]:
        """Return the points of the widest network that the device can hold and run in time."""
        return widest_in_time(ladder, interval_s, duty)

    def choose(self, expected: Expected, situation: Situation, account: Account) -> int | None:
        """Return the point nearest to the target, less what is to be made up for."""
        aim = np.log(self.bpp) + np.clip(-_REPAID_PER_FRAME * account.excess_frames, -np.log(2), np.log(2))
        distance = np.where(expected.usable, np.abs(np.log(expected.bpp) - aim), np.inf)
        return int(np.argmin(distance))

    def charged(self, account: Account, bpp: float | None, joules: float) -> Account:
        """Return the account after a frame."""
        excess = account.excess_frames + (0.0 if bpp is None else bpp / self.bpp - 1)
        return Account(float(np.clip(excess, -_MOST_EXCESS, _MOST_EXCESS)), account.joules + joules)


@dataclass(frozen=True)
class Link:
    """Follow the uplink."""

    latency_s: float
    max_bpp: float
    needs_quality = False

    def usable(self, ladder: Ladder, interval_s: float, duty: float) -> NDArray[np.bool_]:
        """Return the points of the widest network that the device can hold and run in time."""
        return widest_in_time(ladder, interval_s, duty)

    def choose(self, expected: Expected, situation: Situation, account: Account) -> int | None:
        """Return the point of the highest rate that arrives in time."""
        in_time = _in_time(expected, situation, self.latency_s) & (expected.bpp <= self.max_bpp)
        return _best(expected.bpp, expected, in_time) if in_time.any() else _last_resort(expected, situation, self)

    def charged(self, account: Account, bpp: float | None, joules: float) -> Account:
        """Return the account after a frame."""
        return Account(0.0, account.joules + joules)


@dataclass(frozen=True)
class Budget:
    """Follow the uplink, the device and its energy."""

    latency_s: float
    max_bpp: float
    joules_per_hour: float
    needs_quality = True

    def usable(self, ladder: Ladder, interval_s: float, duty: float) -> NDArray[np.bool_]:
        """Return which points fit the memory and the time between two frames."""
        return ladder.fits & (ladder.seconds <= interval_s * duty)

    def choose(self, expected: Expected, situation: Situation, account: Account) -> int | None:
        """Return the point of the best quality within all bounds; skip a frame that no energy is left for."""
        affordable = expected.usable & (expected.joules <= self._allowance_j(situation, account))
        if not affordable.any():
            return None
        expected = replace(expected, usable=affordable)
        in_time = _in_time(expected, situation, self.latency_s) & (expected.bpp <= self.max_bpp)
        return _best(expected.psnr_db, expected, in_time) if in_time.any() else _last_resort(expected, situation, self)

    def _allowance_j(self, situation: Situation, account: Account) -> float:
        """Return what the next frame may take: its share of an hour, and part of what is left over or owed."""
        if self.joules_per_hour == np.inf:
            return np.inf
        per_second = self.joules_per_hour / 3600
        share = per_second * situation.interval_s
        return share + (per_second * situation.now_s - account.joules) / _DEBT_FRAMES

    def charged(self, account: Account, bpp: float | None, joules: float) -> Account:
        """Return the account after a frame."""
        return Account(0.0, account.joules + joules)


def widest_in_time(ladder: Ladder, interval_s: float, duty: float) -> NDArray[np.bool_]:
    """Return the points (n,) of the widest network that fits the memory and the time between two frames.

    If none is that fast, those of the narrowest that fits. Within one network rate and quality rise together, so a
    policy that knows no quality can still choose among its points.
    """
    in_time: NDArray[np.bool_] = ladder.fits & (ladder.seconds <= interval_s * duty)
    among = in_time if in_time.any() else ladder.fits
    if not among.any():
        return among
    macs = ladder.macs[among].max() if in_time.any() else ladder.macs[among].min()
    chosen: NDArray[np.bool_] = among & (ladder.macs == macs)
    return chosen


def policy_of(rule: words.TargetBpp | words.Link | words.Budget, deadline_s: float) -> Policy:
    """Return the policy that a scenario's words mean."""
    match rule:
        case words.TargetBpp(bpp=bpp):
            return TargetBpp(bpp)
        case words.Link():
            return Link(rule.latency_s or deadline_s, rule.max_bpp or np.inf)
        case words.Budget():
            return Budget(rule.latency_s or deadline_s, rule.max_bpp or np.inf, rule.joules_per_hour or np.inf)
        case unknown:
            assert_never(unknown)


def _waiting_bytes(expected: Expected, situation: Situation, bits_per_s: float) -> Float64:
    """Return how much will wait before the payload of each point when it is encoded, float64 (n,)."""
    return np.maximum(0.0, situation.backlog_bytes - expected.encode_s * bits_per_s / 8)


def _in_time(expected: Expected, situation: Situation, latency_s: float) -> NDArray[np.bool_]:
    """Return which points may be sent without straining the link, bool (n,)."""
    if situation.bits_per_s is None:
        return np.zeros(len(expected.bpp), np.bool_)
    left_s = _HEADROOM * (latency_s - situation.age_s - expected.encode_s)
    queue = _waiting_bytes(expected, situation, situation.bits_per_s) + expected.payload_bytes
    share = _MOST_SHARES * situation.bits_per_s * situation.interval_s / 8
    fits = (expected.payload_bytes <= share) & (_ROOM_MARGIN * expected.payload_bytes <= situation.room_bytes)
    return expected.usable & fits & (8 * queue <= left_s * situation.bits_per_s)


def _best(worth: Float64, expected: Expected, allowed: NDArray[np.bool_]) -> int:
    """Return the allowed point that is worth most; of equals, the one of fewer bytes."""
    order = np.lexsort((expected.payload_bytes, -worth))
    return int(next(position for position in order if allowed[position]))


def _last_resort(expected: Expected, situation: Situation, policy: Link | Budget) -> int | None:
    """Return the cheapest point if it still arrives, or nothing tells that it does not; else None."""
    fewest = expected.payload_bytes[expected.usable].min()
    bound = _ABOUT_AS_FEW * fewest if policy.needs_quality else fewest
    cheapest = _best(expected.psnr_db, expected, expected.usable & (expected.payload_bytes <= bound))
    if situation.backlog_bytes == 0:
        return cheapest
    if expected.payload_bytes[cheapest] > situation.room_bytes:
        return None
    if situation.bits_per_s is None:
        return cheapest
    queue = _waiting_bytes(expected, situation, situation.bits_per_s) + expected.payload_bytes
    left_s = policy.latency_s - situation.age_s - expected.encode_s
    return cheapest if 8 * queue[cheapest] <= left_s[cheapest] * situation.bits_per_s else None
