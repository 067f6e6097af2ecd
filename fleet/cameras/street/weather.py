"""Weather and light as image-space models: day, dusk, rain, fog, night, and the camera's own noise and tone curve.

The renderer draws a plain bright day; `develop` turns it into a domain with the help of the label map and the distance:
Koschmieder's law for haze and fog (transmission exp(-distance / visibility range)), a wet road that mirrors what stands
above the horizon, rain streaks, a dim blue dusk, a night lit by headlights and by what glows. Random numbers come from
the frame's own generator.

Not here: raindrops on the lens, shadows at night, snow.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street.renderer import FIELD_OF_VIEW_DEG, Picture
from roadbits.fleet.cameras.street.traffic import Pose

WEATHERS = ("day", "dusk", "rain", "fog", "night")
SKY = CAMVID11.names.index("sky")
ROAD = CAMVID11.names.index("road")
_LEAFY = (CAMVID11.names.index("tree"), CAMVID11.names.index("fence"), SKY)
_NOISE_BANK = 2**21
Planes = NDArray[np.float32]
"""float32 (3, H, W), 0..255 and above: red, green, blue apart, which numpy works through several times faster."""


@dataclass(frozen=True)
class Air:
    """One weather's numbers.

    Attributes:
        range_m: distance at which a share exp(-1) of the light still arrives.
        airlight: RGB of the haze, 0..255.
        gain: RGB factor on the scene.
        sky_gain: factor on the sky, on top of `gain`.
        sky_through: share of the sky's light that arrives.
        bend: curvature of the tone curve, 0 straight; above 0 darkens the dark.
        noise: sensor noise, deviation in grey levels.
        glow: brightness of windows and lamps, 0 by day.
        skies: which sky textures occur.
    """

    range_m: float
    airlight: tuple[float, float, float]
    gain: tuple[float, float, float]
    sky_gain: float
    sky_through: float
    bend: float
    noise: float
    glow: float
    skies: tuple[int, ...]


AIRS = {
    "day": Air(700.0, (212, 219, 228), (1.2, 1.19, 1.16), 0.95, 0.9, 0.28, 3.6, 0.0, (0, 1, 2)),
    "dusk": Air(500.0, (92, 96, 112), (0.56, 0.58, 0.64), 1.35, 0.9, 0.18, 3.0, 0.4, (1, 2)),
    "rain": Air(190.0, (150, 156, 164), (0.68, 0.71, 0.75), 1.1, 0.7, 0.08, 3.6, 0.2, (2,)),
    "fog": Air(45.0, (186, 190, 194), (0.86, 0.87, 0.88), 1.0, 0.06, 0.0, 3.0, 0.15, (2,)),
    "night": Air(400.0, (10, 11, 16), (0.075, 0.08, 0.105), 0.8, 0.9, 0.0, 4.0, 1.0, (1, 2)),
}


def develop(picture: Picture, weather: str, pose: Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the camera's image uint8 (H, W, 3) of a drawn picture in a weather."""
    air = AIRS[weather]
    planes = np.empty((3, *picture.label.shape), np.float32)
    planes[...] = np.moveaxis(picture.colour[..., :3], -1, 0)
    if weather == "rain":
        _mirror(planes, picture.label, pose)
    light = _headlights(picture, pose) if weather == "night" else None
    _illuminate(planes, picture, air, light)
    if air.glow:
        _shine(planes, picture, air.glow)
    if weather == "rain":
        _streaks(planes, rng)
    return _expose(planes, air, rng)


def _illuminate(planes: Planes, picture: Picture, air: Air, light: NDArray[np.float32] | None) -> None:
    """Apply light and haze in place: what arrives is scene * gain * t + airlight * (1 - t)."""
    sky = picture.label == SKY
    through = np.exp(picture.distance * np.float32(-1 / air.range_m))
    np.minimum(through, 1, out=through)
    through[sky] = air.sky_through
    veil = 1 - through
    through[sky] *= air.sky_gain
    for plane, gain, airlight, lamp in zip(planes, air.gain, air.airlight, (1.0, 0.95, 0.84), strict=True):
        plane *= np.float32(gain) if light is None else np.float32(gain) + np.float32(lamp) * light
        plane *= through
        plane += veil * np.float32(airlight)


