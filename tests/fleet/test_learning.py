from collections.abc import Iterator

import numpy as np
import pytest
import torch
from safetensors.torch import load

from roadbits.downstream.segmenter import Segmenter, predict
from roadbits.fleet.backend import BackendError, LocalBackend
from roadbits.fleet.learning import LabelledSet, Measurement, Trained, Training, measure, network_of, train
from roadbits.fleet.scenario import Downstream

CLASSES = 11
WORDS = Downstream(steps=2, batch_size=2, crop=(64, 64), threads=1)


def frames(count: int = 3, ids: int = CLASSES) -> LabelledSet:
    generator = np.random.default_rng(4)
    labels = [
        np.kron(generator.integers(0, ids, (3, 4), dtype=np.uint8), np.ones((24, 20), np.uint8)) for _ in range(count)
    ]
    return LabelledSet([np.repeat(20 * label[..., None], 3, 2).astype(np.uint8) for label in labels], labels)


def trained(
    seed: int, words: Downstream = WORDS, on: LabelledSet | None = None
) -> tuple[Trained, list[tuple[int, float]]]:
    told: list[tuple[int, float]] = []
    shared = LocalBackend().share(on or frames())
    return train(Training(shared, words, CLASSES, seed), lambda step, loss: told.append((step, loss))), told


@pytest.fixture(scope="module", autouse=True)
def keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first() -> tuple[Trained, list[tuple[int, float]]]:
    return trained(0)


def test_a_training_tells_of_every_step_and_keeps_its_losses(first: tuple[Trained, list[tuple[int, float]]]) -> None:
    result, told = first
    assert [step for step, _ in told] == [1, 2]
    assert result.losses == [round(loss, 4) for _, loss in told]
    assert all(0 < loss < 20 for loss in result.losses)


def test_one_seed_gives_the_same_weights_and_another_gives_others(
    first: tuple[Trained, list[tuple[int, float]]],
) -> None:
    assert trained(0)[0].weights == first[0].weights
    assert trained(1)[0].weights != first[0].weights


def test_weights_travel_whole_to_where_they_are_measured(first: tuple[Trained, list[tuple[int, float]]]) -> None:
    weights, tests = first[0].weights, frames()
    measured = measure(Measurement(weights, LocalBackend().share(tests), WORDS, CLASSES, shown=(0, 2)))
    segmenter = Segmenter(network_of(WORDS, pretrained=False), CLASSES)
    stored = load(weights)
    assert set(stored) == set(segmenter.state_dict())
    segmenter.load_state_dict(stored)
    predictions = [predict(segmenter, image) for image in tests.images]
    assert len(measured.predictions) == 2
    for shown, position in zip(measured.predictions, (0, 2), strict=True):
        np.testing.assert_array_equal(shown, predictions[position])
    assert measured.counts.shape == (3, CLASSES, CLASSES)
    for counts, label, predicted in zip(measured.counts, tests.labels, predictions, strict=True):
        by_hand = np.zeros((CLASSES, CLASSES), np.int64)
        np.add.at(by_hand, (label.ravel(), predicted.ravel()), 1)
        np.testing.assert_array_equal(counts, by_hand)


def test_long_trainings_keep_about_twenty_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"w": torch.zeros(1)}

    def stand_in(*arguments: object) -> Done:
        for step in range(1, 401):
            arguments[-1](step, 1 / step)  # type: ignore[operator]
        return Done()

    monkeypatch.setattr("roadbits.fleet.learning.train_segmenter", stand_in)
    result, told = trained(0, WORDS.model_copy(update={"steps": 400}))
    assert len(told) == 400
    assert result.losses == [round(1 / step, 4) for step in range(20, 401, 20)]


def test_the_recipe_is_that_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def stand_in(*arguments: object) -> object:
        seen.extend(arguments)
        raise ValueError("enough")

    monkeypatch.setattr("roadbits.fleet.learning.train_segmenter", stand_in)
    words = Downstream(
        steps=3,
        architecture="Unet",
        encoder="resnet18",
        pretrained=False,
        options={"decoder_use_norm": True},
        batch_size=5,
        crop=(65, 66),
        learning_rate=0.1,
        encoder_rate=0.2,
        weight_decay=0.3,
        class_balance=0.4,
        threads=2,
    )
    with pytest.raises(BackendError, match="a segmenter of seed 9 cannot be trained: enough"):
        trained(9, words)
    network, recipe, seed = seen[3:6]
    asked = words.model_dump(exclude={"seeds", "setups"})
    assert {**vars(network), **vars(recipe)} == {**asked, "degrades": False}
    assert (seen[2], seed) == (CLASSES, 9)


@pytest.mark.parametrize(
    ("words", "on", "expected"),
    [
        ({"architecture": "Fpm"}, frames(1), "cannot build 'Fpm'"),
        ({"encoder": "resnet18"}, frames(1), "encoder 'resnet18' has no ImageNet weights"),
        ({}, LabelledSet([], []), "no frames to train on"),
        ({}, LabelledSet([np.zeros((8, 8, 3), np.uint8)], [np.zeros((0, 0), np.uint8)]), "frame 0: image is"),
        ({}, LabelledSet([np.zeros((8, 8, 3), np.uint8)], [np.full((8, 8), 255, np.uint8)]), "no labelled pixel"),
        ({"learning_rate": 1e30}, frames(1), "lower the learning rate"),
    ],
    ids=["architecture", "encoder", "no frames", "no labels", "all ignored", "diverged"],
)
def test_a_training_that_cannot_be_done_fails_with_its_reason(
    words: dict[str, object], on: LabelledSet, expected: str
) -> None:
    with pytest.raises(BackendError, match=f"a segmenter of seed 3 cannot be trained: .*{expected}"):
        trained(3, WORDS.model_copy(update={"steps": 4} | words), on)
