import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from roadbits.fleet.stages import Stages, stage_key, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_appears_when_its_block_ends(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "stages")
    with stages.writing("train-1") as folder:
        (folder / "weights").write_bytes(b"1234")
        assert not stages.is_done("train-1")
        assert not stages.folder("train-1").exists()
    assert stages.is_done("train-1")
    assert stages.folder("train-1") == tmp_path / "stages" / "train-1"
    assert (stages.folder("train-1") / "weights").read_bytes() == b"1234"
    assert names(tmp_path / "stages") == ["train-1"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_stage_that_fails_does_not_appear(error: type[BaseException], tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    with pytest.raises(error), stages.writing("train-1") as folder:
        (folder / "weights").write_bytes(b"12")
        raise error
    assert not stages.is_done("train-1")
    assert not Stages(tmp_path).is_done("train-1")


def test_a_stage_that_failed_begins_with_an_empty_folder(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    with pytest.raises(ValueError, match="half"), stages.writing("a") as folder:
        (folder / "old").write_bytes(b"")
        raise ValueError("half")
    with stages.writing("a") as folder:
        assert names(folder) == []
        (folder / "new").write_bytes(b"")
    assert names(stages.folder("a")) == ["new"]


def test_what_a_killed_process_left_is_removed_and_whole_stages_stay(tmp_path: Path) -> None:
    with Stages(tmp_path).writing("whole") as folder:
        (folder / "file").write_bytes(b"1")
    (tmp_path / ".unfinished-train-2" / "deep").mkdir(parents=True)
    (tmp_path / ".unfinished-train-2" / "deep" / "file").write_bytes(b"2")
    stages = Stages(tmp_path)
    assert names(tmp_path) == ["whole"]
    assert stages.is_done("whole")
    assert not stages.is_done("train-2")


def test_a_stage_of_no_file_is_whole(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    with stages.writing("a"):
        pass
    assert stages.is_done("a")


@pytest.fixture(params=["links", "no links"])
def lender(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stages of another run, on a disk with links or without."""

    def no_link(self: Path, target: Path) -> None:
        raise OSError("links are not to be had here")

    if request.param == "no links":
        monkeypatch.setattr(Path, "hardlink_to", no_link)
    with Stages(tmp_path / "lender").writing("train-1") as folder:
        (folder / "weights").write_bytes(b"1234")
    return tmp_path / "lender"


def test_a_stage_of_another_run_is_taken_and_stays_without_it(lender: Path, tmp_path: Path) -> None:
    stages = Stages(tmp_path / "own", [tmp_path / "no such run", lender])
    assert stages.is_done("train-1")
    assert not stages.is_done("train-2")
    assert stages.taken == {lender: 1}
    shutil.rmtree(lender)
    assert stages.is_done("train-1")
    assert (stages.folder("train-1") / "weights").read_bytes() == b"1234"
    assert names(tmp_path / "own") == ["train-1"]


def test_what_another_run_has_not_finished_is_not_taken(lender: Path, tmp_path: Path) -> None:
    stages = Stages(tmp_path / "own", [lender])
    with Stages(lender).writing("train-2") as folder:
        (folder / "weights").write_bytes(b"12")
        assert not stages.is_done("train-2")
    assert stages.is_done("train-2")


def test_own_stages_come_first(lender: Path, tmp_path: Path) -> None:
    stages = Stages(tmp_path / "own", [lender])
    with stages.writing("train-1") as folder:
        (folder / "weights").write_bytes(b"own")
    assert stages.is_done("train-1")
    assert (stages.folder("train-1") / "weights").read_bytes() == b"own"
    assert not stages.taken


DEPENDS: dict[str, Any] = {"frames": "x", "seed": 0, "rate": 0.5, "deep": {"a": [1, 2], "b": None}, "on": True}


def test_a_key_does_not_depend_on_the_order_of_its_words() -> None:
    expected = stage_key("train", **DEPENDS)
    for order in itertools.permutations(DEPENDS):
        assert stage_key("train", **{name: DEPENDS[name] for name in order}) == expected
    assert stage_key("train", **DEPENDS | {"deep": {"b": None, "a": [1, 2]}}) == expected


def test_a_key_changes_with_everything_it_depends_on() -> None:
    changes: list[dict[str, Any]] = [
        {"frames": "y"},
        {"seed": 1},
        {"rate": 0.25},
        {"on": False},
        {"deep": {"a": [2, 1], "b": None}},
        {"deep": {"a": [1, 2], "b": 0}},
        {"deep": {"a": [1, 2]}},
        {"more": None},
    ]
    keys = [stage_key("train", **DEPENDS), stage_key("measure", **DEPENDS)]
    keys += [stage_key("train", **DEPENDS | change) for change in changes]
    keys += [stage_key("train", **{k: v for k, v in DEPENDS.items() if k != left_out}) for left_out in DEPENDS]
    assert len(set(keys)) == len(keys) == 2 + len(changes) + len(DEPENDS)


def test_a_key_is_a_file_name_that_begins_with_its_stage() -> None:
    stage, _, digest = stage_key("on-board", path="../..").rpartition("-")
    assert stage == "on-board"
    assert len(digest) == 16
    assert set(digest) <= set("0123456789abcdef")


def test_a_key_never_changes_between_releases_without_intent() -> None:
    assert stage_key("train", seed=1, words={"steps": 3, "crop": [2, 2]}) == "train-3c2914a1e6172a0e"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", Path("x")])
def test_a_key_of_what_is_no_plain_json_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        stage_key("train", value=value)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_whole(path, b"old")
    write_whole(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert names(tmp_path) == ["results.json"]


def test_a_file_that_cannot_be_replaced_keeps_its_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_whole(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
