import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roadbits.downstream.setups import Setup
from roadbits.fleet.cameras.classes import CITYSCAPES19
from roadbits.fleet.cameras.layouts import open_camvid, open_cityscapes
from roadbits.fleet.export import Choice, ExportError, export
from roadbits.fleet.finished_stages import StageFolders, StagesMissing
from roadbits.fleet.results import Results
from roadbits.fleet.vehicle import Arm

Save = Callable[..., Path]
ARM = Arm("jpeg", "quality=10")


def written(run: Path, results: Results, choice: Choice, out: Path) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    count = export(run, results, choice, out, lambda done, total: told.append((done, total)))
    assert told == [(k + 1, count) for k in range(count)]
    return told


def test_what_is_written_is_read_back_as_camvid(results: Results, save_run: Save, tmp_path: Path) -> None:
    run, out = save_run(results, stages=True), tmp_path / "out"
    written(run, results, Choice(Setup.CC, ARM), out)
    folders = StageFolders(run)
    uploads, positions = folders.delivered(ARM) or ([], [])
    train, test = (open_camvid(out, split, split=split, interval_s=1) for split in ("train", "val"))
    assert (len(train), len(test)) == (len(positions), len(folders.originals("test")))
    for frame, image, k in zip(train, uploads, positions, strict=True):
        np.testing.assert_array_equal(frame.image, image)
        np.testing.assert_array_equal(frame.label, folders.originals("train").labels[k])
    on_board = folders.on_board(ARM)
    assert on_board is not None
    np.testing.assert_array_equal(test.frame(0).image, on_board[0][0])


def test_a_model_from_elsewhere_trains_on_originals_and_meets_compressed_frames(
    results: Results, save_run: Save, tmp_path: Path
) -> None:
    run, out = save_run(results, stages=True), tmp_path / "out"
    written(run, results, Choice(Setup.OC, ARM), out)
    folders = StageFolders(run)
    train, test = (open_camvid(out, split, split=split, interval_s=1) for split in ("train", "val"))
    originals, on_board = folders.originals("train"), folders.on_board(ARM)
    assert on_board is not None
    for frame, image in zip((*train, *test), (*originals.images, *on_board[0]), strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_originals_need_no_choice(results: Results, save_run: Save, tmp_path: Path) -> None:
    run, out = save_run(results, stages=True), tmp_path / "out"
    written(run, results, Choice(Setup.OO), out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["setup"], manifest["codec"], manifest["digest"]) == ("OO", None, results.digest)
    assert [entry["index"] for entry in manifest["frames"] if entry["split"] == "train"] == list(range(6))
    assert all((out / entry["image"]).is_file() and (out / entry["label"]).is_file() for entry in manifest["frames"])


def test_other_classes_are_written_as_cityscapes(
    results: Results, save_run: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = save_run(results, stages=True), tmp_path / "out"
    monkeypatch.setattr(StageFolders, "classes", CITYSCAPES19)
    written(run, results, Choice(Setup.OO), out)
    train = open_cityscapes(out, "train", split="train", interval_s=1)
    np.testing.assert_array_equal(train.frame(2).label, StageFolders(run).originals("train").labels[2])


def test_an_open_choice_names_what_there_is(results: Results, save_run: Save, tmp_path: Path) -> None:
    run = save_run(results, stages=True)
    names = r"jpeg:quality=10, jpeg:quality=40, webp:quality=10"
    for arm, got in ((None, "nothing was chosen"), (Arm("avif", "quality=5"), "got avif:quality=5")):
        with pytest.raises(ExportError, match=f"codec and point of CO: {got}, the run has {names}"):
            written(run, results, Choice(Setup.CO, arm), tmp_path / "out")
    with pytest.raises(ExportError, match="RO trains on restored frames, and the run restored none"):
        written(run, results, Choice(Setup.RO), tmp_path / "out")
    with pytest.raises(ExportError, match="restorer gan: OO trains on no restored frames"):
        written(run, results, Choice(Setup.OO, restorer="gan"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_anything_in_it_is_left_alone(results: Results, save_run: Save, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ExportError, match="not empty: choose a new folder"):
        written(save_run(results, stages=True), results, Choice(Setup.OO), tmp_path / "out")


def test_a_run_without_its_stages_says_so(results: Results, save_run: Save, tmp_path: Path) -> None:
    with pytest.raises(StagesMissing, match="gone"):
        written(save_run(results), results, Choice(Setup.OO), tmp_path / "out")
