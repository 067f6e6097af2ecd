import itertools
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from roadbits.fleet.cameras.classes import CAMVID11, CITYSCAPES19, IGNORED, ClassSet
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.cameras.labelled import Item, LabelledFrames
from roadbits.fleet.cameras.layouts import LayoutKind, open_folder, open_layout

CAMVID = Path(os.environ.get("ROADBITS_DATA") or Path(__file__).parents[4] / "shared" / "data") / "camvid"
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid at {CAMVID}: set ROADBITS_DATA")
NAMES: dict[LayoutKind, tuple[str, str]] = {
    "camvid": ("val/{}.png", "valannot/{}.png"),
    "cityscapes": ("leftImg8bit/val/ulm/{}_leftImg8bit.png", "gtFine/val/ulm/{}_gtFine_labelIds.png"),
    "kitti": ("training/image_2/{}.png", "training/semantic/{}.png"),
    "bdd100k": ("images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),
}
OLD_BDD100K = ("seg/images/val/{}.jpg", "seg/labels/val/{}_train_id.png")
KINDS = pytest.mark.parametrize("kind", NAMES)


def write(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def image(seed: int, height: int = 12, width: int = 17) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def label(seed: int, height: int = 12, width: int = 17) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 11, (height, width), dtype=np.uint8)


def grow(path: Path, names: tuple[str, str], count: int = 5) -> None:
    for k in range(count):
        write(path / names[0].format(f"d_{k:03}"), image(k))
        write(path / names[1].format(f"d_{k:03}"), label(k))


def opened(kind: LayoutKind, path: Path, stored: str = "val", **options: Any) -> LabelledFrames:
    return open_layout(kind, path, stored, split="test", **{"interval_s": 0.5} | options)


def kitti_val_is_one_frame(kind: LayoutKind, count: int) -> int:
    return 1 if kind == "kitti" else count


@KINDS
def test_every_layout_pairs_images_with_labels(kind: LayoutKind, tmp_path: Path) -> None:
    grow(tmp_path, NAMES[kind])
    frames = opened(kind, tmp_path)
    assert (len(frames), frames.split) == (kitti_val_is_one_frame(kind, 5), "test")
    last = list(frames)[-1]
    assert last.image.dtype == last.label.dtype == np.uint8  # type: ignore[union-attr]
    assert (last.index, last.time_s) == (len(frames) - 1, (len(frames) - 1) * 0.5)
    if kind != "bdd100k":
        np.testing.assert_array_equal(last.image, image(4))
    if kind in ("camvid", "bdd100k"):
        np.testing.assert_array_equal(last.label, label(4))


@KINDS
def test_a_source_read_twice_gives_the_same_frames(kind: LayoutKind, tmp_path: Path) -> None:
    grow(tmp_path, NAMES[kind])
    frames = opened(kind, tmp_path)
    for first, second in zip(frames, frames, strict=True):
        np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.parametrize(
    ("kind", "camera", "domain", "classes"),
    [
        ("camvid", "d", "day", CAMVID11),
        ("cityscapes", "ulm", "ulm", CITYSCAPES19),
        ("kitti", "val", "day", CITYSCAPES19),
        ("bdd100k", "val", "day", CITYSCAPES19),
    ],
)
def test_camera_and_domain_come_from_the_names(
    kind: LayoutKind, camera: str, domain: str, classes: ClassSet, tmp_path: Path
) -> None:
    grow(tmp_path, NAMES[kind])
    frame = opened(kind, tmp_path).frame(0)
    assert (frame.camera, frame.domain) == (camera, domain)
    assert opened(kind, tmp_path).classes is classes


def test_camvids_drive_0001TP_is_at_dusk(tmp_path: Path) -> None:
    write(tmp_path / "val/0001TP_1.png", image(0))
    write(tmp_path / "valannot/0001TP_1.png", label(0))
    frame = opened("camvid", tmp_path).frame(0)
    assert (frame.camera, frame.domain) == ("0001TP", "dusk")


def test_the_older_form_of_bdd100k_is_read(tmp_path: Path) -> None:
    grow(tmp_path, OLD_BDD100K)
    write(tmp_path / "seg/color_labels/val/d_000_train_color.png", image(0))
    frame = opened("bdd100k", tmp_path).frame(4)
    np.testing.assert_array_equal(frame.label, label(4))


def test_kittis_training_is_divided_into_contiguous_train_and_val(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["kitti"], 10)
    names = [[item.image.stem for item in opened("kitti", tmp_path, stored).items] for stored in ("train", "val")]
    assert names == [[f"d_{k:03}" for k in range(8)], ["d_008", "d_009"]]


def test_kitti_frames_may_differ_in_size(tmp_path: Path) -> None:
    for k, (height, width) in enumerate([(5, 9), (7, 3)]):
        write(tmp_path / f"training/image_2/{k}.png", image(k, height, width))
        write(tmp_path / f"training/semantic/{k}.png", label(k, height, width))
    assert opened("kitti", tmp_path, "train").frame(0).image.shape == (5, 9, 3)
    assert opened("kitti", tmp_path, "val").frame(0).image.shape == (7, 3, 3)


@pytest.mark.parametrize("masked", [False, True])
def test_frames_come_in_the_order_of_their_numbers(masked: bool, tmp_path: Path) -> None:
    for k in (1, 2, 10, 11):
        write(tmp_path / f"images/frame_{k}.png", image(k))
        write(tmp_path / f"masks/frame_{k}.png", label(k))
    masks = tmp_path / "masks" if masked else None
    frames = open_folder(tmp_path / "images", masks, split="train", interval_s=1.0)
    assert [item.image.stem for item in frames.items] == ["frame_1", "frame_2", "frame_10", "frame_11"]


def test_an_unknown_split_of_kitti_names_the_choices(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["kitti"])
    with pytest.raises(DataError, match=r"no labelled split 'test'; choose from train, val"):
        opened("kitti", tmp_path, "test")


def test_one_kitti_frame_leaves_no_train_split(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["kitti"], 1)
    with pytest.raises(DataError, match=r"image_2: 1 frame leaves none for split train"):
        opened("kitti", tmp_path, "train")


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    names = NAMES["cityscapes"]
    write(tmp_path / names[0].format("a"), image(0, 1, 5))
    write(tmp_path / names[1].format("a"), np.array([[0, 7, 8, 33, 29]], np.uint8))
    np.testing.assert_array_equal(opened("cityscapes", tmp_path).frame(0).label, [[IGNORED, 0, 1, 18, IGNORED]])


def test_camvids_void_is_ignored(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0, 1, 3))
    write(tmp_path / "valannot/a.png", np.array([[0, 10, 11]], np.uint8))
    np.testing.assert_array_equal(opened("camvid", tmp_path).frame(0).label, [[0, 10, IGNORED]])


