"""The plan of a street as plain data: its course, its cross-section, and what stands where, chunk by chunk.

A street is endless and repeatable: everything follows from a `StreetKey` and the number of the chunk (CHUNK_M metres
long), so any place can be planned without planning what comes before. Street coordinates are `s`, metres along the
centreline, and `d`, metres to its right; traffic keeps left, as in CamVid.

Not here: shapes (`furniture`, `models`, `scene`) and moving things (`traffic`).
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roadbits.fleet.cameras.street.materials import NUM_BARE, NUM_FOLIAGE, NUM_GROUND, NUM_UPPER, split_key

CHUNK_M = 48.0
JUNCTION = (17.0, 31.0)
"""Where a side street with its pavements lies within a chunk."""
Place = Literal["city", "highway"]
Frontage = Literal["flush", "garden", "park", "yard"]
_PLACES: tuple[Place, ...] = ("city", "highway")


@dataclass(frozen=True)
class StreetKey:
    """What a street is grown from; two different keys give two different streets."""

    seed: int
    split: str
    vehicle: int
    place: Place

    def rng(self, purpose: int, index: int = 0) -> np.random.Generator:
        """Return the generator of one purpose and index (index may be negative)."""
        parts = [self.seed, split_key(self.split), self.vehicle, _PLACES.index(self.place), purpose, index + 2**20]
        return np.random.default_rng(np.random.SeedSequence(parts))


@dataclass(frozen=True)
class Centreline:
    """The course of a street: x as a sum of sines of y = s, so that any place is known in closed form."""

    amplitudes: NDArray[np.float64]
    wavelengths: NDArray[np.float64]
    phases: NDArray[np.float64]

    def offset(self, s: ArrayLike) -> NDArray[np.float64]:
        """Return x in metres at `s`."""
        angles = np.asarray(s, np.float64)[..., None] * (2 * np.pi / self.wavelengths) + self.phases
        offset: NDArray[np.float64] = np.sum(self.amplitudes * np.sin(angles), axis=-1)
        return offset

    def heading(self, s: ArrayLike) -> NDArray[np.float64]:
        """Return the heading in radians, clockwise from +y."""
        rates = 2 * np.pi / self.wavelengths
        angles = np.asarray(s, np.float64)[..., None] * rates + self.phases
        heading: NDArray[np.float64] = np.arctan(np.sum(self.amplitudes * rates * np.cos(angles), axis=-1))
        return heading

    def place(self, s: ArrayLike, d: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (x, y) of street coordinates (s, d)."""
        turn, aside = self.heading(s), np.asarray(d, np.float64)
        return self.offset(s) + aside * np.cos(turn), np.asarray(s, np.float64) - aside * np.sin(turn)


@dataclass(frozen=True)
class CrossSection:
    """Widths in metres from the centreline outwards, and the street's habits.

    Attributes:
        lane: width of a lane.
        lanes: lanes per direction.
        bays: width of the parking bay on the left and on the right, 0 for none.
        pavement: width of the pavements (a highway's paved edge).
        median: width of the central reservation, 0 for none.
        lamp_gap: distance between lamp posts.
        leafy: how many of the trees bear leaves, 0..1.
        parked: how many of the bays are taken, 0..1.
        storeys: mean number of storeys.
        sunlight: 0 for an overcast sky to 0.5 for full sun.
        sun: unit vector to the sun in street coordinates.
    """

    lane: float
    lanes: int
    bays: tuple[float, float]
    pavement: float
    median: float
    lamp_gap: float
    leafy: float
    parked: float
    storeys: float
    sunlight: float
    sun: tuple[float, float, float]

    @property
    def left(self) -> float:
        """Return d of the left kerb (negative)."""
        return -(self.lane * self.lanes + self.bays[0] + self.median / 2)

    @property
    def right(self) -> float:
        """Return d of the right kerb."""
        return self.lane * self.lanes + self.bays[1] + self.median / 2

    def kerb(self, side: int) -> float:
        """Return |d| of the kerb on side -1 (left) or +1 (right)."""
        return -self.left if side < 0 else self.right


@dataclass(frozen=True)
class Building:
    """A house along the street: from s0 to s1 (chunk-local), its front at |d| = front on `side`."""

    s0: float
    s1: float
    side: int
    front: float
    depth: float
    storeys: int
    ground: int
    upper: int
    wall: int
    roof: int
    pitched: bool
    tint: tuple[float, float, float]
    awning: bool


