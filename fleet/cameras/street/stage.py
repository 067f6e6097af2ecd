"""A street as panda3d nodes: chunks come and go with the camera, actors take their poses.

There are two node trees, one for colours and one for labels, moved alike. Coordinates are relative to the centreline
beside the camera, so that they stay small however far the street is driven. Stages are cached, the last few only.

Not here: buffers and pixels (`renderer`).
"""

from collections import Counter, OrderedDict
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.street.geometry import sheet
from roadbits.fleet.cameras.street.layout import CHUNK_M, Street, StreetKey
from roadbits.fleet.cameras.street.materials import DEPTH_TESTED, MARKED, NUM_SKIES, SHADED, Material, material_pool
from roadbits.fleet.cameras.street.models import STEPS
from roadbits.fleet.cameras.street.panda import panda3d_core
from roadbits.fleet.cameras.street.renderer import FIELD_OF_VIEW_DEG
from roadbits.fleet.cameras.street.scene import NUM_SLOTS, Batch, chunk, library, merged, model_batches
from roadbits.fleet.cameras.street.traffic import VIEW_M, Actor, Pose, Traffic

_MAX_CHUNKS = 12
_COPIES = 3
"""How often one model can be in view at a time."""
_NEAR_M, _FAR_M = 0.4, 420.0
_SKY_M = 330.0
_VERTEX = np.dtype([("vertex", "<f4", 3), ("color", "u1", 4), ("texcoord", "<f4", 2)])


class Paints:
    """The render states of one material pool, for colours and for labels."""

    def __init__(self, pool: dict[str, Material]) -> None:
        self.colour = {name: _colour_state(material) for name, material in pool.items()}
        self.label = {name: _label_state(material) for name, material in pool.items()}
        self.layer = {name: material.layer for name, material in pool.items()}


@lru_cache(maxsize=3)
def paints(seed: int, split: str) -> Paints:
    """Return the render states for a seed and split."""
    return Paints(material_pool(seed, split))


