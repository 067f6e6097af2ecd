"""What restoration was worth: each treatment of an arm's uploads, on original test frames, with intervals.

Not here: the measurements themselves (`server`), the resampling (`downstream.bootstrap`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from roadbits.downstream.bootstrap import Resamples
from roadbits.downstream.confusion import Confusion
from roadbits.fleet.dataset_restoration import DatasetRestoration
from roadbits.fleet.plan import MeasuringJob, Plan, TrainingJob
from roadbits.fleet.results import RestorationRow
from roadbits.fleet.vehicle import Arm

Counts = NDArray[np.int64]
_OO, NONE = "OO", "none"


def restoration_rows(
    plan: Plan,
    restoration: DatasetRestoration,
    arm: Arm,
    bpp: float,
    names: Sequence[str],
    counts_of: Callable[[MeasuringJob], Counts],
) -> Iterator[RestorationRow]:
    """Yield a row for each treatment of an arm's uploads.

    Args:
        plan: of the run, which measures OO and CO for every seed.
        restoration: for the quality of restored frames.
        arm: restored, with frames delivered.
        bpp: of its uploads.
        names: of the classes.
        counts_of: returns the confusion counts int64 (N, K, K) of a measurement.
    """
    words, seeds = plan.scenario.restoration, plan.seeds
    assert words is not None
    trainings: dict[str, list[TrainingJob]] = {
        _OO: [TrainingJob(None, seed) for seed in seeds],
        NONE: [TrainingJob(arm, seed) for seed in seeds],
    }
    for kind in plan.restorers_of(arm):
        trainings[kind] = [TrainingJob(arm, seed, kind) for seed in seeds]
    for remedy in words.remedies:
        trainings[remedy] = [TrainingJob(arm, seed, None, remedy) for seed in seeds]
    counts = {name: [counts_of(MeasuringJob(job, None)) for job in jobs] for name, jobs in trainings.items()}
    resamples = Resamples(counts)
    for treatment in list(trainings)[1:]:
        is_remedy = treatment in words.remedies
        quality = None if is_remedy else restoration.quality(arm, None if treatment == NONE else treatment)  # type: ignore[arg-type]
        miou, gain = resamples.miou(treatment), resamples.gain(treatment, NONE)
        share = resamples.share(treatment, NONE, _OO)
        steps = restoration.steps_of(treatment)
        learned = treatment not in (NONE, "augmentation", "dcngan")
        yield RestorationRow(
            arm.codec,
            arm.point,
            treatment,
            bpp,
            **(asdict(quality) if quality else {"psnr_db": None, "ms_ssim": None, "feature_distance": None}),
            miou=miou.value,
            miou_low=miou.low,
            miou_high=miou.high,
            miou_by_seed={str(seed): _miou(each) for seed, each in zip(seeds, counts[treatment], strict=True)},
            gain=gain.value,
            gain_low=gain.low,
            gain_high=gain.high,
            gap_closed=share.value if share else None,
            gap_low=share.low if share else None,
            gap_high=share.high if share else None,
            reference_frames=len(restoration.chosen()) if learned else 0,
            taken_for=_taken_for(names, sum(each.sum(0) for each in counts[treatment])),
            steps=steps.taken if steps else None,
            best_step=steps.best if steps else None,
        )


def _taken_for(names: Sequence[str], counts: Counts) -> dict[str, dict[str, float]]:
    """Return of each class's pixels the share taken for each class, given counts int64 (K, K)."""
    return {
        name: {other: float(count / row.sum()) for other, count in zip(names, row, strict=True)}
        for name, row in zip(names, counts, strict=True)
        if row.any()
    }


def _miou(counts: Counts) -> float:
    return Confusion(counts.sum(0)).miou()
