from pathlib import Path

import numpy as np
import pytest

from roadbits.fleet.archive import Archive, Array, Arrays, ArraysWriter, FrameNote, write_notes

NOTES = [FrameNote(0, 0, "cam-é", "day"), FrameNote(0, 1, "cam", "rain"), FrameNote(3, 0, "b", "day-highway")]


def image(seed: int, height: int, width: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = [image(0, 4, 6), image(1, 1, 1), image(2, 7, 3)]
LABELS = [IMAGES[0][..., 0], np.zeros((0, 0), np.uint8), IMAGES[2][..., 1]]


def write(folder: Path, name: str, arrays: list[Array]) -> None:
    with ArraysWriter(folder, name) as writer:
        for array in arrays:
            writer.append(array)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    write(tmp_path, "images", IMAGES)
    write(tmp_path, "labels", LABELS)
    write_notes(tmp_path, NOTES)
    return Archive.open(tmp_path)


def assert_equal(found: list[Array], expected: list[Array]) -> None:
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert all(each.dtype == np.uint8 for each in found)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_frames_of_different_sizes_and_empty_labels_come_back(archive: Archive) -> None:
    assert len(archive) == 3
    assert_equal(list(archive.images), IMAGES)
    assert_equal(list(archive.labels), LABELS)
    assert list(archive.notes) == NOTES


def test_arrays_are_a_sequence(archive: Archive) -> None:
    assert_equal([archive.images[-1], archive.images[-3]], [IMAGES[2], IMAGES[0]])
    assert_equal(list(archive.images[1:]), IMAGES[1:])
    assert_equal(list(archive.images[::-2]), IMAGES[::-2])
    assert list(archive.images[3:]) == []
    for index in (3, -4):
        with pytest.raises(IndexError):
            archive.images[index]


def test_what_is_stored_cannot_be_written_over(archive: Archive) -> None:
    with pytest.raises(ValueError, match="read-only"):
        archive.images[0][0, 0] = 1


def test_views_are_stored_as_what_they_show(tmp_path: Path) -> None:
    views = [IMAGES[0][:, ::-1], IMAGES[0].transpose(1, 0, 2), IMAGES[0][1:3, 2:5]]
    write(tmp_path, "views", views)
    assert_equal(list(Arrays(tmp_path, "views")), views)


@pytest.mark.parametrize("arrays", [[], [np.zeros((0, 0), np.uint8)] * 3])
def test_nothing_at_all_comes_back_as_such(arrays: list[Array], tmp_path: Path) -> None:
    write(tmp_path, "labels", arrays)
    assert_equal(list(Arrays(tmp_path, "labels")), arrays)


def test_the_file_holds_the_pixels_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "images", IMAGES)
    assert (tmp_path / "images.bin").read_bytes() == b"".join(each.tobytes() for each in IMAGES)