@dataclass(frozen=True)
class Item:
    """One thing standing at (s, d), s chunk-local; `variant` and `size` are read according to its kind."""

    kind: Literal["leafy", "bare", "shrub", "lamp", "sign", "signal", "bollard", "parked", "gantry"]
    s: float
    d: float
    size: float
    variant: int


@dataclass(frozen=True)
class Run:
    """A fence, hedge or low wall from s0 to s1 at d."""

    material: Literal["railing", "planks", "guard_rail", "hedge", "wall"]
    s0: float
    s1: float
    d: float
    height: float


@dataclass
class ChunkPlan:
    """What one chunk holds; `frontage` is per side (left, right)."""

    index: int
    junction: bool
    frontage: tuple[Frontage, Frontage]
    zebra: bool = False
    buildings: list[Building] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class Street:
    """An endless street."""

    key: StreetKey

    @cached_property
    def course(self) -> Centreline:
        """The centreline: gentle bends, radius above 150 m in the city."""
        rng = self.key.rng(1)
        city = self.key.place == "city"
        low, high = (170, 520) if city else (600, 1500)
        waves = rng.uniform(low, high, 3)
        return Centreline(waves * rng.uniform(0.006, 0.022, 3), waves, rng.uniform(0, 2 * np.pi, 3))

    @cached_property
    def section(self) -> CrossSection:
        """The cross-section and habits."""
        rng = self.key.rng(2)
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.0)
        sun = (np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height))
        city = self.key.place == "city"
        bays = tuple(2.2 if rng.random() < 0.62 else 0.0 for _ in range(2)) if city else (2.4, 2.4)
        return CrossSection(
            lane=float(rng.uniform(3.1, 3.8)) if city else 3.6,
            lanes=1 if city else int(rng.integers(2, 4)),
            bays=(bays[0], bays[1]),
            pavement=float(rng.uniform(2.0, 3.6)) if city else 0.9,
            median=0.0 if city else 2.6,
            lamp_gap=float(rng.choice([16.0, 24.0])),
            leafy=float(rng.uniform(0.3, 1.0)),
            parked=float(rng.uniform(0.25, 0.65)),
            storeys=float(rng.uniform(2.0, 3.8)),
            sunlight=float(rng.choice([0.08, 0.3, 0.5])),
            sun=(float(sun[0]), float(sun[1]), float(sun[2])),
        )

    def plan(self, index: int) -> ChunkPlan:
        """Return the plan of chunk `index`, which covers s from index * CHUNK_M on."""
        rng = self.key.rng(3, index)
        return _city_chunk(rng, self.section, index) if self.key.place == "city" else _highway_chunk(rng, self, index)


def _city_chunk(rng: np.random.Generator, section: CrossSection, index: int) -> ChunkPlan:
    """Plan 48 m of a city street."""
    kinds: list[Frontage] = ["flush", "garden", "park", "yard"]
    weights = [0.52, 0.2, 0.16, 0.12]
    left, right = (kinds[int(rng.choice(4, p=weights))] for _ in range(2))
    plan = ChunkPlan(index, junction=bool(rng.random() < 0.3), frontage=(left, right), zebra=bool(rng.random() < 0.35))
    for side, frontage in ((-1, left), (1, right)):
        spans = [(0.0, JUNCTION[0]), (JUNCTION[1], CHUNK_M)] if plan.junction else [(0.0, CHUNK_M)]
        for s0, s1 in spans:
            _frontage(rng, section, plan, side, frontage, s0, s1)
        _kerbside(rng, section, plan, side)
    return plan


