"""The server's restorers as jobs: train one for some steps, tune a filter, restore and measure frames or clips.

Weights and checkpoints travel as bytes, frames through the backend's shared values.

Not here: networks and losses (`roadbits.restoration`), which jobs there are (`dataset_restoration`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.metrics import ms_ssim, psnr
from roadbits.codecs.precision import best_device
from roadbits.downstream.pretrained import PretrainedWeightsError
from roadbits.downstream.segmenter import Segmenter, SegmenterSpec
from roadbits.downstream.sight import Sight, imagenet_sight, segmenter_sight
from roadbits.fleet.backend import BackendError, Report, Shared
from roadbits.restoration.condition import Condition
from roadbits.restoration.dcngan import ClipRestorer, restore_clip
from roadbits.restoration.dcngan_file import open_clip_restorer
from roadbits.restoration.losses import feature_distance
from roadbits.restoration.network import RestorerSpec
from roadbits.restoration.restoring import open_restorer, restore
from roadbits.restoration.training import (
    PairCrops,
    Pairs,
    Recipe,
    RestorerTraining,
    RestorerTrainingError,
)
from roadbits.restoration.unsharp import Unsharp, tuned

_HELD_OUT_EVERY = 8
"""Of the reference frames, one in so many only validates."""
_MOST_VALIDATED = 16


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained segmenter that a restorer is to please.

    Attributes:
        weights: safetensors.
        network: which.
        num_classes: K.
    """

    weights: bytes
    network: SegmenterSpec
    num_classes: int


@dataclass(frozen=True, eq=False)
class RestorerJob:
    """Some steps of one phase of a restorer's training.

    Attributes:
        spec: the network.
        recipe: of the phase.
        pairs: to learn from, the codecs and points apart.
        until: the step to train to.
        start: weights that the phase begins from; those of the seed if left out.
        checkpoint: where the phase stood; None at its beginning.
        teacher: of the objective `task`.
        threads: of torch.
    """

    spec: RestorerSpec
    recipe: Recipe
    pairs: Shared[list[Pairs]]
    until: int
    start: bytes | None
    checkpoint: bytes | None
    teacher: Teacher | None
    threads: int


@dataclass(frozen=True, eq=False)
class RestorerState:
    """Where a restorer's training stands.

    Attributes:
        checkpoint: to go on from.
        weights: to restore with.
        loss: mean of the steps since the last state.
        psnr_db: of held-out reference frames, restored; of all of them if there are too few to hold any out.
        distance: of their features from the originals', as ImageNet's encoder sees them.
    """

    checkpoint: bytes
    weights: bytes
    loss: float
    psnr_db: float
    distance: float


def train_restorer(job: RestorerJob, report: Report) -> RestorerState:
    """Train for some steps and validate.

    Raises:
        BackendError: if it cannot be trained, or its loss is no finite number.
    """
    torch.set_num_threads(job.threads)
    pairs = job.pairs.get()
    try:
        sight, sizes = _sight_for(job)
        crops = PairCrops([_split(some, False) for some in pairs], job.spec.codecs, job.recipe.crop, job.recipe.seed)
        training = RestorerTraining(job.spec, job.recipe, crops, sight, sizes)
        if job.checkpoint is not None:
            training.load(job.checkpoint)
        elif job.start is not None:
            training.begin_from(job.start)
        losses = []
        for loss in training.run(job.until):
            losses.append(loss)
            report(training.step, loss)
        weights = training.weights
        psnr_db, distance = _validate(job, weights, [_split(some, True) for some in pairs])
    except (ValueError, RestorerTrainingError, PretrainedWeightsError) as error:
        raise BackendError(f"a restorer ({job.recipe.objective}) cannot be trained: {error}") from error
    return RestorerState(training.save(), weights, round(float(np.mean(losses)), 4), psnr_db, distance)


def _sight_for(job: RestorerJob) -> tuple[Sight | None, list[int]]:
    match job.recipe.objective:
        case "perceptual" | "gan":
            return imagenet_sight()
        case "task":
            assert job.teacher is not None
            return segmenter_sight(_segmenter(job.teacher))
        case _:
            return None, []


def _segmenter(teacher: Teacher) -> Segmenter:
    from safetensors.torch import load

    segmenter = Segmenter(teacher.network, teacher.num_classes)
    segmenter.load_state_dict(load(teacher.weights))
    return segmenter