@pytest.mark.parametrize("kind", ["cityscapes", "kitti"])
def test_other_files_of_the_ground_truth_are_no_labels(kind: LayoutKind, tmp_path: Path) -> None:
    grow(tmp_path, NAMES[kind])
    if kind == "cityscapes":
        write(tmp_path / "gtFine/val/ulm/d_000_gtFine_color.png", image(0))
    (tmp_path / Path(NAMES[kind][1]).parent / "d_000_polygons.json").write_text("{}")
    (tmp_path / Path(NAMES[kind][0]).parent / "._d_000.png").write_text("left by a Mac")
    assert len(opened(kind, tmp_path)) == kitti_val_is_one_frame(kind, 5)


@KINDS
def test_a_missing_data_folder_says_what_is_expected_and_how_to_name_it(kind: LayoutKind, tmp_path: Path) -> None:
    first = NAMES[kind][0].split("{")[0].replace("ulm", "CITY")
    with pytest.raises(DataError, match=rf"no such folder; .* keeps {first}.*--set cameras\.path="):
        opened(kind, tmp_path / "absent")


@KINDS
def test_an_empty_split_names_the_folder(kind: LayoutKind, tmp_path: Path) -> None:
    for name in NAMES[kind]:
        (tmp_path / name).parent.mkdir(parents=True)
    with pytest.raises(DataError, match=r"(val|image_2): empty split, expected files NAME"):
        opened(kind, tmp_path)


@KINDS
def test_a_missing_label_names_the_file(kind: LayoutKind, tmp_path: Path) -> None:
    grow(tmp_path, NAMES[kind])
    lost = tmp_path / NAMES[kind][1].format("d_002")
    lost.unlink()
    with pytest.raises(DataError, match=rf"d_002.*: has no label, expected {lost}"):
        opened(kind, tmp_path)


