"""Seeded facades of the street world: walls with windows, shop fronts, office fronts.

An upper-floor texture shows 4 floors x 4 bays, a ground-floor texture 1 floor x 4 bays; both tile along the street.
Some windows glow in the dark (alpha `GLOW_WINDOW`).

Not here: the shape of a building (`geometry`, `scene`).
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.street.textures import (
    GLOW_WINDOW,
    Texels,
    bricks,
    plaster,
    spectral_noise,
    stone,
    texels,
)

BAYS = 4
FLOORS = 4
Canvas = NDArray[np.float32]
"""float32 (h, w, 4): red, green, blue, alpha, 0..255."""


def lettering(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """Return text-like strokes bool (height, width): words of random glyphs on one line."""
    ink = np.zeros((height, width), bool)
    scale = max(1, height // 7)
    glyph_h, glyph_w = 5 * scale, 3 * scale
    x = int(rng.integers(scale, 3 * scale))
    top = max(0, (height - glyph_h) // 2)
    while x + glyph_w < width - scale:
        if rng.random() > 0.18:
            cells = rng.random((5, 3)) < 0.62
            cells[:, 0] |= rng.random() < 0.7
            glyph = cells.repeat(scale, 0).repeat(scale, 1)[: height - top]
            ink[top : top + glyph.shape[0], x : x + glyph_w] = glyph
        x += glyph_w + scale
    return ink


def _pane(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Return one window pane: dark glass with a reflection and perhaps a curtain; about half of them glow."""
    pane = np.empty((height, width, 4), np.float32)
    tone = rng.uniform(28, 80)
    slope = np.linspace(rng.uniform(0.9, 1.9), rng.uniform(0.6, 1.1), height)[:, None, None]
    pane[..., :3] = tone * slope * np.array([0.94, 1.0, 1.1]) + rng.normal(0, 4, (height, width, 1))
    if rng.random() < 0.4:
        edge = int(width * rng.uniform(0.15, 0.4))
        pane[:, :edge, :3] = rng.uniform(110, 200)
        pane[:, width - edge :, :3] = rng.uniform(110, 200)
    if rng.random() < 0.3:
        pane[: int(height * rng.uniform(0.2, 0.6)), :, :3] = rng.uniform(130, 210)
    pane[..., 3] = GLOW_WINDOW if rng.random() < 0.45 else 255
    return pane


