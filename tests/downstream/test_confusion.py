import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.downstream.confusion import Confusion

LABEL = np.array([[0, 0, 1], [1, 1, 2]], np.uint8)
PREDICTED = np.array([[0, 1, 1], [1, 2, 2]], np.uint8)


def test_rows_are_labels_and_columns_predictions() -> None:
    counts = Confusion.of(LABEL, PREDICTED, 3).counts
    assert counts.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 1]]
    assert counts.dtype == np.int64


def test_iou_and_miou_are_those_counted_by_hand() -> None:
    confusion = Confusion.of(LABEL, PREDICTED, 3)
    assert confusion.iou().tolist() == [1 / 2, 2 / 4, 1 / 2]
    assert confusion.miou() == 0.5
    two = Confusion.of(np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8), 2)
    assert two.iou() == pytest.approx([2 / 3, 1 / 2])
    assert two.miou() == pytest.approx(7 / 12)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    confusion = Confusion.of(LABEL, PREDICTED, 5)
    assert confusion.present.tolist() == [True, True, True, False, False]
    assert np.isnan(confusion.iou()[3:]).all()
    assert confusion.miou() == 0.5


def test_a_class_that_is_only_predicted_costs_the_class_it_was_taken_for() -> None:
    confusion = Confusion.of(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8), 2)
    assert confusion.present.tolist() == [True, False]
    assert confusion.iou()[0] == 0.75
    assert np.isnan(confusion.iou()[1])
    assert confusion.miou() == 0.75


@pytest.mark.parametrize("ignored", [3, 4, 254, 255])
def test_ignored_pixels_count_nowhere(ignored: int) -> None:
    label = np.concatenate([LABEL, np.full((2, 3), ignored, np.uint8)])
    predicted = np.concatenate([PREDICTED, np.array([[0, 1, 2], [2, 2, 0]], np.uint8)])
    assert np.array_equal(Confusion.of(label, predicted, 3).counts, Confusion.of(LABEL, PREDICTED, 3).counts)


def test_a_perfect_prediction_has_miou_one() -> None:
    assert Confusion.of(LABEL, LABEL, 3).miou() == 1.0


def test_intersections_and_unions_are_summed_before_they_are_divided() -> None:
    small = Confusion.of(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8), 2)
    large = Confusion.of(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8), 2)
    both = small + large
    assert both.counts.tolist() == [[9, 1], [0, 0]]
    assert both.iou()[0] == 0.9


def test_nothing_added_to_counts_leaves_them() -> None:
    confusion = Confusion.of(LABEL, PREDICTED, 3)
    assert np.array_equal((Confusion.empty(3) + confusion).counts, confusion.counts)


@pytest.mark.parametrize("confusion", [Confusion.empty(3), Confusion.of(np.full((2, 3), 255, np.uint8), PREDICTED, 3)])
def test_without_a_labelled_pixel_miou_is_undefined(confusion: Confusion) -> None:
    with pytest.raises(ValueError, match="no labelled pixel was counted"):
        confusion.miou()


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label is \(2, 3\), prediction \(3, 2\)"):
        Confusion.of(LABEL, PREDICTED.T, 3)


@pytest.mark.parametrize("label", [LABEL, np.full((2, 3), 255, np.uint8)])
def test_a_prediction_that_names_no_class_is_refused(label: np.ndarray) -> None:
    with pytest.raises(ValueError, match="prediction holds id 2, expected ids below 2"):
        Confusion.of(label, PREDICTED, 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_counts_are_those_of_a_plain_loop(seed: int, num_classes: int, side: int) -> None:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, num_classes + 2, (side, 7), np.uint8)
    predicted = generator.integers(0, num_classes, (side, 7), np.uint8)
    counts = np.zeros((num_classes, num_classes), int)
    for truth, guess in zip(label.flat, predicted.flat, strict=True):
        if truth < num_classes:
            counts[truth, guess] += 1
    assert np.array_equal(Confusion.of(label, predicted, num_classes).counts, counts)


def test_iou_agrees_with_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = np.random.default_rng(4)
    label = generator.integers(0, 5, (40, 50), np.uint8)
    predicted = np.where(generator.random((40, 50)) < 0.6, label, generator.integers(0, 5, (40, 50), np.uint8))
    label[:5] = 255
    expected = functional.multiclass_jaccard_index(
        torch.from_numpy(predicted.astype(np.int64)),
        torch.from_numpy(label.astype(np.int64)),
        num_classes=5,
        average=None,
        ignore_index=255,
    )
    assert Confusion.of(label, predicted, 5).iou() == pytest.approx(expected.double().numpy(), abs=1e-6)
