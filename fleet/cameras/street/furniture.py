"""What stands still on a street besides houses: trees, hedges, lamp posts, signs, traffic lights, bollards, fences.

Shapes are in street coordinates about the origin (x right, y forward, z up, metres), to be moved to their place.

Not here: where they stand (`layout`).
"""

import numpy as np
from numpy.typing import ArrayLike

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street.cutouts import SIGN_CELLS
from roadbits.fleet.cameras.street.geometry import WHITE, Patch, box, patch, sheet, tube
from roadbits.fleet.cameras.street.textures import GLOW_LAMP

POLE = CAMVID11.names.index("pole")
TREE = CAMVID11.names.index("tree")
SIGN = CAMVID11.names.index("sign_symbol")
FENCE = CAMVID11.names.index("fence")


def leafy_tree(rng: np.random.Generator, foliage: str, height: float) -> list[Patch]:
    """Return a tree in leaf: trunk, limbs and a crown of crossed leafy cards."""
    crown = height * rng.uniform(0.28, 0.36)
    middle = height - crown
    trunk = tube("bark", TREE, (0, 0, 0), (0, 0, middle), (0.03 * height, 0.016 * height), 4)
    cards = []
    for _ in range(7):
        offset = rng.normal(0, 0.42, 3) * crown * np.array([1, 1, 0.8])
        half = crown * rng.uniform(0.55, 0.85)
        turn = rng.uniform(0, np.pi)
        along = np.array([np.cos(turn), np.sin(turn), rng.normal(0, 0.2)]) * half
        up = np.array([rng.normal(0, 0.25), rng.normal(0, 0.25), 1.0]) * half
        centre = offset + np.array([0, 0, middle])
        light = float(np.clip(1 + 0.25 * offset[2] / crown, 0.6, 1.25)) * 255 * rng.uniform(0.88, 1.1)
        colour = (light, light, light, 255)
        cards.append(sheet(foliage, TREE, centre - along - up, 2 * along, 2 * up, colour=colour))
    return [trunk, *cards]


def bare_tree(rng: np.random.Generator, branches: str, height: float) -> list[Patch]:
    """Return a leafless tree: trunk and crossed cards of twigs."""
    cards = [tube("bark", TREE, (0, 0, 0), (0, 0, height * 0.33), (0.022 * height, 0.014 * height), 4)]
    for turn in rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3:
        along = np.array([np.cos(turn), np.sin(turn), 0]) * height * 0.45
        cards.append(sheet(branches, TREE, -along, 2 * along, (0, 0, height)))
    return cards


def hedge(length: float, height: float) -> list[Patch]:
    """Return a hedge along y from 0 to `length`, seen from both sides."""
    tiles = max(1, round(length / 4))
    sides = [
        sheet("hedge", TREE, (x, 0, 0), (0, length, 0), (0, 0, height), (tiles, 1), (0, 0, length / 3, 1))
        for x in (-0.3, 0.3)
    ]
    return sides


def shrub(rng: np.random.Generator, foliage: str, size: float) -> list[Patch]:
    """Return a bush: crossed leafy cards from the ground up."""
    cards = []
    for turn in rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3:
        along = np.array([np.cos(turn), np.sin(turn), 0]) * size * rng.uniform(0.7, 1.1)
        cards.append(sheet(foliage, TREE, -along + np.array([0, 0, -0.2 * size]), 2 * along, (0, 0, size * 1.4)))
    return cards


def lamp_post(height: float, arm: float, rgb: ArrayLike) -> list[Patch]:
    """Return a street lamp whose arm reaches `arm` metres along x; the lamp glows in the dark."""
    colour = np.append(np.asarray(rgb, np.float32), 255)
    reach = np.sign(arm) * 0.6
    head = [[arm - reach, -0.12, height + 0.14], [arm, -0.12, height + 0.16], [arm, 0.12, height + 0.16]]
    head.append([arm - reach, 0.12, height + 0.14])
    lamp = patch("metal", POLE, [head, head[::-1]], colour=(250, 232, 196, GLOW_LAMP))
    return [
        tube("metal", POLE, (0, 0, 0), (0, 0, 1.2), (0.12, 0.11), 4, colour),
        tube("metal", POLE, (0, 0, 1.2), (0, 0, height), (0.085, 0.06), 4, colour),
        tube("metal", POLE, (0, 0, height), (arm, 0, height + 0.25), (0.05, 0.04), 3, colour),
        lamp,
    ]


def post(height: float, radius: float, rgb: ArrayLike) -> list[Patch]:
    """Return a plain upright post, such as a sign's, a bollard or a telegraph pole."""
    colour = np.append(np.asarray(rgb, np.float32), 255)
    top = sheet("metal", POLE, (-radius, -radius, height), (2 * radius, 0, 0), (0, 2 * radius, 0), colour=colour)
    return [tube("metal", POLE, (0, 0, 0), (0, 0, height), (radius, radius), 4, colour), top]


def plate(row: int, column: int, width: float, height: float, z: float) -> Patch:
    """Return plate (row, column) of the sign atlas, facing -y, its middle at height `z`."""
    u, v = column / SIGN_CELLS, 1 - (row + 1) / SIGN_CELLS
    span = 1 / SIGN_CELLS
    return sheet(
        "signs",
        SIGN,
        (-width / 2, -0.12, z - height / 2),
        (width, 0, 0),
        (0, 0, height),
        uv=(u + 0.002, v + 0.002, u + span - 0.002, v + span - 0.002),
    )


def traffic_light(column: int, z: float) -> list[Patch]:
    """Return a signal head facing -y with a dark housing behind it."""
    housing = box("metal", SIGN, (-0.17, -0.08, z - 0.5), (0.17, 0.16, z + 0.5), (40, 42, 42, 255))
    return [housing, plate(3, column, 0.72, 1.0, z)]


def run(material: str, length: float, height: float, per_tile: float) -> list[Patch]:
    """Return a fence of a cutout `material` along y from 0 to `length`; the texture repeats every `per_tile` m."""
    tiles = max(1, round(length / 3))
    uv = (0, 0.01, length / per_tile, 0.99)
    return [sheet(material, FENCE, (0, 0, 0), (0, length, 0), (0, 0, height), (tiles, 1), uv, WHITE)]
