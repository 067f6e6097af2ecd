"""Seeded surface textures of the street world: ground, walls, roofs, paint, clouds.

Every texture is computed here from a numpy generator; nothing is read from a file. Textures tile in both directions.
The alpha channel of an opaque texture means *light*: 255 is a plain surface, lower values glow in the dark (see
`GLOW_WINDOW`, `GLOW_LAMP`); for a cutout texture alpha is the silhouette.

Not here: facades (`facades`), silhouettes such as leaves and railings (`cutouts`).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Texels = NDArray[np.uint8]
"""uint8 (h, w, 4) RGBA with h and w powers of two; row 0 is the top."""

GLOW_WINDOW = 205
GLOW_LAMP = 150


def spectral_noise(rng: np.random.Generator, height: int, width: int, slope: float) -> NDArray[np.float32]:
    """Return tiling noise float32 (height, width), mean 0 and deviation 1, with amplitude ~ 1 / frequency**slope."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * _falloff(height, width, slope), s=(height, width))
    unit: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return unit


@lru_cache(maxsize=64)
def _falloff(height: int, width: int, slope: float) -> NDArray[np.float32]:
    """Return 1 / frequency**slope on the half plane of `rfft2`, 0 at frequency 0."""
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.rfftfreq(width)[None, :] * width
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    falloff: NDArray[np.float32] = (radius**-slope).astype(np.float32)
    return falloff


def texels(rgb: NDArray[np.floating], alpha: NDArray[np.floating] | float = 255.0) -> Texels:
    """Pack rgb (h, w, 3) and alpha (h, w), both 0..255, into RGBA bytes."""
    packed = np.empty((*rgb.shape[:2], 4), np.uint8)
    packed[..., :3] = np.clip(rgb, 0, 255)
    packed[..., 3] = np.clip(alpha, 0, 255)
    return packed