def _frontage(
    rng: np.random.Generator, section: CrossSection, plan: ChunkPlan, side: int, kind: Frontage, s0: float, s1: float
) -> None:
    """Plan what lies behind the pavement from s0 to s1 on one side."""
    edge = section.kerb(side) + section.pavement
    if kind in ("park", "yard"):
        _fence(rng, plan, side * (edge + 0.15), s0, s1, open_share=0.15 if kind == "park" else 0.45)
        for s in np.arange(s0 + 2, s1 - 1, rng.uniform(4.5, 8) if kind == "park" else 11):
            _tree(rng, section, plan, s + rng.uniform(-1, 1), side * (edge + rng.uniform(2, 9)))
        _row(rng, section, plan, side, edge + rng.uniform(16, 28), s0, s1, gap=0.35)
        return
    setback = 0.0 if kind == "flush" else rng.uniform(3.0, 6.0)
    if kind == "garden":
        _fence(rng, plan, side * (edge + 0.1), s0, s1, open_share=0.2)
        for s in np.arange(s0 + 1.5, s1 - 1, 4.0):
            if rng.random() < 0.5:
                size, variant = rng.uniform(0.6, 1.3), int(rng.integers(NUM_FOLIAGE))
                plan.items.append(Item("shrub", float(s), side * (edge + rng.uniform(0.9, 2.4)), size, variant))
        if rng.random() < 0.6:
            _tree(rng, section, plan, rng.uniform(s0 + 2, s1 - 2), side * (edge + 2.0))
    elif rng.random() < 0.3:
        low = float(rng.uniform(s0, s1 - 8))
        plan.runs.append(Run("railing", low, low + 8, side * (section.kerb(side) + 0.25), 1.05))
    _row(rng, section, plan, side, edge + setback, s0, s1, gap=0.08)


def _row(
    rng: np.random.Generator,
    section: CrossSection,
    plan: ChunkPlan,
    side: int,
    front: float,
    s0: float,
    s1: float,
    gap: float,
) -> None:
    """Plan a row of houses from s0 to s1; a share `gap` of them is missing."""
    pieces = max(1, round((s1 - s0) / rng.uniform(8, 17)))
    cuts = np.sort(rng.uniform(0.75, 1.25, pieces).cumsum())
    edges = np.concatenate([[s0], s0 + (s1 - s0) * cuts / cuts[-1]])
    for left, right in pairwise(edges):
        if rng.random() < gap:
            _tree(rng, section, plan, (left + right) / 2, side * (front + 3))
            _fence(rng, plan, side * (front + 0.1), left, right, open_share=0.0)
            continue
        tone = rng.uniform(0.62, 1.12)
        plan.buildings.append(
            Building(
                s0=float(left),
                s1=float(right),
                side=side,
                front=front + float(rng.choice([0.0, 0.0, 0.4, 1.2])),
                depth=float(rng.uniform(9, 13)),
                storeys=int(np.clip(round(rng.normal(section.storeys, 0.9)), 1, 7)),
                ground=int(rng.integers(NUM_GROUND)),
                upper=int(rng.integers(NUM_UPPER)),
                wall=int(rng.integers(3)),
                roof=int(rng.integers(2)),
                pitched=bool(rng.random() < 0.65),
                tint=(tone * rng.uniform(0.94, 1.06), tone, tone * rng.uniform(0.9, 1.08)),
                awning=bool(rng.random() < 0.25),
            )
        )


def _fence(rng: np.random.Generator, plan: ChunkPlan, d: float, s0: float, s1: float, open_share: float) -> None:
    """Plan fences, hedges and walls along s0..s1 in stretches of up to 16 m."""
    edges = np.linspace(s0, s1, max(1, round((s1 - s0) / 12)) + 1)
    for left, right in pairwise(edges):
        if rng.random() < open_share:
            continue
        kind = rng.choice(4, p=[0.42, 0.3, 0.16, 0.12])
        height = rng.uniform(1.0, 1.6) + (0.4 if kind == 1 else 0)
        material: Literal["railing", "planks", "hedge", "wall"] = ("railing", "planks", "hedge", "wall")[kind]
        plan.runs.append(Run(material, float(left), float(right), d, float(height)))


def _tree(rng: np.random.Generator, section: CrossSection, plan: ChunkPlan, s: float, d: float) -> None:
    """Plan a tree, in leaf or bare."""
    if rng.random() < section.leafy:
        plan.items.append(Item("leafy", float(s), float(d), rng.uniform(5, 9.5), int(rng.integers(NUM_FOLIAGE))))
    else:
        plan.items.append(Item("bare", float(s), float(d), rng.uniform(6, 10.5), int(rng.integers(NUM_BARE))))


