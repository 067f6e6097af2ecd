"""DCNGAN's training in its folder: clips and what codecs make of them, checkpoints, and how good it is on others.

The folder holds `config.yaml` (resolved), `cache/`, `checkpoint.safetensors`, `model.safetensors` (weights, and the
network's words), `quality.json` and `log.jsonl`. The checkpoint begins with the number of its phase.

Not here: the loop (`restoration.clip_training`), the words (`clip_restorer_config`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadbits.codecs.codec import Clip, ClipCodec, OperatingPoint
from roadbits.codecs.metrics import bpp, psnr
from roadbits.codecs.training.clips import clips_of
from roadbits.downstream.sight import imagenet_sight
from roadbits.fleet.conditions import condition_of, position_of
from roadbits.fleet.interrupts import Interrupts, postponed_interrupts
from roadbits.fleet.progress import Display
from roadbits.fleet.restoring import seen_distance
from roadbits.fleet.stages import write_whole
from roadbits.fleet.training.clip_config import Clips
from roadbits.fleet.training.clip_restorer_config import ClipRestorerTrainingWords
from roadbits.fleet.training.file import dump_training
from roadbits.fleet.training.folder import own_folder, refuse_started
from roadbits.fleet.training.images import check_sources, open_cache, remove_other_caches
from roadbits.restoration.clip_training import ClipRestorerTraining, TripletCrops
from roadbits.restoration.condition import Condition
from roadbits.restoration.dcngan import restore_clip
from roadbits.restoration.dcngan_file import open_clip_restorer, pack_clip_restorer
from roadbits.restoration.training import Pairs

_NOTE_WIDTH = 32


class Coded(NamedTuple):
    """What a codec makes of clips at one point."""

    codec: ClipCodec
    point: OperatingPoint


@dataclass(frozen=True)
class ClipQuality:
    """How near frames come to their originals, before and after restoration, means over all frames.

    Attributes:
        codec: that degraded them.
        point: its operating point.
        told: what the restorer was told of: this point, or another, with the rate at which it would code the clip.
        is_learned: whether the restorer learned this point.
        bpp: of the clips.
        psnr_db: before.
        restored_psnr_db: after.
        distance: as `seen_distance` has it, before.
        restored_distance: after.
    """

    codec: str
    point: str
    told: str
    is_learned: bool
    bpp: float
    psnr_db: float
    restored_psnr_db: float
    distance: float
    restored_distance: float


def degraded(coded: Coded, clips: Sequence[Clip]) -> Iterator[tuple[Clip, Condition]]:
    """Yield what a codec makes of each clip, and what a restorer is told of its frames."""
    for clip in clips:
        payload = coded.codec.encode(clip, coded.point)
        frames, height, width = clip.shape[:3]
        rate = bpp(len(payload), frames * height, width)
        yield coded.codec.decode(payload), condition_of(coded.codec.name, str(coded.point), rate)


class ClipRestorerRun:
    """One training in one folder."""

    def __init__(self, words: ClipRestorerTrainingWords, folder: Path, quiet: bool = False) -> None:
        """Take what to train, where, and whether to show no progress bars."""
        self._words, self._folder = words, folder
        self._display = Display(folder / "log.jsonl", quiet)
        self._checkpoint, self._model = folder / "checkpoint.safetensors", folder / "model.safetensors"

    def execute(self, resume: bool = False) -> Path:
        """Train to the last step, measure, and return the file of the weights.

        Raises:
            TrainingFolderError: if the folder holds a training and `resume` is not set, or another process works there.
            ImageFileError: if images are missing or unreadable.
            TrainingDataError: if they are too small, or held out and trained on.
            DataError: if the street cannot be rendered.
            RestorerTrainingError: if the training diverges, or the checkpoint is another's.
            KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint.
        """
        refuse_started(self._checkpoint, resume)
        words = self._words
        check_sources(words.train_on, words.validate_on)
        with own_folder(self._checkpoint, resume):
            learned = self._clips(words.train_on)
            pairs = [self._pairs(coded, learned) for coded in self._coded(learned_only=True)]
            crops = TripletCrops(pairs, [len(clip) for clip in learned], words.spec.codecs, words.crop, words.seed)
            with postponed_interrupts() as interrupts:
                weights = self._train(crops, interrupts)
                write_whole(self._model, pack_clip_restorer(words.spec, weights))
                self._measure(interrupts)
        return self._model

    def _clips(self, sources: Sequence[Clips]) -> list[Clip]:
        opened = [open_cache(words, self._folder / "cache", self._display) for words in sources]
        return [clip for words, cache in zip(sources, opened, strict=True) for clip in clips_of(cache, words.frames)]

    def _coded(self, learned_only: bool) -> list[Coded]:
        return [
            Coded(each.codec, OperatingPoint.parse(point))
            for each in self._words.codecs
            for point in (each.points if learned_only else (*each.points, *each.tested_points))
        ]

    def _pairs(self, coded: Coded, clips: Sequence[Clip]) -> Pairs:
        decoded, conditions = [], []
        with self._display.bar(f"{coded.codec.name} {coded.point}", len(clips)) as bar:
            for clip, condition in degraded(coded, clips):
                decoded += list(clip)
                conditions += [condition] * len(clip)
                bar.advance()
        return Pairs(decoded, [frame for clip in clips for frame in clip], conditions)

    def _train(self, crops: TripletCrops, interrupts: Interrupts) -> bytes:
        """Train both phases and return the weights."""
        words, weights, at = self._words, b"", -1
        learned = crops.digest()
        stored = self._checkpoint.read_bytes() if self._checkpoint.exists() else b""
        if stored:
            at, stored = stored[0], stored[1:]
        for number, recipe in enumerate(words.phases):
            sight, sizes = imagenet_sight() if number else (None, [])
            before = [asdict(earlier) for earlier in words.phases[:number]]
            told = json.dumps([learned, before]) if before else learned
            training = ClipRestorerTraining(words.spec, recipe, crops, sight, sizes, told)
            if at == number:
                training.load(stored)
            elif at > number:
                continue
            elif number:
                training.begin_from(weights)
            write_whole(self._folder / "config.yaml", dump_training(words).encode())
            remove_other_caches(self._folder / "cache", (*words.train_on, *words.validate_on))
            with self._display.bar(f"train: {recipe.objective}", recipe.steps, _NOTE_WIDTH) as bar:
                bar.set(training.step)
                for loss in training.run(recipe.steps):
                    bar.set(training.step, f"loss {loss:.4f}")
                    due = training.step % words.checkpoint_every == 0 or training.step == recipe.steps
                    if due or interrupts.wished:
                        write_whole(self._checkpoint, bytes([number]) + training.save())
                    interrupts.check()
            weights = training.weights
        return weights

    def _measure(self, interrupts: Interrupts) -> None:
        """Measure every point on clips that nothing was trained on, told the truth and told another point."""
        words, restorer = self._words, open_clip_restorer(self._model.read_bytes())
        clips, coded = self._clips(words.validate_on), self._coded(learned_only=False)
        rows: list[ClipQuality] = []
        learned = self._coded(learned_only=True)
        with self._display.bar("held-out clips", len(coded) * (1 + len(clips))) as bar:
            codings: list[list[tuple[Clip, Condition]]] = []
            for one in coded:
                interrupts.check()
                codings.append(list(degraded(one, clips)))
                bar.advance()
            places = [position_of(one.codec.name, str(one.point)) for one in coded]
            for k, one in enumerate(coded):
                farthest = max(range(len(coded)), key=lambda other: abs(places[other] - places[k]))
                frames: list[tuple[float, ...]] = []
                for clip, (decoded, told), (_, wrong) in zip(clips, codings[k], codings[farthest], strict=True):
                    interrupts.check()
                    restored, misled = (restore_clip(restorer, decoded, [each] * len(clip)) for each in (told, wrong))
                    frames += [_frame(*each, told.bpp) for each in zip(clip, decoded, restored, misled, strict=True)]
                    bar.advance()
                rows += _rows(one, coded[farthest], one in learned, np.mean(frames, axis=0).tolist())
        write_whole(
            self._folder / "quality.json", (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode()
        )
        for row in rows:
            self._display.say(
                f"{row.codec} {row.point}{'' if row.is_learned else ' (never learned)'}, told {row.told}: "
                f"{row.bpp:.3f} bpp, {row.psnr_db:.2f} -> {row.restored_psnr_db:.2f} dB, feature distance "
                f"{row.distance:.4f} -> {row.restored_distance:.4f}"
            )


def _frame(original: Clip, decoded: Clip, restored: Clip, misled: Clip, rate: float) -> tuple[float, ...]:
    """Return the rate of a frame (H, W, 3), and PSNR and distance as decoded, restored, and restored when misled."""
    measures = [(psnr(each, original), seen_distance(each, original)) for each in (decoded, restored, misled)]
    return (rate, *(value for measure in measures for value in measure))


def _rows(coded: Coded, farthest: Coded, is_learned: bool, means: Sequence[float]) -> Iterator[ClipQuality]:
    rate, quality, distance, *restored = means
    for told, (after, distance_after) in ((coded, restored[:2]), (farthest, restored[2:])):
        yield ClipQuality(
            coded.codec.name,
            str(coded.point),
            f"{told.codec.name} {told.point}",
            is_learned,
            rate,
            quality,
            after,
            distance,
            distance_after,
        )
