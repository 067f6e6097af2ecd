from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roadbits.downstream.confusion import Confusion
from roadbits.downstream.segmenter import Segmenter, SegmenterDiverged, SegmenterSpec, predict
from roadbits.downstream.training import TrainingDiverged, TrainingSpec, train_segmenter

Bytes = NDArray[np.uint8]
NETWORK = SegmenterSpec(options={"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32})
RECIPE = TrainingSpec(steps=3, batch_size=2, crop=(64, 64), threads=1)


@pytest.fixture(scope="module", autouse=True)
def thread_count() -> Iterator[None]:
    """Put back the number of torch's threads, which a training sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def frames(sizes: Sequence[tuple[int, int]], seed: int = 0) -> tuple[list[Bytes], list[Bytes]]:
    """Return noisy two-tone images and labels of which pixels are bright."""
    generator = np.random.default_rng(seed)
    images, labels = [], []
    for height, width in sizes:
        label = np.zeros((height, width), np.uint8)
        label[:, int(generator.integers(width // 4, 3 * width // 4)) :] = 1
        tones = np.where(label[..., None] == 1, 200, 50) + generator.integers(-20, 20, (height, width, 3))
        images.append(tones.astype(np.uint8))
        labels.append(label)
    return images, labels


def trained(recipe: TrainingSpec = RECIPE, seed: int = 0) -> tuple[Segmenter, list[float]]:
    losses: list[float] = []
    images, labels = frames([(64, 64)] * 4)
    segmenter = train_segmenter(images, labels, 2, NETWORK, recipe, seed, lambda _, loss: losses.append(loss))
    return segmenter, losses


def same_weights(one: Segmenter, two: Segmenter) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_a_few_steps_learn_a_separable_task() -> None:
    losses: list[float] = []
    images, labels = frames([(64, 64)] * 8)
    recipe = replace(RECIPE, steps=40, batch_size=4, learning_rate=4e-3)
    segmenter = train_segmenter(images, labels, 2, NETWORK, recipe, 0, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    counts = Confusion.empty(2)
    for image, label in zip(*frames([(64, 64)] * 4, seed=9), strict=True):
        counts += Confusion.of(label, predict(segmenter, image), 2)
    assert counts.miou() > 0.9


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 71), (33, 1), (20, 200)])
def test_a_prediction_has_the_size_of_its_frame_and_ids_of_classes(height: int, width: int) -> None:
    segmenter = Segmenter(NETWORK, 3)
    predicted = predict(segmenter, np.full((height, width, 3), 90, np.uint8))
    assert (predicted.shape, predicted.dtype) == ((height, width), np.uint8)
    assert predicted.max() < 3


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    (one, losses), (same, same_losses) = trained(seed=3), trained(seed=3)
    assert losses == same_losses
    assert same_weights(one, same)


def test_what_torch_drew_before_makes_no_difference() -> None:
    torch.manual_seed(1)
    one, _ = trained()
    torch.rand(1000)
    assert same_weights(one, trained()[0])


def test_another_seed_gives_other_weights() -> None:
    assert not same_weights(trained(seed=3)[0], trained(seed=4)[0])


def test_the_trained_segmenter_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in trained()[0].modules())


def test_frames_of_different_sizes_train_together() -> None:
    images, labels = frames([(64, 64), (40, 100), (130, 33), (20, 20)])
    recipe = replace(RECIPE, steps=4, batch_size=4)
    seen: list[int] = []
    train_segmenter(images, labels, 2, NETWORK, recipe, 0, lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_any_number_of_steps_can_be_trained(steps: int) -> None:
    assert len(trained(replace(RECIPE, steps=steps))[1]) == steps


@pytest.mark.parametrize("ignored", [2, 100, 255])
def test_every_id_that_is_no_class_is_ignored(ignored: int) -> None:
    images, labels = frames([(64, 64)] * 4)
    for label in labels:
        label[:20] = ignored
    losses: list[float] = []
    train_segmenter(images, labels, 2, NETWORK, RECIPE, 0, lambda _, loss: losses.append(loss))
    for label in labels:
        label[:20] = 255
    train_segmenter(images, labels, 2, NETWORK, RECIPE, 0, lambda _, loss: losses.append(loss))
    assert losses[: RECIPE.steps] == losses[RECIPE.steps :]


def test_crops_without_a_labelled_pixel_do_no_harm() -> None:
    images, labels = frames([(64, 64)] * 8)
    for label in labels[1:]:
        label[:] = 255
    losses: list[float] = []
    train_segmenter(images, labels, 2, NETWORK, replace(RECIPE, steps=6), 0, lambda _, loss: losses.append(loss))
    assert 0.0 in losses
    assert np.isfinite(losses).all()
    assert max(losses) > 0


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="no frames to train on"):
        train_segmenter([], [], 2, NETWORK, RECIPE, 0)


def test_a_missing_label_is_refused() -> None:
    images, labels = frames([(64, 64)] * 2)
    with pytest.raises(ValueError, match="got 2 images and 1 labels"):
        train_segmenter(images, labels[:1], 2, NETWORK, RECIPE, 0)


def test_a_label_of_another_size_is_refused_with_its_position() -> None:
    images, labels = frames([(64, 64)] * 3)
    labels[2] = labels[2][:63]
    with pytest.raises(ValueError, match=r"frame 2: image is \(64, 64\), label \(63, 64\)"):
        train_segmenter(images, labels, 2, NETWORK, RECIPE, 0)


@pytest.mark.parametrize("void", [2, 255])
def test_frames_without_a_labelled_pixel_are_refused(void: int) -> None:
    images, labels = frames([(64, 64)])
    labels[0][:] = void
    with pytest.raises(ValueError, match="no labelled pixel to train on: expected ids below 2"):
        train_segmenter(images, labels, 2, NETWORK, RECIPE, 0)


def test_an_absurd_learning_rate_is_reported_as_divergence() -> None:
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf) at step \d of 8: lower the learning rate"):
        trained(replace(RECIPE, steps=8, learning_rate=1e30))


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cannot build 'Pyramid'"):
        Segmenter(SegmenterSpec(architecture="Pyramid"), 2)
    with pytest.raises(ValueError, match="cannot build 'FPN' on 'no-such-encoder'"):
        Segmenter(SegmenterSpec(encoder="no-such-encoder", pretrained=False), 2)
    with pytest.raises(ValueError, match=r"cannot build 'FPN' on .* with .*must be divisible"):
        Segmenter(SegmenterSpec(options={"decoder_segmentation_channels": 17}), 2)
    with pytest.raises(ValueError, match="no_such_option"):
        Segmenter(SegmenterSpec(options={"no_such_option": 1}), 2)


def test_a_segmenter_that_gives_no_numbers_is_told_instead_of_a_class() -> None:
    """Finite weights, as a last step that went too far leaves them."""
    segmenter, _ = trained()
    for parameter in segmenter.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(SegmenterDiverged, match="not finite"):
        predict(segmenter, frames([(64, 64)])[0][0])