def _split(pairs: Pairs, is_held_out: bool) -> Pairs:
    """Return the pairs that validate, or the others; all of them for both where there are few."""
    count = len(pairs.originals)
    held = set(range(_HELD_OUT_EVERY // 2, count, _HELD_OUT_EVERY)) if count >= _HELD_OUT_EVERY else set()
    chosen = [k for k in range(count) if not held or (k in held) == is_held_out]
    each = (pairs.degraded, pairs.originals, pairs.conditions)
    return Pairs(*([values[k] for k in chosen] for values in each))  # type: ignore[arg-type]


def _validate(job: RestorerJob, weights: bytes, pairs: Sequence[Pairs]) -> tuple[float, float]:
    """Return the mean PSNR and feature distance of a few restored frames, drawn once among all codecs and points."""
    restorer = open_restorer(job.spec, weights)
    some = [(each, k) for k in range(_MOST_VALIDATED) for each in pairs if k < len(each.originals)]
    drawn = np.random.default_rng(0).permutation(len(some))[:_MOST_VALIDATED]
    some = [some[k] for k in sorted(drawn)]
    restored = [restore(restorer, each.degraded[k], each.conditions[k]) for each, k in some]
    originals = [each.originals[k] for each, k in some]
    qualities = [psnr(ours, theirs) for ours, theirs in zip(restored, originals, strict=True)]
    distances = [seen_distance(ours, theirs) for ours, theirs in zip(restored, originals, strict=True)]
    return round(float(np.mean(qualities)), 3), round(float(np.mean(distances)), 4)


@dataclass(frozen=True, eq=False)
class Tuning:
    """A filter to be tuned on pairs of one codec and point."""

    pairs: Pairs


def tune_unsharp(job: Tuning) -> Unsharp:
    """Return the unsharp mask with which features come nearest to the originals'."""
    torch.set_num_threads(1)
    count = min(_MOST_VALIDATED, len(job.pairs.originals))
    chosen = [len(job.pairs.originals) * k // count for k in range(count)]

    def distance(mask: Unsharp) -> float:
        return float(
            np.mean([seen_distance(mask.restore(job.pairs.degraded[k]), job.pairs.originals[k]) for k in chosen])
        )

    return tuned(distance)


@dataclass(frozen=True, eq=False)
class Restoring:
    """Frames of one arm to restore.

    Attributes:
        restorer: weights and their network, or a filter for each.
        degraded: uint8 (H, W, 3) each.
        conditions: of each.
        originals: of each, to measure against.
    """

    restorer: Shared[tuple[bytes, RestorerSpec]] | list[Unsharp]
    degraded: list[Image]
    conditions: list[Condition]
    originals: list[Image]


@dataclass(frozen=True, eq=False)
class RestoredFrame:
    """A restored frame uint8 (H, W, 3), and how far it is from its original: see `seen_distance`."""

    image: Image
    psnr_db: float
    ms_ssim: float
    distance: float


def restore_frames(job: Restoring) -> list[RestoredFrame]:
    """Restore and measure frames."""
    # One thread, so that sums come out the same in every process.
    torch.set_num_threads(1)
    if isinstance(job.restorer, list):
        images = [mask.restore(image) for mask, image in zip(job.restorer, job.degraded, strict=True)]
    else:
        weights, spec = job.restorer.get()
        restorer = open_restorer(spec, weights)
        images = [restore(restorer, *each) for each in zip(job.degraded, job.conditions, strict=True)]
    return _measured(images, job.originals)


@dataclass(frozen=True, eq=False)
class RestoringClip:
    """A clip of one arm to restore.

    Attributes:
        restorer: file of a restorer of clips.
        degraded: uint8 (H, W, 3) each.
        conditions: of each.
        originals: of each, to measure against.
    """

    restorer: Shared[bytes]
    degraded: list[Image]
    conditions: list[Condition]
    originals: list[Image]


def restore_one_clip(job: RestoringClip) -> list[RestoredFrame]:
    """Restore and measure the frames of a clip."""
    torch.set_num_threads(1)
    return _measured(restore_clip(_opened(job.restorer.get()), np.stack(job.degraded), job.conditions), job.originals)


@lru_cache(maxsize=1)
def _opened(file: bytes) -> ClipRestorer:
    return open_clip_restorer(file)


def _measured(images: Iterable[Image], originals: Sequence[Image]) -> list[RestoredFrame]:
    return [
        RestoredFrame(image, psnr(image, original), ms_ssim(image, original), seen_distance(image, original))
        for image, original in zip(images, originals, strict=True)
    ]


def seen_distance(image: Image, original: Image) -> float:
    """Return how differently EfficientNet-Lite0 of ImageNet sees two images uint8 (H, W, 3): see `feature_distance`.

    A perceptual distance of our own, not LPIPS: its levels count alike and were fitted to no judgements of people.
    """
    sight, _ = _imagenet()
    with torch.inference_mode():
        seen, seen_original = (sight(_tensor(each)) for each in (image, original))
        return float(feature_distance(seen, seen_original))


@cache
def _imagenet() -> tuple[Sight, list[int]]:
    return imagenet_sight()


def _tensor(image: Image) -> torch.Tensor:
    """Return an image as float32 (1, 3, H, W) in 0..1, its sides repeated to multiples of 32."""
    height, width = image.shape[:2]
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(best_device()).float().div(255)
    return torch.nn.functional.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
