"""A chunk of street as batches of quads, ready for the renderer: houses, furniture, parked cars, shadows, light.

Built from a plan (`layout`) with the shapes of `furniture`, `models` and `roadway`, bent along the street's course,
lit by sky and sun. Label codes are made here too: see `LABEL_STEP`.

Not here: panda3d (`renderer`), moving things (`traffic`).
"""

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street import furniture, houses, models, roadway
from roadbits.fleet.cameras.street.geometry import Patch, lit, patch, tube
from roadbits.fleet.cameras.street.layout import CHUNK_M, ChunkPlan, CrossSection, Item, Run, Street
from roadbits.fleet.cameras.street.materials import NUM_BARE, NUM_FOLIAGE, split_key

LABEL_BASE = 12
LABEL_STEP = 20
"""In the label picture red is LABEL_BASE + LABEL_STEP * class: the renderer may be off by one."""
NUM_SLOTS = 16
"""Blue is 2 * slot + 1. A chunk's slot is its index modulo NUM_SLOTS, and green the place along it; from NUM_SLOTS
on, a slot is an actor's."""
NUM_CARS, NUM_PEDESTRIANS, NUM_CYCLISTS = 16, 12, 6
NUM_FORMS = 3
_POLE_GREYS = ((88, 92, 94), (150, 152, 150), (48, 50, 50), (116, 110, 98))


class Batch(NamedTuple):
    """Quads that share a material; `colour` and `code` are uint8 (Q, 4, 4) RGBA per corner."""

    material: str
    class_id: int
    corners: NDArray[np.float32]
    uv: NDArray[np.float32]
    colour: NDArray[np.uint8]
    code: NDArray[np.uint8]


class Library(NamedTuple):
    """The models of one seed and split."""

    cars: tuple[tuple[Patch, ...], ...]
    pedestrians: tuple[tuple[tuple[Patch, ...], ...], ...]
    cyclists: tuple[tuple[tuple[Patch, ...], ...], ...]
    plants: dict[tuple[str, int, int], tuple[Patch, ...]]


@lru_cache(maxsize=3)
def library(seed: int, split: str) -> Library:
    """Return the models of one seed and split; equal arguments give equal models."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, split_key(split), 2]))
    return Library(
        tuple(merged(models.random_car(rng)) for _ in range(NUM_CARS)),
        tuple(tuple(merged(pose) for pose in models.pedestrian(rng)) for _ in range(NUM_PEDESTRIANS)),
        tuple(tuple(merged(pose) for pose in models.cyclist(rng)) for _ in range(NUM_CYCLISTS)),
        _plants(rng),
    )


def _plants(rng: np.random.Generator) -> dict[tuple[str, int, int], tuple[Patch, ...]]:
    """Return NUM_FORMS plants of 1 m in height of every kind and texture."""
    plants = {}
    for form in range(NUM_FORMS):
        for variant in range(NUM_FOLIAGE):
            plants["leafy", variant, form] = merged(tuple(furniture.leafy_tree(rng, f"foliage{variant}", 1.0)))
            plants["shrub", variant, form] = merged(tuple(furniture.shrub(rng, f"foliage{variant}", 1.0)))
        for variant in range(NUM_BARE):
            plants["bare", variant, form] = merged(tuple(furniture.bare_tree(rng, f"bare{variant}", 1.0)))
    return plants


def merged(patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
    """Return the patches with those of one material and class joined."""
    groups: dict[tuple[str, int], list[Patch]] = defaultdict(list)
    for part in patches:
        groups[part.material, part.class_id].append(part)
    return tuple(
        Patch(
            material,
            class_id,
            np.concatenate([part.corners for part in group]),
            np.concatenate([part.uv for part in group]),
            np.concatenate([part.colour for part in group]),
        )
        for (material, class_id), group in groups.items()
    )


def chunk(street: Street, index: int) -> list[Batch]:
    """Return chunk `index` of a street, relative to the centreline point at its start."""
    plan, section, rng = street.plan(index), street.section, street.key.rng(8, index)
    patches = roadway.ground(section, plan, rng)
    for building in plan.buildings:
        patches += houses.house(building, rng)
    if plan.junction:
        patches += houses.vista(section, rng)
    for item in plan.items:
        patches += _item(item, section, street, rng)
    for run in plan.runs:
        patches += _run(run)
    patches += shadows(plan, section)
    return [_bent(part, street, index) for part in merged(tuple(patches))]


def model_batches(
    patches: tuple[Patch, ...], slot: int, sun: tuple[float, float, float], sunlight: float
) -> list[Batch]:
    """Return a model in its own coordinates, lit, its label code bearing the actor's `slot`."""
    batches = []
    for part in patches:
        code = np.zeros((*part.corners.shape[:2], 4), np.uint8)
        code[...] = (LABEL_BASE + LABEL_STEP * part.class_id, 0, 2 * slot + 1, 255)
        batches.append(Batch(part.material, part.class_id, part.corners, part.uv, _shaded(part, sun, sunlight), code))
    return batches


def _bent(part: Patch, street: Street, index: int) -> Batch:
    """Return the part bent along the course, lit, with label codes."""
    start = index * CHUNK_M
    flat = part.corners.astype(np.float64)
    x, y = street.course.place(flat[..., 1] + start, flat[..., 0])
    origin = float(street.course.offset(start))
    corners = np.stack([x - origin, y - start, flat[..., 2]], axis=-1).astype(np.float32)
    code = np.empty((*corners.shape[:2], 4), np.uint8)
    code[..., 0] = LABEL_BASE + LABEL_STEP * part.class_id
    code[..., 1] = np.clip(flat[..., 1] * (255 / CHUNK_M), 0, 255)
    code[..., 2] = 2 * (index % NUM_SLOTS) + 1
    code[..., 3] = 255
    colour = _shaded(part, street.section.sun, street.section.sunlight)
    return Batch(part.material, part.class_id, corners, part.uv, colour, code)


