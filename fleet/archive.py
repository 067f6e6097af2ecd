"""Frames on the server's disk: many arrays in one flat file, read through a memory map.

Frames of one archive may differ in size. `labels` stand beside `images`; an unlabelled frame has an empty label.

Not here: payloads (`store`), export to a data set's layout.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameNote:
    """Where an archived frame comes from: vehicle and position in its drive, camera and domain."""

    vehicle: int
    index: int
    camera: str
    domain: str


class ArraysWriter:
    """Appends uint8 arrays to `NAME.bin`; their shapes go to `NAME.json` on closing."""

    def __init__(self, folder: Path, name: str) -> None:
        """Create the files in an existing folder."""
        self._file: IO[bytes] = (folder / f"{name}.bin").open("wb")
        self._index = folder / f"{name}.json"
        self._shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and write the index."""
        self._file.close()
        self._index.write_text(json.dumps(self._shapes))

    def append(self, array: Array) -> None:
        """Append one array."""
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._shapes.append(array.shape)


class Arrays(Sequence[Array]):
    """The arrays that `ArraysWriter` wrote, read-only, in order."""

    def __init__(self, folder: Path, name: str) -> None:
        """Map the file of that name in a folder."""
        self._shapes = [tuple(shape) for shape in json.loads((folder / f"{name}.json").read_text())]
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._begins = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        path = folder / f"{name}.bin"
        self._data = np.asarray(np.memmap(path, np.uint8, "r")) if self._begins[-1] else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._shapes)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        """Return one array, or several."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = index + len(self) if index < 0 else index
        if not 0 <= k < len(self):
            raise IndexError(index)
        return np.asarray(self._data[self._begins[k] : self._begins[k + 1]]).reshape(self._shapes[k])


@dataclass(frozen=True)
class Archive:
    """Frames of one kind, for example the originals of the training split.

    Attributes:
        images: uint8 (H, W, 3) each.
        labels: uint8 (H, W) each, (0, 0) where there is none.
        notes: where each comes from.
    """

    images: Sequence[Array]
    labels: Sequence[Array]
    notes: Sequence[FrameNote]

    @classmethod
    def open(cls, folder: Path) -> "Archive":
        """Open the archive in a stage's folder."""
        notes = [FrameNote(**note) for note in json.loads((folder / "notes.json").read_text())]
        return cls(Arrays(folder, "images"), Arrays(folder, "labels"), notes)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.notes)


def common_frame(one: Archive, other: Archive) -> tuple[FrameNote, FrameNote] | None:
    """Return where the first frame of one archive that the other holds too comes from, in both; None if there is none.

    By their pixels: a copy under another name is the same frame.
    """
    known = {hash(image.tobytes()): note for image, note in zip(other.images, other.notes, strict=True)}
    for image, note in zip(one.images, one.notes, strict=True):
        if (twin := known.get(hash(image.tobytes()))) is not None:
            return note, twin
    return None


def write_notes(folder: Path, notes: Sequence[FrameNote]) -> None:
    """Write the notes that `Archive.open` reads."""
    (folder / "notes.json").write_text(json.dumps([asdict(note) for note in notes]))
