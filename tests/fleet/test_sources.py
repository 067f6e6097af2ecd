from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roadbits.fleet import sources
from roadbits.fleet.camera_words import (
    DataSetCameras,
    DataSetReference,
    FolderCameras,
    StreetCameras,
    VideoCameras,
)
from roadbits.fleet.cameras.classes import CAMVID11, CITYSCAPES19
from roadbits.fleet.cameras.frame import DataError, FrameSource
from roadbits.fleet.cameras.layouts import LabelledFrames
from roadbits.fleet.cameras.street import StreetSource

STREET = StreetCameras(
    kind="street",
    domains=("day", "rain"),
    height=64,
    width=96,
    frames_per_vehicle=6,
    interval_s=0.5,
    test_frames=3,
    test_vehicles=2,
)


def grow(folder: Path, count: int, seed: int = 0) -> str:
    """Write images, and masks of the same names beside the folder."""
    for k in range(count):
        pixels = np.random.default_rng([seed, k]).integers(0, 11, (8, 12, 3), dtype=np.uint8)
        for path, array in ((folder, pixels), (folder.with_name(folder.name + "-masks"), pixels[..., 0])):
            path.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(path / f"{k:03}.png")
    return str(folder)


def folder_cameras(tmp_path: Path) -> FolderCameras:
    return FolderCameras(
        kind="folder",
        images=grow(tmp_path / "a", 7),
        masks=str(tmp_path / "a-masks"),
        test_images=grow(tmp_path / "b", 3, seed=1),
        test_masks=str(tmp_path / "b-masks"),
        interval_s=2.0,
    )


def test_every_vehicle_has_a_street_of_its_own() -> None:
    vehicles = [sources.train_source(STREET, 7, vehicle, 3) for vehicle in range(3)]
    assert vehicles == [
        StreetSource(
            seed=7,
            split="train",
            vehicle=vehicle,
            domains=("day", "rain"),
            num_frames=6,
            interval_s=0.5,
            height=64,
            width=96,
        )
        for vehicle in range(3)
    ]


def test_test_streets_are_those_of_the_test_split() -> None:
    tests = sources.test_sources(STREET, 7)
    assert [(source.split, len(source)) for source in tests] == [("test", 3), ("test", 3)]
    assert all(isinstance(source, StreetSource) and source.domains == ("day", "rain") for source in tests)
    other = STREET.model_copy(update={"test_domains": ("night",)})
    assert all(isinstance(s, StreetSource) and s.domains == ("night",) for s in sources.test_sources(other, 7))


def test_a_folder_is_divided_over_the_vehicles(tmp_path: Path) -> None:
    cameras = folder_cameras(tmp_path)
    blocks = [sources.train_source(cameras, 0, vehicle, 3) for vehicle in range(3)]
    assert sorted(map(len, blocks)) == [2, 2, 3]
    images = [frame.image.tobytes() for block in blocks for frame in block]
    assert len(set(images)) == 7
    assert {block.split for block in blocks} == {"train"}
    assert [frame.time_s for frame in blocks[0]][:2] == [0.0, 2.0]
    assert all(frame.label is not None for frame in blocks[0])


def test_a_folder_s_frames_may_be_fewer_and_smaller(tmp_path: Path) -> None:
    words = folder_cameras(tmp_path)
    cameras = words.model_copy(update={"size": (24, 32), "max_frames": 3})
    (source,) = sources.test_sources(cameras, 0)
    frames = [*sources.train_source(cameras, 0, 0, 1), *source]
    assert {frame.image.shape for frame in frames} == {(24, 32, 3)}
    assert {frame.label.shape for frame in frames if frame.label is not None} <= {(24, 32)}
    assert len(list(sources.train_source(cameras, 0, 0, 1))) == 3 < len(list(sources.train_source(words, 0, 0, 1)))


def test_the_test_frames_of_a_folder_are_whole_and_its_own(tmp_path: Path) -> None:
    cameras = folder_cameras(tmp_path)
    (tests,) = sources.test_sources(cameras, 0)
    assert (len(tests), tests.split) == (3, "test")
    trained = {frame.image.tobytes() for frame in sources.train_source(cameras, 0, 0, 1)}
    assert not trained & {frame.image.tobytes() for frame in tests}


