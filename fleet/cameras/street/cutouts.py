"""Seeded silhouettes of the street world: leaves, bare branches, railings, sign plates, spoked wheels.

Alpha is 255 inside the silhouette and 0 outside; label masks use the same texels, so they follow the visible pixels.

Not here: opaque surfaces (`textures`, `facades`).
"""

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.street.facades import lettering
from roadbits.fleet.cameras.street.textures import GLOW_LAMP, Texels, spectral_noise, texels, tinted

SIGN_CELLS = 4
"""The sign atlas has SIGN_CELLS x SIGN_CELLS plates; the last row holds traffic lights."""


def foliage(rng: np.random.Generator, colour: tuple[float, float, float], size: int = 256) -> Texels:
    """Return a leafy clump with a ragged outline, holes, and light from above."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lumps = spectral_noise(rng, size, size, 1.1)
    leaves = spectral_noise(rng, size, size, 0.45)
    inside = 1.0 - np.hypot(x, y) * 1.3 + 0.24 * lumps + 0.11 * leaves > 0.1
    light = 0.8 - 0.25 * y + 0.24 * leaves + 0.18 * lumps + 0.06 * spectral_noise(rng, size, size, 0.0)
    hue = 1 + 0.07 * spectral_noise(rng, size, size, 0.8)[..., None] * np.array([1.0, 0.0, -0.6])
    return texels(tinted(colour, np.clip(light, 0.15, 1.7)) * hue, np.where(inside, 255.0, 0.0))


def hedge(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return a hedge tiling along its length, ragged at the top; it covers 3 m along."""
    leaves = spectral_noise(rng, size, size, 0.3)
    top = 0.1 * size + 10 * spectral_noise(rng, 1, size, 0.5)[0]
    inside = np.arange(size)[:, None] > top[None, :]
    light = np.linspace(1.15, 0.5, size)[:, None] + 0.25 * leaves
    return texels(tinted((74, 90, 48), np.clip(light, 0.1, 2)), np.where(inside, 255.0, 0.0))


def branches(rng: np.random.Generator, size: int = 256) -> Texels:
    """Return a bare tree: twigs grown from the trunk upwards in seven generations."""
    ink = np.zeros((size, size), bool)
    tips = [(size - 1.0, size / 2, np.pi / 2, 0.3 * size, 7.0)]
    for _ in range(7):
        grown: list[tuple[float, float, float, float, float]] = []
        for y, x, angle, length, thickness in tips:
            bend = angle + np.cumsum(rng.normal(0, 0.05, max(4, int(length))))
            ys, xs = y - np.cumsum(np.sin(bend)), x + np.cumsum(np.cos(bend))
            _stamp(ink, ys, xs, max(1, int(thickness)))
            for side in (-1, 1):
                cut = int(len(ys) * rng.uniform(0.6, 1)) - 1
                turn = side * rng.uniform(0.2, 0.65)
                grown.append((ys[cut], xs[cut], bend[-1] + turn, length * rng.uniform(0.6, 0.85), thickness * 0.66))
        tips = grown
    value = 1 + 0.25 * spectral_noise(rng, size, size, 0.3)
    return texels(tinted((80, 70, 60), value), np.where(ink, 255.0, 0.0))


