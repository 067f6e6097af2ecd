import numpy as np
import pytest
from numpy.typing import NDArray

from roadbits.downstream.bootstrap import Resamples
from roadbits.downstream.confusion import Confusion

Counts = NDArray[np.int64]


def counts(hit_rate: float, seed: int, num_frames: int = 60) -> Counts:
    """Return counts of frames whose pixels of two classes are predicted rightly at a rate of their own."""
    rng = np.random.default_rng(seed)
    labelled = np.random.default_rng(99).integers(50, 400, (num_frames, 2))
    hits = rng.binomial(labelled, hit_rate)
    result = np.zeros((num_frames, 2, 2), np.int64)
    result[:, [0, 1], [0, 1]] = hits
    result[:, [0, 1], [1, 0]] = labelled - hits
    return result


def alike(*mious: float, num_frames: int = 4) -> list[Counts]:
    """Return for each seed counts of frames that are all alike and have this mIoU: what is left to chance are seeds."""
    # One class, of which a share of the pixels is found: the IoU of the other, which no label holds, does not count.
    of_seeds = []
    for miou in mious:
        one = np.zeros((num_frames, 2, 2), np.int64)
        one[:, 0] = round(100_000 * miou), round(100_000 * (1 - miou))
        of_seeds.append(one)
    return of_seeds


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


@pytest.mark.parametrize(("mious", "t"), [((0.50, 0.56), 6.314), ((0.50, 0.53, 0.56), 2.920), ((0.4, 0.5) * 5, 1.833)])
def test_seeds_count_as_student_has_it(mious: tuple[float, ...], t: float) -> None:
    interval = Resamples({"A": alike(*mious)}).miou("A")
    expected = t * np.std(mious, ddof=1) / np.sqrt(len(mious))
    assert interval.high - interval.value == pytest.approx(expected, rel=0.15)
    assert interval.value - interval.low == pytest.approx(expected, rel=0.15)


def test_nine_in_ten_intervals_of_three_seeds_hold_the_mean_of_all_seeds() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        one = Resamples({"A": alike(*rng.normal(0.6, 0.03, 3))}).miou("A")
        held += one.low <= 0.6 <= one.high
    assert 255 <= held <= 285


def test_seeds_are_pairs_and_what_each_gains_alike_is_certain() -> None:
    """Whatever the seeds scatter: the same two points for each."""
    both = Resamples({"CO": alike(0.40, 0.50, 0.45), "RO": alike(0.42, 0.52, 0.47)})
    gain = both.gain("RO", "CO")
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.02, 0.02, 0.02))
    assert both.miou("RO").high - both.miou("RO").low > 0.1


def test_frames_are_the_same_for_all() -> None:
    """One finds a pixel more of each frame: certain, though frames differ widely."""
    poor = counts(0.7, 3)
    better = poor.copy()
    better[:, 0, 0] += 5
    better[:, 0, 1] -= 5
    apart = Resamples({"CO": [poor], "RO": [better]})
    gain, miou = apart.gain("RO", "CO"), apart.miou("CO")
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < (miou.high - miou.low) / 4


def test_neighbours_are_drawn_together() -> None:
    """Frames that come in runs of ten alike are worth a tenth of so many that are not."""
    rates = np.repeat(np.random.default_rng(2).uniform(0.3, 0.9, 10), 10)
    runs = np.concatenate([alike(float(rate), num_frames=1)[0] for rate in rates])
    shuffled = runs[np.random.default_rng(3).permutation(100)]
    wide, narrow = (Resamples({"A": [one]}).miou("A") for one in (runs, shuffled))
    assert (wide.high - wide.low) > 2 * (narrow.high - narrow.low)


def test_of_one_seed_the_interval_is_that_of_test_frames() -> None:
    """Nine in ten hold the true value, here that of very many frames."""
    truth = Confusion(counts(0.7, 5, 200_000).sum(0)).miou()
    held = 0
    for seed in range(100):
        one = Resamples({"A": [counts(0.7, 1000 + seed)]}).miou("A")
        held += one.low <= truth <= one.high
    assert 80 <= held <= 97
    assert Resamples({"A": alike(0.5)}).miou("A").high == pytest.approx(0.5)


def test_draws_repeat() -> None:
    first, second = (Resamples({"A": [counts(0.7, 3), counts(0.7, 4)]}).miou("A") for _ in range(2))
    assert first == second


def test_a_class_that_a_draw_lacks_has_its_iou_of_all_frames() -> None:
    """Ten of eleven classes are in one frame each: no draw may do without the poor ones."""
    few = np.zeros((40, 11, 11), np.int64)
    few[:, 0, 0] = 100
    for rare in range(1, 11):
        few[3 * rare, rare] = 10 * np.eye(11, dtype=np.int64)[rare if rare % 2 else 0]
    interval = Resamples({"A": [few]}).miou("A")
    assert interval.low <= interval.value <= interval.high


def test_a_frame_that_is_void_all_over_takes_nothing() -> None:
    void = counts(0.7, 3, 2)
    void[1] = 0
    interval = Resamples({"A": [void]}).miou("A")
    assert interval.low == interval.value == interval.high


def test_seeds_of_different_test_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many test frames"):
        Resamples({"A": [counts(0.7, 0, 10)], "B": [counts(0.7, 0, 11)]})
    with pytest.raises(ValueError, match=r"\[1, 2\] seeds"):
        Resamples({"A": alike(0.5), "B": alike(0.5, 0.6)})
