"""What the server does with a collection: decode, train, measure, each stage kept as soon as it is complete.

Every stage asks first whether its output is there already, so that a resumed run redoes only what is missing.

Not here: what a stage's jobs do (`decoding`, `learning`), which stages there are (`plan`).
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.bitstream import unpack
from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.downstream.confusion import Confusion
from roadbits.fleet.archive import Archive, Arrays, ArraysWriter, common_frame
from roadbits.fleet.backend import Backend, Shared
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.dataset_restoration import DatasetRestoration
from roadbits.fleet.decoding import BATCH_FRAMES, Decoded, OnBoard, Uploaded, compress_on_board, decode_uploaded
from roadbits.fleet.fittings import Version
from roadbits.fleet.learning import LabelledSet, Measurement, Training
from roadbits.fleet.learning import measure as measure_segmenter
from roadbits.fleet.learning import train as train_segmenter
from roadbits.fleet.originals import batches, write_originals
from roadbits.fleet.plan import MeasuringJob, Plan, TrainingJob, shown_positions
from roadbits.fleet.progress import Display
from roadbits.fleet.restoration_results import restoration_rows
from roadbits.fleet.results import AdaptationResults, DownstreamRow, RestorationRow, Results, UploadRow
from roadbits.fleet.sources import classes_of, train_source
from roadbits.fleet.stages import Stages
from roadbits.fleet.store import Record, Store
from roadbits.fleet.summary import Quality, missed_target, summarise, with_adapting
from roadbits.fleet.vehicle import Arm, ways_of

if TYPE_CHECKING:
    from roadbits.fleet.codec_adaptation import CodecAdaptation

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are spread evenly however many there are."""