def _stamp(ink: NDArray[np.bool_], ys: NDArray[np.floating], xs: NDArray[np.floating], thickness: int) -> None:
    """Draw a polyline of square dots into `ink`; what falls outside is dropped."""
    size = len(ink)
    for dy in range(-(thickness // 2), thickness - thickness // 2):
        for dx in range(-(thickness // 2), thickness - thickness // 2):
            y, x = ys.astype(int) + dy, xs.astype(int) + dx
            keep = (y >= 0) & (y < size) & (x >= 1) & (x < size - 1)
            ink[y[keep], x[keep]] = True


def railing(rng: np.random.Generator, size: int = 128) -> Texels:
    """Return upright bars between two rails, tiling along; it covers 2 m along."""
    y, x = np.mgrid[:size, :size]
    pitch = int(rng.choice([8, 16]))
    bars = (x % pitch < pitch * 0.4) & (y > 6)
    rails = ((y > 10) & (y < 18)) | ((y > 108) & (y < 116))
    posts = x < 7
    value = 1 + 0.15 * spectral_noise(rng, size, size, 0.3)
    colours = ((46, 48, 50), (64, 82, 68), (150, 152, 154))
    colour = colours[int(rng.integers(3))]
    return texels(tinted(colour, value), np.where(bars | rails | posts, 255.0, 0.0))


def planks(rng: np.random.Generator, size: int = 128) -> Texels:
    """Return a board fence with gaps and uneven tops; it covers 2 m along."""
    y, x = np.mgrid[:size, :size]
    board = x // 16
    tone = rng.normal(1, 0.14, 8)[board]
    tops = rng.integers(0, 8, 8)[board]
    grain = 0.1 * np.repeat(spectral_noise(rng, size // 16, size, 0.2), 16, axis=0)
    value = tone + grain + 0.06 * spectral_noise(rng, size, size, 0.1)
    inside = (x % 16 > 0) & (y > tops)
    return texels(tinted((134, 104, 76), value), np.where(inside, 255.0, 0.0))


def guard_rail(rng: np.random.Generator, size: int = 128) -> Texels:
    """Return a W-beam on posts, tiling along; it covers 4 m along and 0.8 m upwards."""
    y, x = np.mgrid[:size, :size]
    beam = y < 58
    posts = (x % 64) < 7
    wave = 0.75 + 0.3 * np.cos(y / 58 * 4 * np.pi)
    value = np.where(beam, wave, 0.6) * (1 + 0.08 * spectral_noise(rng, size, size, 0.5))
    return texels(tinted((168, 170, 172), value), np.where(beam | posts, 255.0, 0.0))


def bike_wheel(size: int = 64) -> Texels:
    """Return a bicycle wheel: tyre, rim and spokes."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    tyre = (radius < 0.98) & (radius > 0.8)
    spokes = (radius < 0.9) & (np.abs(np.sin(angle * 6)) < 0.16 / np.maximum(radius, 0.1))
    rgb = tinted((60, 60, 62), np.where(tyre, 0.5, 1.6))
    return texels(rgb, np.where(tyre | spokes, 255.0, 0.0))


def signs(rng: np.random.Generator, cell: int = 64) -> Texels:
    """Return an atlas of SIGN_CELLS x SIGN_CELLS plates: discs, triangles, boards with lettering, traffic lights."""
    atlas = np.zeros((SIGN_CELLS * cell, SIGN_CELLS * cell, 4), np.float32)
    for row in range(SIGN_CELLS):
        for column in range(SIGN_CELLS):
            plate = atlas[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            paint = (_disc, _triangle, _board, _lights)[row]
            paint(rng, plate, column)
    noise = 1 + 0.05 * spectral_noise(rng, *atlas.shape[:2], 0.5)[..., None]
    return texels(atlas[..., :3] * noise, atlas[..., 3])


def _axes(cell: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y and x (cell, cell) from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : cell * 1j, -1 : 1 : cell * 1j]
    return y, x


def _symbol(rng: np.random.Generator, cell: int) -> NDArray[np.bool_]:
    """Return a mirror-symmetric random pictogram bool (cell, cell) in the middle of the plate."""
    half = rng.random((8, 4)) < 0.5
    grid = np.concatenate([half, half[:, ::-1]], axis=1)
    mark = np.zeros((cell, cell), bool)
    mark[cell // 4 : cell // 4 * 3, cell // 4 : cell // 4 * 3] = grid.repeat(cell // 16, 0).repeat(cell // 16, 1)
    return mark


def _disc(rng: np.random.Generator, plate: NDArray[np.float32], column: int) -> None:
    y, x = _axes(len(plate))
    radius = np.hypot(x, y)
    blue = column % 2 == 1
    plate[radius < 0.97] = (30, 70, 160, 255) if blue else (200, 30, 34, 255)
    plate[radius < 0.7, :3] = (40, 84, 178) if blue else (238, 238, 234)
    plate[_symbol(rng, len(plate)) & (radius < 0.66), :3] = 240 if blue else 20


def _triangle(rng: np.random.Generator, plate: NDArray[np.float32], column: int) -> None:
    y, x = _axes(len(plate))
    y = y if column % 3 else -y
    edge = np.maximum(np.abs(x) * 1.15 - (y + 1) / 2 * 1.12, y - 0.95)
    plate[edge < 0] = (204, 36, 36, 255)
    plate[edge < -0.17, :3] = (240, 238, 230)
    plate[_symbol(rng, len(plate)) & (edge < -0.22), :3] = 25


def _board(rng: np.random.Generator, plate: NDArray[np.float32], column: int) -> None:
    colours = ((28, 104, 66), (226, 200, 60), (236, 236, 232), (30, 76, 152))
    plate[3:-3, 2:-2] = (*colours[column], 255)
    ink = 24 if column in (1, 2) else 244
    for top in range(8, len(plate) - 14, 15):
        plate[top : top + 11, 5:-5, :3][lettering(rng, 11, len(plate) - 10)] = ink


def _lights(_: np.random.Generator, plate: NDArray[np.float32], column: int) -> None:
    y, x = _axes(len(plate))
    plate[:, len(plate) // 4 : -len(plate) // 4] = (26, 27, 26, 255)
    lit = column % 3
    colours = ((255, 60, 40), (255, 180, 40), (60, 240, 150))
    for lamp in range(3):
        disc = np.hypot(x / 1.0, y - (lamp - 1) * 0.6) < 0.25
        plate[disc] = (*colours[lamp], GLOW_LAMP) if lamp == lit else (54, 50, 46, 255)
