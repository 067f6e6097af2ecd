"""The flat ground of a chunk: asphalt, kerbs, pavements, verges, side streets, markings.

All ground is painted in layers without a depth test (see `materials`), so it must be seen from above the road. Shapes
are chunk-local street coordinates: x = d, y = s, metres.

Not here: shadows and everything that stands up (`scene`).
"""

import numpy as np

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street.geometry import Patch, sheet
from roadbits.fleet.cameras.street.layout import CHUNK_M, JUNCTION, ChunkPlan, CrossSection

ROAD = CAMVID11.names.index("road")
PAVEMENT = CAMVID11.names.index("pavement")
VERGE = CAMVID11.names.index("tree")
"""Grass counts as vegetation, which CamVid's 11 classes call tree."""
KERB_M = 0.12
_CROSSING = (JUNCTION[0] + 3.0, JUNCTION[1] - 3.0)
_SIDE_M = 45.0
_LAP_M = 0.1
"""How far ground reaches under its neighbour, so that no seam shows."""
_YELLOW = (232.0, 190.0, 70.0, 255.0)


def ground(section: CrossSection, plan: ChunkPlan, rng: np.random.Generator) -> list[Patch]:
    """Return all flat ground of one chunk."""
    patches = _verges(section, plan) + _carriageway(section, plan) + _markings(section, plan, rng)
    for side in (-1, 1):
        spans = [(0.0, _CROSSING[0]), (_CROSSING[1], CHUNK_M)] if plan.junction else [(0.0, CHUNK_M)]
        for s0, s1 in spans:
            patches += _pavement(section, side, s0, s1)
    if plan.junction:
        patches += _side_street(section)
    return patches


def flat(
    material: str,
    class_id: int,
    x: tuple[float, float],
    y: tuple[float, float],
    metres: float,
    tile: float = 6.0,
    z: float = 0.0,
    colour: tuple[float, ...] = (255.0, 255.0, 255.0, 255.0),
) -> Patch:
    """Return a level rectangle; the texture repeats every `metres` (0: once over the rectangle)."""
    tiles = (max(1, round((x[1] - x[0]) / tile)), max(1, round((y[1] - y[0]) / tile)))
    uv = (x[0] / metres, y[0] / metres, x[1] / metres, y[1] / metres) if metres else (0.0, 0.0, 1.0, 1.0)
    return sheet(material, class_id, (x[0], y[0], z), (x[1] - x[0], 0, 0), (0, y[1] - y[0], 0), tiles, uv, colour)


def _verges(section: CrossSection, plan: ChunkPlan) -> list[Patch]:
    """Return the ground behind the pavements and the central reservation."""
    patches = []
    for side, frontage in zip((-1, 1), plan.frontage, strict=True):
        edge = side * (section.kerb(side) - 0.2)
        green = frontage in ("park", "garden")
        x = (min(edge, edge + side * 60), max(edge, edge + side * 60))
        material, class_id = ("grass", VERGE) if green else ("gravel", PAVEMENT)
        patches.append(flat(material, class_id, x, (0, CHUNK_M + _LAP_M), 4.0, 12.0))
    return patches


def _carriageway(section: CrossSection, plan: ChunkPlan) -> list[Patch]:
    """Return the asphalt, and the grass between carriageways."""
    material = f"asphalt{plan.index // 6 % 2}"
    if section.median:
        half = section.median / 2
        reservation = flat("grass", VERGE, (-half - 0.1, half + 0.1), (0, CHUNK_M + _LAP_M), 4.0, 8.0)
        left = flat(material, ROAD, (section.left, -half), (0, CHUNK_M + _LAP_M), 8.0, 8.0)
        return [reservation, left, flat(material, ROAD, (half, section.right), (0, CHUNK_M + _LAP_M), 8.0, 8.0)]
    return [flat(material, ROAD, (section.left, section.right), (0, CHUNK_M + _LAP_M), 8.0, 8.0)]


def _pavement(section: CrossSection, side: int, s0: float, s1: float) -> list[Patch]:
    """Return pavement, kerb top and kerb face on one side."""
    kerb, width = section.kerb(side), section.pavement
    low, high = sorted((side * kerb, side * (kerb + width)))
    top = sorted((side * kerb, side * (kerb + 0.2)))
    slabs = "paving0" if side < 0 else "paving1"
    start, along = ((side * kerb, s1, 0), (0, s0 - s1, 0)) if side > 0 else ((side * kerb, s0, 0), (0, s1 - s0, 0))
    tiles = (max(1, round((s1 - s0) / 6)), 1)
    face = sheet("kerb", PAVEMENT, start, along, (0, 0, KERB_M), tiles, (0, 0, s1 - s0, 0.2), (176, 174, 170, 255))
    return [
        flat(slabs, PAVEMENT, (low, high), (s0, s1 + _LAP_M), 3.6, 8.0, KERB_M),
        flat("kerb", PAVEMENT, (top[0], top[1]), (s0, s1 + _LAP_M), 1.0, 8.0, KERB_M),
        face,
    ]