class Server:
    """The server of one run."""

    def __init__(
        self,
        plan: Plan,
        stages: Stages,
        store: Store,
        backend: Backend,
        display: Display,
        adaptation: "CodecAdaptation | None" = None,
    ) -> None:
        """Take what to do, where its output goes, who computes it, and the adaptation that vehicles went through."""
        self._plan, self._stages, self._store = plan, stages, store
        self._adaptation = adaptation
        self._adapted = adaptation.versions() if adaptation else {}
        self._backend, self._display = backend, display
        self._notes: list[str] = []
        words = plan.scenario.restoration
        self._restoration = DatasetRestoration(plan, stages, backend, display) if words else None

    def write_originals(self) -> None:
        """Keep the original frames of both splits."""
        for split in ("train", "test"):
            self._write_originals(split)

    def _write_originals(self, split: str) -> None:
        key = self._plan.originals_key(split)
        if self._stages.is_done(key):
            return
        total = len(batches(self._plan.scenario, split))
        with self._stages.writing(key) as folder, self._display.bar(f"{split} frames", total) as bar:
            for _ in write_originals(self._plan.scenario, split, self._backend, folder):
                bar.advance()

    def originals(self, split: str) -> Archive:
        """Return a split's originals."""
        return Archive.open(self._stages.folder(self._plan.originals_key(split)))

    def check_frames(self) -> None:
        """Refuse frames on which nothing can be learned or measured, before hours are spent on them.

        Raises:
            DataError: if no pixel of a split has a class, or a test frame is a training frame too.
        """
        num_classes = len(classes_of(self._plan.scenario.cameras))
        for split in ("train", "test"):
            if not any((label < num_classes).any() for label in self.originals(split).labels):
                raise DataError(f"cameras: no pixel of the {split} frames has a class: are they labelled?")
        if found := common_frame(self.originals("test"), self.originals("train")):
            note, twin = found
            raise DataError(
                f"cameras: test frame {note.camera} {note.index} is also frame {twin.index} of {twin.camera} in the "
                "training set: what was trained on measures nothing"
            )

    def decode(self) -> None:
        """Decode what every arm delivered, and measure its distortion; the undecodable is quarantined."""
        originals = self.originals("train")
        position = {(note.vehicle, note.index): k for k, note in enumerate(originals.notes)}
        for arm in self._plan.arms:
            key = self._plan.decode_key(arm)
            if not self._stages.is_done(key):
                records = list(self._store.records(arm.codec, arm.point, "delivered"))
                # Payloads pass through a few at a time: a large fleet's are more than fits into memory.
                uploads = self._store.records(arm.codec, arm.point, "delivered", payloads=True)
                with self._stages.writing(key) as folder, self._display.bar("decode", len(records)) as bar:
                    where = [position[record.vehicle, record.frame] for record in records]
                    batches = self._uploaded(arm, uploads, where, originals.images)
                    self._write_decoded(
                        folder, records, where, self._backend.map(decode_uploaded, batches), bar.advance
                    )
            rejected = json.loads((self._stages.folder(key) / "rejected.json").read_text())
            for upload, reason in rejected.items():
                self._store.reject(upload, reason)

    def _uploaded(
        self, arm: Arm, records: Iterable[Record], where: Sequence[int], originals: Sequence[Image]
    ) -> Iterator[Uploaded]:
        """Yield an arm's payloads with the originals of their frames, a few at a time; where tells their positions."""
        first = 0
        for some in _whole_clips(records):
            clips = [list(clip) for _, clip in itertools.groupby(some, _clip_of)]
            yield Uploaded(
                arm,
                [_payload(clip[0]) for clip in clips],
                [originals[k] for k in where[first : first + len(some)]],
                self._versions_of(some) if arm.sharing else (),
                [len(clip) for clip in clips] if some[0].clip >= 0 else (),
            )
            first += len(some)

    def _versions_of(self, records: Sequence[Record]) -> list[Version]:
        """Return the codecs with adapters that payloads name, as far as they are here."""
        named = {unpack(_payload(record)).adapter_hash for record in records}
        return [self._adapted[adapter] for adapter in sorted(named) if adapter in self._adapted]

    def _write_decoded(
        self,
        folder: Path,
        records: Sequence[Record],
        where: Sequence[int],
        results: Iterator[list[Decoded]],
        advance: Callable[[int], None],
    ) -> None:
        kept: list[int] = []
        clips: list[tuple[int, int]] = []
        quality, told, rejected = [], [], {}
        at = 0
        with ArraysWriter(folder, "images") as images:
            for decoded in results:
                for frame in decoded:
                    if frame.image is None:
                        rejected[records[at].upload_id] = frame.reason
                    else:
                        images.append(frame.image)
                        kept.append(where[at])
                        clips.append(_clip_of(records[at]))
                        quality.append((frame.psnr_db, frame.ms_ssim))
                        pixels = frame.image.shape[0] * frame.image.shape[1]
                        told.append((records[at].used_point, 8 * frame.payload_bytes / pixels))
                    at += 1
                advance(len(decoded))
        means = [float(mean) for mean in np.mean(quality, axis=0)] if quality else [0.0, 0.0]
        (folder / "positions.json").write_text(json.dumps(kept))
        (folder / "told.json").write_text(json.dumps(told))
        lengths = [len(list(frames)) for _, frames in itertools.groupby(clips)]
        (folder / "clips.json").write_text(json.dumps(lengths))
        (folder / "rejected.json").write_text(json.dumps(rejected))
        (folder / "quality.json").write_text(json.dumps(means))

    def compress_test_frames(self) -> None:
        """Compress and decode the test frames with every arm that a setup tests on."""
        originals = self.originals("test")
        for arm in self._plan.tested_arms():
            key = self._plan.on_board_key(arm)
            if self._stages.is_done(key):
                continue
            with self._stages.writing(key) as folder, self._display.bar("on board", len(originals)) as bar:
                points = self._on_board_points(arm, len(originals))
                adapted = self._adapted_for(arm, originals)
                clip_frames = ways_of(self._plan.scenario)[arm].clip_frames
                batches = (
                    OnBoard(
                        arm,
                        [originals.images[k] for k in places],
                        [points[k] for k in places],
                        adapted[places.start : places.stop],
                        (len(places),) if clip_frames else (),
                    )
                    for places in _consecutive(originals, clip_frames or BATCH_FRAMES, of_one_camera=clip_frames > 0)
                )
                payload_bytes = 0.0
                with ArraysWriter(folder, "images") as images:
                    for decoded in self._backend.map(compress_on_board, batches):
                        for frame in decoded:
                            assert frame.image is not None, frame.reason
                            images.append(frame.image)
                            payload_bytes += frame.payload_bytes
                        bar.advance(len(decoded))
                (folder / "rate.json").write_text(json.dumps(8 * payload_bytes / _pixels(originals)))

    def _adapted_for(self, arm: Arm, frames: Archive) -> list[Version]:
        """Return the codec that vehicles of an arm have for each frame, in the end; empty if they do not adapt."""
        if self._adaptation is None or arm.sharing is None:
            return []
        return [self._adaptation.version_for(arm.sharing, note.domain, k) for k, note in enumerate(frames.notes)]

    def _on_board_points(self, arm: Arm, count: int) -> list[OperatingPoint]:
        """Return the point of each test frame: an arm's own, or a mixture like that which its policy sent."""
        fixed = self._plan.fixed_point(arm)
        if fixed is not None:
            return [fixed] * count
        fine = still_or_clip_codec_named(arm.source).all_points
        used = Counter(record.used_point for record in self._store.records(arm.codec, arm.point))
        ranked = [point for point in fine for _ in range(used[str(point)])] or [fine[0]]
        return [ranked[int(len(ranked) * (k * _GOLDEN % 1))] for k in range(count)]

    def measure_adaptation(self) -> None:
        """Train what adapters are compared with, and measure all of them."""
        if self._adaptation is not None:
            self._adaptation.compare(self.originals("test"), self._reference_frames())

    def _reference_frames(self) -> Archive | None:
        """Return the reference frames, written if they are not yet; None if the scenario has none."""
        if not batches(self._plan.scenario, "reference"):
            return None
        self._write_originals("reference")
        return self.originals("reference")

    def prepare_restoration(self) -> None:
        """Keep the reference frames, and what the codecs make of them."""
        if self._restoration is not None:
            self._restoration.prepare([(split, self.originals(split)) for split in ("train", "test")])

    def restore(self) -> None:
        """Train the restorers, and restore what every arm delivered."""
        if self._restoration is None:
            return
        teacher = self._plan.teacher_job() if "task" in self._restoration.kinds else None
        if teacher is not None:
            if not self._can_train(teacher):
                raise DataError(f"{teacher.frames_name} delivered no frame: a restorer of kind task has no teacher")
            self._train_all([teacher])
        self._restoration.train(self._weights(teacher) if teacher else None)
        self._restoration.restore(self.originals("train"))

    def _untold(self) -> None:
        """Note which arms were restored by networks that never learned their codec."""
        for codec in self._restoration.untold_codecs() if self._restoration else ():
            self._note(f"no restorer learned {codec}: its frames were restored with their codec not told")

    def train(self) -> None:
        """Train every missing segmenter, side by side where the backend can."""
        self._train_all(self._plan.training_jobs())

    def _train_all(self, jobs: Sequence[TrainingJob]) -> None:
        words = self._plan.scenario.downstream
        assert words is not None
        todo = [job for job in jobs if self._can_train(job)]
        todo = [job for job in todo if not self._stages.is_done(self._plan.train_key(job))]
        if not todo:
            return
        groups = self._alike(todo)
        num_classes = len(classes_of(self._plan.scenario.cameras))
        trainings = [
            Training(frames, words, num_classes, job.seed, job.remedy == "augmentation") for frames, (job, *_) in groups
        ]
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

    def _alike(self, jobs: Sequence[TrainingJob]) -> list[tuple[Shared[LabelledSet], list[TrainingJob]]]:
        """Return the sets to train on, each with the jobs that come to one and the same segmenter.

        Codecs may differ in bytes alone, as with an adapter of the density: their uploads hold the same images.
        """
        sets: dict[str, Shared[LabelledSet]] = {}
        digests: dict[TrainingJob, str] = {}
        groups: dict[tuple[str, bool, int], list[TrainingJob]] = {}
        for job in jobs:
            seedless = replace(job, seed=0)
            if seedless not in digests:
                frames = self._training_set(job)
                digests[seedless] = digest = frames.digest()
                if digest not in sets:
                    sets[digest] = self._backend.share(frames)
            groups.setdefault((digests[seedless], job.remedy == "augmentation", job.seed), []).append(job)
        return [(sets[digest], same) for (digest, _, _), same in groups.items()]

    def _can_train(self, job: TrainingJob) -> bool:
        return job.arm is None or len(self._positions(job.arm)) > 0

    def _positions(self, arm: Arm) -> list[int]:
        """Return the positions, among the originals, of the frames that an arm delivered."""
        folder = self._stages.folder(self._plan.decode_key(arm))
        positions: list[int] = json.loads((folder / "positions.json").read_text())
        return positions

    def _training_set(self, job: TrainingJob) -> LabelledSet:
        """Return the originals, or an arm's decoded or restored frames with the labels of their originals."""
        originals, arm = self.originals("train"), job.arm
        if arm is None:
            return LabelledSet(list(originals.images), list(originals.labels))
        key = self._plan.restore_key(arm, job.restorer) if job.restorer else self._plan.decode_key(arm)
        images = list(Arrays(self._stages.folder(key), "images"))
        labels = [originals.labels[k] for k in self._positions(arm)]
        if job.remedy == "references":
            assert self._restoration is not None
            more = self._restoration.labelled_references()
            images, labels = [*images, *more.images], [*labels, *more.labels]
        return LabelledSet(images, labels)

    def _test_set(self, arm: Arm | None) -> LabelledSet:
        originals = self.originals("test")
        images = (
            originals.images if arm is None else Arrays(self._stages.folder(self._plan.on_board_key(arm)), "images")
        )
        return LabelledSet(list(images), list(originals.labels))

    def measure(self) -> None:
        """Measure every trained segmenter on every set of test frames that a setup pairs it with."""
        words = self._plan.scenario.downstream
        assert words is not None
        jobs = [job for job in self._plan.measuring_jobs() if self._can_train(job.training)]
        todo = [job for job in jobs if not self._stages.is_done(self._plan.measure_key(job))]
        if not todo:
            return
        sets = {arm: self._backend.share(self._test_set(arm)) for arm in dict.fromkeys(job.arm for job in todo)}
        num_classes = len(classes_of(self._plan.scenario.cameras))
        shown = shown_positions(len(self.originals("test")))
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

    def results(self, timings_s: dict[str, float]) -> Results:
        """Return everything that was measured."""
        uploads = [self._upload_row(arm) for arm in self._plan.arms]
        downstream = [row for upload in uploads for row in self._downstream_rows(upload)]
        restoration = [row for upload in uploads for row in self._restoration_rows(upload)]
        adaptation = self._adaptation.results() if self._adaptation else AdaptationResults([], [], [])
        if self._restoration is not None:
            self._untold()
        for note in self._adaptation.notes if self._adaptation else ():
            self._note(note)
        if downstream and downstream[0].absent:
            self._note(f"no test label holds {', '.join(downstream[0].absent)}: left out of every mIoU")
        return Results(
            self._plan.scenario.name,
            self._plan.scenario.seed,
            uploads,
            downstream,
            adaptation=adaptation.rows,
            adapter_sharing=adaptation.notes,
            adaptation_curves=adaptation.curves,
            restoration=restoration,
            notes=self._notes,
            timings_s=timings_s,
            question=self._plan.scenario.question,
        )

    def _upload_row(self, arm: Arm) -> UploadRow:
        fleet, cameras = self._plan.scenario.fleet, self._plan.scenario.cameras
        quality = json.loads((self._stages.folder(self._plan.decode_key(arm)) / "quality.json").read_text())
        vehicles = range(fleet.num_vehicles)
        seed = self._plan.scenario.seed
        drives_s = [train_source(cameras, seed, vehicle, len(vehicles)).last_time_s for vehicle in vehicles]
        way = ways_of(self._plan.scenario)[arm]
        row = summarise(
            arm,
            way,
            self._store.records(arm.codec, arm.point),
            Quality(*quality),
            sum(drive_s + cameras.interval_s for drive_s in drives_s) / 3600,
            fleet,
        )
        if self._adaptation is not None and arm.sharing is not None:
            row = with_adapting(row, self._adaptation.spent(arm.sharing), fleet)
        if row.delivered == 0:
            self._note(f"{arm.key} delivered no frame: nothing could be trained on it")
        if missed := missed_target(way.rule, row):
            self._note(missed)
        return row

    def _downstream_rows(self, upload: UploadRow) -> Iterator[DownstreamRow]:
        words, arm = self._plan.scenario.downstream, Arm(upload.codec, upload.point)
        for setup in self._plan.setups:
            for seed in words.seeds if words else ():
                for job in self._plan.jobs_of(setup, arm, seed):
                    if self._can_train(job.training):
                        yield self._downstream_row(upload, setup, job)

    def _restoration_rows(self, upload: UploadRow) -> Iterator[RestorationRow]:
        arm = Arm(upload.codec, upload.point)
        if self._restoration is None or not self._plan.comparison_jobs(arm, 0) or not self._plan.seeds:
            return
        if self._can_train(TrainingJob(arm, 0)):
            names = classes_of(self._plan.scenario.cameras).names
            yield from restoration_rows(self._plan, self._restoration, arm, upload.bpp, names, self._counts)

    def _counts(self, job: MeasuringJob) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.load(
            self._stages.folder(self._plan.measure_key(job)) / "counts.npy", allow_pickle=False
        )
        return counts

    def _downstream_row(self, upload: UploadRow, setup: str, job: MeasuringJob) -> DownstreamRow:
        counts = self._counts(job)
        confusion = Confusion(counts.sum(0))
        names = classes_of(self._plan.scenario.cameras).names
        ious = dict(zip(names, confusion.iou(), strict=True))
        train_frames = len(self._positions(job.training.arm)) if job.training.arm else len(self.originals("train"))
        test_bpp = None
        if job.arm:
            test_bpp = json.loads((self._stages.folder(self._plan.on_board_key(job.arm)) / "rate.json").read_text())
        return DownstreamRow(
            codec=upload.codec,
            point=upload.point,
            setup=str(setup),
            seed=job.training.seed,
            bpp=upload.bpp,
            miou=confusion.miou(),
            per_class_iou={name: float(iou) for name, iou in ious.items() if np.isfinite(iou)},
            absent=[name for name, iou in ious.items() if not np.isfinite(iou)],
            restorer=job.training.restorer,
            train_frames=train_frames,
            test_frames=len(counts),
            test_bpp=test_bpp,
        )

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
        self._display.say(text)


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[first : first + BATCH_FRAMES] for first in range(0, len(items), BATCH_FRAMES))


def _clip_of(record: Record) -> tuple[int, int]:
    """Return what the frames of one clip have in common, and no other frame: stills are clips of one frame."""
    return record.vehicle, record.clip if record.clip >= 0 else -1 - record.frame


def _whole_clips(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield records a few at a time, the frames of a clip together."""
    some: list[Record] = []
    for _, clip in itertools.groupby(records, _clip_of):
        some += clip
        if len(some) >= BATCH_FRAMES:
            yield some
            some = []
    if some:
        yield some


def _consecutive(archive: Archive, most: int, of_one_camera: bool) -> Iterator[range]:
    """Yield the positions of an archive's frames, so many at most at a time, and of one camera if so wished."""
    cameras = itertools.groupby(range(len(archive)), lambda k: archive.notes[k].camera if of_one_camera else "")
    for _, of_camera in cameras:
        places = list(of_camera)
        for first in range(places[0], places[-1] + 1, most):
            yield range(first, min(first + most, places[-1] + 1))


def _payload(record: Record) -> bytes:
    assert record.payload is not None
    return record.payload


def _pixels(archive: Archive) -> int:
    return sum(image.shape[0] * image.shape[1] for image in archive.images)
