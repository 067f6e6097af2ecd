import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.codecs.codec import OperatingPoint, check_image, clip_of

knobs = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(knobs, numbers, min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_parse_reads_what_str_writes(wanted: dict[str, float]) -> None:
    point = OperatingPoint.of(**wanted)
    assert OperatingPoint.parse(str(point)) == point


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (OperatingPoint.of(quality=30), "quality=30"),
        (OperatingPoint.of(quality=30.0), "quality=30"),
        (OperatingPoint.of(width=96, gain=0.25), "width=96,gain=0.25"),
        (OperatingPoint.of(lmbda=1234567), "lmbda=1234567"),
        (OperatingPoint.of(lmbda=0.00123456789), "lmbda=0.00123456789"),
        (OperatingPoint.of(lmbda=1e-05), "lmbda=1e-05"),
    ],
)
def test_a_point_is_written_in_full_and_without_a_useless_fraction(point: OperatingPoint, text: str) -> None:
    assert str(point) == text
    assert OperatingPoint.parse(text) == point


def test_spaces_around_a_knob_and_its_value_are_dropped() -> None:
    assert OperatingPoint.parse(" width = 96 , gain = 1e-1 ") == OperatingPoint.of(width=96, gain=0.1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "30", "quality", "quality=", "=30", " =30", "quality=high", "quality=nan", "quality=inf", "quality=-inf"),
        *("quality=30,", ",quality=30", "quality=30,quality=40", "quality=30;width=2", "quality==30", "quality=1e999"),
    ],
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not of the form knob=value\[,knob=value\]"):
        OperatingPoint.parse(text)


def test_a_knob_is_looked_up_by_name() -> None:
    point = OperatingPoint.of(width=96, gain=0.25)
    assert (point["width"], point["gain"]) == (96, 0.25)
    with pytest.raises(KeyError):
        point["quality"]


def test_equal_points_are_equal_whatever_kind_of_number_made_them() -> None:
    assert {OperatingPoint.of(quality=30), OperatingPoint.of(quality=30.0)} == {OperatingPoint.parse("quality=30")}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 65535), (65535, 2)])
def test_check_image_returns_height_and_width(height: int, width: int) -> None:
    assert check_image(np.zeros((height, width, 3), np.uint8)) == (height, width)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (np.zeros((4, 5, 3)), r"got float64 \(4, 5, 3\)"),
        (np.zeros((4, 5), np.uint8), r"got uint8 \(4, 5\)"),
        (np.zeros((4, 5, 1), np.uint8), r"got uint8 \(4, 5, 1\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"got uint8 \(1, 4, 5, 3\)"),
        ([[[1, 2, 3]]], "got list"),
        (None, "got NoneType"),
        (np.zeros((0, 5, 3), np.uint8), "got 0 x 5"),
        (np.zeros((5, 0, 3), np.uint8), "got 5 x 0"),
        (np.zeros((65536, 1, 3), np.uint8), "got 65536 x 1"),
        (np.zeros((1, 65536, 3), np.uint8), "got 1 x 65536"),
    ],
)
def test_check_image_refuses_anything_else_and_says_what_came(wrong: np.ndarray, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        check_image(wrong)


def test_check_image_knows_a_smaller_largest_side() -> None:
    assert check_image(np.zeros((100, 90, 3), np.uint8), 100) == (100, 90)
    with pytest.raises(ValueError, match="sides of 1 to 99 pixels, got 100 x 90"):
        check_image(np.zeros((100, 90, 3), np.uint8), 99)


def test_a_clip_is_its_images_one_after_the_other() -> None:
    images = [np.full((2, 3, 3), value, np.uint8) for value in (5, 7)]
    assert clip_of(images)[:, 1, 2, 0].tolist() == [5, 7]


def test_images_of_several_sizes_are_no_clip() -> None:
    images = [np.zeros((height, 3, 3), np.uint8) for height in (4, 4, 2)]
    with pytest.raises(ValueError, match="a clip's frames must be of one size, got 4 x 3 and 2 x 3 pixels"):
        clip_of(images)
