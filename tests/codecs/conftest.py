"""Small images from seeded generators; no data set is needed."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Image


def _textured(height: int, width: int, seed: int = 0) -> Image:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 60 * np.sin(x / 9 + k) + 50 * np.cos(y / (7 + k)) for k in range(3)], 2)
    noise = np.random.default_rng(seed).normal(0, 18, (height, width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def _smooth(height: int, width: int) -> Image:
    y, x = np.mgrid[:height, :width]
    return np.stack([100 + x * 100 / width, 80 + y * 100 / height, 120 + 0 * x], 2).astype(np.uint8)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on small images two take sixty times as long where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def textured() -> Callable[..., Image]:
    """Return a maker of images (H, W, 3) with waves and noise: `textured(height, width, seed=0)`."""
    return _textured


@pytest.fixture(scope="session")
def smooth() -> Callable[[int, int], Image]:
    """Return a maker of smooth ramps (H, W, 3)."""
    return _smooth
