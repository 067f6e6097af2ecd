"""Whole runs: the same digest whatever computes them, and however often they are killed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roadbits.codecs.catalogue import WEIGHTS
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.collection import OtherCollectionError
from roadbits.fleet.results import Results, read_results
from roadbits.fleet.run import Run, RunError
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
SMALL = ("fleet.vehicles=2", "cameras.frames_per_vehicle=4", "cameras.test_frames=2", "downstream.seeds=[0]")
SMALLER = (*SMALL, "codecs=[{name: jpeg, points: [quality=20]}]", "downstream.steps=2")


def smoke(*settings: str) -> Scenario:
    (scenario,) = load_scenario(SMOKE, settings)
    return scenario


def execute(folder: Path, *settings: str, resume: bool = False) -> Results:
    return Run(smoke(*settings), folder, LocalBackend, quiet=True).execute(resume)


def noting(trained: list[list[Any]]) -> type[LocalBackend]:
    """Return a backend that notes what is trained side by side."""

    class Noting(LocalBackend):
        def train(self, function: Any, items: Iterable[Any], *rest: Any) -> Iterator[tuple[int, Any]]:
            trained.append(list(items))
            return super().train(function, trained[-1], *rest)

    return Noting


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, execute(folder, *SMALL)


def test_every_captured_frame_has_exactly_one_fate(whole: tuple[Path, Results]) -> None:
    for row in whole[1].uploads:
        fates = row.delivered + row.late + row.lost + row.rejected + row.dropped + row.backlog
        assert fates == row.frames == 8


def test_every_setup_of_every_arm_is_measured_for_each_seed(whole: tuple[Path, Results]) -> None:
    measured = {(row.codec, row.point, row.setup, row.seed) for row in whole[1].downstream}
    arms = {(row.codec, row.point) for row in whole[1].uploads}
    assert measured == {(*arm, setup, 0) for arm in arms for setup in ("OO", "CO", "CC", "OC")}
    assert len(whole[1].downstream) == len(measured)


def test_codecs_that_differ_in_bytes_alone_train_one_segmenter(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    FrozenModel.load(WEIGHTS / "hyperprior.safetensors").without_context().save(plain)
    trained: list[list[Any]] = []

    codecs = ", ".join(f"{{name: '{name}', points: [lambda=0.0067]}}" for name in ("hyperprior", f"hyperprior:{plain}"))
    device = "{encode_watts: 1, radio_joules_per_mbit: 1, gmac_per_s: 99, joules_per_gmac: 1, memory_mb: 512}"
    fleet = (f"fleet.device={device}", "fleet.faults={}", "fleet.uplink={kind: constant, rate_mbps: 4}")
    settings = (*SMALL, f"codecs=[{codecs}]", *fleet, "downstream.steps=2", "downstream.setups=[CO]")
    results = Run(smoke(*settings), tmp_path / "run", noting(trained), quiet=True).execute()
    assert [len(jobs) for jobs in trained] == [1]
    (with_context, without), (upload, other) = results.downstream, results.uploads
    assert upload.bytes < other.bytes
    assert (upload.psnr_db, with_context.miou) == (other.psnr_db, without.miou)


def test_a_training_set_is_shared_when_its_first_training_begins(tmp_path: Path) -> None:
    events: list[str] = []

    class Watched(LocalBackend):
        def share(self, value: Any) -> Any:
            events.append("share")
            return super().share(value)

        def train(self, function: Any, *rest: Any) -> Iterator[tuple[int, Any]]:
            def train(*job: Any) -> Any:
                events.append("train")
                return function(*job)

            events.clear()
            yield from super().train(train, *rest)
            events.append("end")

    words = smoke(*SMALLER, "downstream.seeds=[0, 1]", "downstream.setups=[OO, CO]")
    Run(words, tmp_path / "run", Watched, quiet=True).execute()
    assert events[: events.index("end")] == ["share", "train", "train"] * 2


def test_arms_that_deliver_fewer_frames_than_oo_has_are_told_of(tmp_path: Path) -> None:
    codecs = "codecs=[{name: jpeg, points: [quality=20]}, {name: jpeg, points: [quality=20], every: 2}]"
    settings = (*SMALLER, codecs, "fleet.faults={}", "fleet.uplink={kind: constant, rate_mbps: 9}")
    results = execute(tmp_path / "run", *settings, "downstream.setups=[OO, CO]")
    assert [row.delivered for row in results.uploads] == [8, 4]
    (note,) = [note for note in results.notes if "OO is trained" in note]
    assert "on all 8 frames, 1 of 2 arms on fewer, jpeg:quality=20,every=2 on 4" in note


def test_rate_is_the_bytes_in_the_store(whole: tuple[Path, Results]) -> None:
    folder, results = whole
    with sqlite3.connect(folder / "uploads.sqlite") as db:
        for row in results.uploads:
            stored = db.execute(
                "SELECT SUM(LENGTH(payload) * copies) FROM uploads WHERE codec = ? AND point = ? AND payload NOT NULL",
                (row.codec, row.point),
            ).fetchone()[0]
            lost = db.execute(
                "SELECT COALESCE(SUM(payload_bytes), 0) FROM uploads "
                "WHERE codec = ? AND point = ? AND verdict = 'lost'",
                (row.codec, row.point),
            ).fetchone()[0]
            assert row.bytes == stored + lost > 0


def test_results_file_is_what_was_returned(whole: tuple[Path, Results]) -> None:
    folder, results = whole
    assert read_results(folder) == results
    assert json.loads((folder / "results.json").read_text())["digest"] == results.digest


def test_same_scenario_gives_the_same_digest_and_another_seed_another(
    whole: tuple[Path, Results], tmp_path: Path
) -> None:
    assert execute(tmp_path / "again", *SMALL).digest == whole[1].digest
    assert execute(tmp_path / "other", *SMALL, "seed=8").digest != whole[1].digest


def test_a_folder_with_a_run_is_not_overwritten(whole: tuple[Path, Results]) -> None:
    before = (whole[0] / "results.json").read_bytes()
    with pytest.raises(RunError, match="--resume"):
        execute(whole[0], *SMALL)
    assert (whole[0] / "results.json").read_bytes() == before


def test_resuming_a_finished_run_computes_nothing(whole: tuple[Path, Results]) -> None:
    class Idle(LocalBackend):
        def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            assert not list(items), "a finished run was computed again"
            return iter(())

        def train(self, *_: Any) -> Iterator[Any]:
            raise AssertionError("a finished run was trained again")

    again = Run(smoke(*SMALL), whole[0], Idle, quiet=True).execute(resume=True)
    assert again.digest == whole[1].digest


def test_resuming_with_more_seeds_trains_only_those(whole: tuple[Path, Results]) -> None:
    trained: list[list[Any]] = []

    settings = (*SMALL[:-1], "downstream.seeds=[0, 5]")
    results = Run(smoke(*settings), whole[0], noting(trained), quiet=True).execute(resume=True)
    assert {job.seed for jobs in trained for job in jobs} == {5}
    assert {row.seed for row in results.downstream} == {0, 5}


def test_what_another_run_has_done_is_not_done_again(whole: tuple[Path, Results], tmp_path: Path) -> None:
    class Untrained(LocalBackend):
        def train(self, *_: Any) -> Iterator[Any]:
            raise AssertionError("what another run trained was trained again")

    folder = tmp_path / "again"
    again = Run(smoke(*SMALL), folder, Untrained, quiet=True, reused=[whole[0]]).execute()
    assert again.digest == whole[1].digest
    assert f"stages were finished in {whole[0]} already" in (folder / "log.jsonl").read_text()


def test_a_codec_that_is_added_trains_nothing_anew_for_the_others(whole: tuple[Path, Results], tmp_path: Path) -> None:
    more = (
        *SMALL,
        "codecs=[{name: jpeg, points: [quality=10, quality=60]}, {name: webp, points: [quality=20]}, {name: avif, "
        "points: [quality=9]}]",
        "fleet.device.encode_mpx_per_s={jpeg: 30, webp: 6, avif: 1}",
    )
    trained: list[list[Any]] = []

    results = Run(smoke(*more), tmp_path / "more", noting(trained), quiet=True, reused=[whole[0]]).execute()
    assert [len(jobs) for jobs in trained] == [1]
    assert results.uploads[:3] == whole[1].uploads
    assert [row for row in results.downstream if row.codec != "avif"] == whole[1].downstream


def test_what_another_program_has_done_is_told_of(whole: tuple[Path, Results], tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(whole[0], old)
    (old / "log.jsonl").write_text("")
    execute(old, *SMALL, resume=True)
    assert "another version" not in (old / "log.jsonl").read_text()
    (old / "program.txt").write_text(f"{0:064}\n")
    execute(old, *SMALL, resume=True)
    told = "holds what another version of roadbits computed"
    assert f"{old} {told}" in (old / "log.jsonl").read_text()
    again, once_more = tmp_path / "again", tmp_path / "once-more"
    Run(smoke(*SMALL), again, LocalBackend, quiet=True, reused=[old]).execute()
    assert f"{old} {told}" in (again / "log.jsonl").read_text()
    Run(smoke(*SMALL), once_more, LocalBackend, quiet=True, reused=[again]).execute()
    assert f"{again} {told}" in (once_more / "log.jsonl").read_text()


def test_results_keep_their_scenario_until_there_are_new_ones(whole: tuple[Path, Results], tmp_path: Path) -> None:
    class Broken(LocalBackend):
        def train(self, *_: Any) -> Iterator[Any]:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    longer = [*SMALL, "downstream.steps=3"]
    with pytest.raises(KeyboardInterrupt):
        Run(smoke(*longer), folder, Broken, quiet=True).execute(resume=True)
    assert (folder / "scenario.yaml").read_bytes() == (whole[0] / "scenario.yaml").read_bytes()
    execute(folder, *longer, resume=True)
    assert "steps: 3" in (folder / "scenario.yaml").read_text()


def test_resuming_another_collection_is_refused(whole: tuple[Path, Results]) -> None:
    before = (whole[0] / "scenario.yaml").read_bytes()
    with pytest.raises(OtherCollectionError, match="choose another --out"):
        execute(whole[0], *SMALL, "fleet.deadline_s=1", resume=True)
    assert (whole[0] / "scenario.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("test_value", "label", "message"),
    [
        (91, 11, "no pixel of the train frames has a class"),
        (90, 3, "test frame 0016E5 0 is also frame 0 of 0016E5 in the training set"),
    ],
)
def test_frames_that_teach_or_measure_nothing_are_refused_before_training(
    test_value: int, label: int, message: str, tmp_path: Path
) -> None:
    """Without a label of any class, and the same picture in both folders."""
    for split, grey in (("train", 90), ("val", test_value)):
        for folder, value in ((split, grey), (f"{split}annot", label)):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            pixels = np.full((64, 64) if "annot" in folder else (64, 64, 3), value, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "camvid" / folder / "0016E5_1.png")
    cameras = f"cameras={{kind: camvid, path: {tmp_path / 'camvid'}}}"
    with pytest.raises(DataError, match=message):
        execute(tmp_path / "run", *SMALLER, cameras, "fleet.vehicles=1")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    class Intruded(LocalBackend):
        def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            with pytest.raises(RunError, match="another process"):
                execute(tmp_path, *SMALLER, resume=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(smoke(*SMALLER), tmp_path, Intruded, quiet=True).execute()


def test_missing_data_folder_says_which_and_how_to_point_at_it(tmp_path: Path) -> None:
    camvid = SMOKE.parent / "camvid-legacy.yaml"
    (scenario,) = load_scenario(camvid, (f"cameras.path={tmp_path / 'nowhere'}",))
    with pytest.raises(DataError, match="nowhere"):
        Run(scenario, tmp_path / "run", LocalBackend, quiet=True).execute()
    assert not (tmp_path / "run").exists()


def test_a_fleet_whose_frames_all_get_lost_still_reports(tmp_path: Path) -> None:
    results = execute(tmp_path, *SMALLER, "fleet.faults.loss_probability=1.0")
    (row,) = results.uploads
    assert (row.delivered, row.lost) == (0, row.frames)
    assert {each.setup for each in results.downstream} == {"OO", "OC"}
    assert any("delivered no frame" in note for note in results.notes)


CHILD = """
import os, signal, sys
from pathlib import Path
from roadbits.fleet import stages
from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.run import Run
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.store import Store

