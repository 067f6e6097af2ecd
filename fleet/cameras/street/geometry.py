"""Quadrilaterals: the one primitive of the street world, and the shapes made of it.

A `Patch` is a set of quads of one material and one class. Shapes are made in street coordinates (x right, y forward
along the street, z up, metres) or in an object's own; `Patch.moved` places an object. Corners run counter-clockwise
seen from outside. Colours multiply the texture; an alpha below 255 makes the surface glow in the dark.

Not here: what is built of these shapes (`models`, `scene`) and panda3d (`renderer`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vectors = NDArray[np.float32]
WHITE = (255.0, 255.0, 255.0, 255.0)
_UNIT = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


@dataclass(frozen=True, eq=False)
class Patch:
    """Quads of one material and class.

    Attributes:
        material: key of the material pool.
        class_id: the class of the label mask.
        corners: float32 (Q, 4, 3), metres.
        uv: float32 (Q, 4, 2), texture coordinates, v upwards.
        colour: float32 (Q, 4) RGBA 0..255.
    """

    material: str
    class_id: int
    corners: Vectors
    uv: Vectors
    colour: Vectors

    def moved(self, x: float, y: float, z: float, heading: float = 0.0) -> "Patch":
        """Return the patch turned by `heading` (radians, clockwise seen from above) and then shifted."""
        sine, cosine = np.sin(heading), np.cos(heading)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float32)
        corners = self.corners @ turn + np.array([x, y, z], np.float32)
        return Patch(self.material, self.class_id, corners, self.uv, self.colour)

    def scaled(self, factor: float) -> "Patch":
        """Return the patch scaled about the origin."""
        return Patch(self.material, self.class_id, self.corners * np.float32(factor), self.uv, self.colour)

    def unlit(self) -> "Patch":
        """Return the patch without glow."""
        colour = self.colour.copy()
        colour[:, 3] = 255
        return Patch(self.material, self.class_id, self.corners, self.uv, colour)


def patch(
    material: str, class_id: int, corners: ArrayLike, uv: ArrayLike | None = None, colour: ArrayLike = WHITE
) -> Patch:
    """Return a patch from corners (Q, 4, 3); `uv` defaults to the whole texture on each quad."""
    points = np.asarray(corners, np.float32).reshape(-1, 4, 3)
    texture = np.broadcast_to(_UNIT if uv is None else np.asarray(uv, np.float32), (len(points), 4, 2))
    return Patch(material, class_id, points, texture, np.broadcast_to(np.asarray(colour, np.float32), (len(points), 4)))


def sheet(
    material: str,
    class_id: int,
    origin: ArrayLike,
    along: ArrayLike,
    up: ArrayLike,
    tiles: tuple[int, int] = (1, 1),
    uv: tuple[float, float, float, float] = (0, 0, 1, 1),
    colour: ArrayLike = WHITE,
) -> Patch:
    """Return the parallelogram at `origin` spanned by `along` and `up`, cut into tiles (n along, m up).

    `uv` = (u0, v0, u1, v1) runs over the whole sheet. The front is where `along` points right and `up` up.
    """
    start, right, top = (np.asarray(vector, np.float32) for vector in (origin, along, up))
    part = _cells(tiles)
    corners = start + part[..., :1] * right + part[..., 1:] * top
    low = np.array(uv[:2], np.float32)
    texture = low + part * (np.array(uv[2:], np.float32) - low)
    return patch(material, class_id, corners, texture, colour)


@lru_cache(maxsize=256)
def _cells(tiles: tuple[int, int]) -> Vectors:
    """Return the corners (n * m, 4, 2) of n x m tiles of the unit square."""
    columns, rows = np.meshgrid(np.arange(tiles[0]), np.arange(tiles[1]))
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1)[:, None, :] + _UNIT[None]
    unit: Vectors = (cells / np.array(tiles)).astype(np.float32)
    return unit


def box(
    material: str,
    class_id: int,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    colour: ArrayLike = WHITE,
) -> Patch:
    """Return the five visible sides of an upright box (no bottom), the whole texture on each."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    sides = [
        [[x0, y0, z0], [x1, y0, z0], [x1, y0, z1], [x0, y0, z1]],
        [[x1, y0, z0], [x1, y1, z0], [x1, y1, z1], [x1, y0, z1]],
        [[x1, y1, z0], [x0, y1, z0], [x0, y1, z1], [x1, y1, z1]],
        [[x0, y1, z0], [x0, y0, z0], [x0, y0, z1], [x0, y1, z1]],
        [[x0, y0, z1], [x1, y0, z1], [x1, y1, z1], [x0, y1, z1]],
    ]
    return patch(material, class_id, sides, colour=colour)


def tube(
    material: str,
    class_id: int,
    start: ArrayLike,
    end: ArrayLike,
    radii: tuple[float, float],
    sides: int = 4,
    colour: ArrayLike = WHITE,
) -> Patch:
    """Return an open prism from `start` to `end` with a radius at either end (metres)."""
    foot, head = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = (head - foot) / np.linalg.norm(head - foot)
    helper = np.array([0.0, 1, 0]) if abs(axis[1]) < 0.9 else np.array([1.0, 0, 0])
    first = _cross(helper, axis)
    first /= np.linalg.norm(first)
    second = _cross(axis, first)
    angles = (np.arange(sides + 1) + 0.5) * 2 * np.pi / sides
    ring = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    low, high = foot + radii[0] * ring, head + radii[1] * ring
    corners = np.stack([low[:-1], low[1:], high[1:], high[:-1]], axis=1)
    return patch(material, class_id, corners, colour=colour)


def disc(
    material: str, class_id: int, centre: tuple[float, float, float], radius: float, facing: float, colour: ArrayLike
) -> Patch:
    """Return an octagon in the y-z plane that faces +x (`facing` > 0) or -x."""
    angles = np.arange(8) * np.pi / 4 * np.sign(facing)
    rim = np.stack([np.zeros(8), np.cos(angles), np.sin(angles)], axis=1) * radius + np.asarray(centre)
    quads = [rim[[0, i, i + 1, i + 2]] for i in (1, 3, 5)]
    return patch(material, class_id, quads, colour=colour)


def lit(corners: Vectors, sun: NDArray[np.float32], sunlight: float) -> Vectors:
    """Return the brightness (Q,) of quads (Q, 4, 3): light of the sky from above plus the sun from direction `sun`."""
    normals = _cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= np.maximum(length, 1e-9)
    sky = 0.66 + 0.2 * normals[:, 2]
    brightness: Vectors = (sky + sunlight * np.maximum(0, normals @ sun)).astype(np.float32)
    return brightness


def _cross(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the cross product over the last axis; numpy's own takes several times longer on a few vectors."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)
