"""Models of vehicles and people: cars, vans, buses, pedestrians, cyclists, built from quads in their own coordinates.

A model looks along +y, stands on z = 0 and is centred on the origin; lengths are metres. People come in STEPS poses
of one stride.

Not here: where they are at a time (`traffic`), trees and street furniture (`furniture`).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.street.geometry import WHITE, Patch, box, disc, patch, sheet, tube
from roadbits.fleet.cameras.street.textures import GLOW_LAMP

STEPS = 4
_FRAME_TUBES = (
    ((0, -0.52, 0.34), (0, -0.12, 0.86)),
    ((0, -0.12, 0.86), (0, 0.4, 0.84)),
    ((0, 0.05, 0.3), (0, 0.4, 0.84)),
    ((0, 0.52, 0.34), (0, 0.38, 0.98)),
    ((0, 0.05, 0.3), (0, -0.14, 0.9)),
    ((-0.27, 0.32, 1.0), (0.27, 0.32, 1.0)),
)
CAR = CAMVID11.names.index("car")
PEDESTRIAN = CAMVID11.names.index("pedestrian")
BICYCLIST = CAMVID11.names.index("bicyclist")
_SKINS = ((224, 182, 154), (196, 150, 120), (132, 92, 70), (96, 66, 50))
_CAR_COLOURS = (
    (40, 44, 50),
    (196, 200, 204),
    (150, 154, 160),
    (112, 30, 32),
    (34, 50, 92),
    (226, 228, 226),
    (66, 80, 76),
    (92, 92, 96),
    (150, 134, 104),
    (178, 44, 36),
    (58, 96, 150),
    (24, 26, 28),
)


@dataclass(frozen=True)
class Body:
    """Proportions of a car body, in metres: a lower body with a cabin on it.

    Attributes:
        length: over all.
        width: over all.
        belt: height of the bonnet and the lower window edge.
        roof: height of the roof.
        cabin: y of the cabin's foot at the rear, its roof at the rear, its roof at the front, its foot at the front.
    """

    length: float
    width: float
    belt: float
    roof: float
    cabin: tuple[float, float, float, float]


BODIES = (
    Body(4.0, 1.68, 0.86, 1.44, (-1.95, -1.5, 0.1, 0.95)),
    Body(4.4, 1.74, 0.88, 1.42, (-1.6, -1.0, 0.2, 1.0)),
    Body(4.6, 1.84, 1.02, 1.78, (-2.25, -1.95, 0.3, 1.05)),
    Body(5.2, 1.95, 1.15, 2.3, (-2.6, -2.55, 1.4, 2.0)),
    Body(10.5, 2.5, 1.2, 3.1, (-5.2, -5.2, 5.1, 5.22)),
)
"""Small car, saloon, off-roader, van, bus."""


def car(kind: int, rgb: ArrayLike) -> tuple[Patch, ...]:
    """Return a car of BODIES[kind] in the colour rgb (0..255), with windows, lamps, plates and wheels."""
    body = BODIES[kind]
    paint = np.append(np.asarray(rgb, np.float32), 255.0)
    parts = [_hull(body, paint), _cabin(body, paint), _windows(body), _details(body)]
    parts += _lamps(body)
    parts += _wheels(body)
    half, reach = body.width / 2 + 0.25, body.length / 2 + 0.3
    parts.append(sheet("blot", CAR, (-half, -reach, 0), (2 * half, 0, 0), (0, 2 * reach, 0)))
    return tuple(parts)


def _hull(body: Body, paint: ArrayLike) -> Patch:
    """Return the lower body: rounded in plan and in profile by four rings of eight stations."""
    half, back, front, belt = body.width / 2, -body.length / 2, body.length / 2, body.belt
    stations = np.array([back, back + 0.12, back + 0.7, 0.3, front - 0.9, front - 0.15, front])
    tops = np.array([belt - 0.2, belt - 0.03, belt, belt, belt - 0.06, belt - 0.2, belt - 0.3])
    widths = np.array([half - 0.16, half - 0.05, half, half, half - 0.02, half - 0.1, half - 0.24])
    rings = []
    for y, top, side in zip(stations, tops, widths, strict=True):
        lower = [[side * 0.96, y, 0.24], [side, y, 0.55], [side * 0.97, y, top - 0.1], [side * 0.82, y, top]]
        rings.append(lower + [[-x, y_, z] for x, y_, z in reversed(lower)])
    ring = np.array(rings)
    quads = np.stack([ring[:-1, :-1], ring[1:, :-1], ring[1:, 1:], ring[:-1, 1:]], axis=2).reshape(-1, 4, 3)
    ends = [
        [ring[0, 7], ring[0, 0], ring[0, 3], ring[0, 4]],
        [ring[-1, 0], ring[-1, 7], ring[-1, 4], ring[-1, 3]],
    ]
    corners = np.concatenate([quads, np.array(ends)])
    uv = np.stack([corners[..., 1] * 0.21 + 0.5, np.clip(corners[..., 2] / 1.2, 0.02, 0.98)], axis=-1)
    return patch("car_paint", CAR, corners, uv, paint)


def _cabin(body: Body, paint: ArrayLike) -> Patch:
    """Return the cabin's pillars and roof as a frustum in the body colour."""
    foot, top = 0.82 * body.width / 2, 0.68 * body.width / 2
    if body.roof > 2:
        foot, top = 0.97 * body.width / 2, 0.9 * body.width / 2
    y0, y1, y2, y3 = body.cabin
    z0, z1 = body.belt - 0.02, body.roof
    low = [[-foot, y0, z0], [foot, y0, z0], [foot, y3, z0], [-foot, y3, z0]]
    high = [[-top, y1, z1], [top, y1, z1], [top, y2, z1], [-top, y2, z1]]
    quads = [[low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]] for i in range(4)]
    return patch("car_paint", CAR, [*quads, high], colour=paint)