@KINDS
def test_a_label_without_image_names_the_file(kind: LayoutKind, tmp_path: Path) -> None:
    grow(tmp_path, NAMES[kind])
    lost = tmp_path / NAMES[kind][0].format("d_001")
    lost.unlink()
    with pytest.raises(DataError, match=rf"d_001.*: label without image, expected {lost}"):
        opened(kind, tmp_path)


def test_a_foreign_image_in_a_split_is_named(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["cityscapes"])
    write(tmp_path / "leftImg8bit/val/ulm/odd.png", image(0))
    with pytest.raises(DataError, match=r"odd\.png: expected only images named NAME_leftImg8bit\.png"):
        opened("cityscapes", tmp_path)


def test_sizes_that_differ_name_both_files(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    write(tmp_path / "valannot/d_003.png", label(0, 12, 16))
    with pytest.raises(DataError, match=r"valannot/d_003\.png: is 12 x 16, its image .*val/d_003\.png is 12 x 17"):
        opened("camvid", tmp_path, size=(6, 8)).frame(3)


@pytest.mark.parametrize("folder", ["val", "valannot"])
@pytest.mark.parametrize("keep", [0, 0.2, 0.7])
def test_a_truncated_png_is_named(folder: str, keep: float, tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    path = tmp_path / folder / "d_000.png"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"{path}: cannot be read"):
        opened("camvid", tmp_path).frame(0)


@pytest.mark.parametrize("folder", ["val", "valannot"])
def test_a_file_that_vanished_is_named(folder: str, tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    frames = opened("camvid", tmp_path)
    (tmp_path / folder / "d_000.png").unlink()
    with pytest.raises(DataError, match=rf"{folder}/d_000\.png: cannot be read"):
        frames.frame(0)


@pytest.mark.parametrize("folder", ["val", "valannot"])
def test_an_oversized_png_is_refused_before_it_is_decoded(folder: str, tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    header = b"IHDR" + struct.pack(">IIBBBBB", 8193, 8192, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT" + zlib.compress(b""), b"IEND")
    )
    (tmp_path / folder / "d_000.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(DataError, match=rf"{folder}/d_000\.png: 8192 x 8193 pixels.*at most 67108864"):
        opened("camvid", tmp_path).frame(0)


@pytest.mark.parametrize(
    ("kind", "ids", "expected"),
    [
        ("camvid", [255, 12], r"ids 12, 255, expected only 0\.\.11 \(camvid11\)"),
        ("cityscapes", [34, 255], r"ids 34, 255, expected only 0\.\.33 \(cityscapes19\)"),
        ("kitti", [99, 0], r"ids 99, expected only 0\.\.33"),
        ("bdd100k", [19, 255], r"ids 19, expected only 0\.\.18, 255"),
    ],
)
def test_an_unknown_id_is_named_with_its_file(kind: LayoutKind, ids: list[int], expected: str, tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / NAMES[kind][0].format(k), image(0, 1, 2))
        write(tmp_path / NAMES[kind][1].format(k), np.array([ids], np.uint8))
    frames = opened(kind, tmp_path)
    with pytest.raises(DataError, match=rf"{frames.items[0].label}: holds the {expected}"):
        frames.frame(0)


def test_many_unknown_ids_are_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0, 1, 200))
    write(tmp_path / "valannot/a.png", np.arange(200, dtype=np.uint8)[None])
    with pytest.raises(DataError, match=r"ids 12, 13, 14, 15, 16, 17, 18, 19, \.\.\., expected"):
        opened("camvid", tmp_path).frame(0)


def test_palette_labels_keep_their_indices(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0))
    palette = PIL.Image.fromarray(label(0))
    palette.putpalette([k * 37 % 256 for k in range(768)])
    (tmp_path / "valannot").mkdir()
    palette.save(tmp_path / "valannot/a.png")
    assert palette.mode == "P"
    np.testing.assert_array_equal(opened("camvid", tmp_path).frame(0).label, label(0))


def test_labels_of_16_bits_are_read(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0))
    write(tmp_path / "valannot/a.png", label(0).astype(np.uint16))
    np.testing.assert_array_equal(opened("camvid", tmp_path).frame(0).label, label(0))


def test_16_bit_ids_are_not_wrapped(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0, 1, 3))
    write(tmp_path / "valannot/a.png", np.array([[0, 256, 65535]], np.uint16))
    with pytest.raises(DataError, match="ids 256, 65535, expected"):
        opened("camvid", tmp_path).frame(0)