kill_after, folder, scenario, *settings = sys.argv[1:]
countdown = int(kill_after)
add, flush = Store.add, stages._flush

def survive_a_step():
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def add_and_tell(self, records, vehicle, next_frame, state):
    new = add(self, records, vehicle, next_frame, state)
    print(vehicle, next_frame, new, flush=True)
    survive_a_step()
    return new

def flush_and_count(path):
    flush(path)
    survive_a_step()

Store.add, stages._flush = add_and_tell, flush_and_count
(words,) = load_scenario(Path(scenario), tuple(settings))
Run(words, Path(folder), LocalBackend, quiet=True).execute(resume=True)
"""


def run_child(kill_after: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the scenario in a process that is killed after so many acknowledged batches and file writes."""
    command = [sys.executable, "-c", CHILD, str(kill_after), str(folder), str(SMOKE), *SMALLER]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_run_killed_again_and_again_ends_with_the_same_digest(tmp_path: Path) -> None:
    undisturbed = execute(tmp_path / "undisturbed", *SMALLER).digest
    killed = 0
    for step in (1, 2, 3, 7, 11, 20, 30):
        child = run_child(step, tmp_path / "killed")
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        killed += 1
    assert killed >= 5
    assert execute(tmp_path / "killed", *SMALLER, resume=True).digest == undisturbed


