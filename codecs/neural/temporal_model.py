"""The frozen temporal entropy model of a slimmable still codec: a file beside the codec's own.

For each width an exact network predicts a latent from the two before, and vectors turn what it predicts into the still
codec's symbols at each position; a table of a Gaussian for each scale and each eighth of a step that a mean can lie
beside a symbol serves them all. The file names the still codec and its hash.

Not here: the still codec's file (`slim_model`), coding (`slim_clip`), making a model (`training.temporal_freezing`).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.integer import ExactTransform, Shape
from roadbits.codecs.neural.model_file import (
    LayerWords,
    open_tensors,
    save_tensors,
    stored_bytes,
    table_tensors,
    tables_of,
)
from roadbits.codecs.neural.slim_model import of_each_width, shared_once
from roadbits.codecs.neural.slimvc import apart, side_by_side
from roadbits.codecs.symbol_tables import SymbolTables

MEAN_STEPS = 8
"""Into so many parts a symbol's width is divided for means."""
_LARGEST_MEAN = 2.0**20


class TemporalDescription(BaseModel):
    """What a file says of itself.

    Attributes:
        format: of the file.
        still: name of the still codec, as on the command line.
        still_hash: of its weights and tables.
        widths: rising.
        layers: of each width's network.
        shared: names of tensors that are slices of the widest's, and their sizes.
        steps: of the training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["roadbits-temporal-1"] = "roadbits-temporal-1"
    still: str = Field(min_length=1, max_length=4096)
    still_hash: str = Field(pattern=r"^[0-9a-f]{12}$")
    widths: tuple[int, ...] = Field(min_length=1, max_length=64)
    layers: tuple[tuple[LayerWords, ...], ...]
    shared: dict[str, tuple[int, int]] = {}
    steps: int = 0


class Prediction(NamedTuple):
    """What is expected of a latent's symbols.

    Attributes:
        tables: int64 (n,): the table of each value.
        centres: int32 (n,): what is subtracted from each symbol before it is looked up.
    """

    tables: NDArray[np.int64]
    centres: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class WidthPrior:
    """The prediction of one width.

    Attributes:
        network: from two latents' steps (1, 2C, h, w), interleaved, to log scales and means in steps, likewise.
        entry: float32 (positions, C): the still codec's, steps of a symbol.
        log_entry: float32 (positions, C): its logarithm.
    """

    network: ExactTransform
    entry: Tensor
    log_entry: Tensor

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        channels = self.entry.shape[-1]
        if (self.network.num_inputs, self.network.num_outputs) != (2 * channels, 2 * channels):
            raise ValueError(f"expected a network from and to {2 * channels} channels")
        if self.entry.ndim != 2 or self.log_entry.shape != self.entry.shape or self.log_entry.dtype != torch.float32:
            raise ValueError("expected float32 logarithms of the still codec's entry, one for each")
        if not torch.allclose(self.log_entry, self.entry.log(), atol=1e-3):
            raise ValueError("the logarithms are not those of the still codec's entry: damaged weights?")

    def predict(self, last: Tensor, before: Tensor, position: int, thresholds: Tensor) -> Prediction:
        """Return what two latents' steps (1, C, h, w) say of the next one's symbols at a position.

        Args:
            last: of the frame before.
            before: of the frame before that.
            position: of the still codec.
            thresholds: float32: a scale's table is the number of thresholds below its logarithm.
        """
        predicted = self.network(side_by_side(last, before).contiguous(memory_format=torch.channels_last))
        log_scales, means = apart(predicted)
        log_scales = log_scales - self.log_entry[position][:, None, None]
        means = (means / self.entry[position][:, None, None]).clamp_(-_LARGEST_MEAN, _LARGEST_MEAN)
        eighths = torch.floor(means * MEAN_STEPS + 0.5).to(torch.int32)
        centres = torch.div(eighths, MEAN_STEPS, rounding_mode="floor")
        scales = torch.bucketize(log_scales.contiguous(), thresholds)
        tables = scales * MEAN_STEPS + (eighths - MEAN_STEPS * centres)
        return Prediction(tables.reshape(-1).numpy(), centres.reshape(-1).numpy())


@dataclass(frozen=True, eq=False)
class TemporalModel:
    """The temporal entropy model of a still codec.

    Attributes:
        description: what it is.
        networks: of each width.
        log_entries: of each width, float32 (positions, C).
        thresholds: float32, rising: logarithms of the scales between which a table ends and the next begins.
        tables: scale by scale, for each of the parts by which a mean exceeds a symbol.
    """

    description: TemporalDescription
    networks: tuple[ExactTransform, ...]
    log_entries: tuple[Tensor, ...]
    thresholds: Tensor
    tables: SymbolTables

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ValueError: if they do not.
        """
        widths = self.description.widths
        if not len(widths) == len(self.networks) == len(self.log_entries) == len(self.description.layers):
            raise ValueError(f"expected a network and logarithms for each width of {widths}")
        if self.thresholds.ndim != 1 or not (self.thresholds.diff() > 0).all():
            raise ValueError("expected thresholds of scales that rise")
        if len(self.tables) != MEAN_STEPS * (len(self.thresholds) + 1):
            raise ValueError(f"expected {MEAN_STEPS} tables for each of {len(self.thresholds) + 1} scales")

    def tensors_of(self, index: int) -> dict[str, Tensor]:
        """Return the numbers of a width, counted from the narrowest, by their names in the file."""
        return {**self.networks[index].tensors("prior"), "log_entry": self.log_entries[index]}

    @cached_property
    def _common(self) -> dict[str, Tensor]:
        return {"scales.thresholds": self.thresholds, **table_tensors("scales", self.tables)}

    def hash_of(self, width: int) -> bytes:
        """Return the hash of what a width needs, 6 bytes, which its payloads carry."""
        state = hashlib.blake2b(digest_size=HASH_BYTES)
        index = self.description.widths.index(width)
        layers = [layer.model_dump(mode="json") for layer in self.description.layers[index]]
        state.update(json.dumps([self.description.format, layers], sort_keys=True).encode())
        for name, tensor in sorted({**self.tensors_of(index), **self._common}.items()):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            state.update(tensor.contiguous().numpy().tobytes())
        return state.digest()

    @cached_property
    def num_bytes(self) -> int:
        """Return the bytes of all numbers as stored."""
        return stored_bytes(self._stored()[0])

    def _stored(self) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        widths = self.description.widths
        stored, shared = shared_once(widths, [self.tensors_of(index) for index in range(len(widths))])
        return {**stored, **self._common}, shared

    def save(self, path: Path) -> None:
        """Write the model to a file, complete or not at all."""
        tensors, shared = self._stored()
        save_tensors(path, self.description.model_copy(update={"shared": shared}).model_dump_json(), tensors)

    @classmethod
    def load(cls, path: Path) -> "TemporalModel":
        """Read a model from a file.

        Raises:
            ModelFileError: if it is missing, damaged or of another kind.
        """
        with open_tensors(path) as (text, tensors):
            description = TemporalDescription.model_validate(json.loads(text))
            own = of_each_width(description.widths, tensors, description.shared)
            networks = tuple(
                ExactTransform.of("prior", [Shape(**layer.model_dump()) for layer in layers], each)
                for layers, each in zip(description.layers, own, strict=True)
            )
            log_entries = tuple(each["log_entry"] for each in own)
            thresholds, tables = tensors["scales.thresholds"], tables_of("scales", tensors)
            return cls(description, networks, log_entries, thresholds, tables)
