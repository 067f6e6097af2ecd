"""Who moves on a street at a time: cars, cyclists, pedestrians, as a function of time alone.

Oncoming traffic and cyclists are endless files with fixed spacing and a repeating pattern of gaps; pedestrians belong
to chunks and walk to and fro; the cars ahead fall back slowly until they turn off. Nothing is simulated step by step,
so any time can be asked for directly.

Not here: collisions, traffic rules, the models (`models`).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from roadbits.fleet.cameras.street.layout import CHUNK_M, JUNCTION, Street

VIEW_M = 216.0
"""How far ahead chunks and cars are shown."""
_PEOPLE_M = 130.0
"""How far ahead people are shown: beyond, they are under six pixels high at 480 x 360."""
_PATTERN = 64
_STRIDE_M = 1.4


class Actor(NamedTuple):
    """Someone on the street: `variant` chooses the model, `step` (0..1) the phase of the stride."""

    kind: Literal["car", "pedestrian", "cyclist"]
    variant: int
    s: float
    d: float
    turn: float
    step: float


class Pose(NamedTuple):
    """Where the camera is: street coordinates in metres, height, heading against the street, pitch, roll (radians)."""

    s: float
    d: float
    height: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class File:
    """An endless file of actors in one lane: spacing `gap` m, `speed` m/s (negative: towards the camera)."""

    kind: Literal["car", "cyclist"]
    d: float
    speed: float
    gap: float
    present: tuple[bool, ...]
    shifts: tuple[float, ...]
    variants: tuple[int, ...]

    def near(self, s: float, time_s: float) -> list[Actor]:
        """Return the actors from 12 m behind to VIEW_M ahead of `s`."""
        start = self.speed * time_s
        first, last = int(np.ceil((s - 12 - start) / self.gap)), int(np.floor((s + VIEW_M - start) / self.gap))
        found = []
        for index in range(first, last + 1):
            slot = index % _PATTERN
            if self.present[slot]:
                place = index * self.gap + start + self.shifts[slot]
                turn = 0.0 if self.speed > 0 else np.pi
                found.append(Actor(self.kind, self.variants[slot], place, self.d, turn, place / 4.5 % 1))
        return found


@dataclass(frozen=True)
class Walk:
    """A pedestrian's way to and fro: from (s, d) over `span` m along the street, or across it."""

    variant: int
    s: float
    d: float
    span: float
    phase: float
    across: bool

    def actor(self, time_s: float) -> Actor:
        """Return the pedestrian at a time."""
        along, turn = _to_and_fro(time_s, self.span, self.phase)
        step = along / _STRIDE_M % 1
        if self.across:
            return Actor("pedestrian", self.variant, self.s, self.d + along, np.pi / 2 - turn, step)
        return Actor("pedestrian", self.variant, self.s + along, self.d, turn, step)


@lru_cache(maxsize=256)
def _walks(street: Street, index: int) -> tuple[Walk, ...]:
    """Return the pedestrians of chunk `index`; on a highway there is seldom one, standing on the shoulder."""
    section, rng, start = street.section, street.key.rng(7, index), index * CHUNK_M
    highway = section.lanes > 1
    count = int(rng.random() < 0.1) if highway else int(rng.integers(4, 10))
    walks = []
    for _ in range(count):
        side = int(rng.choice([-1, 1]))
        d = side * (section.kerb(side) + (1.4 if highway else rng.uniform(0.35, 0.9) * section.pavement))
        span = 0.5 if highway else rng.uniform(6, 20)
        person, s = int(rng.integers(1000)), start + rng.uniform(0, CHUNK_M)
        walks.append(Walk(person, float(s), float(d), float(span), float(rng.random()), across=False))
    if not highway and rng.random() < 0.6:
        s, span = start + JUNCTION[0] - 3 + rng.uniform(-1, 1), section.right - section.left + 2
        walks.append(Walk(int(rng.integers(1000)), float(s), section.left - 1, span, float(rng.random()), across=True))
    return tuple(walks)


