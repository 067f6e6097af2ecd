"""Labelled frames on disk: an index of files, read one frame at a time.

An `Item` names the files of a frame; `LabelledFrames` is a source over many. Opening reads no pixel, each frame is read
anew whenever it is asked for: memory does not grow with the data set. Images are resized by averaging areas
(Pillow's box filter), labels by taking the nearest pixel.

Not here: finding and pairing the files (`layouts`), video files (`video`), the orientation a camera notes in EXIF,
which is not applied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from roadbits.codecs.bitstream import MAX_PIXELS
from roadbits.codecs.image import ImageFileError, read_image
from roadbits.fleet.cameras.classes import CITYSCAPES_IDS, IGNORED, TRAIN_IDS, ClassSet
from roadbits.fleet.cameras.frame import DataError, Frame

_INDEX_MODES = ("L", "P", "I;16", "I;16B", "I;16L", "I")
_SHOWN_IDS = 8


@dataclass(frozen=True)
class Item:
    """The files of one frame.

    Attributes:
        image: the image file.
        label: the file of its label map; None for an unlabelled frame.
        camera: name of the drive, city or camera.
        domain: weather, light or city.
    """

    image: Path
    label: Path | None
    camera: str
    domain: str


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """Frames of one split of a data set; a frame's index and time count from the first item.

    Attributes:
        items: the frames' files, in order of time.
        split: `train`, `reference` or `test`: what the frames may be used for.
        classes: label set of the frames' labels.
        ids: id stored in a label file -> class id or `IGNORED`; any other stored id is a fault.
        interval_s: seconds between frames.
        size: height and width to resize to; the stored size if None.

    Raises:
        ValueError: for an interval or a size out of range.
        DataError: if there is no item; when a frame is read, if one of its files is faulty.
    """

    items: tuple[Item, ...]
    split: str
    classes: ClassSet
    ids: Mapping[int, int]
    interval_s: float
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 < self.interval_s < float("inf"):
            raise ValueError(f"interval_s must be a finite number greater than 0, got {self.interval_s}")
        if self.size and not (min(self.size) >= 1 and self.size[0] * self.size[1] <= MAX_PIXELS):
            raise ValueError(f"size must be a height and a width of 1 to {MAX_PIXELS} pixels in all, got {self.size}")
        if not self.items:
            raise DataError(f"split {self.split} holds no frame, expected at least one")

    @property
    def last_time_s(self) -> float:
        """When the last frame is taken, in seconds since the drive began."""
        return (len(self.items) - 1) * self.interval_s

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.items)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order of time."""
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Frame]:
        """Yield the frames from position `first` on."""
        return (self.frame(index) for index in range(first, len(self)))

    def domain(self, index: int) -> str:
        """Return the domain of frame `index`."""
        return self.items[index].domain

    def frame(self, index: int) -> Frame:
        """Return frame `index`.

        Raises:
            IndexError: if `index` is not in 0..len - 1.
            DataError: if a file is missing, truncated, no image or too large, if image and label differ in size, or
                if the label holds an id that is not in `ids`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is not in 0..{len(self) - 1}")
        item = self.items[index]
        image = _read_image(item.image)
        label = None
        if item.label is not None:
            label = _class_ids(item.label, _read_stored_ids(item.label), self.ids, self.classes)
            if label.shape != image.shape[:2]:
                raise DataError(
                    f"{item.label}: is {label.shape[0]} x {label.shape[1]}, "
                    f"its image {item.image} is {image.shape[0]} x {image.shape[1]}: expected equal sizes"
                )
        if self.size is not None:
            image, label = _resized(image, label, self.size)
        return Frame(image, label, item.camera, index, index * self.interval_s, item.domain)

    def block(self, position: int, count: int) -> Self:
        """Return the `position`-th of `count` contiguous blocks: the share that one vehicle drives through.

        Blocks cover every frame once and differ in length by at most one. Index and time start anew in each.

        Raises:
            ValueError: if `position` is not in 0..count - 1.
            DataError: if there are fewer frames than blocks.
        """
        if not 0 <= position < count:
            raise ValueError(f"position must be in 0..{count - 1}, got {position}")
        if len(self) < count:
            raise DataError(
                f"{self.items[0].image.parent}: {len(self)} frames cannot be divided over {count} vehicles, "
                "expected one or more each: lower fleet.vehicles or raise cameras.max_frames"
            )
        bounds = [len(self) * edge // count for edge in (position, position + 1)]
        return replace(self, items=self.items[slice(*bounds)])

    def through(self, domains: Sequence[str], position: int, count: int) -> Self:
        """Return the `position`-th of `count` blocks of each domain, one after the other.

        Raises:
            ValueError: if `position` is not in 0..count - 1.
            DataError: if a domain has fewer frames than there are blocks.
        """
        items: tuple[Item, ...] = ()
        for domain in domains:
            own = tuple(item for item in self.items if item.domain == domain)
            if len(own) < count:
                known = ", ".join(dict.fromkeys(item.domain for item in self.items))
                raise DataError(
                    f"{self.items[0].image.parent}: {len(own)} frames of domain {domain!r} cannot be divided over "
                    f"{count} vehicles, expected one or more each; it has the domains {known}"
                )
            items += replace(self, items=own).block(position, count).items
        return replace(self, items=items)

    def evenly(self, max_frames: int) -> Self:
        """Return at most `max_frames` frames, evenly spaced from the first on; `interval_s` then lies between those.

        Raises:
            ValueError: if `max_frames` is less than 1.
        """
        if max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {max_frames}")
        count = min(max_frames, len(self))
        return replace(self, items=tuple(self.items[len(self) * k // count] for k in range(count)))


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path)
    except ImageFileError as error:
        raise DataError(str(error)) from error


def _read_stored_ids(path: Path) -> NDArray[np.integer]:
    """Return the ids (H, W) that a label file stores; of a palette file the indices."""
    try:
        with PIL.Image.open(path) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: {height} x {width} pixels, expected at most {MAX_PIXELS}")
            if picture.mode not in _INDEX_MODES:
                raise DataError(
                    f"{path}: label map of Pillow mode {picture.mode}, expected one channel of class ids; "
                    "a colour-coded map must be converted to ids first"
                )
            return np.array(picture)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as a label map: {error}") from error


def _class_ids(path: Path, stored: NDArray[np.integer], ids: Mapping[int, int], classes: ClassSet) -> NDArray[np.uint8]:
    """Return the label uint8 (H, W) of stored ids (H, W)."""
    # 16-bit files can hold any number: all that no table can name share the two last, unknown entries.
    table = np.full(258, -1, np.int16)
    table[list(ids)] = list(ids.values())
    label = table[np.clip(stored.astype(np.int64), -1, 256)]
    unknown = np.unique(stored[label < 0]).tolist()
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN_IDS])) + (", ..." if len(unknown) > _SHOWN_IDS else "")
        raise DataError(
            f"{path}: holds the ids {shown}, expected only {_ranges(ids)} ({classes.name}): {_guess(np.unique(stored))}"
        )
    return label.astype(np.uint8)


def _guess(stored: NDArray[np.integer]) -> str:
    """Return what labels with these ids might be, and what to do."""
    if max(TRAIN_IDS.keys() - {IGNORED}) < stored.max() and set(stored.tolist()) <= CITYSCAPES_IDS.keys():
        return (
            "these look like Cityscapes label ids, 0..33: cameras of kind cityscapes read them in the data set's own "
            "folders; anywhere else store train ids, 0..18 and 255, with classes: cityscapes19"
        )
    return "another layout's labels?"


def _ranges(ids: Mapping[int, int]) -> str:
    """Return numbers as text such as `0..18, 255`."""
    known = sorted(ids)
    starts = [k for k in known if k - 1 not in ids]
    ends = [k for k in known if k + 1 not in ids]
    return ", ".join(f"{a}..{b}" if a < b else str(a) for a, b in zip(starts, ends, strict=True))


def _resized(
    image: NDArray[np.uint8], label: NDArray[np.uint8] | None, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    if image.shape[:2] == size:
        return image, label
    shape = size[::-1]
    image = np.array(PIL.Image.fromarray(image).resize(shape, PIL.Image.Resampling.BOX))
    if label is not None:
        label = np.array(PIL.Image.fromarray(label).resize(shape, PIL.Image.Resampling.NEAREST))
    return image, label
