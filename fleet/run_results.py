"""A run's results from what its stages hold: the rows of uploads, segmenters and restoration, and notes about them.

Not here: the measurements (`server`, `adaptation_comparison`), an arm's uploads in one row (`summary`), treatments
compared (`restoration_results`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from roadbits.downstream.confusion import Confusion
from roadbits.fleet.feasibility import heaviest_codec
from roadbits.fleet.frame_sets import FrameSets
from roadbits.fleet.plan import MeasuringJob, Plan, TrainingJob
from roadbits.fleet.progress import Display
from roadbits.fleet.restoration_results import restoration_rows
from roadbits.fleet.results import AdaptationResults, DownstreamRow, RestorationRow, Results, UploadRow
from roadbits.fleet.server import Server
from roadbits.fleet.sources import classes_of, train_source
from roadbits.fleet.store import Store
from roadbits.fleet.summary import missed_target, summarise, with_adapting
from roadbits.fleet.vehicle import Arm, ways_of

if TYPE_CHECKING:
    from roadbits.fleet.codec_adaptation import CodecAdaptation


class RunResults:
    """What came of one run whose stages are all done."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        frames: FrameSets,
        server: Server,
        display: Display,
        adaptation: "CodecAdaptation | None" = None,
    ) -> None:
        """Take who knows what was done."""
        self._plan, self._store, self._frames, self._server = plan, store, frames, server
        self._display, self._adaptation = display, adaptation
        self._notes: list[str] = []

    def gathered(self, adapted: AdaptationResults, timings_s: Mapping[str, float]) -> Results:
        """Return everything that was measured, how good adaptations are and what each part of the run took with it."""
        uploads = [self._upload_row(arm) for arm in self._plan.arms]
        downstream = [row for upload in uploads for row in self._downstream_rows(upload)]
        restoration = [row for upload in uploads for row in self._restoration_rows(upload)]
        for note in (*self._of_missing_frames(), *self._of_restoration()):
            self._note(note)
        for note in (*(self._adaptation.notes if self._adaptation else ()), *adapted.told):
            self._note(note)
        if downstream and downstream[0].absent:
            self._note(f"no test label holds {', '.join(downstream[0].absent)}: left out of every mIoU")
        return Results(
            self._plan.scenario.name,
            self._plan.scenario.seed,
            uploads,
            downstream,
            adaptation=adapted.rows,
            adapter_sharing=adapted.notes,
            adaptation_curves=adapted.curves,
            restoration=restoration,
            notes=self._notes,
            timings_s=dict(timings_s),
            question=self._plan.scenario.question,
        )

    def _upload_row(self, arm: Arm) -> UploadRow:
        fleet, cameras = self._plan.scenario.fleet, self._plan.scenario.cameras
        vehicles = range(fleet.num_vehicles)
        seed = self._plan.scenario.seed
        drives_s = [train_source(cameras, seed, vehicle, len(vehicles)).last_time_s for vehicle in vehicles]
        way = ways_of(self._plan.scenario)[arm]
        row = summarise(
            arm,
            heaviest_codec(self._plan.scenario, arm),
            way,
            self._store.records(arm.codec, arm.point),
            self._frames.quality(arm),
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
                    if self._server.can_train(job.training):
                        yield self._downstream_row(upload, setup, job)

    def _downstream_row(self, upload: UploadRow, setup: str, job: MeasuringJob) -> DownstreamRow:
        counts = self._server.counts(job)
        confusion = Confusion(counts.sum(0))
        names = classes_of(self._plan.scenario.cameras).names
        ious = dict(zip(names, confusion.iou(), strict=True))
        trained_on = job.training.arm
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
            train_frames=len(self._frames.positions(trained_on) if trained_on else self._frames.originals("train")),
            test_frames=len(counts),
            test_bpp=self._frames.test_bpp(job.arm) if job.arm else None,
        )

    def _restoration_rows(self, upload: UploadRow) -> Iterator[RestorationRow]:
        arm, restoration = Arm(upload.codec, upload.point), self._server.restoration
        if restoration is None or not self._plan.comparison_jobs(arm, 0) or not self._plan.seeds:
            return
        if self._server.can_train(TrainingJob(arm, 0)):
            names = classes_of(self._plan.scenario.cameras).names
            yield from restoration_rows(self._plan, restoration, arm, upload.bpp, names, self._server.counts)

    def _of_missing_frames(self) -> Iterator[str]:
        """Yield a note where OO trains on frames that uploads lack."""
        trained_on = {job.arm for job in self._plan.training_jobs() if self._server.can_train(job)}
        if None not in trained_on:
            return
        captured = len(self._frames.originals("train"))
        delivered = {arm: len(self._frames.positions(arm)) for arm in self._plan.arms if arm in trained_on}
        fewer = [arm for arm, count in delivered.items() if count < captured]
        if fewer:
            least = min(fewer, key=lambda arm: delivered[arm])
            yield (
                f"OO is trained on all {captured} frames, {len(fewer)} of {len(delivered)} arms on fewer, {least.key} "
                f"on {delivered[least]}: what these lose against OO is frames that are missing, too"
            )

    def _of_restoration(self) -> Iterator[str]:
        """Yield what is to be known of the restorers beside their rows."""
        restoration = self._server.restoration
        if restoration is None:
            return
        for codec in restoration.untold_codecs():
            yield f"no restorer learned {codec}: its frames were restored with their codec not told"
        if "task" in restoration.kinds and len(self._plan.restored_stills) > 1:
            yield (
                f"task is taught by a segmenter trained on the uploads of {self._plan.teacher_job().frames_name}: "
                "beside those of other arms it takes these bytes, too"
            )
        for arm in self._plan.arms if not self._plan.seeds else ():
            restorers = self._plan.restorers_of(arm)
            told = [(kind, restoration.quality(arm, kind)) for kind in ((None, *restorers) if restorers else ())]
            if told and self._frames.positions(arm):
                yield f"{arm.key}, PSNR, MS-SSIM and feature distance: " + "; ".join(
                    f"{kind or 'as decoded'} {of.psnr_db:.2f} dB, {of.ms_ssim:.4f}, {of.feature_distance:.3f}"
                    for kind, of in told
                )

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
        self._display.say(text)