def _windows(body: Body) -> Patch:
    """Return the glass: each cabin side shrunk and lifted off by a centimetre; side windows in two parts."""
    sides = _cabin(body, WHITE).corners[:4].astype(np.float64)
    panes = []
    for index, (a, b, c, d) in enumerate(sides):
        normal = np.cross(b - a, d - a)
        lift = 0.015 * normal / np.linalg.norm(normal)
        cuts = (0.06, 0.94) if index in (0, 2) else (0.08, 0.5, 0.92)
        if body.length > 8 and index in (1, 3):
            cuts = tuple(np.linspace(0.03, 0.97, 7))
        low, high = (0.45, 0.92) if body.roof > 2 and index in (1, 3) else (0.1, 0.88)
        for left, right in pairwise(cuts):
            gap = 0.012
            u0, u1 = left + gap, right - gap
            panes.append([_lerp(a, b, c, d, u, v) + lift for u, v in ((u0, low), (u1, low), (u1, high), (u0, high))])
    return patch("glass", CAR, panes)


def _lerp(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike, u: float, v: float) -> np.ndarray:
    """Return the point (u, v) of the quad a b c d."""
    low = (1 - u) * np.asarray(a) + u * np.asarray(b)
    high = (1 - u) * np.asarray(d) + u * np.asarray(c)
    point: np.ndarray = (1 - v) * low + v * high
    return point


def _details(body: Body) -> Patch:
    """Return bumpers, number plates and grille."""
    half, back, front = body.width / 2, -body.length / 2, body.length / 2
    dark = (44, 44, 46, 255)
    yellow, white = (222, 186, 60, 255), (228, 228, 220, 255)
    strips = [
        (back - 0.03, -half + 0.18, half - 0.18, 0.3, 0.5, dark, -1),
        (back - 0.05, -0.26, 0.26, 0.52, 0.64, yellow, -1),
        (front + 0.03, -half + 0.3, half - 0.3, 0.3, 0.52, dark, 1),
        (front + 0.05, -0.26, 0.26, 0.34, 0.45, white, 1),
    ]
    corners, colours = [], []
    for y, x0, x1, z0, z1, colour, facing in strips:
        left, right = (x0, x1) if facing < 0 else (x1, x0)
        corners.append([[left, y, z0], [right, y, z0], [right, y, z1], [left, y, z1]])
        colours.append(colour)
    return patch("metal", CAR, corners, colour=colours)


