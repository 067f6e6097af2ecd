"""The sets of frames of a run: originals, what arms delivered, and what they make of test frames; each written once.

Not here: what decoding a batch comes to (`decoding`), pairs and restored frames (`dataset_restoration`), what is
learned from frames (`server`).
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from roadbits.codecs.bitstream import unpack
from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.fleet.archive import Archive, Arrays, ArraysWriter, common_frame
from roadbits.fleet.backend import Backend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.decoding import BATCH_FRAMES, Decoded, OnBoard, Uploaded, compress_on_board, decode_uploaded
from roadbits.fleet.fittings import Version
from roadbits.fleet.originals import batches, write_originals
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.sources import classes_of
from roadbits.fleet.stages import Stages
from roadbits.fleet.store import Record, Store
from roadbits.fleet.summary import Quality
from roadbits.fleet.vehicle import Arm, ways_of

if TYPE_CHECKING:
    from roadbits.fleet.codec_adaptation import CodecAdaptation

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are spread evenly however many there are."""


class FrameSets:
    """The sets of frames of one run."""

    def __init__(
        self,
        plan: Plan,
        stages: Stages,
        store: Store,
        backend: Backend,
        display: Display,
        adaptation: "CodecAdaptation | None" = None,
    ) -> None:
        """Take what there is to be, where it goes, who computes it, and the adaptation that vehicles went through."""
        self._plan, self._stages, self._store = plan, stages, store
        self._backend, self._display = backend, display
        self._adaptation = adaptation
        self._adapted = adaptation.versions() if adaptation else {}

    def write_originals(self) -> None:
        """Keep the original frames of both splits."""
        for split in ("train", "test"):
            self.originals(split)

    def originals(self, split: str) -> Archive:
        """Return the originals of `train`, `test` or `reference`, written if they are not yet.

        Raises:
            DataError: if a frame cannot be read.
            BackendError: if the backend cannot work.
        """
        key = self._plan.originals_key(split)
        if not self._stages.is_done(key):
            total = len(batches(self._plan.scenario, split))
            with self._stages.writing(key) as folder, self._display.bar(f"{split} frames", total) as bar:
                for _ in write_originals(self._plan.scenario, split, self._backend, folder):
                    bar.advance()
        return Archive.open(self._stages.folder(key))

    def references(self) -> Archive | None:
        """Return the reference frames; None if the scenario has none."""
        return self.originals("reference") if batches(self._plan.scenario, "reference") else None

    def check_apart(self) -> None:
        """Refuse sets that share a frame, whatever it is called there.

        Raises:
            DataError: if a test frame is a training frame, or a reference frame either.
        """
        if found := common_frame(self.originals("test"), self.originals("train")):
            note, twin = found
            raise DataError(
                f"cameras: test frame {note.camera} {note.index} is also frame {twin.index} of {twin.camera} in the "
                "training set: what was trained on measures nothing"
            )
        references = self.references()
        if references is None:
            return
        for split in ("train", "test"):
            if found := common_frame(references, self.originals(split)):
                note, twin = found
                raise DataError(
                    f"cameras.reference: frame {note.camera} {note.index} is also {twin.camera} {twin.index} of the "
                    f"{split} frames: nothing may learn from, or be measured on, a frame that is uploaded or tested on"
                )

    def check_labels(self) -> None:
        """Refuse frames on which no segmenter can be trained or measured, before hours are spent on them.

        Raises:
            DataError: if no pixel of a split has a class.
        """
        num_classes = len(classes_of(self._plan.scenario.cameras))
        for split in ("train", "test"):
            if not any((label < num_classes).any() for label in self.originals(split).labels):
                raise DataError(f"cameras: no pixel of the {split} frames has a class: are they labelled?")

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
            clips = [list(clip) for _, clip in itertools.groupby(some, _clip_key)]
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
                        clips.append(_clip_key(records[at]))
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

    def positions(self, arm: Arm) -> list[int]:
        """Return the positions, among the originals, of the frames that an arm delivered."""
        positions: list[int] = json.loads((self._decoded(arm) / "positions.json").read_text())
        return positions

    def delivered(self, arm: Arm) -> Arrays:
        """Return the decoded frames that an arm delivered, in the order of `positions`."""
        return Arrays(self._decoded(arm), "images")

    def told(self, arm: Arm) -> list[tuple[str, float]]:
        """Return the point and the rate of each of these, as their payloads tell."""
        return [(point, bpp) for point, bpp in json.loads((self._decoded(arm) / "told.json").read_text())]

    def clip_frames(self, arm: Arm) -> list[int]:
        """Return how many frames each of the clips has in which they came; stills are clips of one frame."""
        lengths: list[int] = json.loads((self._decoded(arm) / "clips.json").read_text())
        return lengths

    def quality(self, arm: Arm) -> Quality:
        """Return how good they are."""
        return Quality(*json.loads((self._decoded(arm) / "quality.json").read_text()))

    def _decoded(self, arm: Arm) -> Path:
        return self._stages.folder(self._plan.decode_key(arm))

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

    def on_board(self, arm: Arm) -> Arrays:
        """Return what an arm makes of the test frames."""
        return Arrays(self._stages.folder(self._plan.on_board_key(arm)), "images")

    def test_bpp(self, arm: Arm) -> float:
        """Return the rate of these."""
        bpp: float = json.loads((self._stages.folder(self._plan.on_board_key(arm)) / "rate.json").read_text())
        return bpp


def _clip_key(record: Record) -> tuple[int, int]:
    """Return what the frames of one clip have in common, and no other frame: stills are clips of one frame."""
    return record.vehicle, record.clip if record.clip >= 0 else -1 - record.frame


def _whole_clips(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield records a few at a time, the frames of a clip together."""
    some: list[Record] = []
    for _, clip in itertools.groupby(records, _clip_key):
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