def test_no_acknowledged_upload_is_lost_by_a_kill(tmp_path: Path) -> None:
    acknowledged = 0
    for kill_after in (3, 2):  # a new folder is signed first
        child = run_child(kill_after, tmp_path)
        assert child.returncode == -signal.SIGKILL, child.stderr
        acknowledged += sum(int(line.split()[2]) for line in child.stdout.splitlines())
        with sqlite3.connect(tmp_path / "uploads.sqlite") as db:
            assert db.execute("SELECT COUNT(*) FROM uploads").fetchone()[0] == acknowledged
    assert acknowledged == 8


def test_interrupt_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roadbits.fleet", "run", str(SMOKE), "--backend", "local", "--out", str(tmp_path)]
    for setting in SMALLER:
        command += ["--set", setting]
    # A shell's background job ignores SIGINT, and its children would too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not (tmp_path / "uploads.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "--resume" in errors
    execute(tmp_path, *SMALLER, resume=True)


MIXED = (
    "fleet={groups: [{name: a, vehicles: 1, uplink: {kind: constant, rate_mbps: 0.02}, device: &d {encode_mpx_per_s: "
    "{jpeg: 30, webp: 9}, encode_watts: 5, radio_joules_per_mbit: 1}}, "
    "{name: b, vehicles: 1, uplink: {kind: two-state}, device: *d}]}",
    "cameras.frames_per_vehicle=7",
    "cameras.test_frames=2",
    "codecs=[{name: jpeg, policies: [{kind: budget}, {kind: target-bpp, bpp: 0.9}]}, "
    "{name: webp, points: [quality=9]}]",
    "downstream.steps=2",
    "downstream.seeds=[0]",
    "downstream.setups=[CC]",
)