@dataclass(frozen=True)
class Traffic:
    """The movement on one street and of the vehicle that carries the camera."""

    street: Street

    @cached_property
    def _drive(self) -> tuple[float, ...]:
        """Speed, start, sway and mounting of the camera."""
        rng = self.street.key.rng(4)
        city = self.street.key.place == "city"
        speed = rng.uniform(8.5, 13.5) if city else rng.uniform(22, 31)
        mount = (rng.uniform(1.25, 1.6), rng.normal(0, 0.018), rng.normal(-0.005, 0.014), rng.normal(0, 0.006))
        return (speed, rng.uniform(0, 480), rng.uniform(0, 6), rng.uniform(0, 6), *mount)

    def pose(self, time_s: float) -> Pose:
        """Return the camera's pose at a time."""
        speed, start, phase, sway, height, yaw, pitch, roll = self._drive
        section = self.street.section
        s = start + speed * time_s + 6.0 * np.sin(0.19 * time_s + phase)
        lane = -(section.median / 2 + section.lane * (0.5 if section.lanes == 1 else 1.5))
        d = lane + 0.22 * np.sin(0.31 * time_s + sway)
        bounce = 0.004 * np.sin(5.1 * time_s + phase) + 0.003 * np.sin(8.7 * time_s + sway)
        drift = 0.015 * np.sin(0.27 * time_s + phase)
        return Pose(float(s), float(d), height, yaw + drift, pitch + bounce, roll + 0.4 * bounce)

    @cached_property
    def _files(self) -> tuple[File, ...]:
        """The files of oncoming cars, overtaking cars and cyclists."""
        section, rng = self.street.section, self.street.key.rng(5)
        inner, files = section.median / 2, []
        if section.lanes == 1:
            files.append(_file(rng, "car", section.lane * 0.5, -rng.uniform(8, 12), 26.0, 0.5))
            kerbside = section.lane - 0.45
            files.append(_file(rng, "cyclist", -kerbside, rng.uniform(4, 5.5), 30.0, 0.6))
            files.append(_file(rng, "cyclist", kerbside, -rng.uniform(4, 5.5), 34.0, 0.5))
        else:
            for lane in range(section.lanes):
                middle = inner + section.lane * (lane + 0.5)
                files.append(_file(rng, "car", middle, -rng.uniform(24, 32), 36.0, 0.55))
                if lane != 1:
                    files.append(_file(rng, "car", -middle, self._drive[0] + rng.uniform(-4, 4), 30.0, 0.55))
        return tuple(files)

    @cached_property
    def _ahead(self) -> np.ndarray:
        """Phase and falling-back speed of the cars ahead in the own lane."""
        rng = self.street.key.rng(6)
        count = 4
        phases = (np.arange(count) + rng.uniform(0, 0.6, count)) / count
        return np.stack([phases, np.full(count, rng.uniform(0.8, 1.8))], axis=1)

    def actors(self, time_s: float) -> list[Actor]:
        """Return everyone in view at a time, nearest first."""
        pose = self.pose(time_s)
        found = [actor for file in self._files for actor in file.near(pose.s, time_s)]
        for number, (phase, speed) in enumerate(self._ahead):
            turns, along = divmod(phase - speed * time_s / VIEW_M, 1.0)
            variant = int(number * 7 - turns * 5)
            found.append(Actor("car", variant, pose.s + 9.5 + along * VIEW_M, pose.d + 0.1, 0.0, 0.0))
        for index in range(int(pose.s // CHUNK_M), int((pose.s + _PEOPLE_M) // CHUNK_M) + 1):
            found += self._walkers(index, time_s)
        visible = [actor for actor in found if _is_shown(actor, pose)]
        return sorted(visible, key=lambda actor: (actor.s, actor.d, actor.kind))

    def _walkers(self, index: int, time_s: float) -> list[Actor]:
        """Return the pedestrians of one chunk."""
        return [walk.actor(time_s) for walk in _walks(self.street, index)]


def _file(
    rng: np.random.Generator, kind: Literal["car", "cyclist"], d: float, speed: float, gap: float, share: float
) -> File:
    """Return a file whose pattern of presence, shifts and models is drawn from `rng`."""
    present = tuple(bool(x) for x in rng.random(_PATTERN) < share)
    shifts = tuple(float(x) for x in rng.uniform(-0.3, 0.3, _PATTERN) * gap)
    variants = tuple(int(x) for x in rng.integers(0, 1000, _PATTERN))
    return File(kind, float(d), float(speed), gap, present, shifts, variants)


def _to_and_fro(time_s: float, span: float, phase: float, speed: float = 1.3) -> tuple[float, float]:
    """Return the distance walked along a span and the heading (0 out, pi back)."""
    cycle = (time_s * speed / (2 * span) + phase) % 1.0
    return (2 * cycle * span, 0.0) if cycle < 0.5 else (2 * (1 - cycle) * span, np.pi)


def _is_shown(actor: Actor, pose: Pose) -> bool:
    """Tell whether the actor is in view and neither in the own vehicle's way nor around the camera."""
    ahead, beside = actor.s - pose.s, abs(actor.d - pose.d)
    if actor.kind == "car":
        return ahead > 7.5 or (beside > 2.2 and ahead > -6)
    return 2.0 < ahead < _PEOPLE_M and (ahead > 8 or beside > 1.8)
