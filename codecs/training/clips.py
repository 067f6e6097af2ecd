"""Short clips to train on: parts of three consecutive frames from caches, and a camera that moves over photographs.

A cache of clips is an `ImageCache` in which the frames of each clip follow one another.

Not here: still crops (`crops`), the loop (`rate_distortion`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from roadbits.codecs.codec import Clip, Image
from roadbits.codecs.neural.slimvc import FRAMES
from roadbits.codecs.training.crops import ImageCache, TrainingDataError

_SPEEDS = (0.0, 1.0, 4.0, 10.0)
"""Deviations of a pan, in pixels per frame."""
_ZOOMS = (0.0, 0.003, 0.01, 0.03)
"""Largest shares by which a frame shows less than the one before."""
_TURN = 0.003
_NOISE = (0.0, 1.0, 2.0, 4.0)
_GREY_SHARE, _COLOUR_SHARE = 0.8, 0.5


def moving_clip(photograph: Image, frames: int, side: int, rng: np.random.Generator) -> Clip:
    """Return what a camera sees that pans, zooms and turns over a photograph, with noise of its own in each frame.

    Args:
        photograph: uint8 (H, W, 3).
        frames: of the clip.
        side: of its frames, in pixels.
        rng: chooses the place, the motion and the noise.

    Raises:
        TrainingDataError: if the photograph is smaller than a frame.
    """
    height, width = photograph.shape[:2]
    if min(height, width) < side:
        raise TrainingDataError(f"a photograph of {height} x {width} pixels is smaller than frames of {side}")
    x, y = (rng.uniform(side / 2, extent - side / 2) if extent > side else extent / 2 for extent in (width, height))
    speed = rng.normal(0, 1, 2) * rng.choice(_SPEEDS)
    zoom, turn = 1 + rng.choice(_ZOOMS) * rng.uniform(), rng.normal(0, _TURN) * rng.integers(2)
    noise = rng.choice(_NOISE)
    source, clip, scale, angle = Pillow.fromarray(photograph), np.empty((frames, side, side, 3), np.uint8), 1.0, 0.0
    for index in range(frames):
        c, s, half = scale * np.cos(angle), scale * np.sin(angle), side / 2
        from_frame = (c, -s, x - (c - s) * half, s, c, y - (s + c) * half)
        seen = source.transform((side, side), Pillow.Transform.AFFINE, from_frame, Pillow.Resampling.BICUBIC)
        grey = _GREY_SHARE * rng.normal(0, noise, (side, side, 1))
        noisy = np.asarray(seen) + grey + _COLOUR_SHARE * rng.normal(0, noise, (side, side, 3))
        clip[index] = np.clip(np.round(noisy), 0, 255)
        x, y, scale, angle = x + speed[0], y + speed[1], scale / zoom, angle + turn
    return clip


class ClipSampler:
    """Batches of square parts of three consecutive frames, mirrored and turned back in time at random.

    Step `s` of seed `k` always gives the same batch: a resumed run goes on as if it had never stopped.
    """

    def __init__(
        self, caches: Sequence[ImageCache], lengths: Sequence[int], weights: Sequence[float], size: int, seed: int
    ) -> None:
        """Choose a cache by weight, and clips evenly.

        Args:
            caches: where from.
            lengths: frames of each cache's clips.
            weights: of the caches.
            size: of a side, in pixels.
            seed: of all choices.

        Raises:
            TrainingDataError: if a cache holds clips that are too short or too small.
        """
        for number, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            if length < FRAMES or len(cache) % length or cache.shapes.min() < size:
                raise TrainingDataError(
                    f"source {number} must hold clips of at least {FRAMES} frames of {size} x {size} pixels"
                )
        self._caches, self._lengths, self._size, self._seed = caches, lengths, size, seed
        self._weights = np.asarray(weights, dtype=np.float64) / sum(weights)

    def batch(self, step: int, num: int) -> NDArray[np.uint8]:
        """Return the samples of one step, uint8 (num, 9, size, size), three frames' channels side by side."""
        rng = np.random.default_rng((self._seed, step))
        samples = np.stack([self._sample(rng) for _ in range(num)])
        return samples.transpose(0, 1, 4, 2, 3).reshape(num, -1, self._size, self._size)

    def _sample(self, rng: np.random.Generator) -> Clip:
        source = int(rng.choice(len(self._caches), p=self._weights))
        sample = self._cut(rng, source, self._size)
        sample = sample[::-1] if rng.random() < 0.5 else sample
        return sample[:, :, ::-1] if rng.random() < 0.5 else sample

    def _cut(self, rng: np.random.Generator, source: int, size: int) -> Clip:
        """Return three frames (3, h, w, 3) of a source, as much of `size` as they have."""
        cache, length = self._caches[source], self._lengths[source]
        first = length * int(rng.integers(len(cache) // length)) + int(rng.integers(length - FRAMES + 1))
        height, width = (min(size, side) for side in cache.shapes[first])
        top, left = (rng.integers(side - cut + 1) for side, cut in zip(cache.shapes[first], (height, width)))  # noqa: B905
        frames = [cache.image(first + k)[top : top + height, left : left + width] for k in range(FRAMES)]
        return np.stack(frames)

    def calibration_clips(self, num: int, size: int = 256) -> list[Clip]:
        """Return clips of three frames (3, h, w, 3) to measure ranges on, always the same ones."""
        rng = np.random.default_rng(self._seed)
        sources = np.searchsorted(self._weights.cumsum(), (np.arange(num) + 0.5) / num)
        return [self._cut(rng, int(source), max(size, self._size)) for source in sources]