class _EndsEarly(LocalBackend):
    """Is interrupted after some waves of segments."""

    def __init__(self, waves: int) -> None:
        self._waves = waves

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        self._waves -= 1
        if self._waves < 0:
            raise KeyboardInterrupt
        return super().map(function, items)


def test_a_run_under_policies_is_the_same_after_an_interruption_within_its_drives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = execute(tmp_path / "whole", *MIXED)
    for module in ("vehicle", "collection"):
        monkeypatch.setattr(f"roadbits.fleet.{module}.SEGMENT_FRAMES", 2)
    with pytest.raises(KeyboardInterrupt):
        Run(smoke(*MIXED), tmp_path / "cut", lambda: _EndsEarly(2), quiet=True).execute()
    resumed = execute(tmp_path / "cut", *MIXED, resume=True)
    assert resumed.digest == whole.digest
    assert [(row.point, row.policy) for row in resumed.uploads] == [
        ("budget", "budget"),
        ("target-bpp=0.9", "target-bpp"),
        ("quality=9", "fixed"),
    ]
    assert [[group.frames for group in row.groups] for row in resumed.uploads] == [[7, 7]] * 3
    measured = {(row.point, row.setup): row.test_bpp for row in resumed.downstream}
    assert set(measured) == {(row.point, "CC") for row in resumed.uploads}
    assert measured["target-bpp=0.9", "CC"] == pytest.approx(0.9, rel=0.5)
    assert len(resumed.uploads[0].points_used) > 1
