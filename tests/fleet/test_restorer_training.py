"""Phases of several parts, with a stand-in for the training itself: its parts come to what a test says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roadbits.fleet import restorer_training
from roadbits.fleet.backend import BackendError, LocalBackend, Report
from roadbits.fleet.progress import Display
from roadbits.fleet.restoration_words import Restoration
from roadbits.fleet.restorer_training import WEIGHTS, Phase, RestorerTrainings, Steps, steps_of
from roadbits.fleet.restoring import RestorerJob, RestorerState
from roadbits.fleet.stages import Stages
from roadbits.restoration.network import RestorerSpec
from roadbits.restoration.training import Objective, Pairs

SPEC = RestorerSpec(("jpeg",), 8, (1, 1, 1))
PART = 2
Qualities = Sequence[tuple[float, float]]
"""PSNR and feature distance that the parts of a phase come to."""


@dataclass
class Trained:
    """Trains nothing: keeps the jobs, and tells of each part what it is said to come to.

    Attributes:
        qualities: of each objective's parts.
        most: jobs until the power goes.
        jobs: that were done.
    """

    qualities: Mapping[Objective, Qualities]
    most: int = 100
    jobs: list[RestorerJob] = field(default_factory=list)

    def __call__(self, job: RestorerJob, report: Report) -> RestorerState:
        if len(self.jobs) == self.most:
            raise BackendError("the power went")
        self.jobs.append(job)
        report(job.until, 0.5)
        name = f"{job.recipe.objective} at {job.until}"
        psnr_db, distance = self.qualities[job.recipe.objective][(job.until - 1) // PART]
        return RestorerState(f"checkpoint of {name}".encode(), name.encode(), 0.5, psnr_db, distance)

    def parts(self, objective: Objective) -> list[tuple[int, bytes | None]]:
        """Return until where each part of a phase went, and the checkpoint that it went on from."""
        return [(job.until, job.checkpoint) for job in self.jobs if job.recipe.objective == objective]


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, trained: Trained, *phases: Phase) -> list[int]:
    """Run phases; return the sums of steps that were shown."""
    monkeypatch.setattr(restorer_training, "_PART_STEPS", PART)
    monkeypatch.setattr(restorer_training, "train_restorer", trained)
    backend, shown = LocalBackend(), list[int]()
    trainings = RestorerTrainings(
        Stages(folder), backend, SPEC, Restoration(), backend.share(list[Pairs]()), Display(quiet=True)
    )
    trainings.run(phases, lambda steps, _: shown.append(steps))
    return shown


def phase(objective: Objective, steps: int, start: bytes | None = None) -> Phase:
    return Phase(objective, f"restorer-{objective}", steps, start)


def weights_of(folder: Path, objective: Objective) -> bytes:
    return (folder / f"restorer-{objective}" / WEIGHTS).read_bytes()


def test_every_part_goes_on_from_the_one_before_and_only_the_outcome_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = Trained({"mse": [(20, 0.9), (21, 0.8), (22, 0.7)]})
    shown = train(monkeypatch, tmp_path, trained, phase("mse", 5, b"the first phase"))
    assert trained.parts("mse") == [(2, None), (4, b"checkpoint of mse at 2"), (5, b"checkpoint of mse at 4")]
    assert {job.start for job in trained.jobs} == {b"the first phase"}
    assert {job.recipe.steps for job in trained.jobs} == {5}
    assert [path.name for path in tmp_path.iterdir()] == ["restorer-mse"]
    assert steps_of(tmp_path / "restorer-mse", "mse") == Steps(taken=5, best=5)
    assert shown == [2, 4, 5]


@pytest.mark.parametrize(
    ("objective", "best"),
    [("pixels", 4), ("mse", 4), ("perceptual", 6), ("gan", 6), ("task", 6)],
)
def test_the_best_weights_stay_by_psnr_where_pixels_are_all_else_by_features(
    objective: Objective, best: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = Trained({objective: [(20.0, 0.9), (22.0, 0.8), (21.0, 0.6), (19.0, 0.7)]})
    train(monkeypatch, tmp_path, trained, phase(objective, 8))
    assert weights_of(tmp_path, objective) == f"{objective} at {best}".encode()
    assert steps_of(tmp_path / f"restorer-{objective}", objective) == Steps(taken=8, best=best)


def test_a_phase_ends_after_three_parts_that_were_no_better(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    psnrs_db = [20, 19, 21, 20, 21, 20.5, 30]
    trained = Trained({"mse": [(psnr_db, 1.0) for psnr_db in psnrs_db]})
    train(monkeypatch, tmp_path, trained, phase("mse", 100))
    assert [until for until, _ in trained.parts("mse")] == [2, 4, 6, 8, 10, 12]
    assert weights_of(tmp_path, "mse") == b"mse at 6"
    assert steps_of(tmp_path / "restorer-mse", "mse") == Steps(taken=12, best=6)


def test_a_phase_that_has_ended_waits_for_no_other_and_keeps_none_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    better = [(20 + k, 1 - k / 10) for k in range(5)]
    trained = Trained({"mse": [(20, 1.0)] * 4, "gan": better})
    train(monkeypatch, tmp_path, trained, phase("mse", 10), phase("gan", 10))
    assert [until for until, _ in trained.parts("mse")] == [2, 4, 6, 8]
    assert [until for until, _ in trained.parts("gan")] == [2, 4, 6, 8, 10]
    assert (weights_of(tmp_path, "mse"), weights_of(tmp_path, "gan")) == (b"mse at 2", b"gan at 10")


@pytest.mark.parametrize("most", range(1, 6))
def test_an_interrupted_phase_goes_on_from_its_last_part_to_the_same_outcome(
    most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Best is the second part: its weights have to outlast those of all parts behind it."""
    qualities: Mapping[Objective, Qualities] = {"gan": [(20, 0.9), (20, 0.5), (20, 0.8), (20, 0.7), (20, 0.6)]}
    whole, first, second = tmp_path / "whole", Trained(qualities, most), Trained(qualities)
    train(monkeypatch, whole, uninterrupted := Trained(qualities), phase("gan", 50))
    interrupted = tmp_path / "interrupted"
    if most < 5:
        with pytest.raises(BackendError, match="the power went"):
            train(monkeypatch, interrupted, first, phase("gan", 50))
    else:
        train(monkeypatch, interrupted, first, phase("gan", 50))
    train(monkeypatch, interrupted, second, phase("gan", 50))
    assert [*first.parts("gan"), *second.parts("gan")] == uninterrupted.parts("gan")
    assert len(second.jobs) == 5 - most
    files = [sorted((path.name, path.read_bytes()) for path in run.glob("*/*")) for run in (whole, interrupted)]
    assert files[0] == files[1]
    assert weights_of(interrupted, "gan") == b"gan at 4"