class Stage:
    """One street in panda3d nodes, set to a time by `show`."""

    def __init__(self, key: StreetKey) -> None:
        core = panda3d_core()

        self._core = core
        self._street = Street(key)
        self._traffic = Traffic(self._street)
        self._paints = paints(key.seed, key.split)
        self._colour, self._label = core.NodePath("colour"), core.NodePath("label")
        self._lens = core.PerspectiveLens()
        self._lens.setNearFar(_NEAR_M, _FAR_M)
        self.colour_camera = self._colour.attachNewNode(core.Camera("colour", self._lens))
        self.label_camera = self._label.attachNewNode(core.Camera("label", self._lens))
        self._chunks: OrderedDict[int, tuple[Any, Any, float]] = OrderedDict()
        self._actors: dict[tuple[str, int, int], list[tuple[Any, Any]]] = {}
        self._slots: dict[tuple[str, int, int], int] = {}
        self._shown: list[Any] = []
        self._sky = self._colour.attachNewNode(_sky_node(self._paints))
        self.slot_distances = np.full(256, np.inf, np.float32)

    def show(self, time_s: float, sky: int, height: int, width: int) -> Pose:
        """Set the street, its actors, the sky and the camera to a time; return the camera's pose."""
        pose = self._traffic.pose(time_s)
        course = self._street.course
        origin = np.array([float(course.offset(pose.s)), pose.s])
        self.slot_distances[:] = np.inf
        self._show_chunks(pose, origin)
        self._show_actors(self._traffic.actors(time_s), pose, origin)
        self._place_camera(pose, origin, height, width)
        self._sky.setTexture(self._sky_texture(sky), 1)
        return pose

    def node_pair(self, batches: list[Batch]) -> tuple[Any, Any]:
        """Return a colour node path and a label node path of batches, not yet attached."""
        colour, label = self._core.GeomNode("colour"), self._core.GeomNode("label")
        for batch in batches:
            colour.addGeom(_geom(batch, batch.colour), self._paints.colour[batch.material])
        for batch, state in self._label_batches(batches):
            label.addGeom(_geom(batch, batch.code), state)
        return self._core.NodePath(colour), self._core.NodePath(label)

    def _label_batches(self, batches: list[Batch]) -> list[tuple[Batch, Any]]:
        """Return the batches to draw in the label tree: opaque ones joined, paint and shadows left out."""
        states = self._paints.label
        opaque = [b for b in batches if states[b.material] is None and self._paints.layer[b.material] == DEPTH_TESTED]
        rest = [b for b in batches if states[b.material] is not None and self._paints.layer[b.material] < MARKED]
        pairs = [(batch, states[batch.material]) for batch in rest]
        if opaque:
            arrays = [np.concatenate(parts) for parts in zip(*(b[2:] for b in opaque), strict=True)]
            pairs.append((Batch("", 0, *arrays), self._core.RenderState.makeEmpty()))
        return pairs

    def _sky_texture(self, sky: int) -> Any:
        """Return a sky's texture."""
        state = self._paints.colour[f"sky{sky % NUM_SKIES}"]
        return state.getAttrib(self._core.TextureAttrib).getTexture()

    def _show_chunks(self, pose: Pose, origin: NDArray[np.float64]) -> None:
        """Attach the chunks in view at their places, building what is missing; forget the oldest."""
        first, last = int((pose.s - 8) // CHUNK_M), int((pose.s + VIEW_M) // CHUNK_M)
        for index in range(first, last + 1):
            if index not in self._chunks:
                offset = float(self._street.course.offset(index * CHUNK_M))
                self._chunks[index] = (*self.node_pair(chunk(self._street, index)), offset)
            self._chunks.move_to_end(index)
        while len(self._chunks) > _MAX_CHUNKS:
            for node in self._chunks.popitem(last=False)[1][:2]:
                node.removeNode()
        for index, (*nodes, offset) in self._chunks.items():
            visible = first <= index <= last
            start = index * CHUNK_M
            for node, root in zip(nodes, (self._colour, self._label), strict=True):
                if not visible:
                    node.detachNode()
                    continue
                node.reparentTo(root)
                node.setBin("fixed", index - first)
                node.setPos(offset - origin[0], start - origin[1], 0)
            if visible:
                self._set_distance(index % NUM_SLOTS, start - pose.s)

    def _show_actors(self, actors: list[Actor], pose: Pose, origin: NDArray[np.float64]) -> None:
        """Give every actor a copy of its model; who finds none left (the farthest) is not shown.

        The bin `fixed` keeps the order of attachment; panda3d's usual bin sorts by memory address, and surfaces of
        equal depth would differ from process to process.
        """
        for node in self._shown:
            node.detachNode()
        self._shown = []
        models = library(self._street.key.seed, self._street.key.split)
        counts = {"car": len(models.cars), "pedestrian": len(models.pedestrians), "cyclist": len(models.cyclists)}
        used: Counter[tuple[str, int]] = Counter()
        course = self._street.course
        along, aside = (np.array([getattr(actor, axis) for actor in actors]) for axis in "sd")
        x, y = course.place(along, aside)
        turns = np.degrees(course.heading(along) + np.array([actor.turn for actor in actors]))
        for number, actor in enumerate(actors):
            variant = actor.variant % counts[actor.kind]
            copy = used[actor.kind, variant]
            if copy == _COPIES:
                continue
            used[actor.kind, variant] += 1
            nodes = self._actor_nodes(actor, variant, copy)
            for node, root in zip(nodes, (self._colour, self._label), strict=True):
                node.reparentTo(root)
                node.setBin("fixed", 0)
                node.setPosHpr(x[number] - origin[0], y[number] - origin[1], self._floor(actor), -turns[number], 0, 0)
                self._shown.append(node)
            self._set_distance(self._slots[actor.kind, variant, copy], max(0.5, actor.s - pose.s))

    def _set_distance(self, slot: int, distance_m: float) -> None:
        """Note the distance of a slot under both of its codes: 2 * slot + 1, or one less after texturing."""
        self.slot_distances[2 * slot : 2 * slot + 2] = distance_m

    def _floor(self, actor: Actor) -> float:
        """Return the height of the ground under an actor: pavements are raised."""
        section = self._street.section
        return 0.12 if actor.kind == "pedestrian" and not section.left < actor.d < section.right else 0.0

    def _actor_nodes(self, actor: Actor, variant: int, copy: int) -> tuple[Any, Any]:
        """Return the nodes of one copy of a model in the actor's pose, built at first use."""
        key = (actor.kind, variant, copy)
        if key not in self._actors:
            slot = NUM_SLOTS + len(self._slots)
            self._slots[key] = slot
            models = library(self._street.key.seed, self._street.key.split)
            section = self._street.section
            if actor.kind == "car":
                poses: tuple[Any, ...] = (models.cars[variant],)
            else:
                poses = (models.pedestrians if actor.kind == "pedestrian" else models.cyclists)[variant]
            batches = (model_batches(parts, slot, section.sun, section.sunlight) for parts in poses)
            self._actors[key] = [self.node_pair(part) for part in batches]
        poses_ready = self._actors[key]
        return poses_ready[int(actor.step * STEPS) % len(poses_ready)]

    def _place_camera(self, pose: Pose, origin: NDArray[np.float64], height: int, width: int) -> None:
        """Set both cameras and the sky around them."""
        x, y = self._street.course.place(pose.s, pose.d)
        turn = np.degrees(float(self._street.course.heading(pose.s)) + pose.yaw)
        self._lens.setAspectRatio(width / height)
        self._lens.setFov(FIELD_OF_VIEW_DEG)
        for camera in (self.colour_camera, self.label_camera):
            camera.setPos(float(x) - origin[0], float(y) - origin[1], pose.height)
            camera.setHpr(-turn, np.degrees(pose.pitch), np.degrees(pose.roll))
        self._sky.setPos(self.colour_camera.getPos())


_MAX_STAGES = 10
_STAGES: OrderedDict[StreetKey, Stage] = OrderedDict()


def stage(key: StreetKey) -> Stage:
    """Return the stage of a street, building it if it is not among the last few used."""
    if key not in _STAGES:
        _STAGES[key] = Stage(key)
        if len(_STAGES) > _MAX_STAGES:
            _STAGES.popitem(last=False)
    _STAGES.move_to_end(key)
    return _STAGES[key]


def _texture(material: Material, white: bool) -> Any:
    """Return a panda3d texture; `white` keeps only the silhouette.

    panda3d takes bytes as blue, green, red: red and blue are exchanged on the way in (here and in the vertex colours),
    so that the copied picture comes out as red, green, blue without a pass over its pixels.
    """
    core = panda3d_core()

    image = material.image[::-1].copy()
    if white:
        image[..., :3] = 255
    texture = core.Texture()
    texture.setup2dTexture(image.shape[1], image.shape[0], core.Texture.TUnsignedByte, core.Texture.FRgba)
    texture.setRamImage(image.tobytes())
    sampler = core.SamplerState
    texture.setMinfilter(sampler.FT_linear if material.cutout else sampler.FT_linear_mipmap_nearest)
    texture.setMagfilter(sampler.FT_linear)
    texture.setWrapU(sampler.WM_repeat)
    texture.setWrapV(sampler.WM_repeat)
    return texture


def _attributes(material: Material) -> list[Any]:
    """Return what colour and label drawing share: silhouettes, ground layers."""
    core = panda3d_core()

    attributes = []
    if material.cutout:
        attributes.append(core.AlphaTestAttrib.make(core.RenderAttrib.MGreaterEqual, 0.5))
        attributes.append(core.CullFaceAttrib.make(core.CullFaceAttrib.MCullNone))
    if material.layer != DEPTH_TESTED:
        attributes.append(core.CullBinAttrib.make("background", 10 + material.layer))
        attributes.append(core.DepthTestAttrib.make(core.RenderAttrib.MNone))
        attributes.append(core.DepthWriteAttrib.make(core.DepthWriteAttrib.MOff))
    return attributes


def _state(attributes: list[Any]) -> Any:
    """Return the render state of attributes; panda3d's own constructor takes five at most."""
    core = panda3d_core()

    state = core.RenderState.makeEmpty()
    for attribute in attributes:
        state = state.addAttrib(attribute)
    return state


def _colour_state(material: Material) -> Any:
    """Return how a material's colours are drawn."""
    core = panda3d_core()

    attributes = [core.TextureAttrib.make(_texture(material, white=False)), *_attributes(material)]
    if material.layer == SHADED:
        attributes.append(core.TransparencyAttrib.make(core.TransparencyAttrib.MAlpha))
    return _state(attributes)


def _label_state(material: Material) -> Any:
    """Return how a material's labels are drawn; None for plain opaque ones, which are drawn together."""
    core = panda3d_core()

    attributes = _attributes(material)
    if material.cutout:
        attributes.append(core.TextureAttrib.make(_texture(material, white=True)))
    return _state(attributes) if attributes else None


@lru_cache(maxsize=1)
def _vertex_format() -> Any:
    core = panda3d_core()

    name, geom = core.InternalName, core.Geom
    columns = core.GeomVertexArrayFormat(
        name.getVertex(), 3, geom.NTFloat32, geom.CPoint,
        name.getColor(), 4, geom.NTUint8, geom.CColor,
        name.getTexcoord(), 2, geom.NTFloat32, geom.CTexcoord,
    )  # fmt: skip
    return core.GeomVertexFormat.registerFormat(core.GeomVertexFormat(columns))


def _geom(batch: Batch, colour: NDArray[np.uint8]) -> Any:
    """Return the quads of a batch as triangles."""
    core = panda3d_core()

    vertices = np.empty(colour.shape[0] * 4, _VERTEX)
    vertices["vertex"] = batch.corners.reshape(-1, 3)
    vertices["color"] = colour.reshape(-1, 4)[:, [2, 1, 0, 3]]
    vertices["texcoord"] = batch.uv.reshape(-1, 2)
    data = core.GeomVertexData("street", _vertex_format(), core.Geom.UHStatic)
    data.uncleanSetNumRows(len(vertices))
    memoryview(data.modifyArray(0)).cast("B")[:] = vertices.tobytes()
    first = np.arange(0, len(vertices), 4, dtype=np.uint32)[:, None]
    indices = (first + np.array([0, 1, 2, 0, 2, 3], np.uint32)).ravel()
    triangles = core.GeomTriangles(core.Geom.UHStatic)
    triangles.setIndexType(core.Geom.NTUint32)
    array = triangles.modifyVertices()
    array.uncleanSetNumRows(len(indices))
    memoryview(array).cast("B")[:] = indices.tobytes()
    geom = core.Geom(data)
    geom.addPrimitive(triangles)
    return geom


def _sky_node(states: Paints) -> Any:
    """Return a ring of sky around the origin, seen from within, from below the horizon to high above."""
    core = panda3d_core()

    angles = np.linspace(0, -2 * np.pi, 33)
    levels = ((-40.0, 0.0, 0.001, 0.01), (0.0, 150.0, 0.01, 0.55), (150.0, 330.0, 0.55, 0.999))
    parts = []
    for left, right in pairwise(angles):
        a, b = (np.array([np.cos(t), np.sin(t)]) * _SKY_M for t in (left, right))
        for low, high, v0, v1 in levels:
            uv = (-left / np.pi, v0, -right / np.pi, v1)
            parts.append(sheet("sky0", 0, (*a, low), (*(b - a), 0), (0, 0, high - low), uv=uv))
    (ring,) = merged(tuple(parts))
    full = np.full((len(ring.corners), 4, 4), 255, np.uint8)
    node = core.GeomNode("sky")
    node.addGeom(_geom(Batch("sky0", 0, ring.corners, ring.uv, full, full), full), states.colour["sky0"])
    path = core.NodePath(node)
    path.setBin("background", 0)
    path.setDepthTest(False)
    path.setDepthWrite(False)
    path.setTwoSided(True)
    return node
