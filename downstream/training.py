"""Training a segmenter on labelled frames: cross-entropy over random crops and flips, bfloat16, one-cycle AdamW.

The result is a function of the frames, the recipe, the seed and the number of threads, so a training may be retried on
any machine of the same kind of processor and the same version of torch. Crops keep the camera's resolution: a resize
would blur away the very artefacts that are measured.

Not here: networks (`segmenter`), the setups that say which frames train and which test (`setups`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from roadbits.codecs.precision import best_device, reduced_precision
from roadbits.downstream.degradation import degraded
from roadbits.downstream.segmenter import Segmenter, SegmenterSpec

IGNORED = 255


@dataclass(frozen=True)
class TrainingSpec:
    """How a segmenter is trained.

    Attributes:
        steps: number of optimiser steps.
        batch_size: crops per step.
        crop: height and width of a crop, in pixels.
        learning_rate: peak rate of the decoder; the encoder has `encoder_rate` times it.
        encoder_rate: see `learning_rate`.
        weight_decay: of AdamW.
        class_balance: exponent of the inverse class frequency that weighs the loss; 0 is plain cross-entropy.
        threads: torch threads. The result depends on it, hence it is part of the recipe and not of the machine.
        degrades: blur, sharpen and compress crops at random: see `degraded`.
    """

    steps: int
    batch_size: int = 8
    crop: tuple[int, int] = (224, 288)
    learning_rate: float = 2e-3
    encoder_rate: float = 0.5
    weight_decay: float = 1e-2
    class_balance: float = 0.25
    threads: int = 1
    degrades: bool = False


class TrainingDiverged(Exception):
    """The loss is no longer a finite number."""


Progress = Callable[[int, float], None]
"""Called with the number of finished steps and the last loss."""


def train_segmenter(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    num_classes: int,
    network: SegmenterSpec,
    recipe: TrainingSpec,
    seed: int,
    progress: Progress | None = None,
) -> Segmenter:
    """Train a segmenter.

    Args:
        images: uint8 (H, W, 3) each; sizes may differ.
        labels: uint8 (H, W) each, in the same order; ids of `num_classes` and above are ignored.
        num_classes: K.
        network: which network.
        recipe: how to train it.
        seed: of the initial weights, the crops and the flips.
        progress: told of each step.

    Returns:
        The trained segmenter, in evaluation mode, on the device it was trained on.

    Raises:
        ValueError: if there are no frames, an image has no label of its size, or no pixel is labelled.
        TrainingDiverged: if the loss becomes infinite or NaN.
    """
    _check_pairs(images, labels)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(seed)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x5E6]))
    device = best_device()
    segmenter = Segmenter(network, num_classes).to(device).train()
    optimiser, schedule = _optimiser(segmenter, recipe)
    weights = _class_weights(labels, num_classes, recipe.class_balance).to(device)
    for step in range(1, recipe.steps + 1):
        x, y = _batch(images, labels, num_classes, recipe, generator)
        with reduced_precision(device):
            logits = segmenter(x.to(device))
        loss = _cross_entropy(logits, y.to(device), weights)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(segmenter.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        value = loss.item()
        if not np.isfinite(value):
            raise TrainingDiverged(f"the loss is {value} at step {step} of {recipe.steps}: lower the learning rate")
        if progress:
            progress(step, value)
    segmenter.eval()
    return segmenter


def _check_pairs(images: Sequence[NDArray[np.uint8]], labels: Sequence[NDArray[np.uint8]]) -> None:
    if not images:
        raise ValueError("no frames to train on: expected at least one labelled frame")
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} images and {len(labels)} labels: expected one label per image")
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        if image.shape[:2] != label.shape:
            raise ValueError(f"frame {position}: image is {image.shape[:2]}, label {label.shape}")


def _optimiser(
    segmenter: Segmenter, recipe: TrainingSpec
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW with a slower encoder, and a one-cycle schedule that ends near zero."""
    encoder = list(segmenter.network.encoder.parameters())  # type: ignore[union-attr]
    known = {id(parameter) for parameter in encoder}
    decoder = [parameter for parameter in segmenter.parameters() if id(parameter) not in known]
    rates = [recipe.learning_rate * recipe.encoder_rate, recipe.learning_rate]
    optimiser = torch.optim.AdamW(
        [{"params": encoder}, {"params": decoder}], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    total = recipe.steps + 1
    # OneCycleLR divides by the length of its rise, which is 0 where it lasts exactly one step.
    rise = max(0.1, 2 / total)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=total, pct_start=rise)
    return optimiser, schedule


def _class_weights(labels: Sequence[NDArray[np.uint8]], num_classes: int, exponent: float) -> torch.Tensor:
    """Return float32 (K,) weights, (1 / frequency) ** exponent, with mean 1 over the labelled pixels."""
    counts = np.zeros(256, np.int64)
    for label in labels:
        counts += np.bincount(label.ravel(), minlength=256)
    if not counts[:num_classes].any():
        raise ValueError(f"no labelled pixel to train on: expected ids below {num_classes}")
    share = counts[:num_classes] / counts[:num_classes].sum()
    weights = np.where(share > 0, np.maximum(share, 1e-4) ** -exponent, 0.0)
    return torch.tensor(weights / max((weights * share).sum(), 1e-9), dtype=torch.float32)


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean over the labelled pixels; 0 for crops without any, where torch's own mean is NaN."""
    total = functional.cross_entropy(logits, y, weights, ignore_index=IGNORED, reduction="sum")
    return total / weights[y[y != IGNORED]].sum().clamp(min=1e-9)


def _batch(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    num_classes: int,
    recipe: TrainingSpec,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random crops: uint8 (B, 3, h, w) and int64 (B, h, w)."""
    height, width = recipe.crop
    x = np.zeros((recipe.batch_size, height, width, 3), np.uint8)
    y = np.full((recipe.batch_size, height, width), IGNORED, np.int64)
    for slot in range(recipe.batch_size):
        chosen = int(generator.integers(len(images)))
        image, label = images[chosen], labels[chosen]
        top = int(generator.integers(max(1, label.shape[0] - height + 1)))
        left = int(generator.integers(max(1, label.shape[1] - width + 1)))
        step = -1 if generator.integers(2) else 1
        crop = label[top : top + height, left : left + width][:, ::step]
        rows, columns = crop.shape
        y[slot, :rows, :columns] = np.where(crop < num_classes, crop, IGNORED)
        cut = image[top : top + height, left : left + width]
        x[slot, :rows, :columns] = (degraded(cut, generator) if recipe.degrades else cut)[:, ::step]
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.from_numpy(y)
