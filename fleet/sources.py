"""From a scenario's words to frame sources: what each vehicle drives through, and what is tested on.

Train and test never share frames: a generated street belongs to one split, and a data set's splits are its own.

Not here: the sources themselves (`cameras`).
"""

from functools import lru_cache
from pathlib import Path
from typing import assert_never

from roadbits.fleet import scenario as words
from roadbits.fleet.cameras.classes import CAMVID11, CITYSCAPES19, ClassSet
from roadbits.fleet.cameras.frame import DataError, FrameSource
from roadbits.fleet.cameras.layouts import LabelledFrames, open_folder, open_layout
from roadbits.fleet.cameras.street import StreetSource
from roadbits.fleet.cameras.video import VideoFrames

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
            return _labelled(cameras, "train").block(vehicle, num_vehicles)
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
            return [_labelled(cameras, "test")]
        case unknown:
            assert_never(unknown)


def _video(cameras: words.VideoCameras, split: str, vehicle: int) -> FrameSource:
    path = Path(cameras.paths[vehicle % len(cameras.paths)])
    return VideoFrames(path, split=split, interval_s=cameras.interval_s, max_frames=cameras.max_frames)


@lru_cache(maxsize=8)
def _labelled(cameras: words.DataSetCameras | words.FolderCameras, split: str) -> LabelledFrames:
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
        )
    stored = cameras.train if split == "train" else cameras.test
    frames = open_layout(
        cameras.kind, Path(cameras.path), stored, split=split, interval_s=cameras.interval_s, size=cameras.size
    )
    return frames.evenly(cameras.max_frames) if cameras.max_frames else frames


def check_disjoint(cameras: words.Cameras) -> None:
    """Refuse a scenario that would test on frames it trains on.

    Raises:
        DataError: if train and test name the same split, or a folder and one inside it.
    """
    same = isinstance(cameras, words.DataSetCameras) and cameras.train == cameras.test
    if isinstance(cameras, words.FolderCameras) and cameras.test_images is not None:
        train, test = Path(cameras.images).resolve(), Path(cameras.test_images).resolve()
        same = train.is_relative_to(test) or test.is_relative_to(train)
    if same:
        raise DataError("cameras: training and test frames are the same: test frames must never train anything")
