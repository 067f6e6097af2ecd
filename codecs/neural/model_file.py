"""A frozen model: everything that a neural still codec needs, in one safetensors file with a hash.

The file holds exact transforms, the vectors between them and integer entropy tables, for a number of *positions*: the
rate levels that were trained and steps between them. The hash covers every tensor and the description; its first 48
bits travel in each payload.

Not here: encoding and decoding (`still`), making a model (`training.freezing`).
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.integer import (
    LARGEST_ACTIVATION,
    LARGEST_PIXEL,
    LARGEST_SQUARE,
    MOST_GROUPS,
    ExactTransform,
    Kind,
    Output,
    Shape,
)
from roadbits.codecs.neural.context_model import Begun, ContextModel, OffsetTables
from roadbits.codecs.neural.modulation import Method
from roadbits.codecs.symbol_tables import SymbolTables

FORMAT = "roadbits-still-1"
_METADATA_KEY = "roadbits"
_MAX_FILE_BYTES = 1 << 30
_PACKED_FROM = 1 << 16
_HIGH = "~high"
"""Weights are packed from so many numbers on: low bytes under their name, high bytes, mostly alike, deflated beside."""

Architecture = Literal["cae", "hyperprior"]
TransformName = Literal["g_a", "g_s", "h_a", "h_s"]


class ModelFileError(Exception):
    """A file of weights that is missing, damaged or of another kind."""


class LayerWords(BaseModel):
    """What a file says of a layer; see `Shape`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    stride: int = Field(ge=1, le=16)
    output: Output
    largest_input: int = Field(ge=1, le=LARGEST_SQUARE)
    groups: int = Field(ge=1, le=MOST_GROUPS)

    @classmethod
    def of(cls, transform: ExactTransform) -> "tuple[LayerWords, ...]":
        """Return the words of each layer of a transform."""
        return tuple(cls(**vars(layer.shape)) for layer in transform.layers)


class ContextWords(BaseModel):
    """What a file says of a context.

    Attributes:
        groups: see `ContextModel`.
        networks: the layers of each.
        means: whether it has offset tables, for means that move too.
        steps: of its training.
        origin: whether its networks look from elsewhere than the codec's tables.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: tuple[int, ...] = Field(min_length=1, max_length=64)
    networks: tuple[tuple[LayerWords, ...], ...]
    means: bool = False
    steps: int = 0
    origin: bool = False

    @classmethod
    def of(cls, context: ContextModel, steps: int) -> "ContextWords":
        """Return the words of a context."""
        networks = tuple(map(LayerWords.of, context.networks))
        origin = context.origin is not None
        return cls(groups=context.groups, networks=networks, means=context.with_means, steps=steps, origin=origin)


class Description(BaseModel):
    """What a model file says of itself.

    Attributes:
        format: of the file.
        architecture: the codec it belongs to.
        lambdas: one for each position, from about the lowest rate up.
        trained: the positions that were trained; the others are interpolated.
        method: how positions differ.
        bin_widths: of each position's quantiser; empty if all are 1.
        transforms: the layers of g_a and g_s, and of h_a and h_s if there are.
        means: whether h_s gives means beside scales.
        steps: of the training.
        context: of y, if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["roadbits-still-1"] = "roadbits-still-1"
    architecture: Architecture
    lambdas: tuple[float, ...] = Field(min_length=1, max_length=4096)
    trained: tuple[int, ...] = Field(min_length=1)
    method: Method = "gain"
    bin_widths: tuple[float, ...] = ()
    transforms: dict[TransformName, tuple[LayerWords, ...]]
    means: bool = True
    steps: int = 0
    context: ContextWords | None = None


@dataclass(frozen=True, eq=False)
class Side:
    """How one latent passes from an analysis to a synthesis transform.

    Attributes:
        gain: float32 (positions, C): what the latent is multiplied by before rounding.
        entry: float32 (positions, C): what the rounded latent is multiplied by to enter the synthesis transform.
    """

    gain: Tensor
    entry: Tensor


