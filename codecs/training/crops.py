"""Random crops of training images, from a memory-mapped cache that many runs share.

The cache is one file of raw uint8 RGB pixels, image after image, and a JSON index of their sizes. Photographs are
usually lossy already: storing them at several reduced sizes removes those traces and multiplies the textures.

Not here: the loop that uses the crops (`rate_distortion`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from roadbits.codecs.codec import Image


class TrainingDataError(Exception):
    """Training images that are missing, too small or unreadable."""


def reduced(image: Image, factors: Sequence[float], smallest_side: int) -> list[Image]:
    """Return the image divided by each factor, without those whose shorter side falls below `smallest_side`."""
    height, width = image.shape[:2]
    sizes = [(round(width / factor), round(height / factor)) for factor in factors]
    return [
        np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.LANCZOS))
        if size != (width, height)
        else image
        for size in sizes
        if min(size) >= smallest_side
    ]


@dataclass(frozen=True)
class ImageCache:
    """Images in one memory-mapped file.

    Attributes:
        pixels: uint8, all images flattened one after the other.
        shapes: int64 (n, 2), height and width of each.
        starts: int64 (n,), where each begins.
    """

    pixels: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def open(cls, path: Path) -> "ImageCache":
        """Open a cache that `write` made.

        Raises:
            TrainingDataError: if its two files do not belong together.
        """
        shapes = np.array(json.loads(path.with_suffix(".json").read_text()), dtype=np.int64).reshape(-1, 2)
        starts = np.concatenate(([0], np.cumsum(3 * shapes.prod(axis=1))))
        pixels = np.memmap(path, dtype=np.uint8, mode="r")
        if len(pixels) != starts[-1]:
            raise TrainingDataError(f"{path} holds {len(pixels)} bytes, its index promises {starts[-1]}: remove both")
        return cls(pixels, shapes, starts[:-1])

    @staticmethod
    def write(path: Path, images: Iterable[Image]) -> None:
        """Write images to a cache, complete or not at all.

        Raises:
            TrainingDataError: if there are no images.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        shapes = []
        try:
            with unfinished.open("wb") as file:
                for image in images:
                    shapes.append(image.shape[:2])
                    file.write(np.ascontiguousarray(image).tobytes())
            if not shapes:
                raise TrainingDataError("no training images: the folders hold none that are large enough")
            path.with_suffix(".json").write_text(json.dumps(shapes))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.shapes)

    def image(self, index: int) -> Image:
        """Return a view of one image."""
        height, width = self.shapes[index]
        start = self.starts[index]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def digest(self) -> str:
        """Return a hash of all pixels and sizes."""
        state = hashlib.sha256(json.dumps(self.shapes.tolist()).encode())
        for start in range(0, len(self.pixels), 1 << 24):
            state.update(self.pixels[start : start + (1 << 24)].tobytes())
        return state.hexdigest()


class CropSampler:
    """Batches of square crops, flipped at random, from caches mixed by weight.

    Step `s` of seed `k` always gives the same batch: a resumed run goes on as if it had never stopped.
    """

    def __init__(
        self,
        caches: Sequence[ImageCache],
        weights: Sequence[float],
        size: int,
        seed: int,
        busiest_of: int = 1,
        decimated: Sequence[float] = (),
    ) -> None:
        """Choose a cache by weight and an image within it by the root of its area.

        Args:
            caches: where from.
            weights: of the caches.
            size: side of a crop, in pixels.
            seed: of all choices.
            busiest_of: draw that many crops and take the one with the strongest gradients. Photographs are calmer than
                the view from a car: at JPEG quality 20 their crops take .33 to .5 bpp, frames of CamVid and KITTI
                .57 and .71.
            decimated: of each cache, the share of crops that are every second pixel of a part of twice the size, where
                the image has as much; 0 if left out. Data sets that were resized without a filter look so: between .4
                and .5 cycles per pixel frames of CamVid have 5.6 dB more power than photographs reduced with one.

        Raises:
            TrainingDataError: if a cache has no image of at least `size` pixels a side.
        """
        self._caches, self._size, self._seed, self._busiest_of = caches, size, seed, busiest_of
        self._decimated = decimated or (0.0,) * len(caches)
        self._weights = np.asarray(weights, dtype=np.float64) / sum(weights)
        self._chances = []
        for number, cache in enumerate(caches):
            roots = np.where(cache.shapes.min(axis=1) >= size, np.sqrt(cache.shapes.prod(axis=1)), 0.0)
            if not roots.any():
                raise TrainingDataError(f"source {number} has no image of at least {size} x {size} pixels")
            self._chances.append(roots / roots.sum())

    def batch(self, step: int, num: int) -> NDArray[np.uint8]:
        """Return the crops of one step, uint8 (num, 3, size, size)."""
        rng = np.random.default_rng((self._seed, step))
        return np.stack([self._crop(rng) for _ in range(num)]).transpose(0, 3, 1, 2)

    def _crop(self, rng: np.random.Generator) -> Image:
        source = int(rng.choice(len(self._caches), p=self._weights))
        step = 2 if self._decimated[source] and rng.random() < self._decimated[source] else 1
        crop = max((self._cut(rng, source, self._size, step) for _ in range(self._busiest_of)), key=_busyness)
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def _cut(self, rng: np.random.Generator, source: int, size: int, step: int = 1) -> Image:
        """Return a crop of one source, as much of `size` as the image has, of every `step`th pixel if it has enough."""
        cache = self._caches[source]
        image = cache.image(rng.choice(len(cache), p=self._chances[source]))
        if min(image.shape[:2]) >= step * size:
            image = image[::step, ::step]
        height, width = (min(size, side) for side in image.shape[:2])
        top, left = (rng.integers(side - cut + 1) for side, cut in zip(image.shape[:2], (height, width), strict=True))
        return image[top : top + height, left : left + width]

    def calibration_images(self, num: int, size: int = 256) -> list[Image]:
        """Return images (H, W, 3) to measure ranges on, always the same ones.

        The sources share the number exactly by weight, not by chance.

        Args:
            num: how many.
            size: of a side, where the image has as much; training's own `size` at least.
        """
        rng = np.random.default_rng(self._seed)
        sources = np.searchsorted(self._weights.cumsum(), (np.arange(num) + 0.5) / num)
        return [self._cut(rng, int(source), max(size, self._size)).copy() for source in sources]


def _busyness(crop: Image) -> float:
    """Return the mean magnitude of the gradient of green; of one crop alone it decides nothing."""
    green = crop[::2, ::2, 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
