"""Short clips to train on: a camera that moves over photographs, and the latents of clips, computed once.

A cache of clips is an `ImageCache` in which the frames of each clip follow one another. A temporal entropy model learns
from what a still codec's transforms make of them, which does not change while it learns: computed anew in every step,
they took nine tenths of it.

Not here: still crops (`crops`), the loop (`rate_distortion`).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from roadbits.codecs.codec import Clip, Image
from roadbits.codecs.neural.slim_model import SlimModel
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


def clips_of(cache: ImageCache, length: int) -> Iterator[Clip]:
    """Yield the clips (length, H, W, 3) of a cache.

    Raises:
        TrainingDataError: if it does not consist of clips of so many frames.
    """
    if len(cache) % length:
        raise TrainingDataError(f"expected clips of {length} frames, got {len(cache)} frames in all: remove the cache")
    for first in range(0, len(cache), length):
        yield np.stack([cache.image(first + k) for k in range(length)])


def parts_of(clip: Clip, side: int) -> list[Clip]:
    """Return the square parts (T, side, side, 3) of a clip, as many as lie side by side in the middle of its frames.

    Raises:
        TrainingDataError: if there is none.
    """
    extents = clip.shape[1:3]
    counts = [extent // side for extent in extents]
    if not all(counts):
        raise TrainingDataError(f"no part of {side} x {side} pixels fits into frames of {extents[0]} x {extents[1]}")
    tops, lefts = (
        [(extent - count * side) // 2 + k * side for k in range(count)]
        for extent, count in zip(extents, counts, strict=True)
    )
    return [clip[:, top : top + side, left : left + side] for top in tops for left in lefts]


@dataclass(frozen=True)
class LatentClips:
    """The latents of short clips under every width of a still codec, in one memory-mapped file.

    Attributes:
        values: float16 (N, T, C, h, w), unquantised, the channels of all widths one after the other.
    """

    values: NDArray[np.float16]

    @classmethod
    def open(cls, path: Path) -> "LatentClips":
        """Open a file that `write` made."""
        return cls(np.load(path, mmap_mode="r"))

    @staticmethod
    def write(path: Path, still: SlimModel, clips: Iterable[Clip], count: int) -> None:
        """Write the latents of some clips (T, side, side, 3), complete or not at all."""
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        values = None
        try:
            for number, clip in enumerate(clips):
                latents = _latents(still, clip)
                if values is None:
                    shape = (count, *latents.shape)
                    values = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
                values[number] = latents
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _latents(still: SlimModel, clip: Clip) -> NDArray[np.float16]:
    """Return the latents (T, C, h, w) of a clip."""
    x = torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 3, 1, 2))).float()
    with torch.inference_mode():
        y = [model.g_a(x.contiguous(memory_format=torch.channels_last)) for model in still.models]
    return torch.cat(y, 1).half().numpy()


class LatentSampler:
    """Batches of the latents of three consecutive frames, turned back in time at random.

    Step `s` of seed `k` always gives the same batch: a resumed run goes on as if it had never stopped.
    """

    def __init__(self, sources: Sequence[LatentClips], weights: Sequence[float], seed: int) -> None:
        """Choose a source by weight, and clips evenly."""
        self._sources, self._seed = sources, seed
        self._weights = np.asarray(weights, dtype=np.float64) / sum(weights)

    def batch(self, step: int, num: int) -> NDArray[np.float16]:
        """Return the samples of one step, float16 (num, 3, C, h, w)."""
        rng = np.random.default_rng((self._seed, step))
        return np.stack([self._sample(rng) for _ in range(num)])

    def _sample(self, rng: np.random.Generator) -> NDArray[np.float16]:
        values = self._sources[int(rng.choice(len(self._sources), p=self._weights))].values
        first = int(rng.integers(values.shape[1] - FRAMES + 1))
        sample = values[int(rng.integers(len(values))), first : first + FRAMES]
        return sample[::-1] if rng.random() < 0.5 else sample
