"""The pool of materials of one seed and split: name -> texture and how it is drawn.

Splits never share a texture: the pool is grown from (seed, split). Pools are cached, the last few only.
"""

from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np

from roadbits.fleet.cameras.street import cutouts, facades, textures
from roadbits.fleet.cameras.street.textures import Texels

NUM_UPPER = 8
"""Variants of upper floors, of which the last three are offices."""
NUM_GROUND = 6
"""Variants of ground floors, of which the last three are dwellings."""
NUM_FOLIAGE = 4
NUM_BARE = 2
NUM_SKIES = 3

DEPTH_TESTED = -1
GROUND, ROADWAY, PAVED, MARKED, SHADED = range(5)
"""Layers of flat ground, painted over each other in this order without a depth test; all else is depth tested."""


@dataclass(frozen=True, eq=False)
class Material:
    """A texture and how to draw it.

    Attributes:
        image: RGBA texels.
        cutout: whether alpha is a silhouette (drawn two-sided, seen in the label mask as drawn).
        layer: painter's layer of flat ground, or DEPTH_TESTED.
    """

    image: Texels
    cutout: bool = False
    layer: int = DEPTH_TESTED


def split_key(split: str) -> int:
    """Return a stable number for a split's name."""
    return crc32(split.encode())


@lru_cache(maxsize=3)
def material_pool(seed: int, split: str) -> dict[str, Material]:
    """Return the materials by name for one seed and split; equal arguments give equal texels."""
    sequence = np.random.SeedSequence([seed, split_key(split), 1])
    ground, walls, plants, things, skies = (np.random.default_rng(child) for child in sequence.spawn(5))
    pool = _ground(ground) | _walls(walls) | _plants(plants) | _things(things)
    for index in range(NUM_SKIES):
        overcast = (0.15, 0.55, 1.0)[index]
        pool[f"sky{index}"] = Material(textures.clouds(skies, overcast))
    return pool


def _ground(rng: np.random.Generator) -> dict[str, Material]:
    """Return the flat ground's materials."""
    paint = textures.worn_paint(rng)
    blot = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    blot[..., 3] = np.clip(1.6 - 1.6 * np.maximum(np.abs(x), np.abs(y)) ** 3, 0, 1) * 150
    dapple = textures.spectral_noise(rng, 64, 64, 0.9)
    leafy = blot.copy()
    leafy[..., 3] = np.clip((1.5 - 1.6 * np.hypot(x, y)) * (1 + dapple), 0, 1) * 110
    shade = np.zeros((8, 8, 4), np.uint8)
    shade[..., 3] = 120
    return {
        "gravel": Material(textures.gravel(rng), layer=GROUND),
        "grass": Material(textures.grass(rng), layer=GROUND),
        "asphalt0": Material(textures.asphalt(rng), layer=ROADWAY),
        "asphalt1": Material(textures.asphalt(rng), layer=ROADWAY),
        "paving0": Material(textures.paving(rng), layer=PAVED),
        "paving1": Material(textures.paving(rng), layer=PAVED),
        "kerb": Material(textures.gravel(rng, 64), layer=PAVED),
        "paint": Material(paint, cutout=True, layer=MARKED),
        "blot": Material(blot, layer=SHADED),
        "leafshade": Material(leafy, layer=SHADED),
        "shade": Material(shade, layer=SHADED),
    }


def _walls(rng: np.random.Generator) -> dict[str, Material]:
    """Return facades, plain walls and roofs."""
    pool = {"roof0": Material(textures.roof_tiles(rng)), "roof1": Material(textures.roof_tiles(rng))}
    for index in range(NUM_UPPER):
        front = facades.office_floors(rng) if index >= NUM_UPPER - 3 else facades.upper_floors(rng)
        pool[f"upper{index}"] = Material(front)
    for index in range(NUM_GROUND):
        front = facades.house_fronts(rng) if index >= NUM_GROUND - 3 else facades.shop_fronts(rng)
        pool[f"street{index}"] = Material(front)
    for index in range(3):
        pool[f"wall{index}"] = Material(facades.plain_wall(rng))
    return pool


def _plants(rng: np.random.Generator) -> dict[str, Material]:
    """Return leaves, bare trees, hedges and bark."""
    pool = {"bark": Material(textures.bark(rng)), "hedge": Material(cutouts.hedge(rng), cutout=True)}
    greens = ((84, 102, 52), (104, 112, 60), (70, 86, 56), (132, 112, 62))
    for index in range(NUM_FOLIAGE):
        pool[f"foliage{index}"] = Material(cutouts.foliage(rng, greens[index]), cutout=True)
    for index in range(NUM_BARE):
        pool[f"bare{index}"] = Material(cutouts.branches(rng), cutout=True)
    return pool


def _things(rng: np.random.Generator) -> dict[str, Material]:
    """Return the materials of cars, people, poles, signs and fences."""
    return {
        "car_paint": Material(textures.car_paint(rng)),
        "glass": Material(textures.glass(rng)),
        "cloth": Material(textures.cloth(rng)),
        "metal": Material(textures.metal(rng)),
        "wheel": Material(cutouts.bike_wheel(), cutout=True),
        "signs": Material(cutouts.signs(rng), cutout=True),
        "railing": Material(cutouts.railing(rng), cutout=True),
        "planks": Material(cutouts.planks(rng), cutout=True),
        "guard_rail": Material(cutouts.guard_rail(rng), cutout=True),
    }