def _lamps(body: Body) -> list[Patch]:
    """Return head and tail lamps; they glow in the dark."""
    half, back, front, belt = body.width / 2, -body.length / 2, body.length / 2, min(body.belt, 1.1)
    lamps = []
    for side in (-1, 1):
        inner, outer = side * (half - 0.46), side * (half - 0.18)
        low, high = min(inner, outer), max(inner, outer)
        red, white = (176, 26, 24, GLOW_LAMP), (240, 240, 236, GLOW_LAMP)
        tail = sheet("metal", CAR, (low, back - 0.04, belt - 0.34), (high - low, 0, 0), (0, 0, 0.24), colour=red)
        head = sheet("metal", CAR, (high, front + 0.04, belt - 0.5), (low - high, 0, 0), (0, 0, 0.16), colour=white)
        lamps += [tail, head]
    return lamps


def _wheels(body: Body) -> list[Patch]:
    """Return tyres and hubs on both sides."""
    half, radius = body.width / 2, 0.31 if body.roof < 2 else 0.38
    wheels = []
    for y in (-body.length / 2 + 0.8, body.length / 2 - 0.85):
        for side in (-1, 1):
            wheels.append(disc("metal", CAR, (side * (half + 0.01), y, radius), radius, side, (28, 28, 30, 255)))
            wheels.append(
                disc("metal", CAR, (side * (half + 0.02), y, radius), radius * 0.58, side, (140, 142, 146, 255))
            )
    return wheels


def random_car(rng: np.random.Generator, bus_share: float = 0.04) -> tuple[Patch, ...]:
    """Return a car of random kind and colour."""
    kind = 4 if rng.random() < bus_share else int(rng.choice(4, p=[0.38, 0.32, 0.18, 0.12]))
    base = np.array(_CAR_COLOURS[int(rng.integers(len(_CAR_COLOURS)))], np.float32)
    return car(kind, np.clip(base * rng.uniform(0.85, 1.1) + rng.normal(0, 5, 3), 8, 240))


def pedestrian(rng: np.random.Generator) -> tuple[tuple[Patch, ...], ...]:
    """Return STEPS poses of one walking person with random clothes and build."""
    coat, legs, skin, hair = _clothes(rng)
    scale = rng.uniform(0.9, 1.07)
    bag = rng.random() < 0.4
    poses = []
    for step in range(STEPS):
        swing = 0.32 * np.sin(2 * np.pi * step / STEPS)
        parts = _legs(PEDESTRIAN, legs, swing) + _trunk(PEDESTRIAN, coat, skin, hair, 0.0, swing)
        if bag:
            parts.append(box("cloth", PEDESTRIAN, (0.2, -0.12, 0.7), (0.34, 0.16, 1.02), (58, 48, 44, 255)))
        poses.append(tuple(part.scaled(scale) for part in parts))
    return tuple(poses)


def cyclist(rng: np.random.Generator) -> tuple[tuple[Patch, ...], ...]:
    """Return STEPS poses of a rider on a bicycle."""
    coat, legs, skin, hair = _clothes(rng)
    if rng.random() < 0.35:
        coat = (206, 226, 60, 255)
    frame = (*rng.uniform(20, 190, 3), 255)
    poses = []
    for step in range(STEPS):
        turn = 0.17 * np.array([np.cos(2 * np.pi * step / STEPS), np.sin(2 * np.pi * step / STEPS)])
        parts = _bicycle(frame)
        for side, sign in ((-0.1, 1), (0.1, -1)):
            pedal = (side, 0.05 + sign * turn[0], 0.3 + sign * turn[1])
            knee = (side, 0.28 + 0.4 * sign * turn[0], 0.68 + 0.5 * sign * turn[1])
            parts.append(tube("cloth", BICYCLIST, pedal, knee, (0.055, 0.075), colour=legs))
            parts.append(tube("cloth", BICYCLIST, knee, (side, -0.18, 0.95), (0.08, 0.1), colour=legs))
        trunk = _trunk(BICYCLIST, coat, skin, hair, 0.42, 0.0)
        parts += [part.moved(0, -0.18, 0.1) for part in trunk]
        poses.append(tuple(parts))
    return tuple(poses)


