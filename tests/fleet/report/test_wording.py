from roadbits.fleet.report.measured import Spread
from roadbits.fleet.report.wording import NONE, median_point, number, points, spread


def test_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert number(-12345.678, 1) == "−12\u202f345.7"
    assert number(-0.04, 1) == "0.0"
    assert number(None, 1) == "–"


def test_differences_are_signed_points_of_percent() -> None:
    assert [points(each) for each in (0.051, -0.051, 0.0)] == ["+5.1", "−5.1", "0.0"]


def test_a_single_seed_has_no_range() -> None:
    assert spread(Spread({0: 0.5})) == "50.0"
    assert spread(Spread({0: 0.5, 1: 0.6})) == "55.0 ± 5.0"


def test_the_median_point_is_that_of_the_median_frame() -> None:
    assert median_point({"quality=9": 4, "quality=30": 2, "quality=70": 3}) == "quality=30"
    assert median_point({"quality=9": 1}) == "quality=9"
    assert median_point({}) == NONE