def _side_street(section: CrossSection) -> list[Patch]:
    """Return the side street's asphalt and pavements on both sides."""
    patches = []
    for side in (-1, 1):
        kerb = side * section.kerb(side)
        beyond = side * (section.kerb(side) + section.pavement)
        x = (min(kerb, kerb + side * _SIDE_M), max(kerb, kerb + side * _SIDE_M))
        pavement = (min(beyond, kerb + side * _SIDE_M), max(beyond, kerb + side * _SIDE_M))
        patches.append(flat("asphalt0", ROAD, x, _CROSSING, 8.0))
        for y in ((JUNCTION[0], _CROSSING[0]), (_CROSSING[1], JUNCTION[1])):
            patches.append(flat("paving0", PAVEMENT, pavement, y, 3.6))
    return patches


def _markings(section: CrossSection, plan: ChunkPlan, rng: np.random.Generator) -> list[Patch]:
    """Return the painted lines of one chunk."""
    return _highway_lines(section) if section.median else _city_lines(section, plan, rng)


def _line(d: float, width: float, s0: float, s1: float, colour: tuple[float, ...] = (255.0,) * 4) -> Patch:
    return flat("paint", ROAD, (d - width / 2, d + width / 2), (s0, s1), 1.5, 8.0, colour=colour)


def _highway_lines(section: CrossSection) -> list[Patch]:
    """Return lane dashes and edge lines of a dual carriageway."""
    patches, inner = [], section.median / 2
    for side in (-1, 1):
        patches.append(_line(side * (inner + 0.3), 0.15, 0, CHUNK_M))
        patches.append(_line(side * (inner + section.lanes * section.lane), 0.2, 0, CHUNK_M))
        for lane in range(1, section.lanes):
            for s in range(0, int(CHUNK_M), 12):
                patches.append(_line(side * (inner + lane * section.lane), 0.15, s, s + 4))
    return patches


def _city_lines(section: CrossSection, plan: ChunkPlan, rng: np.random.Generator) -> list[Patch]:
    """Return centre dashes, edge lines, bay marks, zebra crossings, stop lines and arrows."""
    patches = []
    for s in np.arange(0, CHUNK_M, 6.0):
        if not plan.junction or not _CROSSING[0] - 5 < s < _CROSSING[1]:
            patches.append(_line(0, 0.12, s, s + 3))
    for side, bay in zip((-1, 1), section.bays, strict=True):
        edge = side * (section.kerb(side) - (bay or 0.3))
        spans = [(0.0, _CROSSING[0] - 3), (_CROSSING[1] + 3, CHUNK_M)] if plan.junction else [(0.0, CHUNK_M)]
        for s0, s1 in spans:
            if bay:
                patches += [_line(edge, 0.1, s, s + 1.0) for s in np.arange(s0, s1, 2.0)]
            else:
                patches.append(_line(edge, 0.1, s0, s1, _YELLOW))
    if plan.zebra or plan.junction:
        start = _CROSSING[0] - 4.5
        for d in np.arange(section.left + 0.6, section.right - 0.4, 1.1):
            patches.append(_line(float(d), 0.55, start, start + 3))
        patches.append(flat("paint", ROAD, (-section.lane, -0.1), (start - 1.6, start - 1.2), 1.5))
    if rng.random() < 0.4:
        patches += _arrow(-section.lane / 2, float(rng.uniform(34, 42)))
    return patches


def _arrow(d: float, s: float) -> list[Patch]:
    """Return an arrow straight ahead."""
    head = [[d - 0.45, s + 2.6, 0], [d + 0.45, s + 2.6, 0], [d, s + 4.2, 0], [d, s + 4.2, 0]]
    tip = Patch("paint", ROAD, *_triangle(head))
    return [_line(d, 0.22, s, s + 2.6), tip]


def _triangle(points: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return corners, texture coordinates and colour of one quad with two equal corners."""
    corners = np.array([points], np.float32)
    return corners, corners[..., :2] / 1.5, np.full((1, 4), 255, np.float32)