def _clothes(rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """Return the RGBA colours of coat, trousers, skin and hair; mostly dark, seldom bright."""
    coat = rng.uniform(18, 110, 3) if rng.random() < 0.65 else rng.uniform(60, 230, 3)
    trousers = rng.uniform(22, 90) * np.array([0.95, 1.0, rng.uniform(1, 1.4)])
    skin = np.array(_SKINS[int(rng.integers(4))], np.float32)
    hair = np.array([46, 36, 30]) * rng.uniform(0.5, 2.6)
    return tuple((float(c[0]), float(c[1]), float(c[2]), 255.0) for c in (coat, trousers, skin, hair))


def _legs(class_id: int, colour: ArrayLike, swing: float) -> list[Patch]:
    """Return two legs, one `swing` metres ahead, the other behind."""
    legs = []
    for side, sign in ((-0.09, 1), (0.09, -1)):
        foot, knee = (side, sign * swing, 0.0), (side, sign * swing * 0.45 + 0.04, 0.46)
        legs.append(tube("cloth", class_id, foot, knee, (0.06, 0.075), colour=colour))
        legs.append(tube("cloth", class_id, knee, (side * 0.9, 0, 0.88), (0.08, 0.105), colour=colour))
    return legs


def _trunk(class_id: int, coat: ArrayLike, skin: ArrayLike, hair: ArrayLike, lean: float, swing: float) -> list[Patch]:
    """Return coat, arms, neck, head and hair, leaning `lean` metres forward at the shoulders."""
    hip, shoulder, crown = (0, 0, 0.82), (0, lean, 1.42), (0, lean * 1.25, 1.74)
    parts = [
        _flattened(tube("cloth", class_id, hip, shoulder, (0.19, 0.25), 6, coat)),
        tube("cloth", class_id, shoulder, (0, lean * 1.1, 1.52), (0.2, 0.06), 6, coat),
        tube("cloth", class_id, (0, lean * 1.1, 1.48), crown, (0.075, 0.1), 6, skin),
        tube("cloth", class_id, (0, lean * 1.22, 1.63), (0, lean * 1.25, 1.79), (0.115, 0.05), 6, hair),
    ]
    for side, sign in ((-0.25, -1), (0.25, 1)):
        hand = (side, lean + 0.28, 0.98) if lean else (side * 1.1, sign * swing * 0.8, 0.84)
        parts.append(tube("cloth", class_id, hand, (side * 0.9, lean, 1.4), (0.05, 0.075), colour=coat))
    return parts


def _bicycle(frame: ArrayLike) -> list[Patch]:
    """Return wheels as spoked cutouts, frame tubes, handlebar."""
    parts = []
    for y in (-0.52, 0.52):
        wheel = sheet("wheel", BICYCLIST, (0, y - 0.34, 0), (0, 0.68, 0), (0, 0, 0.68))
        tyre = [tube("metal", BICYCLIST, a, b, (0.024, 0.024), 3, (30, 30, 32, 255)) for a, b in _rim(y)]
        parts += [wheel, *tyre]
    parts += [tube("metal", BICYCLIST, a, b, (0.026, 0.026), 3, frame) for a, b in _FRAME_TUBES]
    return parts


def _rim(y: float) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Return the six chords of a wheel rim centred at (0, y, 0.34)."""
    angles = np.arange(7) * np.pi / 3
    rim = [(0.0, y + 0.33 * float(np.cos(a)), 0.34 + 0.33 * float(np.sin(a))) for a in angles]
    return list(pairwise(rim))


def _flattened(part: Patch) -> Patch:
    """Return the part with its depth (y about its middle) reduced to 62%."""
    corners = part.corners.copy()
    middle = corners[..., 1].mean()
    corners[..., 1] = middle + (corners[..., 1] - middle) * 0.62
    return Patch(part.material, part.class_id, corners, part.uv, part.colour)
