"""Dataset restoration on the server: from reference frames to restorers, and from uploads to restored uploads.

Not here: training a restorer part by part (`restorer_training`), what the jobs do (`restoring`), what is trained on
restored frames (`server`).
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np

from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.fleet.archive import Archive, Arrays, ArraysWriter
from roadbits.fleet.backend import Backend, Shared
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.conditions import as_told, condition_of
from roadbits.fleet.decoding import BATCH_FRAMES, OnBoard, compress_on_board
from roadbits.fleet.frame_sets import FrameSets
from roadbits.fleet.learning import LabelledSet, network_of
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.restoration_words import LearnedKind, Restoration, RestorerKind
from roadbits.fleet.restorer_training import WEIGHTS, Phase, RestorerTrainings, Steps, steps_of
from roadbits.fleet.restoring import (
    RestoredFrame,
    Restoring,
    RestoringClip,
    Teacher,
    Tuning,
    restore_frames,
    restore_one_clip,
    tune_unsharp,
)
from roadbits.fleet.sources import classes_of
from roadbits.fleet.stages import Stages
from roadbits.fleet.vehicle import Arm
from roadbits.restoration.condition import Condition
from roadbits.restoration.dcngan_file import spec_of
from roadbits.restoration.network import RestorerSpec, names_of
from roadbits.restoration.training import Pairs
from roadbits.restoration.unsharp import UNTOUCHED, Unsharp


@dataclass(frozen=True)
class Quality:
    """Means over an arm's frames, all against the originals: see `RestoredFrame`."""

    psnr_db: float
    ms_ssim: float
    feature_distance: float