def test_more_vehicles_than_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="7 frames cannot be divided over 8 vehicles"):
        sources.train_source(folder_cameras(tmp_path), 0, 0, 8)


def test_a_folder_without_test_images_is_tested_on_nothing(tmp_path: Path) -> None:
    cameras = FolderCameras(kind="folder", images=grow(tmp_path / "a", 2))
    assert sources.test_sources(cameras, 0) == []
    assert all(frame.label is None for frame in sources.train_source(cameras, 0, 0, 1))


def test_a_data_set_is_thinned_before_it_is_divided(tmp_path: Path) -> None:
    for split in ("train", "val"):
        grow(tmp_path / split, 10)
        (tmp_path / f"{split}-masks").rename(tmp_path / f"{split}annot")
    cameras = DataSetCameras(kind="camvid", path=str(tmp_path), max_frames=4)
    assert [len(sources.train_source(cameras, 0, vehicle, 2)) for vehicle in range(2)] == [2, 2]
    assert [len(source) for source in sources.test_sources(cameras, 0)] == [4]


@pytest.fixture
def camvid(tmp_path: Path) -> DataSetCameras:
    """A data set in CamVid's form: drive 0001TP of four frames and 0016E5 of six to train on, 0006R0 to test on."""
    for split, drives in (("train", {"0001TP": 4, "0016E5": 6}), ("val", {"0006R0": 3})):
        for seed, (drive, count) in enumerate(drives.items()):
            folder = tmp_path / f"{split}-{drive}"
            grow(folder, count, seed=seed + 10 * (split == "val"))
            for path, kept in ((folder, split), (folder.with_name(folder.name + "-masks"), f"{split}annot")):
                (tmp_path / kept).mkdir(exist_ok=True)
                for file in path.iterdir():
                    file.rename(tmp_path / kept / f"{drive}_{file.name}")
    return DataSetCameras(kind="camvid", path=str(tmp_path))


def with_references(cameras: DataSetCameras, max_frames: int | None = None, **words: Any) -> DataSetCameras:
    return cameras.model_copy(update={"reference": DataSetReference(**words), "max_frames": max_frames})


def names_of(frames: FrameSource) -> list[str]:
    assert isinstance(frames, LabelledFrames)
    return [item.image.stem for item in frames.items]


def test_references_are_set_apart_evenly_and_the_fleet_drives_through_all_others(camvid: DataSetCameras) -> None:
    cameras = with_references(camvid, frames=5)
    (apart,) = sources.reference_sources(cameras, 0)
    assert apart.split == "reference"
    assert names_of(apart) == ["0001TP_000", "0001TP_002", "0016E5_000", "0016E5_002", "0016E5_004"]
    driven = [name for vehicle in range(2) for name in names_of(sources.train_source(cameras, 0, vehicle, 2))]
    assert driven == ["0001TP_001", "0001TP_003", "0016E5_001", "0016E5_003", "0016E5_005"]
    assert all(frame.label is not None for frame in apart)


def test_references_may_be_of_some_drives_alone(camvid: DataSetCameras) -> None:
    cameras = with_references(camvid, frames=2, drives=("0001TP",))
    (apart,) = sources.reference_sources(cameras, 0)
    assert names_of(apart) == ["0001TP_000", "0001TP_002"]
    assert len(sources.fleet_frames(cameras)) == 8


def test_references_of_another_split_take_nothing_from_the_fleet(camvid: DataSetCameras) -> None:
    cameras = with_references(camvid, frames=2, split="val")
    (apart,) = sources.reference_sources(cameras, 0)
    assert names_of(apart) == ["0006R0_000", "0006R0_001"]
    assert names_of(sources.fleet_frames(cameras)) == names_of(sources.fleet_frames(camvid))


