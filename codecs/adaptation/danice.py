"""CAwF, codec adaptation without forgetting: a source codec, frozen bit for bit, and a small adapter for a new domain.

    adapted transform:  source layer -> + A (1x1, zero at first) -> source layer -> ...
    adapted density:    F_target(v) = sigmoid(s * logit F_source(a v + b)),  a, b, s of each channel, (1, 0, 1) at first

The residuals `A` are exact layers like those of the source, so an adapted payload decodes to the same image everywhere;
the target's entropy tables are stored whole numbers. An adapter names the source it belongs to, and its own hash goes
into the header of each payload made with it. Without the adapter the source is what it was: nothing is forgotten.

Source: Katakol, Herranz, Yang, Mrak, "DANICE: Domain adaptation without forgetting in neural image compression", CLIC
2021. The paper's exact layers were not readable: the construction is this project's own.

Not here: training an adapter (`training`), coding with one (`neural.still`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.integer import LARGEST_ACTIVATION, MOST_GROUPS, ExactLayer, ExactTransform, Shape
from roadbits.codecs.neural.model_file import (
    FrozenModel,
    TransformName,
    open_tensors,
    save_tensors,
    stored_bytes,
    table_tensors,
    tables_of,
)
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.symbol_tables import SymbolTables

RESIDUAL = Shape("residual", 1, "steps", LARGEST_ACTIVATION, 1)


class AdapterError(Exception):
    """An adapter that does not belong to a codec."""


class Place(BaseModel):
    """Where a residual stands.

    Attributes:
        transform: which.
        behind: index of the source's layer that it follows.
        groups: of its input channels, for exact sums.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform: TransformName
    behind: int = Field(ge=0, le=63)
    groups: int = Field(ge=1, le=MOST_GROUPS)


class AdapterDescription(BaseModel):
    """What an adapter's file says of itself.

    Attributes:
        format: of the file.
        source: hash of the model it adapts, in hex.
        domain: what it was trained for.
        places: of its residuals.
        steps: of its training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["roadbits-adapter-1"] = "roadbits-adapter-1"
    source: str = Field(pattern=r"^[0-9a-f]{12}$")
    domain: str = Field(default="", max_length=100)
    places: tuple[Place, ...] = Field(max_length=64)
    steps: int = 0


@dataclass(frozen=True, eq=False)
class Adapter:
    """What makes a source codec the target's.

    Attributes:
        description: what it is.
        residuals: exact layers of kind `residual`, in the order of the description's places.
        tables: of the factorised latent, instead of the source's.
    """

    description: AdapterDescription
    residuals: tuple[ExactLayer, ...]
    tables: SymbolTables

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        if len(self.residuals) != len(self.description.places):
            raise ValueError(f"expected {len(self.description.places)} residuals, got {len(self.residuals)}")
        if any(layer.shape.kind != "residual" for layer in self.residuals):
            raise ValueError("an adapter's layers must be residuals")

    @property
    def num_parameters(self) -> int:
        """Weights and offsets of the residuals."""
        return sum(layer.weight.numel() + layer.offset.numel() for layer in self.residuals)

    @property
    def num_bytes(self) -> int:
        """Bytes of all numbers as stored."""
        return stored_bytes(self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """Return every number of the adapter by its name in the file."""
        residuals = [ExactTransform((layer,)).tensors(f"residual.{k}") for k, layer in enumerate(self.residuals)]
        return {
            name: value for one in (*residuals, table_tensors("tables", self.tables)) for name, value in one.items()
        }

    @cached_property
    def hash(self) -> bytes:
        """Return the hash that payloads carry, 6 bytes."""
        state = hashlib.blake2b(digest_size=HASH_BYTES)
        described = self.description.model_dump(mode="json", exclude={"domain", "steps"})
        state.update(json.dumps(described, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            state.update(tensor.contiguous().numpy().tobytes())
        return state.digest()

    def save(self, path: Path) -> None:
        """Write the adapter to a file, complete or not at all."""
        save_tensors(path, self.description.model_dump_json(), self.tensors())

    @classmethod
    def load(cls, path: Path) -> "Adapter":
        """Read an adapter from a file.

        Raises:
            ModelFileError: if it is missing, damaged or no adapter.
        """
        with open_tensors(path) as (text, tensors):
            return cls.of(AdapterDescription.model_validate(json.loads(text)), tensors)

    @classmethod
    def of(cls, description: AdapterDescription, tensors: Mapping[str, Tensor]) -> "Adapter":
        """Build an adapter from what a file holds.

        Raises:
            KeyError: if a tensor is missing.
            ValueError: if the adapter is not sound.
        """
        layers = [
            ExactTransform.of(f"residual.{k}", [replace(RESIDUAL, groups=place.groups)], tensors).layers[0]
            for k, place in enumerate(description.places)
        ]
        return cls(description, tuple(layers), tables_of("tables", tensors))


def adapted(source: FrozenModel, adapter: Adapter) -> FrozenModel:
    """Return the source with an adapter's residuals and tables in their places; the source's own layers are shared.

    Raises:
        AdapterError: if the adapter belongs to another source, or does not fit.
    """
    if adapter.description.source != source.hash.hex():
        raise AdapterError(
            f"adapter {adapter.hash.hex()} belongs to the model {adapter.description.source}, got {source.hash.hex()}"
        )
    try:
        g_a, g_s = (_with_residuals(name, getattr(source, name), adapter) for name in ("g_a", "g_s"))
        hyper = source.hyper
        if hyper is not None:
            h_a, h_s = _with_residuals("h_a", hyper.h_a, adapter), _with_residuals("h_s", hyper.h_s, adapter)
            hyper = replace(hyper, h_a=h_a, h_s=h_s)
        context = source.context and source.context.looking_from(source.tables, len(source.side.gain))
        return replace(source, g_a=g_a, g_s=g_s, tables=adapter.tables, hyper=hyper, context=context)
    except (ValueError, IndexError) as error:
        raise AdapterError(f"adapter {adapter.hash.hex()} does not fit its source: {error}") from error


def adapted_codec(codec: NeuralStill, adapter: Adapter, name: str = "") -> NeuralStill:
    """Return a codec with an adapter, whose payloads name both; the codec given stays as it is.

    Args:
        codec: the source.
        adapter: on it.
        name: of what comes of them; the adapter's domain or hash behind the codec's name if left out.

    Raises:
        AdapterError: if the adapter belongs to another codec, or the codec has an adapter already.
    """
    if codec.adapter_hash:
        raise AdapterError(f"codec {codec.name} has the adapter {codec.adapter_hash.hex()} already")
    name = name or f"{codec.name}+{adapter.description.domain or adapter.hash.hex()}"
    return NeuralStill(name, adapted(codec.model, adapter), codec.model_hash, adapter.hash)


def _with_residuals(name: TransformName, transform: ExactTransform, adapter: Adapter) -> ExactTransform:
    """Return a transform with the residuals that stand in it."""
    behind = {
        place.behind: layer
        for place, layer in zip(adapter.description.places, adapter.residuals, strict=True)
        if place.transform == name
    }
    if behind and max(behind) >= len(transform.layers) - 1:
        raise ValueError(f"a residual behind layer {max(behind)} of {name}, which has {len(transform.layers)}")
    layers = []
    for index, layer in enumerate(transform.layers):
        layers.append(layer)
        if index in behind:
            layers.append(behind[index])
    return ExactTransform(tuple(layers))