_UNLIT = ("foliage", "bare", "hedge", "railing", "planks", "guard_rail", "wheel", "blot", "leafshade", "shade", "signs")


def _shaded(part: Patch, sun: tuple[float, float, float], sunlight: float) -> NDArray[np.uint8]:
    """Return the corner colours uint8 (Q, 4, 4) after lighting; cutouts are not lit, they have no outside."""
    colour = part.colour.copy()
    if not part.material.startswith(_UNLIT):
        colour[:, :3] *= lit(part.corners, np.asarray(sun, np.float32), sunlight)[:, None]
    return np.repeat(np.clip(colour, 0, 255).astype(np.uint8)[:, None], 4, axis=1)


def _item(item: Item, section: CrossSection, street: Street, rng: np.random.Generator) -> list[Patch]:
    """Return the patches of one standing thing."""
    grey = _POLE_GREYS[item.variant % len(_POLE_GREYS)]
    side = 1 if item.d > 0 else -1
    kerb = 0.0 if item.kind == "parked" else roadway.KERB_M
    match item.kind:
        case "leafy" | "bare" | "shrub":
            plants = library(street.key.seed, street.key.split).plants
            plant = plants[item.kind, item.variant, int(rng.integers(NUM_FORMS))]
            turn = rng.uniform(0, 2 * np.pi)
            parts = [part.scaled(item.size).moved(0, 0, 0, turn) for part in plant]
        case "lamp":
            parts = furniture.lamp_post(item.size, -side * 1.4, grey)
        case "sign":
            height = item.size + 0.4
            parts = [*furniture.post(height, 0.045, grey), *_plates(item, rng, wide=section.median > 0)]
        case "signal":
            parts = [*furniture.post(3.1, 0.06, grey), *furniture.traffic_light(item.variant, item.size)]
        case "bollard":
            parts = furniture.post(item.size, 0.09, grey)
        case "parked":
            cars = library(street.key.seed, street.key.split).cars
            turn = 0.0 if side < 0 or rng.random() < 0.3 else np.pi
            parts = [part.unlit().moved(0, 0, 0, turn) for part in cars[item.variant % NUM_CARS]]
        case "gantry":
            parts = _gantry(item, section)
    return [part.moved(item.d, item.s, kerb) for part in parts]


def _plates(item: Item, rng: np.random.Generator, wide: bool) -> list[Patch]:
    """Return one or two plates of a sign post."""
    row, column = divmod(item.variant, 4)
    size = rng.uniform(0.6, 0.85) * (1.9 if wide else 1.0)
    plates = [furniture.plate(row, column, size * (1.5 if row == 2 else 1), size, item.size)]
    if rng.random() < 0.4:
        plates.append(furniture.plate(2, int(rng.integers(4)), size, size * 0.5, item.size - size * 0.8))
    return plates


def _gantry(item: Item, section: CrossSection) -> list[Patch]:
    """Return a sign gantry over the own carriageway."""
    span = -section.left + 1.0
    parts = [part.moved(x, 0, 0) for x in (0, span) for part in furniture.post(item.size + 1, 0.16, (150, 152, 154))]
    beam = tube("metal", furniture.POLE, (0, 0, item.size), (span, 0, item.size), (0.14, 0.14))
    boards = [furniture.plate(2, k, 3.2, 2.0, item.size + 0.4).moved(x, 0, 0) for k, x in ((0, 3.4), (3, 7.4))]
    return [*parts, beam, *boards]


def _run(run: Run) -> list[Patch]:
    """Return a fence, hedge or low wall."""
    length = run.s1 - run.s0
    if run.material == "hedge":
        parts = furniture.hedge(length, run.height)
    elif run.material == "wall":
        parts = houses.low_wall(length, run.height)
    else:
        per_tile = 4.0 if run.material == "guard_rail" else 2.0
        parts = furniture.run(run.material, length, run.height, per_tile)
    return [part.moved(run.d, run.s0, roadway.KERB_M) for part in parts]


def shadows(plan: ChunkPlan, section: CrossSection) -> list[Patch]:
    """Return the shadows on the ground: around trees, and of houses when the sun shines."""
    patches = []
    for item in plan.items:
        if item.kind == "leafy":
            r, (sx, sy, _) = item.size * 0.36, section.sun
            x, y = item.d - sx * item.size * 0.5, item.s - sy * item.size * 0.5
            patches.append(roadway.flat("leafshade", 0, (x - r, x + r), (y - r, y + r), 0))
    if section.sunlight > 0.2:
        sx, sy, sz = section.sun
        for house in plan.buildings:
            height, edge = 3.2 * house.storeys, house.side * house.front
            dx, dy = -sx / sz * height, -sy / sz * height
            if dx * house.side < 0:
                points = [[edge, house.s0, 0], [edge, house.s1, 0], [edge + dx, house.s1 + dy, 0]]
                points.append([edge + dx, house.s0 + dy, 0])
                patches.append(patch("shade", 0, [points if house.side > 0 else points[::-1]]))
    return patches


assert LABEL_BASE + LABEL_STEP * len(CAMVID11) < 256
