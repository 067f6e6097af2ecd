"""Intervals of 90 % for means over seeds on a set of test frames.

Two things are left to chance. Test frames are drawn anew by bootstrap, once for all trainings, in blocks of consecutive
frames, since neighbours are nearly alike (circular blocks, Politis and Romano 1992, their length the root of the number
of frames); deviations are stretched by what Student's t asks of so few blocks. Seeds are too few to be drawn: what
their scatter says of the mean over all seeds is added as Student's t has it (multivariate, so that trainings of one
seed stay a pair). With a single seed the intervals are of test frames alone.

Not here: what is compared (`setups`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_SHARE = 0.9

Counts = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value, and where 90 % of its resamples lie."""

    value: float
    low: float
    high: float


class Resamples:
    """The mIoU of several trainings over the same resamples."""

    def __init__(self, counts: Mapping[str, Sequence[Counts]], seed: int = 0) -> None:
        """Resample.

        Args:
            counts: of each name, confusion counts int64 (N, K, K) of every test frame, one array for each seed, the
                seeds in one order for all names.
            seed: of the draws.

        Raises:
            ValueError: if there is no seed, or numbers of frames or seeds differ.
        """
        sizes = {len(of_seed) for of_seeds in counts.values() for of_seed in of_seeds}
        seeds = {len(of_seeds) for of_seeds in counts.values()}
        if len(sizes) != 1 or len(seeds) != 1:
            raise ValueError(
                f"expected counts of equally many test frames for equally many seeds, got {sorted(sizes)} frames and "
                f"{sorted(seeds)} seeds"
            )
        rng = np.random.default_rng(seed)
        num_frames = sizes.pop()
        frames, stretch = _frame_draws(rng, num_frames), _stretch(rng, num_frames)
        weights = _seed_draws(rng, seeds.pop())
        self._means, self._resampled = dict[str, float](), dict[str, Float64]()
        for name, of_seeds in counts.items():
            values, resampled = zip(*(_mious(frames, one) for one in of_seeds), strict=True)
            self._means[name] = mean = float(np.mean(values))
            by_frames = (np.mean(resampled, axis=0) - mean) * stretch
            self._resampled[name] = mean + by_frames + weights @ (np.array(values) - mean)

    def miou(self, name: str) -> Interval:
        """Return the mean mIoU over the seeds."""
        return _interval(self._means[name], self._resampled[name])

    def gain(self, name: str, over: str) -> Interval:
        """Return by how much one mean mIoU exceeds another."""
        gains = self._resampled[name] - self._resampled[over]
        return _interval(self._means[name] - self._means[over], gains)

    def share(self, name: str, low: str, high: str) -> Interval | None:
        """Return (name - low) / (high - low); None unless `high` is above `low` in at least 95 % of the resamples."""
        gaps = self._resampled[high] - self._resampled[low]
        if np.mean(gaps > 0) < (1 + _SHARE) / 2:
            return None
        # The few resamples without a gap have no share.
        gains = (self._resampled[name] - self._resampled[low])[gaps > 0] / gaps[gaps > 0]
        value = (self._means[name] - self._means[low]) / (self._means[high] - self._means[low])
        return _interval(value, gains)


def _interval(value: float, resampled: Float64) -> Interval:
    low, high = np.quantile(resampled, ((1 - _SHARE) / 2, (1 + _SHARE) / 2))
    return Interval(value, float(low), float(high))


def _frame_draws(rng: np.random.Generator, num_frames: int) -> Float64:
    """Return how often each frame is drawn in each resample, float64 (R, N)."""
    length, num_blocks = _blocks(num_frames)
    starts = rng.integers(num_frames, size=(RESAMPLES, num_blocks))
    drawn = (starts[..., None] + np.arange(length)) % num_frames
    rows = drawn.reshape(RESAMPLES, -1)[:, :num_frames]
    return np.stack([np.bincount(row, minlength=num_frames) for row in rows]).astype(np.float64)


def _blocks(num_frames: int) -> tuple[int, int]:
    """Return the length and the number of blocks."""
    length = max(1, round(num_frames**0.5))
    return length, -(-num_frames // length)


def _stretch(rng: np.random.Generator, num_frames: int) -> Float64:
    """Return by how much each resample's deviation (R,) is too small with so few blocks."""
    freedom = _blocks(num_frames)[1] - 1
    if freedom == 0:
        return np.ones(RESAMPLES)
    stretch: Float64 = np.sqrt((freedom + 1) / rng.chisquare(freedom, RESAMPLES))
    return stretch


def _seed_draws(rng: np.random.Generator, num_seeds: int) -> Float64:
    """Return weights (R, n) with which deviations of n seeds from their mean make errors of that mean, Student's t."""
    if num_seeds == 1:
        return np.zeros((RESAMPLES, 1))
    freedom = num_seeds - 1
    scatter = np.sqrt(rng.chisquare(freedom, (RESAMPLES, 1)) / freedom)
    weights: Float64 = rng.standard_normal((RESAMPLES, num_seeds)) / np.sqrt(num_seeds * freedom) / scatter
    return weights


def _mious(draws: Float64, counts: Counts) -> tuple[float, Float64]:
    """Return the mIoU of all frames with counts (N, K, K), and of each draw (R, N) of them.

    Over the classes that labels of any frame hold: one that a draw has none of has the IoU of all frames there.
    """
    num_frames, num_classes = counts.shape[:2]
    summed = (draws @ counts.reshape(num_frames, -1).astype(np.float64)).reshape(-1, num_classes, num_classes)
    whole = _ious(counts.sum(0, dtype=np.float64)[None])
    ious = _ious(summed)
    held = ~np.isnan(whole[0])
    means: Float64 = np.where(np.isnan(ious), whole, ious)[:, held].mean(axis=1)
    return float(whole[0, held].mean()), means


def _ious(summed: Float64) -> Float64:
    """Return the IoU of each class (R, K) of counts (R, K, K); NaN where labels hold none of it."""
    hits = np.diagonal(summed, axis1=1, axis2=2)
    labelled = summed.sum(2)
    union = summed.sum(1) + labelled - hits
    ious: Float64 = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=labelled > 0)
    return ious
