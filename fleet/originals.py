"""The original frames: what the fleet saw, and what test vehicles bring home on disk.

The server trains OO on them, measures distortion against them, and tests on those of the test split.

Not here: reading or rendering a frame (`cameras`), uploads (`vehicle`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadbits.fleet.archive import ArraysWriter, FrameNote, write_notes
from roadbits.fleet.backend import Backend
from roadbits.fleet.cameras.frame import Frame, FrameSource
from roadbits.fleet.collection import drive_lengths
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import reference_sources, test_sources, train_source

_BATCH_FRAMES = 16


@dataclass(frozen=True)
class Batch:
    """A run of frames of one source.

    Attributes:
        scenario: the whole run's words.
        split: `train`, `reference` or `test`.
        part: the vehicle's number, or the position of the source.
        first: position of the batch's first frame.
    """

    scenario: Scenario
    split: str
    part: int
    first: int


def _source(scenario: Scenario, split: str, part: int) -> FrameSource:
    if split == "train":
        return train_source(scenario.cameras, scenario.seed, part, scenario.fleet.num_vehicles)
    return _sources(scenario, split)[part]


def _sources(scenario: Scenario, split: str) -> list[FrameSource]:
    """Return what the split's frames come from, vehicles aside."""
    opened = reference_sources if split == "reference" else test_sources
    return opened(scenario.cameras, scenario.seed)


def capture(batch: Batch) -> list[Frame]:
    """Return the frames of a batch.

    Raises:
        DataError: if a frame cannot be read.
    """
    frames = _source(batch.scenario, batch.split, batch.part).starting_at(batch.first)
    return list(itertools.islice(frames, _BATCH_FRAMES))


def batches(scenario: Scenario, split: str) -> list[Batch]:
    """Return all frames of a split as batches, in order.

    Raises:
        DataError: if the data cannot be read as declared.
    """
    lengths = drive_lengths(scenario) if split == "train" else [len(source) for source in _sources(scenario, split)]
    return [
        Batch(scenario, split, part, first)
        for part, length in enumerate(lengths)
        for first in range(0, length, _BATCH_FRAMES)
    ]


def write_originals(scenario: Scenario, split: str, backend: Backend, folder: Path) -> Iterator[int]:
    """Write a split's frames as an archive; yield the number of frames after each batch."""
    notes = []
    todo = batches(scenario, split)
    with ArraysWriter(folder, "images") as images, ArraysWriter(folder, "labels") as labels:
        for batch, frames in zip(todo, backend.map(capture, todo), strict=True):
            for frame in frames:
                images.append(frame.image)
                labels.append(np.zeros((0, 0), np.uint8) if frame.label is None else frame.label)
                notes.append(FrameNote(batch.part, frame.index, frame.camera, frame.domain))
            yield len(frames)
    write_notes(folder, notes)