def test_a_colour_coded_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", image(0))
    write(tmp_path / "valannot/a.png", CAMVID11.paint(label(0)))
    with pytest.raises(DataError, match=r"valannot/a\.png: .* mode RGB, expected one channel .* colour-coded"):
        opened("camvid", tmp_path).frame(0)


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    write(tmp_path / "val/a.png", label(3))
    write(tmp_path / "valannot/a.png", label(0))
    np.testing.assert_array_equal(opened("camvid", tmp_path).frame(0).image, np.stack([label(3)] * 3, 2))


def test_images_shrink_by_the_mean_of_areas_and_labels_by_the_nearest_pixel(tmp_path: Path) -> None:
    pixels, ids = image(0, 6, 9), label(0, 6, 9)
    write(tmp_path / "val/a.png", pixels)
    write(tmp_path / "valannot/a.png", ids)
    frame = opened("camvid", tmp_path, size=(2, 3)).frame(0)
    means = pixels.reshape(2, 3, 3, 3, 3).mean((1, 3))
    assert np.abs(frame.image - means).max() <= 1
    np.testing.assert_array_equal(frame.label, ids[1::3, 1::3])


def test_the_stored_size_is_kept_exactly(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    np.testing.assert_array_equal(opened("camvid", tmp_path, size=(12, 17)).frame(1).image, image(1))


@pytest.mark.parametrize("size", [(0, 5), (8193, 8192)])
def test_a_size_out_of_range_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    with pytest.raises(ValueError, match="size must be a height and a width"):
        opened("camvid", tmp_path, size=size)


@pytest.mark.parametrize("interval_s", [0, -1, float("inf"), float("nan")])
def test_an_interval_out_of_range_is_refused(interval_s: float, tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    with pytest.raises(ValueError, match="interval_s must be a finite number greater than 0"):
        opened("camvid", tmp_path, interval_s=interval_s)


def listed(count: int) -> LabelledFrames:
    items = tuple(Item(Path(f"{k}.png"), None, "a", "day") for k in range(count))
    return LabelledFrames(items=items, split="train", classes=CAMVID11, ids={}, interval_s=1.0)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (7, 3), (12, 4), (101, 16), (5, 5)])
def test_blocks_cover_every_frame_once_in_order(frames: int, count: int) -> None:
    source = listed(frames)
    blocks = [source.block(position, count) for position in range(count)]
    assert tuple(itertools.chain(*(block.items for block in blocks))) == source.items
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_time_starts_anew_in_each_block(tmp_path: Path) -> None:
    grow(tmp_path, NAMES["camvid"])
    block = opened("camvid", tmp_path).block(1, 2)
    assert [(frame.index, frame.time_s) for frame in block] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    np.testing.assert_array_equal(block.frame(0).image, image(2))


def test_more_vehicles_than_frames_are_refused() -> None:
    with pytest.raises(DataError, match=r"3 frames cannot be divided over 4 vehicles.*lower fleet\.vehicles"):
        listed(3).block(0, 4)


@pytest.mark.parametrize("position", [-1, 3])
def test_a_block_out_of_range_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match=r"position must be in 0\.\.2"):
        listed(9).block(position, 3)


@pytest.mark.parametrize(
    ("max_frames", "expected"), [(1, [0]), (3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))]
)
def test_frames_are_thinned_evenly(max_frames: int, expected: list[int]) -> None:
    assert [int(item.image.stem) for item in listed(10).evenly(max_frames).items] == expected


def test_thinning_to_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        listed(3).evenly(0)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_frame_out_of_range_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=r"not in 0\.\.2"):
        listed(3).frame(index)


def test_a_source_without_items_is_refused() -> None:
    with pytest.raises(DataError, match="holds no frame"):
        listed(0)


def folder(path: Path, masks: Path | None = None, classes: ClassSet = CAMVID11) -> LabelledFrames:
    return open_folder(path, masks, split="train", interval_s=1.0, classes=classes)


def test_a_folder_without_masks_gives_unlabelled_frames_sorted_by_path(tmp_path: Path) -> None:
    for name in ("drives/b/2.jpg", "drives/b/1.webp", "drives/a/9.ppm", "drives/0.png"):
        write(tmp_path / name, image(0))
    frames = list(folder(tmp_path / "drives"))
    assert [frame.camera for frame in frames] == ["drives", "a", "b", "b"]
    assert {frame.domain for frame in frames} == {"drives"}
    assert all(frame.label is None for frame in frames)


