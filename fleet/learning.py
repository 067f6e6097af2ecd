"""The server's segmenters as jobs: train one on a set of frames, measure one on another.

Weights travel as safetensors bytes, frames through the backend's shared values.

Not here: networks and training loops (`roadbits.downstream`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from roadbits.downstream.confusion import Confusion
from roadbits.downstream.pretrained import PretrainedWeightsError
from roadbits.downstream.segmenter import Segmenter, SegmenterDiverged, SegmenterSpec, predict
from roadbits.downstream.training import TrainingDiverged, TrainingSpec, train_segmenter
from roadbits.fleet.backend import BackendError, Report, Shared
from roadbits.fleet.scenario import Downstream

Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images uint8 (H, W, 3) and labels uint8 (H, W), in the same order."""

    images: Sequence[Array]
    labels: Sequence[Array]

    def digest(self) -> str:
        """Return a hash of all of it."""
        state = hashlib.blake2b(digest_size=16)
        for array in (*self.images, *self.labels):
            state.update(str(array.shape).encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


@dataclass(frozen=True, eq=False)
class Training:
    """One segmenter to train.

    Attributes:
        frames: to train on.
        words: the segmenter's words.
        num_classes: K.
        seed: of weights and crops.
        degrades: blur, sharpen and compress crops at random.
    """

    frames: Shared[LabelledSet]
    words: Downstream
    num_classes: int
    seed: int
    degrades: bool = False


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained segmenter: its weights as safetensors, and the loss after each twentieth of the steps."""

    weights: bytes
    losses: list[float]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One segmenter to measure.

    Attributes:
        weights: safetensors of `Trained`.
        frames: to test on.
        words: the segmenter's words.
        num_classes: K.
        shown: positions of the frames whose predictions are wanted for the report.
    """

    weights: bytes
    frames: Shared[LabelledSet]
    words: Downstream
    num_classes: int
    shown: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Measured:
    """Confusion counts int64 (N, K, K) of each test frame, and the predictions uint8 (H, W) of those shown."""

    counts: NDArray[np.int64]
    predictions: list[Array]


def network_of(words: Downstream, pretrained: bool) -> SegmenterSpec:
    """Return the network that a scenario names."""
    return SegmenterSpec(words.architecture, words.encoder, pretrained, dict(words.options))


def train(job: Training, report: Report) -> Trained:
    """Train a segmenter.

    Raises:
        BackendError: if the network cannot be built, nothing is labelled, or the loss is no longer finite.
    """
    words, frames = job.words, job.frames.get()
    recipe = TrainingSpec(
        steps=words.steps,
        batch_size=words.batch_size,
        crop=words.crop,
        learning_rate=words.learning_rate,
        encoder_rate=words.encoder_rate,
        weight_decay=words.weight_decay,
        class_balance=words.class_balance,
        threads=words.threads,
        degrades=job.degrades,
    )
    losses: list[float] = []
    every = max(1, words.steps // 20)

    def note(step: int, loss: float) -> None:
        report(step, loss)
        if step % every == 0:
            losses.append(round(loss, 4))

    network = network_of(words, words.pretrained)
    try:
        segmenter = train_segmenter(frames.images, frames.labels, job.num_classes, network, recipe, job.seed, note)
    except (ValueError, TrainingDiverged, PretrainedWeightsError) as error:
        raise BackendError(f"a segmenter of seed {job.seed} cannot be trained: {error}") from error
    tensors = {name: tensor.cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    return Trained(save(tensors), losses)


def measure(job: Measurement) -> Measured:
    """Measure a segmenter on every frame of a test set.

    Raises:
        BackendError: if its output is not finite.
    """
    torch.set_num_threads(job.words.threads)
    segmenter = Segmenter(network_of(job.words, pretrained=False), job.num_classes)
    segmenter.load_state_dict(load(job.weights))
    frames = job.frames.get()
    counts, predictions = [], []
    for position, (image, label) in enumerate(zip(frames.images, frames.labels, strict=True)):
        try:
            predicted = predict(segmenter, image)
        except SegmenterDiverged as error:
            raise BackendError(f"test frame {position}: {error}") from error
        counts.append(Confusion.of(label, predicted, job.num_classes).counts)
        if position in job.shown:
            predictions.append(predicted)
    return Measured(np.stack(counts), predictions)