def tinted(base: tuple[float, float, float], value: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rgb float32 (h, w, 3): the colour `base` times `value` (h, w)."""
    return (np.asarray(base, np.float32) * value[..., None]).astype(np.float32)


def asphalt(rng: np.random.Generator, size: int = 512) -> Texels:
    """Return asphalt with grain, stains, mended patches and cracks; it covers 8 m x 8 m."""
    value = 1 + 0.11 * spectral_noise(rng, size, size, 0.05) + 0.05 * spectral_noise(rng, size, size, 1.2)
    for _ in range(4):
        y, x = rng.integers(0, size, 2)
        h, w = rng.integers(size // 16, size // 4, 2)
        value[y : y + h, x : x + w] *= rng.uniform(0.8, 1.12)
    for _ in range(5):
        steps = np.cumsum(rng.normal(0, 1.2, size // 2)).astype(int)
        x = (rng.integers(size) + steps) % size
        y = (rng.integers(size) + np.arange(len(steps))) % size
        value[y, x] *= 0.6
        value[y, (x + 1) % size] *= 0.75
    base = rng.uniform(82, 104)
    return texels(tinted((base, base, base * rng.uniform(0.98, 1.06)), value))


def paving(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return paving slabs with joints, each slab of its own tone; it covers 3.6 m x 3.6 m."""
    rows, columns = int(rng.choice([4, 8])), int(rng.choice([4, 8]))
    y, x = np.mgrid[:size, :size]
    row = y * rows // size
    shifted = (x + (row % 2) * size // (2 * columns)) % size
    tone = rng.normal(1, 0.07, (rows, columns))[row, shifted * columns // size]
    joint = ((y * rows) % size < rows * 2) | ((shifted * columns) % size < columns * 2)
    grain = 1 + 0.09 * spectral_noise(rng, size, size, 0.1) + 0.04 * spectral_noise(rng, size, size, 1.3)
    value = tone * grain * np.where(joint, 0.68, 1)
    base = rng.uniform(118, 150)
    return texels(tinted((base, base * rng.uniform(0.93, 1), base * rng.uniform(0.84, 0.99)), value))


def grass(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return mown grass with bare spots; it covers 4 m x 4 m."""
    blades = spectral_noise(rng, size, size, 0.2)
    patches = spectral_noise(rng, size, size, 1.4)
    green = tinted((88, 104, 50), 1 + 0.24 * blades + 0.1 * patches)
    dirt = tinted((112, 96, 70), 1 + 0.15 * blades)
    return texels(np.where((patches > 1.1)[..., None], dirt, green))


def gravel(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return grey-brown gravel or worn concrete; it covers 4 m x 4 m."""
    value = 1 + 0.15 * spectral_noise(rng, size, size, 0.3) + 0.08 * spectral_noise(rng, size, size, 1.3)
    return texels(tinted((128, 122, 110), value))


def bricks(rng: np.random.Generator, size: int = 256, courses: int = 32) -> NDArray[np.float32]:
    """Return brickwork rgb float32 (size, size, 3) with mortar; colours from red over yellow to grey-brown."""
    y, x = np.mgrid[:size, :size]
    course = y * courses // size
    per_row = courses // 3
    shifted = (x + (course % 2) * size // (2 * per_row)) % size
    tone = rng.normal(1, 0.13, (courses, per_row))[course, shifted * per_row // size]
    mortar = ((y * courses) % size < courses) | ((shifted * per_row) % size < per_row)
    bases = ((150, 88, 68), (172, 140, 100), (140, 118, 96), (118, 84, 72), (186, 164, 128))
    base = bases[int(rng.integers(len(bases)))]
    stains = 1 + 0.07 * spectral_noise(rng, size, size, 1.3) + 0.06 * spectral_noise(rng, size, size, 0.1)
    wall = tinted(base, tone * stains)
    return np.where(mortar[..., None], tinted((165, 158, 148), stains), wall)


def plaster(rng: np.random.Generator, size: int = 256) -> NDArray[np.float32]:
    """Return weathered render or concrete rgb float32 (size, size, 3)."""
    bases = ((205, 200, 188), (176, 172, 166), (196, 182, 150), (150, 150, 152), (214, 208, 204), (120, 118, 116))
    base = bases[int(rng.integers(len(bases)))]
    streaks = spectral_noise(rng, 1, size, 0.7) * np.linspace(1, 0.3, size)[:, None]
    value = 1 + 0.05 * spectral_noise(rng, size, size, 1.1) + 0.05 * spectral_noise(rng, size, size, 0.05)
    return tinted(base, value + 0.05 * streaks)


def stone(rng: np.random.Generator, size: int = 256) -> NDArray[np.float32]:
    """Return coursed ashlar rgb float32 (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    rows, columns = 12, 6
    row = y * rows // size
    shifted = (x + (row % 2) * size // (2 * columns)) % size
    tone = rng.normal(1, 0.09, (rows, columns))[row, shifted * columns // size]
    joint = ((y * rows) % size < rows) | ((shifted * columns) % size < columns)
    value = tone * (1 + 0.09 * spectral_noise(rng, size, size, 0.4)) * np.where(joint, 0.75, 1)
    return tinted((168, 156, 134), value)


def roof_tiles(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return slates or clay tiles; it covers 4 m x 4 m."""
    y, x = np.mgrid[:size, :size]
    rows, columns = 16, 16
    row = y * rows // size
    shifted = (x + (row % 2) * size // (2 * columns)) % size
    tone = rng.normal(1, 0.12, (rows, columns))[row, shifted * columns // size]
    edge = 1 - 0.4 * ((y * rows % size) > 0.8 * size) - 0.2 * ((shifted * columns % size) < columns)
    value = tone * edge * (1 + 0.07 * spectral_noise(rng, size, size, 0.8))
    bases = ((92, 90, 94), (132, 84, 66), (104, 86, 74))
    return texels(tinted(bases[int(rng.integers(3))], value))


def worn_paint(rng: np.random.Generator, size: int = 128) -> Texels:
    """Return worn white road paint; alpha is 0 where the paint has gone."""
    wear = spectral_noise(rng, size, size, 0.6)
    value = 1 + 0.06 * spectral_noise(rng, size, size, 0.1)
    return texels(tinted((214, 213, 206), value), np.where(wear > 1.45, 0.0, 255.0))


def car_paint(rng: np.random.Generator, size: int = 64) -> Texels:
    """Return the light on a car body: sky above, road dirt below, small reflections; white, to be tinted."""
    height = np.linspace(1.08, 0.72, size)[:, None] * np.ones((1, size))
    value = height + 0.05 * spectral_noise(rng, size, size, 0.9) + 0.02 * spectral_noise(rng, size, size, 0.0)
    return texels(tinted((236, 238, 242), value))


def glass(rng: np.random.Generator, size: int = 64) -> Texels:
    """Return car glass: dark, with the reflection of sky and houses; white-ish above."""
    bands = spectral_noise(rng, size, size, 1.3)
    value = np.linspace(1.9, 0.5, size)[:, None] + 0.14 * bands
    return texels(tinted((58, 66, 74), value))


def cloth(rng: np.random.Generator, size: int = 64) -> Texels:
    """Return folded cloth or skin, almost white, to be tinted."""
    value = 0.88 + 0.1 * spectral_noise(rng, size, size, 0.9) + 0.04 * spectral_noise(rng, size, size, 0.0)
    return texels(tinted((250, 250, 250), value))


def metal(rng: np.random.Generator, size: int = 64) -> Texels:
    """Return painted or zinc-coated metal, light grey, to be tinted."""
    value = 0.85 + 0.07 * spectral_noise(rng, size, size, 0.7)
    return texels(tinted((240, 240, 240), value))


def bark(rng: np.random.Generator, size: int = 64) -> Texels:
    """Return bark with upright furrows."""
    furrows = np.repeat(spectral_noise(rng, size // 8, size, 0.3), 8, axis=0)
    value = 1 + 0.2 * furrows + 0.1 * spectral_noise(rng, size, size, 0.2)
    return texels(tinted((98, 84, 68), value))


def clouds(rng: np.random.Generator, overcast: float, height: int = 256, width: int = 512) -> Texels:
    """Return a sky from the zenith (row 0) to the horizon, tiling around; `overcast` 0..1 closes the cloud cover."""
    stretched = spectral_noise(rng, height, width, 1.6) + 0.25 * spectral_noise(rng, height, width, 1.0)
    cover = np.clip((stretched + 2.4 * overcast - 0.9) / 1.2, 0, 1)[..., None]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    blue = np.array([96, 148, 212]) * (1 - down) + np.array([212, 226, 240]) * down
    shade = 232 - 42 * overcast * np.clip(spectral_noise(rng, height, width, 1.5) + 0.3, -1, 1.6)[..., None]
    white = shade * np.array([1.0, 1.0, 1.02])
    return texels(blue * (1 - cover) + white * cover)