@pytest.mark.parametrize(
    ("max_frames", "left"),
    [
        (3, ["0001TP_001", "0001TP_003", "0016E5_003"]),
        (4, ["0001TP_001", "0001TP_003", "0016E5_001", "0016E5_003"]),
        (9, ["0001TP_001", "0001TP_003", "0016E5_001", "0016E5_003", "0016E5_005"]),
    ],
)
def test_a_fleet_s_frames_are_thinned_among_those_that_are_not_set_apart(
    max_frames: int, left: list[str], camvid: DataSetCameras
) -> None:
    cameras = with_references(camvid, max_frames, frames=5)
    assert names_of(sources.fleet_frames(cameras)) == left
    (apart,) = sources.reference_sources(cameras, 0)
    assert len(apart) == 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"frames": 1, "drives": ("0006R0",)}, "split train has no drive '0006R0': choose from 0001TP, 0016E5"),
        ({"frames": 5, "drives": ("0001TP",)}, "5 reference frames wanted, 4 there: lower their number"),
        ({"frames": 10}, "all 10 frames of split train are set apart as reference"),
    ],
)
def test_references_that_cannot_be_set_apart_are_refused(
    words: dict[str, Any], expected: str, camvid: DataSetCameras
) -> None:
    with pytest.raises(DataError, match=expected):
        sources.fleet_frames(with_references(camvid, **words))


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    cameras = DataSetCameras(kind="camvid", path=str(tmp_path / "gone"))
    with pytest.raises(DataError, match="gone"):
        sources.train_source(cameras, 0, 0, 1)


def test_vehicles_share_videos_in_turn_and_are_tested_on_none(tmp_path: Path) -> None:
    cameras = VideoCameras(kind="video", paths=(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")))
    for vehicle, name in ((0, "a"), (1, "b"), (2, "a")):
        with pytest.raises(DataError, match=rf"{name}\.mp4: no such file"):
            sources.train_source(cameras, 0, vehicle, 3)
    assert sources.test_sources(cameras, 0) == []


def test_label_sets_follow_the_data() -> None:
    assert sources.classes_of(STREET) is CAMVID11
    assert sources.classes_of(DataSetCameras(kind="camvid", path="x")) is CAMVID11
    for kind in ("cityscapes", "kitti", "bdd100k"):
        assert sources.classes_of(DataSetCameras(kind=kind, path="x")) is CITYSCAPES19
    assert sources.classes_of(FolderCameras(kind="folder", images="x")) is CAMVID11
    assert sources.classes_of(FolderCameras(kind="folder", images="x", classes="cityscapes19")) is CITYSCAPES19


@pytest.mark.parametrize(
    ("images", "test_images"), [("a", "a"), ("a", "b/../a"), ("a", "a/test"), ("a/train", "a"), ("a", "a/b/c/")]
)
def test_folders_that_lie_in_one_another_are_no_two_splits(images: str, test_images: str, tmp_path: Path) -> None:
    cameras = FolderCameras(kind="folder", images=str(tmp_path / images), test_images=f"{tmp_path}/{test_images}")
    with pytest.raises(DataError, match="test frames must never train anything"):
        sources.check_disjoint(cameras)


@pytest.mark.parametrize(("images", "test_images"), [("a", "b"), ("b", "a")])
def test_a_link_to_the_other_split_is_no_split(images: str, test_images: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    cameras = FolderCameras(kind="folder", images=str(tmp_path / images), test_images=str(tmp_path / test_images))
    with pytest.raises(DataError, match="test frames must never train anything"):
        sources.check_disjoint(cameras)


@pytest.mark.parametrize("train", ["val", "./val", "val/", "train/../val"])
def test_one_split_of_a_data_set_is_no_two(train: str) -> None:
    with pytest.raises(DataError, match="test frames must never train anything"):
        sources.check_disjoint(DataSetCameras(kind="camvid", path="x", train=train, test="val"))


def test_splits_that_differ_pass(tmp_path: Path) -> None:
    sources.check_disjoint(DataSetCameras(kind="camvid", path="x"))
    sources.check_disjoint(folder_cameras(tmp_path))
    sources.check_disjoint(FolderCameras(kind="folder", images="ab", test_images="a"))
    sources.check_disjoint(FolderCameras(kind="folder", images="a"))
    sources.check_disjoint(VideoCameras(kind="video", paths=("a",)))
    sources.check_disjoint(STREET)