def _shine(planes: Planes, picture: Picture, glow: float) -> None:
    """Light windows, lamps and signals in place, each in its own colour and a little warm."""
    power = 255 - picture.colour[..., 3]
    power[np.isin(picture.label, _LEAFY)] = 0
    rows, columns = np.nonzero(power > 12)
    strength = power[rows, columns] * np.float32(glow / 50)
    for plane, colour, warm in zip(planes, range(3), (70.0, 52.0, 26.0), strict=True):
        plane[rows, columns] += (0.75 * picture.colour[rows, columns, colour] + warm) * strength


def _rays(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the tangents of the angles of view: x (W,) to the right, y (H,) downwards."""
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    x = (np.arange(width, dtype=np.float32) - width / 2) / focal
    y = (np.arange(height, dtype=np.float32) - height / 2) / focal
    return x.astype(np.float32), y.astype(np.float32)


def _headlights(picture: Picture, pose: Pose) -> NDArray[np.float32]:
    """Return the light (H, W) of the own headlights: a low cone, falling off with the distance squared."""
    x, y = _rays(*picture.label.shape)
    above = np.maximum(-(y - np.float32(np.tan(pose.pitch))), 0)
    beam = np.exp(-((x / 0.3) ** 2))[None, :] * np.exp(-((above / 0.035) ** 2))[:, None]
    distance = np.where(np.isfinite(picture.distance), np.maximum(picture.distance, 0), 1e4)
    light: NDArray[np.float32] = 1.1 * beam / (1 + (distance / 20) ** 2) + 0.05 * np.exp(-distance / 60)
    return light.astype(np.float32)


def _mirror(planes: Planes, label: NDArray[np.uint8], pose: Pose) -> None:
    """Blend in place a blurred mirror image about the horizon into the wet road."""
    height, width = label.shape
    _, y = _rays(height, width)
    horizon = int(np.searchsorted(y, np.tan(pose.pitch)))
    rows = np.arange(max(0, horizon) + 1, height)
    if not len(rows):
        return
    source = np.clip(2 * horizon - rows, 0, height - 1)
    smear = max(1, height // 60)
    mirrored = sum(planes[:, np.clip(source - k * smear, 0, height - 1)] for k in range(5)) / np.float32(5)
    wet = (label[rows] == ROAD) * np.float32(0.26)
    planes[:, rows] = planes[:, rows] * (1 - 1.6 * wet) + mirrored * wet


def _streaks(planes: Planes, rng: np.random.Generator) -> None:
    """Draw rain streaks in place: short slanting bright lines, as many per area in any size."""
    _, height, width = planes.shape
    count = height * width // 500
    length = max(3, height // 28)
    top, left = rng.integers(0, height, count), rng.integers(0, width, count)
    bright = rng.uniform(6, 26, count).astype(np.float32)
    slant = rng.uniform(-0.15, 0.25)
    for step in range(length):
        y, x = top + step, (left + slant * step).astype(int)
        keep = (y < height) & (x >= 0) & (x < width)
        planes[:, y[keep], x[keep]] += bright[keep]


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.float32]:
    """Return unit noise to be read from random places: drawing it per frame costs more than the rendering."""
    return np.random.default_rng(20240229).standard_normal(_NOISE_BANK, dtype=np.float32)


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return unit noise of a shape, read from the bank at a random place; large pictures repeat the bank."""
    size = int(np.prod(shape))
    bank = _noise_bank()
    start = int(rng.integers(_NOISE_BANK // 2))
    if start + size > _NOISE_BANK:
        return np.resize(bank[start:], size).reshape(shape)
    return bank[start : start + size].reshape(shape)


def _expose(planes: Planes, air: Air, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image the camera stores: sensor noise, quadratic tone curve, 8 bits."""
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for channel, (plane, noise) in enumerate(zip(planes, _noise(planes.shape, rng), strict=True)):
        plane += noise * np.float32(air.noise)
        np.clip(plane, 0, 255, out=plane)
        plane *= plane * np.float32(air.bend / 255) + np.float32(1 - air.bend)
        image[..., channel] = plane
    return image
