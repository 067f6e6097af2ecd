"""Restorers that train side by side, part by part: each part is kept as soon as it is done.

An interrupted run loses minutes at most. A phase ends early once held-out reference frames no longer come nearer to
their originals; the best weights so far are those that are kept.

Not here: what happens within a part (`restoring`).
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from roadbits.fleet.backend import Backend, Shared
from roadbits.fleet.progress import Display
from roadbits.fleet.restoration_words import Restoration
from roadbits.fleet.restoring import RestorerJob, RestorerState, Teacher, train_restorer
from roadbits.fleet.stages import Stages
from roadbits.restoration.network import RestorerSpec
from roadbits.restoration.training import Objective, Pairs, Recipe

WEIGHTS = "restorer.safetensors"
"""The weights to restore with, in a restorer's stage."""
CURVE = "curve.json"
"""A list of step, loss, PSNR in dB and feature distance of held-out frames, for each part."""
_CHECKPOINT = "checkpoint.safetensors"
_PART_STEPS = 200
_PATIENCE = 3
"""Parts without an improvement after which a phase has ended."""


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase of a restorer's training.

    Attributes:
        objective: of the phase.
        key: of the stage that keeps its outcome.
        steps: in all.
        start: weights that it begins from; those of the seed if left out.
        teacher: of the objective `task`.
    """

    objective: Objective
    key: str
    steps: int
    start: bytes | None = None
    teacher: Teacher | None = None

    def part(self, step: int) -> str:
        """Return the key of the stage that keeps where the phase stands after some steps."""
        return f"{self.key}-at-{step}"

    @property
    def ends(self) -> list[int]:
        """The steps at which its parts end."""
        return [*range(_PART_STEPS, self.steps, _PART_STEPS), self.steps]


class Steps(NamedTuple):
    """How long a phase took.

    Attributes:
        taken: in all, until it ended.
        best: after which the weights were that it keeps.
    """

    taken: int
    best: int


def steps_of(folder: Path, objective: Objective) -> Steps:
    """Return the steps of the phase whose outcome a stage's folder keeps."""
    curve: list[list[float]] = json.loads((folder / CURVE).read_text())
    return Steps(int(curve[-1][0]), int(curve[_best(curve, objective)][0]))


def _best(curve: Sequence[Sequence[float]], objective: Objective) -> int:
    """Return the position of the best part: the highest PSNR where pixels are all, else the least feature distance."""
    goodness = [row[2] if objective in ("pixels", "mse") else -row[3] for row in curve]
    return goodness.index(max(goodness))


@dataclass(eq=False)
class _Course:
    """A phase under way: its last step, and its curve so far."""

    phase: Phase
    step: int = 0
    curve: list[list[float]] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The position of the best part."""
        return _best(self.curve, self.phase.objective)

    @property
    def is_done(self) -> bool:
        """Whether all its steps are taken, or no part was better for too long."""
        return self.step >= self.phase.steps or (bool(self.curve) and len(self.curve) - 1 - self.best >= _PATIENCE)


@dataclass(frozen=True, eq=False)
class RestorerTrainings:
    """Everything that trainings of one run have in common."""

    stages: Stages
    backend: Backend
    spec: RestorerSpec
    words: Restoration
    pairs: Shared[list[Pairs]]
    display: Display

    def run(self, phases: Sequence[Phase], show: Callable[[int, str], None]) -> None:
        """Train what is missing of some phases.

        Args:
            phases: to train side by side.
            show: told of the steps of all phases together, and a few words.

        Raises:
            BackendError: if a training fails; its last part is kept.
        """
        courses = [self._found(phase) for phase in phases if not self.stages.is_done(phase.key)]
        steps = {phase.objective: phase.steps for phase in phases}
        steps |= {course.phase.objective: course.step for course in courses}
        while todo := [course for course in courses if not course.is_done]:
            jobs = [self._job(course) for course in todo]

            def progress(position: int, step: int, loss: float, todo: Sequence[_Course] = todo) -> None:
                objective = todo[position].phase.objective
                steps[objective] = step
                show(sum(steps.values()), f"{objective} loss {loss:.3f}")

            for position, state in self.backend.train(train_restorer, jobs, self.words.threads, progress):
                self._keep(todo[position], jobs[position].until, state)

    def _found(self, phase: Phase) -> _Course:
        """Return how far a phase had come."""
        for step in reversed(phase.ends):
            folder = self.stages.folder(phase.part(step))
            if folder.is_dir():
                return _Course(phase, step, json.loads((folder / CURVE).read_text()))
        return _Course(phase)

    def _job(self, course: _Course) -> RestorerJob:
        phase, words = course.phase, self.words
        checkpoint = self._read(phase.part(course.step), _CHECKPOINT) if course.step else None
        until = next(end for end in phase.ends if end > course.step)
        recipe = Recipe(
            phase.objective, phase.steps, words.batch_size, words.crop, words.learning_rate, seed=words.seed
        )
        return RestorerJob(self.spec, recipe, self.pairs, until, phase.start, checkpoint, phase.teacher, words.threads)

    def _keep(self, course: _Course, step: int, state: RestorerState) -> None:
        """Keep a part of a phase, and with its last part the phase's outcome."""
        phase, before = course.phase, course.step
        course.step = step
        course.curve.append([step, state.loss, state.psnr_db, state.distance])
        is_best = course.best == len(course.curve) - 1
        weights = state.weights if is_best else self._read(phase.part(before), WEIGHTS)
        if not course.is_done:
            with self.stages.writing(phase.part(step)) as folder:
                (folder / _CHECKPOINT).write_bytes(state.checkpoint)
                _write(folder, weights, course.curve)
        else:
            with self.stages.writing(phase.key) as folder:
                _write(folder, weights, course.curve)
            at, _, psnr_db, distance = course.curve[course.best]
            self.display.say(
                f"restorer, {phase.objective}: held-out references come to {psnr_db:.2f} dB, feature distance "
                f"{distance:.3f}, after {at:.0f} of {step} steps"
            )
        if before:
            shutil.rmtree(self.stages.folder(phase.part(before)))

    def _read(self, key: str, name: str) -> bytes:
        return (self.stages.folder(key) / name).read_bytes()


def _write(folder: Path, weights: bytes, curve: list[list[float]]) -> None:
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CURVE).write_text(json.dumps(curve))
