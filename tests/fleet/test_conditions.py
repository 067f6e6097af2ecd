"""What restorers are told of how a frame was coded."""

import pytest

from roadbits.fleet.conditions import as_told, condition_of
from roadbits.restoration.condition import Condition


@pytest.mark.parametrize(
    ("codec", "point", "position"),
    [
        ("h264", "crf=51", 0),
        ("h264", "crf=1", 1),
        ("hevc-lowdelay", "qp=26", 0.5),
        ("jpeg", "quality=1", 0),
        ("slimvc", "width=48,lambda=0.0002", 0),
    ],
)
def test_a_point_has_its_place_on_its_codecs_ladder(codec: str, point: str, position: float) -> None:
    assert condition_of(codec, point, 0.3).position == position


def test_better_points_stand_higher() -> None:
    assert condition_of("jpeg", "quality=10", 0.3).position < condition_of("jpeg", "quality=60", 0.3).position


def test_a_point_between_those_of_the_ladder_stands_where_the_nearest_does() -> None:
    places = [condition_of("slimvc", f"width=96,lambda={value}", 0.3).position for value in (0.00125, 0.0013, 0.003)]
    assert places[0] == places[1] < places[2]
    assert condition_of("slimvc", "width=48,lambda=0.00125", 0.3).position < places[0]


def test_a_point_of_another_knob_stands_where_its_value_is_nearest() -> None:
    assert condition_of("h264", "qp=30", 0.3).position == condition_of("h264", "crf=30", 0.3).position


TRUTH, NEAR, FAR = Condition("jpeg", 0.1, 0.25), Condition("jpeg", 0.2, 0.3), Condition("webp", 0.9, 2.0)


def test_what_is_told_can_be_the_truth_or_nothing_of_the_codec() -> None:
    assert as_told(TRUTH, "told", [NEAR, FAR]) == TRUTH
    assert as_told(TRUTH, "untold", [NEAR, FAR]) == Condition("", 0.1, 0.25)


def test_a_wrong_word_is_that_of_the_point_whose_rate_is_farthest_off() -> None:
    assert as_told(TRUTH, "wrong", [NEAR, TRUTH, FAR]) == FAR


@pytest.mark.parametrize("known", [[], [TRUTH], [Condition("jpeg", 0.1, 0.26)]])
def test_where_there_is_no_other_point_to_take_rate_and_end_are_wrong(known: list[Condition]) -> None:
    assert as_told(TRUTH, "wrong", known) == Condition("jpeg", 0.9, 2.0)
