import numpy as np
import pytest

from roadbits.restoration.condition import Condition, condition_vector, vector_size

CODECS = ("avif", "jpeg")


def test_a_condition_tells_codec_position_and_rate() -> None:
    told = condition_vector(Condition("jpeg", 0.75, 0.5), CODECS)
    # One of two codecs, known, position 0.75 of 0..1 as 0.5 of -1..1, twice the middle rate as half an octave's 1.
    np.testing.assert_allclose(told, [0, 1, 1, 0.5, 0.5])
    assert len(told) == vector_size(CODECS)


@pytest.mark.parametrize(("codec", "is_told"), [("webp", True), ("", True), ("jpeg", False)])
def test_a_codec_that_is_not_told_leaves_the_rate_alone(codec: str, is_told: bool) -> None:
    told = condition_vector(Condition(codec, 0.75, 0.125), CODECS, is_told)
    np.testing.assert_allclose(told, [0, 0, 0, 0, -0.5])


@pytest.mark.parametrize(("position", "bpp"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0), (0.5, float("inf"))])
def test_numbers_out_of_range_are_refused(position: float, bpp: float) -> None:
    with pytest.raises(ValueError, match=r"position must be in 0\.\.1 and bpp above 0"):
        Condition("jpeg", position, bpp)
