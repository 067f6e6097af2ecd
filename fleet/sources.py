"""From a scenario's words to frame sources: what each vehicle drives through, and what is tested on.

Train, reference and test never share frames: a generated street belongs to one of them, and so does a data set's split;
reference frames that are taken from the fleet's split are taken away from the fleet.

Not here: the sources themselves (`cameras`).
"""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import assert_never

from roadbits.fleet import camera_words as words
from roadbits.fleet.cameras.classes import CAMVID11, CITYSCAPES19, ClassSet
from roadbits.fleet.cameras.frame import DataError, FrameSource
from roadbits.fleet.cameras.layouts import LabelledFrames, open_folder, open_layout
from roadbits.fleet.cameras.street import StreetSource
from roadbits.fleet.cameras.video import VideoFrames
from roadbits.fleet.restoration_words import Restoration

_LABEL_SETS = {"camvid11": CAMVID11, "cityscapes19": CITYSCAPES19}


def classes_of(cameras: words.Cameras) -> ClassSet:
    """Return the label set of a scenario's frames."""
    match cameras:
        case words.DataSetCameras(kind="cityscapes" | "kitti" | "bdd100k"):
            return CITYSCAPES19
        case words.FolderCameras(classes=name):
            return _LABEL_SETS[name]
        case _:
            return CAMVID11


def train_source(cameras: words.Cameras, seed: int, vehicle: int, num_vehicles: int) -> FrameSource:
    """Return what one vehicle drives through.

    Raises:
        DataError: if the data cannot be read as declared, or there are more vehicles than frames.
    """
    match cameras:
        case words.StreetCameras():
            return StreetSource(
                seed=seed,
                split="train",
                vehicle=vehicle,
                domains=cameras.domains,
                num_frames=cameras.frames_per_vehicle,
                interval_s=cameras.interval_s,
                height=cameras.height,
                width=cameras.width,
            )
        case words.VideoCameras():
            return _video(cameras, "train", vehicle)
        case words.DataSetCameras() | words.FolderCameras():
            frames = fleet_frames(cameras)
            if cameras.domains:
                return frames.through(cameras.domains, vehicle, num_vehicles)
            return frames.block(vehicle, num_vehicles)
        case unknown:
            assert_never(unknown)


def frame_size(cameras: words.Cameras, seed: int, vehicle: int, num_vehicles: int) -> tuple[int, int]:
    """Return the height and width of a vehicle's first frame, without reading it where a scenario says it.

    Raises:
        DataError: if the data cannot be read as declared.
    """
    match cameras:
        case words.StreetCameras():
            return cameras.height, cameras.width
        case words.DataSetCameras(size=(height, width)):
            return height, width
        case _:
            height, width = next(iter(train_source(cameras, seed, vehicle, num_vehicles))).image.shape[:2]
            return height, width


def test_sources(cameras: words.Cameras, seed: int) -> list[FrameSource]:
    """Return what is tested on; empty where a scenario declares no test frames.

    Raises:
        DataError: if the data cannot be read as declared.
    """
    match cameras:
        case words.StreetCameras():
            return [
                StreetSource(
                    seed=seed,
                    split="test",
                    vehicle=vehicle,
                    domains=cameras.test_domains or cameras.domains,
                    num_frames=cameras.test_frames,
                    interval_s=cameras.interval_s,
                    height=cameras.height,
                    width=cameras.width,
                )
                for vehicle in range(cameras.test_vehicles)
            ]
        case words.VideoCameras():
            return []
        case words.FolderCameras(test_images=None):
            return []
        case words.DataSetCameras() | words.FolderCameras():
            return [_thinned(_labelled(cameras, "test"), cameras)]
        case unknown:
            assert_never(unknown)


def reference_sources(cameras: words.Cameras, seed: int) -> list[FrameSource]:
    """Return what test vehicles bring home on disk; empty where a scenario sets none apart.

    Raises:
        DataError: if the data cannot be read as declared, or holds fewer frames than are set apart.
    """
    match cameras:
        case words.StreetCameras(reference=words.StreetReference() as own):
            return [
                StreetSource(
                    seed=seed,
                    split="reference",
                    vehicle=vehicle,
                    domains=own.domains or cameras.domains,
                    num_frames=own.frames_per_vehicle,
                    interval_s=cameras.interval_s,
                    height=cameras.height,
                    width=cameras.width,
                )
                for vehicle in range(own.vehicles)
            ]
        case words.DataSetCameras(reference=words.DataSetReference()):
            return [_set_apart(cameras)]
        case words.FolderCameras(reference=words.FolderReference() as own):
            return [
                open_folder(
                    Path(own.images),
                    Path(own.masks) if own.masks else None,
                    split="reference",
                    classes=_LABEL_SETS[cameras.classes],
                    interval_s=cameras.interval_s,
                    size=cameras.size,
                    has_domains=bool(cameras.domains),
                )
            ]
        case _:
            return []