class DatasetRestoration:
    """The restoration of one run."""

    def __init__(self, plan: Plan, stages: Stages, frames: FrameSets, backend: Backend, display: Display) -> None:
        """Take what to do, where its output goes, which frames there are, and who computes it."""
        assert plan.scenario.restoration is not None
        self._plan, self._stages, self._backend, self._display = plan, stages, backend, display
        self._frames = frames
        self._words: Restoration = plan.scenario.restoration

    @property
    def _spec(self) -> RestorerSpec:
        codecs = names_of([learned.codec for learned in self._plan.learned()])
        return RestorerSpec(codecs, self._words.channels, self._words.blocks)

    @property
    def kinds(self) -> tuple[RestorerKind, ...]:
        """The restorers of the scenario."""
        return self._words.restorers

    def prepare(self) -> None:
        """Keep the reference frames, and what each codec makes of them at each point that is learned.

        Raises:
            DataError: if one that is learned from is smaller than a crop, or a codec cannot take one.
        """
        if not self._words.learns:
            return
        self._check_sizes()
        for learned in self._plan.learned():
            if not self._stages.is_done(self._plan.pairs_key(learned)):
                self._write_pairs(learned)

    def untold_codecs(self) -> list[str]:
        """Return the codecs whose uploads were restored by networks that never learned them."""
        known = {learned.codec for learned in self._plan.learned()}
        if self._plan.clip_restorer:
            known |= set(spec_of(self._plan.clip_restorer).codecs)
        return sorted({arm.source for arm in self._plan.arms if self._plan.restorers_of(arm)} - known)

    def _references(self) -> Archive:
        return self._frames.originals("reference")

    def chosen(self) -> list[int]:
        """Return the positions of the reference frames that are learned from."""
        if not self._words.learns:
            return []
        total = len(self._references())
        count = self._words.reference_frames or total
        return [total * k // count for k in range(count)]

    def _check_sizes(self) -> None:
        references, crop = self._references(), self._words.crop
        smallest = min(self.chosen(), key=lambda k: min(references.images[k].shape[:2]))
        height, width = references.images[smallest].shape[:2]
        if self._words.trained_kinds and min(height, width) < crop:
            note = references.notes[smallest]
            raise DataError(
                f"restoration.crop is {crop}, and reference frame {note.camera} {note.index} is {height} x {width}: "
                "lower restoration.crop"
            )

    def labelled_references(self) -> LabelledSet:
        """Return the reference frames that are learned from, with their labels."""
        references, chosen = self._references(), self.chosen()
        return LabelledSet([references.images[k] for k in chosen], [references.labels[k] for k in chosen])

    def _write_pairs(self, learned: Arm) -> None:
        """Compress and decode all reference frames with one codec at one point."""
        references, point = self._references(), OperatingPoint.parse(learned.point)
        chunks = [references.images[k : k + BATCH_FRAMES] for k in range(0, len(references), BATCH_FRAMES)]
        jobs = (OnBoard(learned, list(images), [point] * len(images), split="reference") for images in chunks)
        rates: list[float] = []
        with (
            self._stages.writing(self._plan.pairs_key(learned)) as folder,
            self._display.bar("pairs", len(references)) as bar,
            ArraysWriter(folder, "images") as images,
        ):
            for decoded in self._backend.map(compress_on_board, jobs):
                for frame in decoded:
                    assert frame.image is not None, frame.reason
                    images.append(frame.image)
                    rates.append(8 * frame.payload_bytes / (frame.image.shape[0] * frame.image.shape[1]))
                bar.advance(len(decoded))
            (folder / "bpp.json").write_text(json.dumps(rates))

    def _pairs(self, learned: Arm) -> Pairs:
        """Return the pairs of one codec and point that are learned from."""
        folder, originals = self._stages.folder(self._plan.pairs_key(learned)), self._references().images
        degraded, rates = Arrays(folder, "images"), json.loads((folder / "bpp.json").read_text())
        chosen = self.chosen()
        return Pairs(
            [degraded[k] for k in chosen],
            [originals[k] for k in chosen],
            [condition_of(learned.codec, learned.point, rates[k]) for k in chosen],
        )

    def train(self, teacher_weights: bytes | None) -> None:
        """Train every restorer that is missing.

        Args:
            teacher_weights: of the segmenter that a restorer of kind `task` is to please.

        Raises:
            BackendError: if one cannot be trained.
        """
        missing = [kind for kind in self._words.trained_kinds if not self._stages.is_done(self._plan.final_key(kind))]
        if missing:
            pairs = self._backend.share([self._pairs(learned) for learned in self._plan.learned()])
            self._train_missing(missing, pairs, teacher_weights)
        if "unsharp" in self._words.restorers:
            self._tune()

    def _train_missing(
        self, kinds: Sequence[LearnedKind], pairs: Shared[list[Pairs]], teacher_weights: bytes | None
    ) -> None:
        words = self._words
        total = words.steps * len(kinds) + words.first_steps
        trainings = RestorerTrainings(self._stages, self._backend, self._spec, words, pairs, self._display)
        first = Phase("pixels", self._plan.restorer_key(None), words.first_steps)
        with self._display.bar("restorer", total) as bar:
            trainings.run([first], bar.set)
            start = (self._stages.folder(first.key) / WEIGHTS).read_bytes()
            phases = [
                Phase(
                    kind,
                    self._plan.final_key(kind),
                    words.steps,
                    start,
                    self._teacher(teacher_weights) if kind == "task" else None,
                )
                for kind in kinds
            ]
            trainings.run(phases, lambda steps, note: bar.set(words.first_steps + steps, note))

    def _teacher(self, weights: bytes | None) -> Teacher:
        words = self._plan.scenario.downstream
        assert weights is not None
        assert words is not None
        return Teacher(weights, network_of(words, pretrained=False), len(classes_of(self._plan.scenario.cameras)))

    def _tune(self) -> None:
        """Tune the filter on each codec and point that has none yet."""
        missing = [each for each in self._plan.learned() if not self._stages.is_done(self._plan.tuning_key(each))]
        jobs = (Tuning(self._pairs(learned)) for learned in missing)
        with self._display.bar("tune", len(missing)) as bar:
            for learned, mask in zip(missing, self._backend.map(tune_unsharp, jobs), strict=True):
                with self._stages.writing(self._plan.tuning_key(learned)) as folder:
                    (folder / "unsharp.json").write_text(json.dumps([mask.radius, mask.percent]))
                bar.advance()

    def restore(self) -> None:
        """Restore what every arm delivered, with every restorer and with none, and measure it against the originals."""
        for arm in self._plan.arms:
            restorers = self._plan.restorers_of(arm)
            for kind in (None, *restorers) if restorers else ():
                if not self._stages.is_done(self._plan.restore_key(arm, kind)):
                    self._restore_arm(arm, kind)

    def _restore_arm(self, arm: Arm, kind: RestorerKind | None) -> None:
        degraded, originals = self._frames.delivered(arm), self._frames.originals("train").images
        learned = [] if kind == "dcngan" else self._plan.learned()
        known = [condition_of(each.codec, each.point, self._mean_bpp(each)) for each in learned]
        truths = [condition_of(arm.source, point, bpp) for point, bpp in self._frames.told(arm)]
        conditions = [as_told(truth, self._words.condition, known) for truth in truths]
        undone = [originals[k] for k in self._frames.positions(arm)]
        if kind == "dcngan":
            restored = self._restored_clips(self._frames.clip_frames(arm), degraded, conditions, undone)
        else:
            restored = self._restored_stills(kind, degraded, conditions, undone)
        quality = []
        with (
            self._stages.writing(self._plan.restore_key(arm, kind)) as out,
            self._display.bar("restore", len(degraded)) as bar,
            # What no restorer touched is in the stage of the decoded frames already.
            ArraysWriter(out, "images") if kind else nullcontext() as images,
        ):
            for frames in restored:
                for frame in frames:
                    if images is not None:
                        images.append(frame.image)
                    quality.append((frame.psnr_db, frame.ms_ssim, frame.distance))
                bar.advance(len(frames))
            means = [float(mean) for mean in np.mean(quality, axis=0)] if quality else [0.0, 0.0, 0.0]
            (out / "quality.json").write_text(json.dumps(means))

    def _restored_clips(
        self, lengths: Sequence[int], degraded: Arrays, conditions: Sequence[Condition], originals: Sequence[Image]
    ) -> Iterator[list[RestoredFrame]]:
        restorer = self._backend.share(self._plan.clip_restorer)
        ends = itertools.accumulate(lengths, initial=0)
        jobs = (
            RestoringClip(restorer, degraded[some], list(conditions[some]), list(originals[some]))
            for some in itertools.starmap(slice, itertools.pairwise(ends))
        )
        return self._backend.map(restore_one_clip, jobs)

    def _restored_stills(
        self,
        kind: RestorerKind | None,
        degraded: Arrays,
        conditions: Sequence[Condition],
        originals: Sequence[Image],
    ) -> Iterator[list[RestoredFrame]]:
        """Restore with a network or filter; without a kind the frames are only measured."""
        network, masks = None, [UNTOUCHED] * len(conditions)
        if kind == "unsharp":
            masks = self._masks(conditions)
        elif kind:
            network = self._network(kind)
        jobs = (
            Restoring(
                masks[some] if network is None else network,
                degraded[some],
                list(conditions[some]),
                list(originals[some]),
            )
            for some in (slice(first, first + BATCH_FRAMES) for first in range(0, len(degraded), BATCH_FRAMES))
        )
        return self._backend.map(restore_frames, jobs)

    def _network(self, kind: RestorerKind) -> Shared[tuple[bytes, RestorerSpec]]:
        weights = (self._stages.folder(self._plan.final_key(kind)) / WEIGHTS).read_bytes()
        return self._backend.share((weights, self._spec))

    def _masks(self, conditions: Sequence[Condition]) -> list[Unsharp]:
        """Return for each frame the filter of the nearest rate among its codec's, if it has any."""
        known = [(learned.codec, self._mean_bpp(learned), self._mask(learned)) for learned in self._plan.learned()]

        def nearest(told: Condition) -> Unsharp:
            return min(known, key=lambda each: (each[0] != told.codec, abs(math.log(each[1] / told.bpp))))[2]

        return [nearest(condition) for condition in conditions]

    def _mask(self, learned: Arm) -> Unsharp:
        folder = self._stages.folder(self._plan.tuning_key(learned))
        return Unsharp(*json.loads((folder / "unsharp.json").read_text()))

    @cache  # noqa: B019
    def _mean_bpp(self, learned: Arm) -> float:
        folder = self._stages.folder(self._plan.pairs_key(learned))
        return float(np.mean(json.loads((folder / "bpp.json").read_text())))

    def restored(self, arm: Arm, kind: RestorerKind) -> Arrays:
        """Return what an arm delivered, restored, in its order."""
        return Arrays(self._stages.folder(self._plan.restore_key(arm, kind)), "images")

    def steps_of(self, treatment: str) -> Steps | None:
        """Return how long a restorer learned by its own loss; None for a treatment that no network was trained for."""
        kind = next((each for each in self._words.trained_kinds if each == treatment), None)
        return None if kind is None else steps_of(self._stages.folder(self._plan.final_key(kind)), kind)

    def quality(self, arm: Arm, kind: RestorerKind | None) -> Quality:
        """Return how far an arm's frames are from their originals once restored; as decoded without a restorer."""
        folder = self._stages.folder(self._plan.restore_key(arm, kind))
        return Quality(*json.loads((folder / "quality.json").read_text()))
