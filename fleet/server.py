"""What the server learns from a run's frames: restorers and segmenters, and how good these are.

Every stage asks first whether its output is there already, so that a resumed run redoes only what is missing.

Not here: the frames (`frame_sets`), what a stage's jobs do (`learning`), which stages there are (`plan`), the rows of
the results (`run_results`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.archive import ArraysWriter
from roadbits.fleet.backend import Backend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.dataset_restoration import DatasetRestoration
from roadbits.fleet.frame_sets import FrameSets
from roadbits.fleet.learning import LabelledSet, Measurement, Training
from roadbits.fleet.learning import measure as measure_segmenter
from roadbits.fleet.learning import train as train_segmenter
from roadbits.fleet.plan import MeasuringJob, Plan, TrainingJob, shown_positions
from roadbits.fleet.progress import Display
from roadbits.fleet.scenario import Downstream
from roadbits.fleet.sources import classes_of
from roadbits.fleet.stages import Stages
from roadbits.fleet.vehicle import Arm


class Server:
    """The server of one run.

    Attributes:
        restoration: of its data set, if the scenario has one.
    """

    def __init__(self, plan: Plan, stages: Stages, frames: FrameSets, backend: Backend, display: Display) -> None:
        """Take what to do, where its output goes, which frames there are, and who computes it."""
        self._plan, self._stages, self._frames = plan, stages, frames
        self._backend, self._display = backend, display
        words = plan.scenario.restoration
        self.restoration: DatasetRestoration | None = (
            DatasetRestoration(plan, stages, frames, backend, display) if words else None
        )

    def restore(self) -> None:
        """Train the restorers, and restore what every arm delivered."""
        assert self.restoration is not None
        teacher = self._plan.teacher_job() if "task" in self.restoration.kinds else None
        if teacher is not None:
            if not self.can_train(teacher):
                raise DataError(f"{teacher.frames_name} delivered no frame: a restorer of kind task has no teacher")
            self._train_all([teacher])
        self.restoration.train(self._weights(teacher) if teacher else None)
        self.restoration.restore()

    def train(self) -> None:
        """Train every missing segmenter, side by side where the backend can."""
        self._train_all(self._plan.training_jobs())

    def _train_all(self, jobs: Sequence[TrainingJob]) -> None:
        words = self._plan.scenario.downstream
        assert words is not None
        todo = [job for job in jobs if self.can_train(job)]
        todo = [job for job in todo if not self._stages.is_done(self._plan.train_key(job))]
        if not todo:
            return
        groups = self._alike(todo)
        trainings = self._trainings(words, groups)
        steps = [0] * len(groups)
        with self._display.bar("train", len(groups) * words.steps) as bar:

            def progress(position: int, step: int, loss: float) -> None:
                steps[position] = step
                bar.set(sum(steps), f"loss {loss:.3f}")

            for position, trained in self._backend.train(train_segmenter, trainings, words.threads, progress):
                _, same = groups[position]
                for job in same:
                    with self._stages.writing(self._plan.train_key(job)) as folder:
                        (folder / "segmenter.safetensors").write_bytes(trained.weights)
                        (folder / "losses.json").write_text(json.dumps(trained.losses))
                progress(position, words.steps, trained.losses[-1])
                names = " and ".join(job.frames_name for job in same)
                self._display.say(f"trained on {names}, seed {same[0].seed}: loss {trained.losses[-1]:.3f}")

    def _alike(self, jobs: Sequence[TrainingJob]) -> list[tuple[LabelledSet, list[TrainingJob]]]:
        """Return the sets to train on, each with the jobs that come to one and the same segmenter, set by set.

        Codecs may differ in bytes alone, as with an adapter of the density: their uploads hold the same images.
        """
        sets: dict[str, LabelledSet] = {}
        digests: dict[TrainingJob, str] = {}
        groups: dict[tuple[str, bool, int], list[TrainingJob]] = {}
        for job in jobs:
            seedless = replace(job, seed=0)
            if seedless not in digests:
                frames = self._training_set(job)
                digests[seedless] = digest = frames.digest()
                sets.setdefault(digest, frames)
            groups.setdefault((digests[seedless], job.remedy == "augmentation", job.seed), []).append(job)
        return [(sets[digest], groups[key]) for digest in sets for key in groups if key[0] == digest]

    def _trainings(
        self, words: Downstream, groups: Sequence[tuple[LabelledSet, list[TrainingJob]]]
    ) -> Iterator[Training]:
        """Yield the training of each group; a set is shared when its first one begins: all at once fill a machine."""
        num_classes = len(classes_of(self._plan.scenario.cameras))
        shared_of: LabelledSet | None = None
        for frames, (job, *_) in groups:
            if frames is not shared_of:
                shared_of, shared = frames, self._backend.share(frames)
            yield Training(shared, words, num_classes, job.seed, job.remedy == "augmentation")

    def can_train(self, job: TrainingJob) -> bool:
        """Return whether there is a frame to train on that has a class anywhere."""
        return job.arm is None or self._has_labels(job.arm)

    @cache  # noqa: B019
    def _has_labels(self, arm: Arm) -> bool:
        labels, num_classes = self._frames.originals("train").labels, len(classes_of(self._plan.scenario.cameras))
        return any((labels[k] < num_classes).any() for k in self._frames.positions(arm))

    def _training_set(self, job: TrainingJob) -> LabelledSet:
        """Return the originals, or an arm's decoded or restored frames with the labels of their originals."""
        originals, arm = self._frames.originals("train"), job.arm
        if arm is None:
            return LabelledSet(list(originals.images), list(originals.labels))
        if job.restorer:
            assert self.restoration is not None
            images = list(self.restoration.restored(arm, job.restorer))
        else:
            images = list(self._frames.delivered(arm))
        labels = [originals.labels[k] for k in self._frames.positions(arm)]
        if job.remedy == "references":
            assert self.restoration is not None
            more = self.restoration.labelled_references()
            images, labels = [*images, *more.images], [*labels, *more.labels]
        return LabelledSet(images, labels)

    def _test_set(self, arm: Arm | None) -> LabelledSet:
        originals = self._frames.originals("test")
        images = originals.images if arm is None else self._frames.on_board(arm)
        return LabelledSet(list(images), list(originals.labels))

    def measure(self) -> None:
        """Measure every trained segmenter on every set of test frames that a setup pairs it with."""
        words = self._plan.scenario.downstream
        assert words is not None
        jobs = [job for job in self._plan.measuring_jobs() if self.can_train(job.training)]
        todo = [job for job in jobs if not self._stages.is_done(self._plan.measure_key(job))]
        if not todo:
            return
        sets = {arm: self._backend.share(self._test_set(arm)) for arm in dict.fromkeys(job.arm for job in todo)}
        num_classes = len(classes_of(self._plan.scenario.cameras))
        shown = shown_positions(len(self._frames.originals("test")))
        measurements = (
            Measurement(self._weights(job.training), sets[job.arm], words, num_classes, shown) for job in todo
        )
        with self._display.bar("measure", len(todo)) as bar:
            for job, measured in zip(todo, self._backend.map(measure_segmenter, measurements), strict=True):
                with self._stages.writing(self._plan.measure_key(job)) as folder:
                    np.save(folder / "counts.npy", measured.counts, allow_pickle=False)
                    with ArraysWriter(folder, "predictions") as predictions:
                        for prediction in measured.predictions:
                            predictions.append(prediction)
                bar.advance()

    def _weights(self, job: TrainingJob) -> bytes:
        return (self._stages.folder(self._plan.train_key(job)) / "segmenter.safetensors").read_bytes()

    def counts(self, job: MeasuringJob) -> NDArray[np.int64]:
        """Return the confusion counts (N, K, K) of a measurement that was made."""
        counts: NDArray[np.int64] = np.load(
            self._stages.folder(self._plan.measure_key(job)) / "counts.npy", allow_pickle=False
        )
        return counts
