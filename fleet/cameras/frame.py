"""What a camera gives: frames, and sources of frames.

A `Frame` is one still from one camera with the time and the domain it was taken in. A `FrameSource` is a finite,
repeatable sequence of frames that declares which split it belongs to; reading it twice gives the same frames.

Not here: where frames come from (`layouts`, `video`, `street`) and what happens to them (`roadbits.fleet.vehicle`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.classes import ClassSet


@dataclass(frozen=True, eq=False)
class Frame:
    """One still from a camera.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label: uint8 (H, W) of class ids, `IGNORED` where a pixel does not count; None for an unlabelled frame.
        camera: name of the camera or drive, for example `vehicle-03` or `0016E5`.
        index: position within the camera's drive, from 0.
        time_s: seconds since the drive began.
        domain: weather, light or city, for example `dusk`.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    camera: str
    index: int
    time_s: float
    domain: str


class FrameSource(Protocol):
    """A finite, repeatable sequence of frames of one declared split."""

    @property
    def split(self) -> str:
        """`train`, `reference` or `test`: what these frames may be used for."""
        ...

    @property
    def classes(self) -> ClassSet:
        """The label set of the frames' labels."""
        ...

    @property
    def last_time_s(self) -> float:
        """When the last frame is taken, in seconds since the drive began."""
        ...

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def domain(self, index: int) -> str:
        """Return the domain of frame `index`, without reading it."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order of time."""
        ...

    def starting_at(self, first: int) -> Iterator[Frame]:
        """Yield the frames from position `first` on, reading as little before it as the source can."""
        ...


class DataError(Exception):
    """A data set that cannot be read as it was declared; the message names the file."""
