"""The lambda schedule: which lambda suits each width of a slim network, found while it trains.

With one lambda for all, a narrow width spends bits that it makes too little of. So after a first training with one
lambda, pair after pair of neighbouring widths, the widest first, everything narrower than the pair's wider width is
given 0.8 times its lambda and trained on, for as long as that lowers

    slope = (psnr of the wider - psnr of the narrower) / (bpp of the wider - bpp of the narrower)

and at most seven times. The slope falls while the narrower width's point comes down towards the common curve, and rises
again once it has left it.

Where the narrower width takes at least as many bits as the wider, its slope counts as infinite here: it has to come
down first. The authors' code gets a negative or undefined slope from such points, and stops at the first good one.
All that is decided follows from what was measured.

Source: Yang et al., "Slimmable compressive autoencoders for practical neural image compression", CVPR 2021, as its
authors' code runs it; that trains 20 steps a round and measures likelihoods. Here the caller measures real bytes.

Not here: running a schedule and keeping what it measured (`lambda_schedule_run`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Verdict = Literal["first", "fell", "rose", "bound"]


class LambdaScheduleError(Exception):
    """Measurements that decide nothing, or a file of them that is damaged or another schedule's."""


class Measured(NamedTuple):
    """What one width reaches.

    Attributes:
        bpp: of real payloads.
        psnr_db: mean over the validation's images.
    """

    bpp: float
    psnr_db: float


@dataclass(frozen=True)
class Position:
    """Where a schedule stands: what to train next.

    Attributes:
        lambdas: to train with, of each width, narrowest first.
        until: the step to train up to.
        level: of the pair in hand, 0 for the two widest; as many as there are pairs once all are done.
        round: of this pair, from 1; 0 for the first training.
        slope: that this round's has to stay below; infinite before there is one.
    """

    lambdas: tuple[float, ...]
    until: int
    level: int
    round: int
    slope: float


@dataclass(frozen=True)
class Round:
    """A training and what came of it.

    Attributes:
        position: what was trained.
        points: of each width, narrowest first.
        slope: of the pair in hand.
        verdict: `first` training; the slope `fell`, and so the pair is tried again; it `rose`, and so the pair is done;
            or it fell to the last, and the pair was left at its `bound`.
    """

    position: Position
    points: tuple[Measured, ...]
    slope: float
    verdict: Verdict


@dataclass(frozen=True)
class LambdaSchedule:
    """The rules.

    Attributes:
        start: lambda of the widest width's, and at first of all; the paper's 4000 is 4000 / 255^2 = 0.0615 here.
        num_widths: two or more.
        first_steps: of training before the first round.
        round_steps: of training in each round.
        factor: of lambda, from round to round.
        max_rounds: of each pair.
    """

    start: float
    num_widths: int
    first_steps: int
    round_steps: int
    factor: float = 0.8
    max_rounds: int = 7

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            ValueError: if a number is out of its range.
        """
        counts = {"num_widths": 2, "first_steps": 1, "round_steps": 1, "max_rounds": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (0 < self.start < math.inf and 0 < self.factor < 1):
            raise ValueError(f"start must be above 0 and factor in 0..1, got {self.start} and {self.factor}")

    @property
    def most_steps(self) -> int:
        """The step at which the longest possible schedule ends."""
        return self.first_steps + (self.num_widths - 1) * self.max_rounds * self.round_steps

    def begin(self) -> Position:
        """Return the first training: all widths at one lambda."""
        return Position((self.start,) * self.num_widths, self.first_steps, level=0, round=0, slope=math.inf)

    def is_done(self, position: Position) -> bool:
        """Return whether every pair has been set; the position then tells the lambdas that came of it."""
        return position.level == self.num_widths - 1

    def judge(self, position: Position, points: Sequence[Measured]) -> Round:
        """Return what a training has come to.

        Args:
            position: what was trained.
            points: of each width, narrowest first.

        Raises:
            LambdaScheduleError: if there is not one finite point for each width.
        """
        _check(points, self.num_widths)
        slope = _slope(points, position.level)
        verdict: Verdict = "fell"
        if position.round == 0:
            verdict = "first"
        elif slope > position.slope:
            verdict = "rose"
        elif position.round == self.max_rounds:
            verdict = "bound"
        return Round(position, tuple(points), slope, verdict)

    def after(self, done: Round) -> Position:
        """Return what to train after a round."""
        if done.verdict in ("first", "fell"):
            return self._lowered(replace(done.position, round=done.position.round + 1, slope=done.slope))
        level = done.position.level + 1
        if level == self.num_widths - 1:
            return replace(done.position, level=level, round=0, slope=math.inf)
        return self._lowered(replace(done.position, level=level, round=1, slope=_slope(done.points, level)))

    def _lowered(self, position: Position) -> Position:
        """Return a position with all lambdas lowered that are narrower than its pair's wider width."""
        kept = position.level + 1
        lowered = tuple(self.factor * lmbda for lmbda in position.lambdas[:-kept])
        return replace(position, lambdas=lowered + position.lambdas[-kept:], until=position.until + self.round_steps)


def _slope(points: Sequence[Measured], level: int) -> float:
    """Return dB per bit per pixel between the widths of a pair; infinite where the narrower takes no fewer bits."""
    wider, narrower = points[-1 - level], points[-2 - level]
    if wider.bpp <= narrower.bpp:
        return math.inf
    return (wider.psnr_db - narrower.psnr_db) / (wider.bpp - narrower.bpp)


def _check(points: Sequence[Measured], num_widths: int) -> None:
    if len(points) != num_widths:
        raise LambdaScheduleError(f"expected one point for each of {num_widths} widths, got {len(points)}")
    for number, point in enumerate(points):
        if not all(map(math.isfinite, point)):
            raise LambdaScheduleError(f"width number {number} measures {point}: has the training diverged?")