def test_a_folder_is_paired_with_a_parallel_tree_of_masks(tmp_path: Path) -> None:
    write(tmp_path / "images/a/1.jpg", image(0))
    write(tmp_path / "masks/a/1.png", label(5))
    np.testing.assert_array_equal(folder(tmp_path / "images", tmp_path / "masks").frame(0).label, label(5))


@pytest.mark.parametrize(("classes", "ignored"), [(CAMVID11, [11, 255]), (CITYSCAPES19, [255, 255])])
def test_masks_of_a_folder_hold_class_ids(classes: ClassSet, ignored: list[int], tmp_path: Path) -> None:
    write(tmp_path / "images/1.png", image(0, 1, 3))
    write(tmp_path / "masks/1.png", np.array([[10, *ignored]], np.uint8))
    frame = folder(tmp_path / "images", tmp_path / "masks", classes).frame(0)
    np.testing.assert_array_equal(frame.label, [[10, IGNORED, IGNORED]])


@pytest.mark.parametrize("classes", [CAMVID11, CITYSCAPES19])
def test_masks_of_label_ids_say_what_they_look_like_and_what_to_do(classes: ClassSet, tmp_path: Path) -> None:
    write(tmp_path / "images/1.png", image(0, 1, 3))
    write(tmp_path / "masks/1.png", np.array([[7, 11, 26]], np.uint8))
    expected = (
        r"masks/1\.png: holds the ids .*26, .* look like Cityscapes label ids, 0\.\.33: .*kind cityscapes.*train ids"
    )
    with pytest.raises(DataError, match=expected):
        folder(tmp_path / "images", tmp_path / "masks", classes).frame(0)


@pytest.mark.parametrize("odd", [[3, 12, 18], [3, 26, 200]])
def test_other_ids_are_taken_for_no_label_ids(odd: list[int], tmp_path: Path) -> None:
    write(tmp_path / "images/1.png", image(0, 1, 3))
    write(tmp_path / "masks/1.png", np.array([odd], np.uint8))
    with pytest.raises(DataError, match="another layout's labels"):
        folder(tmp_path / "images", tmp_path / "masks").frame(0)


def test_an_unknown_label_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.png", image(0))
    with pytest.raises(ValueError, match="'odd' cannot be read; choose from camvid11, cityscapes19"):
        folder(tmp_path, None, ClassSet("odd", (), ()))


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png"):
        write(tmp_path / name, image(0))
    with pytest.raises(DataError, match=r"1\.png: 1\.jpg has the same name"):
        folder(tmp_path)


@pytest.mark.parametrize("spoil", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_a_missing_or_empty_folder_of_images_is_named(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    spoil(tmp_path / "drives")
    with pytest.raises(DataError, match=r"drives: (no such folder; .*--set cameras\.images=FOLDER|empty split)"):
        folder(tmp_path / "drives")


def test_a_mask_without_image_names_the_file(tmp_path: Path) -> None:
    write(tmp_path / "images/1.png", image(0))
    write(tmp_path / "masks/1.png", label(0))
    write(tmp_path / "masks/2.png", label(0))
    with pytest.raises(DataError, match=r"masks/2\.png: label without image"):
        folder(tmp_path / "images", tmp_path / "masks")


@needs_camvid
@pytest.mark.parametrize(
    ("stored", "count", "drives"),
    [("train", 367, {"0001TP": 62, "0006R0": 101, "0016E5": 204}), ("val", 101, {"0016E5": 101})],
)
def test_camvid_is_read_whole(stored: str, count: int, drives: dict[str, int]) -> None:
    frames = opened("camvid", CAMVID, stored)
    cameras = [item.camera for item in frames.items]
    assert (len(frames), {drive: cameras.count(drive) for drive in set(cameras)}) == (count, drives)
    assert {item.camera for item in frames.items if item.domain == "dusk"} <= {"0001TP"}


@needs_camvid
def test_camvids_labels_hold_only_classes_and_void() -> None:
    for frame in opened("camvid", CAMVID).evenly(5):
        assert frame.label is not None
        assert (frame.image.shape, frame.label.shape) == ((360, 480, 3), (360, 480))
        assert set(np.unique(frame.label)) <= {*range(11), IGNORED}