def _window(
    rng: np.random.Generator, canvas: Canvas, top: int, left: int, height: int, width: int, look: float
) -> None:
    """Paint a framed window with sill, lintel and glazing bars onto the canvas; `look` (0..1) chooses the fashion."""
    frame = 226.0 if look < 0.65 else 58.0
    canvas[top - 3 : top, left - 3 : left + width + 3, :3] *= 0.66 if look < 0.4 else 1.2
    canvas[top + height : top + height + 3, left - 4 : left + width + 4, :3] = 190 - 70 * look
    canvas[top + height + 3 : top + height + 6, left - 4 : left + width + 4, :3] *= 0.7
    canvas[top : top + height, left : left + width, :3] = frame
    canvas[top + 2 : top + height - 2, left + 2 : left + width - 2] = _pane(rng, height - 4, width - 4)
    canvas[top + 2 : top + 5, left + 2 : left + width - 2, :3] *= 0.5
    bars = (height // 2,) if look < 0.8 else ()
    for bar in bars:
        canvas[top + bar : top + bar + 2, left : left + width, :3] = frame
    if width > 30 or look < 0.3:
        canvas[top : top + height, left + width // 2 : left + width // 2 + 2, :3] = frame


def _wall(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Return a plain wall of brick, render or stone as a canvas."""
    kind = rng.random()
    tile = bricks(rng) if kind < 0.5 else plaster(rng) if kind < 0.85 else stone(rng)
    canvas = np.full((height, width, 4), 255, np.float32)
    canvas[..., :3] = np.tile(tile, (-(-height // 256), -(-width // 256), 1))[:height, :width]
    return canvas


def plain_wall(rng: np.random.Generator) -> Texels:
    """Return a wall without windows; it covers 6 m x 6 m."""
    canvas = _wall(rng, 256, 256)
    return texels(canvas[..., :3], canvas[..., 3])


def upper_floors(rng: np.random.Generator, size: int = 512) -> Texels:
    """Return 4 floors x 4 bays of windows in a wall of brick, render or stone."""
    canvas = _wall(rng, size, size)
    cell = size // BAYS
    look = float(rng.random())
    height = int(cell * rng.uniform(0.45, 0.68))
    width = int(cell * rng.uniform(0.3, 0.66))
    top, left = int((cell - height) * 0.45), (cell - width) // 2
    if rng.random() < 0.4:
        for floor in range(FLOORS):
            row = floor * cell
            canvas[row : row + 5, :, :3] = canvas[row : row + 5, :, :3] * 0.3 + 130
            canvas[row + 5 : row + 7, :, :3] *= 0.6
    for floor in range(FLOORS):
        for bay in range(BAYS):
            _window(rng, canvas, floor * cell + top, bay * cell + left, height, width, look)
    return texels(canvas[..., :3], canvas[..., 3])


def office_floors(rng: np.random.Generator, size: int = 512) -> Texels:
    """Return 4 floors of ribbon windows or curtain wall with mullions."""
    canvas = _wall(rng, size, size)
    canvas[..., :3] = canvas[..., :3] * 0.5 + rng.uniform(40, 110)
    cell = size // FLOORS
    ribbon = int(cell * rng.uniform(0.5, 0.85))
    panes = int(rng.choice([2, 3, 4]))
    step = cell // panes
    for floor in range(FLOORS):
        row = floor * cell + (cell - ribbon) // 2
        for column in range(0, BAYS * panes):
            x = column * step
            canvas[row : row + ribbon, x + 2 : x + step - 1] = _pane(rng, ribbon, step - 3)
        canvas[row : row + 3, :, :3] *= 0.6
    return texels(canvas[..., :3], canvas[..., 3])


def shop_fronts(rng: np.random.Generator, height: int = 128, width: int = 512) -> Texels:
    """Return a ground floor of shops: fascia with lettering, display windows with goods, doors."""
    canvas = _wall(rng, height, width)
    shops = int(rng.choice([2, 3, 4]))
    edges = np.linspace(0, width, shops + 1).astype(int)
    for left, right in pairwise(edges):
        colour = rng.uniform(20, 210, 3)
        canvas[8:38, left + 3 : right - 3, :3] = colour
        ink = lettering(rng, 24, right - left - 16)
        region = canvas[11:35, left + 8 : right - 8, :3]
        region[ink] = 245 if colour.mean() < 130 else 25
        canvas[38:, left + 3 : right - 3, :3] = colour * 0.6
        goods = spectral_noise(rng, 128, 128, 0.9)[:76, : right - left - 22, None]
        shades = 75 + 34 * goods + 28 * rng.normal(size=3) * (goods > 0.5)
        canvas[42 : 42 + 76, left + 10 : left + 10 + shades.shape[1], :3] = shades
        canvas[42 : 42 + 76, left + 10 : left + 10 + shades.shape[1], 3] = GLOW_WINDOW if rng.random() < 0.7 else 255
        door = left + int((right - left) * rng.uniform(0.2, 0.7))
        canvas[44:, door : door + 22, :3] = colour * 0.4
        canvas[48:100, door + 4 : door + 18, :3] = 60
        for bar in range(left + 10, right - 10, int(rng.integers(28, 60))):
            canvas[40:, bar : bar + 2, :3] = colour * 0.5
    return texels(canvas[..., :3], canvas[..., 3])


def house_fronts(rng: np.random.Generator, height: int = 128, width: int = 512) -> Texels:
    """Return a ground floor of dwellings: doors with steps between windows."""
    canvas = _wall(rng, height, width)
    cell = width // BAYS
    look = float(rng.random())
    for bay in range(BAYS):
        left = bay * cell
        if rng.random() < 0.45:
            x = left + int(rng.integers(20, 60))
            canvas[22:, x - 4 : x + 40, :3] = 205
            canvas[28:, x : x + 36, :3] = rng.uniform(15, 150, 3)
            canvas[28:42, x + 3 : x + 33] = _pane(rng, 14, 30)
            canvas[50:80:3, x + 5 : x + 31, :3] *= 0.75
        else:
            _window(rng, canvas, 30, left + 30, 66, 64, look)
    canvas[116:, :, :3] *= 0.7
    return texels(canvas[..., :3], canvas[..., 3])
