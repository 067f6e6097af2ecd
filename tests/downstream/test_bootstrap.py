import numpy as np
import pytest
from numpy.typing import NDArray

from roadbits.downstream.bootstrap import Resamples
from roadbits.downstream.confusion import Confusion


def counts(hit_rate: float, seed: int, num_frames: int = 60) -> NDArray[np.int64]:
    """Return counts of frames whose pixels of two classes are predicted rightly at a rate of their own."""
    rng = np.random.default_rng(seed)
    labelled = np.random.default_rng(99).integers(50, 400, (num_frames, 2))
    hits = rng.binomial(labelled, hit_rate)
    result = np.zeros((num_frames, 2, 2), np.int64)
    result[:, [0, 1], [0, 1]] = hits
    result[:, [0, 1], [1, 0]] = labelled - hits
    return result


RATES = {"CO": 0.7, "RO": 0.8, "OO": 0.9}
RESAMPLES = Resamples({name: [counts(rate, seed) for seed in range(3)] for name, rate in RATES.items()})


def test_the_value_is_the_mean_over_seeds_of_all_frames() -> None:
    expected = np.mean([Confusion(counts(0.8, seed).sum(0)).miou() for seed in range(3)])
    interval = RESAMPLES.miou("RO")
    assert interval.value == pytest.approx(expected)
    assert interval.low < interval.value < interval.high


def test_a_share_of_the_gap_lies_where_the_rates_put_it() -> None:
    share = RESAMPLES.share("RO", "CO", "OO")
    values = [RESAMPLES.miou(name).value for name in ("CO", "RO", "OO")]
    assert share is not None
    assert share.value == pytest.approx((values[1] - values[0]) / (values[2] - values[0]))
    assert 0 < share.low < share.value < share.high < 1
    gain = RESAMPLES.gain("RO", "CO")
    assert 0 < gain.low < gain.value < gain.high


def test_without_a_gap_there_is_no_share() -> None:
    same = Resamples({name: [counts(0.8, seed) for seed in seeds] for name, seeds in (("A", (1, 2)), ("B", (1, 2)))})
    assert same.share("A", "A", "B") is None


def test_intervals_of_equal_draws_repeat_and_cover() -> None:
    """Of many samples of one rate nine in ten intervals hold the true value, here that of very many frames."""
    truth = Confusion(counts(0.7, 5, 200_000).sum(0)).miou()
    held = 0
    for seed in range(40):
        one = Resamples({"A": [counts(0.7, 1000 + seed)]}).miou("A")
        held += one.low <= truth <= one.high
    assert 28 <= held <= 40
    first, second = (Resamples({"A": [counts(0.7, 3)]}).miou("A") for _ in range(2))
    assert first == second


def test_a_class_that_no_drawn_frame_holds_is_left_out() -> None:
    few = np.zeros((9, 3, 3), np.int64)
    few[:, 0, 0] = 10
    few[4, 2, 2] = 1
    interval = Resamples({"A": [few]}).miou("A")
    assert interval.value == interval.low == interval.high == 1.0


def test_seeds_of_different_test_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many test frames"):
        Resamples({"A": [counts(0.7, 0, 10)], "B": [counts(0.7, 0, 11)]})