def _kerbside(rng: np.random.Generator, section: CrossSection, plan: ChunkPlan, side: int) -> None:
    """Plan lamps, signs, bollards, street trees and parked cars on one side."""
    kerb = section.kerb(side)
    on_pavement = side * (kerb + 0.45)
    for s in np.arange(section.lamp_gap / 2 + 3 * side, CHUNK_M, section.lamp_gap):
        plan.items.append(Item("lamp", float(s), on_pavement, rng.uniform(5.5, 8.5), int(rng.integers(4))))
    if plan.junction:
        near, far = JUNCTION[0] - 1.2, JUNCTION[1] + 1.2
        plan.items.append(Item("signal", near, on_pavement, 2.6, int(rng.integers(3))))
        plan.items.append(Item("signal", far, on_pavement, 2.6, int(rng.integers(3))))
        for s in (near - 2, near - 4, far + 2, far + 4):
            plan.items.append(Item("bollard", s, side * (kerb + 0.3), 1.0, int(rng.integers(4))))
    for _ in range(int(rng.integers(1, 4))):
        s = _off_junction(rng, plan)
        plan.items.append(
            Item("sign", s, side * (kerb + rng.uniform(0.3, 0.9)), rng.uniform(2.1, 2.9), int(rng.integers(12)))
        )
    if rng.random() < 0.35:
        for s in np.arange(6.0, CHUNK_M, 9.0):
            if _is_free(plan, s):
                _tree(rng, section, plan, s, side * (kerb + 0.7))
    bay = section.bays[0 if side < 0 else 1]
    for s in np.arange(3.2, CHUNK_M - 2.5, 5.9) if bay else ():
        if rng.random() < section.parked and _is_free(plan, s, 4.0):
            plan.items.append(
                Item("parked", s + rng.uniform(-0.3, 0.3), side * (kerb - 1.05), 0.0, int(rng.integers(12)))
            )


def _is_free(plan: ChunkPlan, s: float, margin: float = 1.0) -> bool:
    """Tell whether `s` is clear of the side street."""
    return not plan.junction or s < JUNCTION[0] - margin or s > JUNCTION[1] + margin


def _off_junction(rng: np.random.Generator, plan: ChunkPlan) -> float:
    """Return a place along the chunk clear of the side street."""
    s = float(rng.uniform(1, CHUNK_M - 1))
    return s if _is_free(plan, s) else s - 16.0 if s > JUNCTION[0] + 7 else s + 15.0


def _highway_chunk(rng: np.random.Generator, street: Street, index: int) -> ChunkPlan:
    """Plan 48 m of a dual carriageway: guard-rails, verges with trees, signs, gantries, far buildings."""
    section = street.section
    plan = ChunkPlan(index, junction=False, frontage=("park", "park"))
    for d in (-0.5, 0.5):
        plan.runs.append(Run("guard_rail", 0, CHUNK_M, d, 0.8))
    if index % 2 == 0:
        plan.items.append(Item("lamp", 24.0, 0.0, 10.5, 0))
    for side in (-1, 1):
        edge = section.kerb(side) + section.pavement
        if rng.random() < 0.75:
            plan.runs.append(Run("guard_rail", 0, CHUNK_M, side * (edge + 0.4), 0.8))
        if rng.random() < 0.3:
            plan.runs.append(Run("planks", 0, CHUNK_M, side * (edge + 7), 3.0))
        dense = rng.uniform(3, 14)
        for s in np.arange(rng.uniform(0, 4), CHUNK_M, dense):
            _tree(rng, section, plan, s, side * (edge + rng.uniform(5, 22)))
        for s in np.arange(rng.uniform(0, 4), CHUNK_M, 7.0):
            if rng.random() < 0.6:
                variant = int(rng.integers(NUM_FOLIAGE))
                plan.items.append(Item("shrub", s, side * (edge + rng.uniform(2, 5)), rng.uniform(0.8, 2.2), variant))
        if rng.random() < 0.5:
            plan.items.append(
                Item("sign", rng.uniform(2, 46), side * (edge + 1.4), rng.uniform(2.8, 4), int(rng.integers(12)))
            )
        if rng.random() < 0.4:
            _row(rng, section, plan, side, edge + rng.uniform(28, 50), 0, CHUNK_M, gap=0.4)
        for s in (10.0, 34.0):
            plan.items.append(Item("bollard", s, side * (edge + 0.9), 1.0, 0))
    if index % 5 == 2:
        plan.items.append(Item("gantry", 20.0, section.left - 1.5, 6.2, int(rng.integers(4))))
    if rng.random() < 0.12:
        plan.items.append(Item("parked", 30.0, section.left + 1.2, 0.0, int(rng.integers(12))))
    return plan
