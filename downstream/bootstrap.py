"""Intervals by bootstrap over seeds and test frames.

Every resample draws seeds for each training anew and test frames once for all, in blocks of consecutive frames, since
neighbours are nearly alike (moving blocks, Künsch 1989, their length the root of the number of frames). Differences
between setups are thus taken on the same frames.

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
            counts: of each name, confusion counts int64 (N, K, K) of every test frame, one array for each seed.
            seed: of the draws.

        Raises:
            ValueError: if a name has no seed, or numbers of frames differ.
        """
        sizes = {len(of_seed) for of_seeds in counts.values() for of_seed in of_seeds}
        if len(sizes) != 1 or not all(counts.values()):
            raise ValueError(f"expected counts of equally many test frames for every seed, got {sorted(sizes)}")
        rng = np.random.default_rng(seed)
        frames = _frame_draws(rng, sizes.pop())
        self._means, self._resampled = dict[str, float](), dict[str, Float64]()
        for name, of_seeds in counts.items():
            everything = np.ones((1, len(of_seeds[0])))
            self._means[name] = float(np.mean([_mious(everything, one)[0] for one in of_seeds]))
            mious = np.stack([_mious(frames, one) for one in of_seeds])
            drawn = rng.integers(len(of_seeds), size=(len(of_seeds), RESAMPLES))
            self._resampled[name] = np.take_along_axis(mious, drawn, 0).mean(0)

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
    length = max(1, round(num_frames**0.5))
    num_blocks = -(-num_frames // length)
    starts = rng.integers(num_frames, size=(RESAMPLES, num_blocks))
    drawn = (starts[..., None] + np.arange(length)) % num_frames
    rows = drawn.reshape(RESAMPLES, -1)[:, :num_frames]
    return np.stack([np.bincount(row, minlength=num_frames) for row in rows]).astype(np.float64)


def _mious(draws: Float64, counts: Counts) -> Float64:
    """Return the mIoU of each draw (R, N) of frames with counts (N, K, K), over the classes that its labels hold."""
    num_frames, num_classes = counts.shape[:2]
    summed = (draws @ counts.reshape(num_frames, -1).astype(np.float64)).reshape(-1, num_classes, num_classes)
    hits = np.diagonal(summed, axis1=1, axis2=2)
    labelled = summed.sum(2)
    union = summed.sum(1) + labelled - hits
    ious = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=labelled > 0)
    means: Float64 = np.nanmean(ious, axis=1)
    return means