@dataclass(frozen=True, eq=False)
class Hyper:
    """The second stage of a hyperprior.

    Attributes:
        h_a: from y's whole steps to z.
        h_s: from z's whole steps to scales, and means.
        y_entry: float32 (M,), or (positions, M): what y is multiplied by to enter h_a.
        side: of z.
        thresholds: float32 (63,): a scale's table is the number of thresholds below it.
        tables: of the Gaussians, 64 of them.
    """

    h_a: ExactTransform
    h_s: ExactTransform
    y_entry: Tensor
    side: Side
    thresholds: Tensor
    tables: SymbolTables


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """A neural still codec's weights and tables.

    Attributes:
        description: what it is.
        g_a: from pixels 0..255 to y.
        g_s: from y's whole steps to pixels 0..255.
        side: of y.
        tables: of the factorised latent (y of a CAE, z of a hyperprior): table `position * C + channel`.
        hyper: the second stage, if there is one.
        context: moves what is expected of y while it is decoded, if there is one: the scales of a hyperprior, means
            and scales of a factorised latent.
    """

    description: Description
    g_a: ExactTransform
    g_s: ExactTransform
    side: Side
    tables: SymbolTables
    hyper: Hyper | None = None
    context: ContextModel | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        factorised = self.hyper.side if self.hyper else self.side
        positions = len(self.description.lambdas)
        if len(self.tables) != factorised.gain.numel():
            raise ValueError(f"expected {factorised.gain.numel()} entropy tables, got {len(self.tables)}")
        for side in (self.side, factorised):
            for vectors in (side.gain, side.entry):
                if vectors.ndim != 2 or len(vectors) != positions or not torch.isfinite(vectors).all():
                    raise ValueError(f"expected finite gains for {positions} positions, got {tuple(vectors.shape)}")
            if side.gain.shape != side.entry.shape or {side.gain.dtype, side.entry.dtype} != {torch.float32}:
                raise ValueError("expected gains and entries of one shape and of float32")
        self._check_positions()
        if any(position not in range(positions) for position in self.description.trained):
            raise ValueError(f"trained positions {self.description.trained} are not in 0..{positions - 1}")
        if self.hyper and {self.hyper.thresholds.dtype, self.hyper.y_entry.dtype} != {torch.float32}:
            raise ValueError("expected an entry of h_a and thresholds of scales in float32")
        if self.hyper and self.hyper.thresholds.ndim != 1:
            raise ValueError(f"expected thresholds of scales in a row, got {tuple(self.hyper.thresholds.shape)}")
        if self.hyper and (len(self.hyper.tables) != len(self.hyper.thresholds) + 1):
            raise ValueError("expected one more Gaussian table than thresholds")
        self._check_channels()
        if self.context:
            self._check_context(self.context)
        if self.hyper and not (torch.isfinite(self.hyper.y_entry).all() and (self.hyper.thresholds.diff() > 0).all()):
            raise ValueError("expected a finite entry of h_a and thresholds of scales that rise")

    def _check_positions(self) -> None:
        """Check that no two positions bear one name."""
        lambdas, bin_widths = self.description.lambdas, self.description.bin_widths
        if not bin_widths and any(low >= high for low, high in pairwise((0.0, *lambdas))):
            raise ValueError(f"lambdas {lambdas} do not rise from above 0")
        if bin_widths:
            names = set(zip(lambdas, bin_widths, strict=False))
            if len(bin_widths) != len(lambdas) or len(names) < len(lambdas) or min(*lambdas, *bin_widths) <= 0:
                raise ValueError(f"expected a lambda and a bin width above 0 for each of {len(lambdas)} positions")
        for transform in self._transforms():
            for layer in transform.layers:
                if layer.num_positions not in (None, len(lambdas)):
                    raise ValueError(f"a layer knows {layer.num_positions} positions, the model has {len(lambdas)}")

    def _check_context(self, context: ContextModel) -> None:
        """Check that a context moves what this codec has."""
        latent = self.side.gain.shape[1]
        if len(context.order) != latent:
            raise ValueError(f"expected a context of {latent} channels, got one of {len(context.order)}")
        if context.with_means == (self.hyper is not None):
            raise ValueError("expected a context that moves scales alone for a hyperprior, means too for others")
        if self.hyper and len(context.inverse_scales) != len(self.hyper.tables):
            raise ValueError(f"expected a context of {len(self.hyper.tables)} scales")
        if context.origin and not _is_origin(context.origin, self.side.gain.shape, len(context.inverse_scales)):
            raise ValueError("expected a scale and a mean of every position and channel from where a context looks")

    def _transforms(self) -> tuple[ExactTransform, ...]:
        return self.g_a, self.g_s, *((self.hyper.h_a, self.hyper.h_s) if self.hyper else ())

    def _check_channels(self) -> None:
        """Check that transforms, vectors and images fit each other."""
        latent = self.side.gain.shape[1]
        expected = [(self.g_a, 3, latent), (self.g_s, latent, 3)]
        if self.hyper:
            hyper_latent = self.hyper.side.gain.shape[1]
            outputs = latent * (1 + self.description.means)
            expected += [(self.hyper.h_a, latent, hyper_latent), (self.hyper.h_s, hyper_latent, outputs)]
            if self.hyper.y_entry.shape not in ((latent,), (len(self.description.lambdas), latent)):
                raise ValueError(f"expected an entry of h_a for {latent} channels, got {self.hyper.y_entry.shape}")
        for transform, inputs, outputs in expected:
            if (transform.num_inputs, transform.num_outputs) != (inputs, outputs):
                raise ValueError(
                    f"expected a transform from {inputs} to {outputs} channels, "
                    f"got one from {transform.num_inputs} to {transform.num_outputs}"
                )
            for index, layer in enumerate(transform.layers):
                gdn = layer.shape.kind in ("gdn", "igdn")
                of_pixels = transform is self.g_a and index == 0
                largest = LARGEST_PIXEL if of_pixels else LARGEST_SQUARE if gdn else LARGEST_ACTIVATION
                if layer.shape.largest_input != largest:
                    raise ValueError(f"a layer says its inputs reach {layer.shape.largest_input}, they reach {largest}")

    def without_context(self) -> "FrozenModel":
        """Return the same codec without a context: the same images in more bytes, under another hash."""
        if self.context is None:
            return self
        return replace(self, description=self.description.model_copy(update={"context": None}), context=None)

    def tensors(self) -> dict[str, Tensor]:
        """Return every number of the model by its name in the file."""
        tensors = {**self.g_a.tensors("g_a"), **self.g_s.tensors("g_s"), "y.gain": self.side.gain}
        tensors |= {"y.entry": self.side.entry, **table_tensors("tables", self.tables)}
        if self.hyper:
            tensors |= {**self.hyper.h_a.tensors("h_a"), **self.hyper.h_s.tensors("h_s")}
            tensors |= {"z.gain": self.hyper.side.gain, "z.entry": self.hyper.side.entry}
            tensors |= {"h_a.entry": self.hyper.y_entry, "scales.thresholds": self.hyper.thresholds}
            tensors |= table_tensors("scales", self.hyper.tables)
        if self.context:
            offset_tables = self.context.offset_tables
            tensors |= self.context.tensors()
            tensors |= table_tensors("context", offset_tables.tables) if offset_tables else {}
        return tensors

    @cached_property
    def hash(self) -> bytes:
        """Return the hash that payloads carry, 6 bytes."""
        state = hashlib.blake2b(digest_size=HASH_BYTES)
        # Not pydantic's own JSON, whose way to write numbers may change with its version.
        # Without what has its default, which must never change: new words then leave old hashes as they are.
        described = self.description.model_dump(mode="json", exclude_defaults=True)
        state.update(json.dumps(described, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            state.update(tensor.contiguous().numpy().tobytes())
        return state.digest()

    @cached_property
    def num_bytes(self) -> int:
        """Return the bytes of all numbers as stored."""
        return stored_bytes(self.tensors())

    def save(self, path: Path) -> None:
        """Write the model to a file, complete or not at all."""
        save_tensors(path, self.description.model_dump_json(), self.tensors())

    @classmethod
    def load(cls, path: Path) -> "FrozenModel":
        """Read a model from a file.

        Raises:
            ModelFileError: if it is missing, damaged or no model of a still codec.
        """
        with open_tensors(path) as (text, tensors):
            return cls.of(Description.model_validate(json.loads(text)), tensors)

    @classmethod
    def of(cls, description: Description, tensors: Mapping[str, Tensor]) -> "FrozenModel":
        """Build a model from what a file holds.

        Raises:
            KeyError: if a tensor is missing.
            ValueError: if the model is not sound.
        """
        transforms = {
            name: ExactTransform.of(name, [Shape(**layer.model_dump()) for layer in layers], tensors)
            for name, layers in description.transforms.items()
        }
        hyper = None
        if description.architecture == "hyperprior":
            hyper = Hyper(
                transforms["h_a"],
                transforms["h_s"],
                tensors["h_a.entry"],
                Side(tensors["z.gain"], tensors["z.entry"]),
                tensors["scales.thresholds"],
                tables_of("scales", tensors),
            )
        side, tables = Side(tensors["y.gain"], tensors["y.entry"]), tables_of("tables", tensors)
        context = _context_of(description.context, tensors)
        return cls(description, transforms["g_a"], transforms["g_s"], side, tables, hyper, context)


def _context_of(words: ContextWords | None, tensors: Mapping[str, Tensor]) -> ContextModel | None:
    """Return the context that a file holds.

    Raises:
        KeyError: if a tensor is missing.
        ValueError: if it is not sound.
    """
    if words is None:
        return None
    networks = tuple(
        ExactTransform.of(f"context.{number}", [Shape(**layer.model_dump()) for layer in layers], tensors)
        for number, layers in enumerate(words.networks)
    )
    offset_tables = None
    if words.means:
        offset_tables = OffsetTables(tensors["context.parts"].long(), tables_of("context", tensors))
    order, inverse_scales = tensors["context.order"].long(), tensors["context.inverse_scales"]
    origin = None
    if words.origin:
        origin = Begun(*(tensors[f"context.origin.{name}"].int() for name in ("rungs", "eighths")))
    return ContextModel(order, words.groups, networks, inverse_scales, offset_tables, origin)


def _is_origin(origin: Begun, shape: torch.Size, num_scales: int) -> bool:
    """Return whether a context can look from there; see `ContextModel`."""
    rungs, eighths = origin
    if eighths is None or rungs.shape != shape or eighths.shape != shape:
        return False
    return int(rungs.min()) >= 0 and int(rungs.max()) < num_scales and int(eighths.abs().max()) < 1 << 24


def save_tensors(path: Path, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of weights with its description, complete or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored |= _packed(name, _narrow(tensor).contiguous())
    save_file(stored, unfinished, {_METADATA_KEY: text})
    unfinished.chmod(0o644)
    unfinished.replace(path)


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes that tensors take in a file, before large ones are packed."""
    return sum(narrow.numel() * narrow.element_size() for narrow in map(_narrow, tensors.values()))


def _narrow(tensor: Tensor) -> Tensor:
    """Return whole numbers as int16 where that holds them all, the rest as it is; reading makes them wide again."""
    if tensor.dtype not in (torch.int32, torch.int64) or not tensor.numel() or tensor.abs().max() >= 1 << 15:
        return tensor
    return tensor.to(torch.int16)


def _packed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor as the file holds it: as it is, or its low bytes and its high bytes apart."""
    if tensor.dtype != torch.int16 or tensor.numel() < _PACKED_FROM:
        return {name: tensor}
    low, high = np.moveaxis(tensor.numpy().astype("<i2").view(np.uint8).reshape(*tensor.shape, 2), -1, 0)
    deflated = np.frombuffer(zlib.compress(high.tobytes()), np.uint8)
    return {name: torch.from_numpy(low.copy()), name + _HIGH: torch.from_numpy(deflated.copy())}


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with what `_packed` took apart put together.

    Raises:
        KeyError: if low bytes are missing.
        ValueError: if high bytes are not as many.
    """
    for name in [name for name in tensors if name.endswith(_HIGH)]:
        deflated, low = tensors.pop(name).numpy(), tensors[name.removesuffix(_HIGH)].numpy()
        inflating = zlib.decompressobj()
        try:
            high = inflating.decompress(deflated.tobytes(), low.size + 1)
        except zlib.error as error:
            raise ValueError(f"{name}: {error}") from error
        if low.dtype != np.uint8 or len(high) != low.size or not inflating.eof:
            raise ValueError(f"{name} does not hold the high bytes of {low.size} numbers")
        both = np.stack((low, np.frombuffer(high, np.uint8).reshape(low.shape)), axis=-1)
        tensors[name.removesuffix(_HIGH)] = torch.from_numpy(both.view("<i2")[..., 0].astype(np.int16))
    return tensors


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Open a file of weights: gives its description and tensors; what goes wrong inside is the file's fault.

    Raises:
        ModelFileError: if the file is missing or damaged, or cannot be used.
    """
    if not path.is_file():
        raise ModelFileError(f"no file of weights {path}")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ModelFileError(f"{path} is larger than {_MAX_FILE_BYTES} bytes: no codec's weights")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = _unpacked({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if text is None:
            raise ValueError("it is no frozen model; a training's checkpoint must be frozen first: roadbits train")
        yield text, tensors
    except ValidationError as error:
        raise ModelFileError(f"cannot use the weights in {path}: {_first_fault(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelFileError(f"cannot use the weights in {path}: {error}") from error


def _first_fault(error: ValidationError) -> str:
    """Return what is wrong with a description, in a line: that of its format, of several."""
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["loc"] == ("format",)), faults[0])
    named = ".".join(map(str, fault["loc"]))
    told = str(fault["msg"])
    got = "" if isinstance(fault["input"], dict | list) else f", got {fault['input']!r}"
    other = ": are they of another kind of codec?" if named == "format" else ""
    return f"{named}: {told[:1].lower()}{told[1:]}{got}{other}"


def table_tensors(name: str, tables: SymbolTables) -> dict[str, Tensor]:
    """Return entropy tables as a file holds them."""
    numbers: dict[str, NDArray[np.integer]] = {
        "frequencies": tables.frequencies.astype(np.uint16),
        "lengths": tables.lengths,
        "lowest": tables.lowest,
    }
    return {f"{name}.{part}": torch.from_numpy(values) for part, values in numbers.items()}


def tables_of(name: str, tensors: Mapping[str, Tensor]) -> SymbolTables:
    """Return the entropy tables that a file holds.

    Raises:
        KeyError: if a tensor is missing.
        ValueError: if they are not sound.
    """
    parts = (tensors[f"{name}.{part}"].numpy().astype(np.int32) for part in ("frequencies", "lengths", "lowest"))
    return SymbolTables(*parts)