def fleet_frames(cameras: words.DataSetCameras | words.FolderCameras) -> LabelledFrames:
    """Return what the fleet drives through: its split without what is set apart for reference, then thinned.

    Raises:
        DataError: if the data cannot be read as declared, or nothing is left.
    """
    frames = _labelled(cameras, "train")
    if isinstance(cameras, words.DataSetCameras) and cameras.reference is not None:
        apart = {item.image for item in _set_apart(cameras).items}
        left = tuple(item for item in frames.items if item.image not in apart)
        if not left:
            raise DataError(
                f"{cameras.path}: all {len(frames)} frames of split {cameras.train} are set apart as reference"
            )
        frames = replace(frames, items=left)
    return _thinned(frames, cameras)


def check_references(cameras: words.Cameras, seed: int, restoration: Restoration | None) -> None:
    """Refuse to learn from more reference frames than there are.

    Raises:
        DataError: if that is wanted, or the data cannot be read as declared.
    """
    there = sum(len(source) for source in reference_sources(cameras, seed))
    wanted = restoration.reference_frames if restoration and restoration.learns else None
    if wanted is not None and wanted > there:
        raise DataError(
            f"restoration.reference_frames is {wanted}, {there} are there: lower it, or set more apart with "
            "cameras.reference"
        )


@lru_cache(maxsize=8)
def _set_apart(cameras: words.DataSetCameras) -> LabelledFrames:
    """Return the reference frames of a data set, evenly spaced among those of the drives they are taken from."""
    own = cameras.reference
    assert own is not None
    stored = own.split or cameras.train
    frames = open_layout(
        cameras.kind, Path(cameras.path), stored, split="reference", interval_s=cameras.interval_s, size=cameras.size
    )
    drives = sorted({item.camera for item in frames.items})
    if unknown := sorted(set(own.drives) - set(drives)):
        raise DataError(f"{cameras.path}: split {stored} has no drive {unknown[0]!r}: choose from {', '.join(drives)}")
    items = tuple(item for item in frames.items if not own.drives or item.camera in own.drives)
    if own.frames > len(items):
        raise DataError(f"{cameras.path}: {own.frames} reference frames wanted, {len(items)} there: lower their number")
    return replace(frames, items=items).evenly(own.frames)


def _video(cameras: words.VideoCameras, split: str, vehicle: int) -> FrameSource:
    path = Path(cameras.paths[vehicle % len(cameras.paths)])
    return _opened_video(path, split, cameras.interval_s, cameras.max_frames)


@lru_cache(maxsize=64)
def _opened_video(path: Path, split: str, interval_s: float, max_frames: int | None) -> VideoFrames:
    """Return a file's frames; to list them it is read whole, once in each process."""
    return VideoFrames(path, split=split, interval_s=interval_s, max_frames=max_frames)


@lru_cache(maxsize=8)
def _labelled(cameras: words.DataSetCameras | words.FolderCameras, split: str) -> LabelledFrames:
    """Return all frames of a split."""
    if isinstance(cameras, words.FolderCameras):
        images, masks = (cameras.images, cameras.masks)
        if split == "test":
            images, masks = (cameras.test_images or "", cameras.test_masks)
        return open_folder(
            Path(images),
            Path(masks) if masks else None,
            split=split,
            classes=_LABEL_SETS[cameras.classes],
            interval_s=cameras.interval_s,
            size=cameras.size,
            has_domains=bool(cameras.domains),
        )
    stored = cameras.train if split == "train" else cameras.test
    return open_layout(
        cameras.kind, Path(cameras.path), stored, split=split, interval_s=cameras.interval_s, size=cameras.size
    )


def _thinned(frames: LabelledFrames, cameras: words.DataSetCameras | words.FolderCameras) -> LabelledFrames:
    return frames.evenly(cameras.max_frames) if cameras.max_frames else frames


def check_disjoint(cameras: words.Cameras) -> None:
    """Refuse a scenario that would test on frames it trains on, or whose reference frames are either's.

    Raises:
        DataError: if two of them name the same split, or a folder and one inside it.
    """
    _check_reference(cameras)
    same = isinstance(cameras, words.DataSetCameras) and _same_split(cameras.train, cameras.test)
    if isinstance(cameras, words.FolderCameras) and cameras.test_images is not None:
        same = _overlap(cameras.images, cameras.test_images)
    if same:
        raise DataError("cameras: training and test frames are the same: test frames must never train anything")


def _check_reference(cameras: words.Cameras) -> None:
    match cameras:
        case words.DataSetCameras(reference=words.DataSetReference(split=str(split))) if _same_split(
            split, cameras.test
        ):
            raise DataError(f"cameras.reference: {split} is the split to test on: no test frame may be a reference")
        case words.FolderCameras(reference=words.FolderReference(images=images)):
            for name, folder in (("images", cameras.images), ("test_images", cameras.test_images)):
                if folder is not None and _overlap(images, folder):
                    raise DataError(f"cameras.reference.images: {images} overlaps cameras.{name}, {folder}")


def _same_split(one: str, other: str) -> bool:
    """Return whether two names of splits are one, however written; frames are compared by their pixels later."""
    return os.path.normpath(one) == os.path.normpath(other)


def _overlap(folder: str, other: str) -> bool:
    """Return whether one folder lies in the other."""
    one, two = Path(folder).resolve(), Path(other).resolve()
    return one.is_relative_to(two) or two.is_relative_to(one)
