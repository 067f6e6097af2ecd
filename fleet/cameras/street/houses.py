"""Houses: fronts with floors and roofs, side walls, chimneys, awnings; low walls; the end of a side street.

Shapes are chunk-local street coordinates (x = d, y = s, metres).

Not here: which houses stand where (`layout`) and how their fronts look (`facades`).
"""

import numpy as np

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street.facades import BAYS, FLOORS
from roadbits.fleet.cameras.street.geometry import Patch, box, patch, sheet
from roadbits.fleet.cameras.street.layout import JUNCTION, Building, CrossSection
from roadbits.fleet.cameras.street.materials import NUM_UPPER

BUILDING = CAMVID11.names.index("building")
STOREY_M = 3.1
GROUND_M = 3.6
_BAY_M = 3.2


def house(plan: Building, rng: np.random.Generator) -> list[Patch]:
    """Return one house; walls that face away from the street are left out."""
    corners = _outline(plan)
    height = GROUND_M + STOREY_M * (plan.storeys - 1)
    tint = (*(255 * channel for channel in plan.tint), 255.0)
    patches = _front(plan, corners[0], corners[1], tint, rng)
    flank = f"upper{plan.upper}" if rng.random() < 0.45 else f"wall{plan.wall}"
    for start, end in ((corners[1], corners[2]), (corners[3], corners[0])):
        patches.append(_wall(flank, start, end, 0.0, height, tint))
    patches += _pitched_roof(plan, height, rng) if plan.pitched else _parapet(plan, height, tint)
    if plan.awning:
        patches.append(_awning(plan, rng))
    return patches


def _outline(plan: Building) -> list[tuple[float, float]]:
    """Return the corners, the front's left and right as seen from the street first."""
    near, far = plan.side * plan.front, plan.side * (plan.front + plan.depth)
    s0, s1 = (plan.s0, plan.s1) if plan.side < 0 else (plan.s1, plan.s0)
    return [(near, s0), (near, s1), (far, s1), (far, s0)]


def _wall(
    material: str,
    start: tuple[float, float],
    end: tuple[float, float],
    low: float,
    high: float,
    tint: tuple[float, ...],
    bottom: float = 0.0,
) -> Patch:
    """Return an upright wall from start to end with whole bays and floors of a 4 x 4 texture."""
    along = np.array([end[0] - start[0], end[1] - start[1], 0])
    length = float(np.linalg.norm(along))
    bays = max(1, round(length / _BAY_M))
    floors = max(1, round((high - low) / STOREY_M))
    tiles = (max(1, round(length / 5)), max(1, round((high - low) / 6)))
    uv = (0.0, bottom / FLOORS, bays / BAYS, (bottom + floors) / FLOORS)
    return sheet(material, BUILDING, (*start, low), along, (0, 0, high - low), tiles, uv, tint)


def _front(
    plan: Building,
    left: tuple[float, float],
    right: tuple[float, float],
    tint: tuple[float, ...],
    rng: np.random.Generator,
) -> list[Patch]:
    """Return the ground floor and the upper floors of the front."""
    along = (right[0] - left[0], right[1] - left[1], 0)
    length = abs(along[1])
    start = float(rng.random())
    uv = (start, 0.0, start + max(1, round(length / _BAY_M)) / BAYS, 1.0)
    tiles = (max(1, round(length / 5)), 1)
    patches = [sheet(f"street{plan.ground}", BUILDING, (*left, 0), along, (0, 0, GROUND_M), tiles, uv, tint)]
    if plan.storeys > 1:
        height = GROUND_M + STOREY_M * (plan.storeys - 1)
        bottom = float(rng.integers(FLOORS))
        patches.append(_wall(f"upper{plan.upper}", left, right, GROUND_M, height, tint, bottom))
    return patches


def _pitched_roof(plan: Building, height: float, rng: np.random.Generator) -> list[Patch]:
    """Return a roof with its ridge along the street, gables and chimneys."""
    rise = plan.depth * rng.uniform(0.3, 0.5)
    front, middle = plan.side * (plan.front - 0.3), plan.side * (plan.front + plan.depth / 2)
    left, right = (plan.s0, plan.s1) if plan.side < 0 else (plan.s1, plan.s0)
    length = plan.s1 - plan.s0
    slope = sheet(
        f"roof{plan.roof}",
        BUILDING,
        (front, left, height - 0.15),
        (0, right - left, 0),
        (middle - front, 0, rise),
        (max(1, round(length / 6)), 1),
        (0, 0, length / 4, 1.6),
    )
    patches = [slope]
    back = plan.side * (plan.front + plan.depth)
    for s, outer in ((right, False), (left, True)):
        points = [[front, s, height], [back, s, height], [middle, s, height + rise], [middle, s, height + rise]]
        corners = np.array([points[1], points[0], points[2], points[3]] if outer else points)
        uv = np.stack([corners[:, 0] / 6, corners[:, 2] / 6], axis=-1)
        patches.append(patch(f"wall{plan.wall}", BUILDING, [corners], [uv]))
    for s in (plan.s0 + 0.9, plan.s1 - 1.5):
        if rng.random() < 0.6:
            low, high = sorted((middle - 0.4, middle + 0.4))
            foot = (low, s, height + rise * 0.6)
            patches.append(
                box(f"wall{plan.wall}", BUILDING, foot, (high, s + 0.7, height + rise + 1.3), (190, 190, 190, 255))
            )
    return patches


def _parapet(plan: Building, height: float, tint: tuple[float, ...]) -> list[Patch]:
    """Return the cornice of a flat roof."""
    near, far = sorted((plan.side * (plan.front - 0.25), plan.side * (plan.front + 1.0)))
    colour = tuple(channel * 0.85 for channel in tint[:3])
    return [box("wall0", BUILDING, (near, plan.s0, height - 0.2), (far, plan.s1, height + 0.6), (*colour, 255))]


def _awning(plan: Building, rng: np.random.Generator) -> Patch:
    """Return a slanting awning over a shop."""
    wall, outer = plan.side * plan.front, plan.side * (plan.front - 1.2)
    width = min(5.0, plan.s1 - plan.s0)
    left, right = (plan.s0 + 0.5, plan.s0 + width) if plan.side < 0 else (plan.s0 + width, plan.s0 + 0.5)
    colour = (*rng.uniform(50, 235, 3), 255)
    return sheet("cloth", BUILDING, (outer, left, 2.4), (0, right - left, 0), (wall - outer, 0, 0.6), colour=colour)


def low_wall(length: float, height: float) -> list[Patch]:
    """Return a low brick wall along y from 0 to `length`; CamVid counts walls as building."""
    wall = box("wall1", BUILDING, (-0.12, 0, 0), (0.12, length, height * 0.8))
    uv = np.array([[0, 0], [length / 6, 0], [length / 6, height / 6], [0, height / 6]], np.float32)
    return [patch("wall1", BUILDING, wall.corners, uv)]


def vista(section: CrossSection, rng: np.random.Generator) -> list[Patch]:
    """Return what closes a side street on either side: the front of a house across its end."""
    patches = []
    for side in (-1, 1):
        d = side * (section.kerb(side) + 45.0)
        s0, s1 = JUNCTION[0] - 6, JUNCTION[1] + 6
        start, end = ((d, s0), (d, s1)) if side < 0 else ((d, s1), (d, s0))
        height = GROUND_M + STOREY_M * float(rng.integers(1, 4))
        patches.append(_wall(f"upper{int(rng.integers(NUM_UPPER))}", start, end, 0.0, height, (225, 225, 225, 255)))
    return patches
