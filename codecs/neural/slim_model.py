"""A slimmable model: the frozen models of several widths in one file, where shared weights are kept once.

Each width is a model of its own, with its own hash, and its payloads are those of that model alone: taken out of the
file it reads and writes the same bytes.

Not here: what a single model is (`model_file`), making one (`training.freezing`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.neural.model_file import Description, FrozenModel, open_tensors, save_tensors, stored_bytes

FORMAT: Literal["roadbits-slim-1"] = "roadbits-slim-1"


class _Contents(BaseModel):
    """What a file says of itself.

    Attributes:
        format: of the file.
        widths: rising.
        models: of each width.
        shared: names of tensors that are slices of the widest's, and their sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["roadbits-slim-1"]
    widths: tuple[int, ...] = Field(min_length=1, max_length=64)
    models: tuple[Description, ...]
    shared: dict[str, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class SlimModel:
    """The frozen models of a slim network.

    Attributes:
        widths: rising.
        models: of each width.
    """

    widths: tuple[int, ...]
    models: tuple[FrozenModel, ...]

    def __post_init__(self) -> None:
        """Check that widths and models belong together.

        Raises:
            ValueError: if they do not.
        """
        if len(self.widths) != len(self.models) or any(low >= high for low, high in pairwise((0, *self.widths))):
            raise ValueError(
                f"expected rising widths and a model of each, got {self.widths}, {len(self.models)} models"
            )
        if len({model.description.architecture for model in self.models}) > 1:
            raise ValueError("expected models of one architecture")

    def of_width(self, width: int) -> FrozenModel:
        """Return the model of one width.

        Raises:
            ValueError: if it was not trained.
        """
        if width not in self.widths:
            raise ValueError(f"width {width} was not trained; choose from {', '.join(map(str, self.widths))}")
        return self.models[self.widths.index(width)]

    def without_contexts(self) -> "SlimModel":
        """Return the same codec without contexts; see `FrozenModel.without_context`."""
        return SlimModel(self.widths, tuple(model.without_context() for model in self.models))

    @cached_property
    def hash(self) -> bytes:
        """Return the hash of all models' hashes, 6 bytes; payloads carry that of their own width's model."""
        return hashlib.blake2b(b"".join(model.hash for model in self.models), digest_size=HASH_BYTES).digest()

    @cached_property
    def num_bytes(self) -> int:
        """Return the bytes of all numbers as stored."""
        return stored_bytes(self._stored()[0])

    def _stored(self) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        """Return what a file must hold, and which tensors are slices of the widest's."""
        return shared_once(self.widths, [model.tensors() for model in self.models])

    def save(self, path: Path) -> None:
        """Write the models to a file, complete or not at all."""
        tensors, shared = self._stored()
        descriptions = tuple(model.description for model in self.models)
        contents = _Contents(format=FORMAT, widths=self.widths, models=descriptions, shared=shared)
        save_tensors(path, contents.model_dump_json(), tensors)

    @classmethod
    def _of(cls, contents: _Contents, tensors: Mapping[str, Tensor]) -> "SlimModel":
        own = of_each_width(contents.widths, tensors, contents.shared)
        models = (FrozenModel.of(*each) for each in zip(contents.models, own, strict=True))
        return cls(contents.widths, tuple(models))


def shared_once(
    widths: Sequence[int], tensors: Sequence[Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """Return what a file must hold of several widths' tensors, and which of them are slices of the widest's.

    Names are `WIDTH/NAME`; a slice is told by the sizes of its first two dimensions.
    """
    *narrow, widest = tensors
    stored, shared = {f"{widths[-1]}/{name}": tensor for name, tensor in widest.items()}, {}
    for width, own in zip(widths[:-1], narrow, strict=True):
        for name, tensor in own.items():
            rows, columns = (*tensor.shape[:2], 0, 0)[:2]
            whole = widest.get(name)
            if tensor.ndim == 4 and whole is not None and torch.equal(tensor, whole[:rows, :columns]):
                shared[f"{width}/{name}"] = (rows, columns)
            else:
                stored[f"{width}/{name}"] = tensor
    return stored, shared


def of_each_width(
    widths: Sequence[int], stored: Mapping[str, Tensor], shared: Mapping[str, tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Return every width's tensors from what `shared_once` gave.

    Raises:
        KeyError: if the widest lacks one that is shared.
        ValueError: if one is no slice of the widest's.
    """
    found = []
    for width in widths:
        prefix = f"{width}/"
        own = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
        for name, (rows, columns) in shared.items():
            if name.startswith(prefix):
                whole = stored[f"{widths[-1]}/{name.removeprefix(prefix)}"]
                if not (0 < rows <= whole.shape[0] and 0 < columns <= whole.shape[1]):
                    raise ValueError(f"{name} is no slice {rows} x {columns} of weights {tuple(whole.shape)}")
                own[name.removeprefix(prefix)] = whole[:rows, :columns]
        found.append(own)
    return found


def load_model(path: Path) -> FrozenModel | SlimModel:
    """Read a frozen model from a file, of one width or of several.

    Raises:
        ModelFileError: if it is missing, damaged or no model of a still codec.
    """
    with open_tensors(path) as (text, tensors):
        said = json.loads(text)
        if isinstance(said, dict) and said.get("format") == FORMAT:
            return SlimModel._of(_Contents.model_validate(said), tensors)
        return FrozenModel.of(Description.model_validate(said), tensors)
