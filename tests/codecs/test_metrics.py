import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.codecs.codec import Image
from roadbits.codecs.metrics import RateQuality, bd_rate, bpp, flicker, ms_ssim, psnr, quality_at

Maker = Callable[..., Image]
FIVE = RateQuality([0.1, 0.2, 0.4, 0.8, 1.6], [28.0, 31.0, 33.5, 36.5, 38.0])


def times(curve: RateQuality, factor: float) -> RateQuality:
    return RateQuality([factor * rate for rate in curve.rates], curve.qualities)


def test_bpp_counts_every_bit_of_the_payload() -> None:
    assert bpp(21600, 360, 480) == 1.0
    assert bpp(1, 1, 1) == 8.0


def test_psnr_of_a_constant_error_is_that_of_its_square() -> None:
    original = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(original + np.uint8(5), original) == pytest.approx(10 * math.log10(255**2 / 25), abs=1e-12)
    assert psnr(np.full_like(original, 95), original) == pytest.approx(34.1514, abs=1e-4)


def test_psnr_averages_over_all_pixels_and_channels() -> None:
    original = np.zeros((2, 2, 3), np.uint8)
    image = original.copy()
    image[0, 0, 0], image[1, 1, 2] = 6, 12
    assert psnr(image, original) == pytest.approx(10 * math.log10(255**2 / ((36 + 144) / 12)), abs=1e-12)


def test_psnr_reaches_from_black_against_white_to_equal() -> None:
    black, white = np.zeros((3, 3, 3), np.uint8), np.full((3, 3, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0
    assert psnr(white, white) == 100.0


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_images_of_different_shapes_are_refused(metric: Callable[[Image, Image], float]) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) and \(5, 4, 3\), expected the same shape"):
        metric(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (17, 200), (161, 161), (180, 200)])
def test_ms_ssim_of_equal_images_is_one(height: int, width: int, textured: Maker) -> None:
    assert ms_ssim(textured(height, width), textured(height, width)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (176, 176)])
def test_ms_ssim_falls_as_noise_rises(height: int, width: int, smooth: Maker) -> None:
    original = smooth(height, width).astype(np.float64)
    noise = np.random.default_rng(2).normal(0, 1, original.shape)
    noisy = [np.clip(original + sigma * noise, 0, 255).astype(np.uint8) for sigma in (0, 4, 12, 30, 80)]
    scores = [ms_ssim(image, noisy[0]) for image in noisy]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert 0 <= scores[-1] < 0.9


def test_identical_curves_differ_by_nothing() -> None:
    result = bd_rate(FIVE, FIVE)
    assert result.percent == pytest.approx(0, abs=1e-12)
    assert (result.overlap, result.low, result.high) == (1.0, 28.0, 38.0)


@pytest.mark.parametrize(("factor", "percent"), [(2.0, 100.0), (0.5, -50.0), (1.1, 10.0)])
def test_scaled_rates_give_exactly_that_difference(factor: float, percent: float) -> None:
    for curve in (FIVE, RateQuality([0.3, 0.9], [30, 35])):
        assert bd_rate(times(curve, factor), curve).percent == pytest.approx(percent, abs=1e-9)


def test_two_points_are_joined_by_a_line_over_the_log_of_the_rate() -> None:
    # At 30 dB half the rate, at 40 dB the same: on average 2 ** -0.5 of it.
    result = bd_rate(RateQuality([1, 4], [30, 40]), RateQuality([2, 4], [30, 40]))
    assert result.percent == pytest.approx(100 * (2**-0.5 - 1), abs=1e-9)


def test_only_the_shared_range_counts() -> None:
    # Lines of log2-rate over quality: q / 10 against q / 10 + 1, so twice the rate wherever both are known.
    cheap = RateQuality([2**3.0, 2**4.0], [30, 40])
    costly = RateQuality([2**4.5, 2**5.5], [35, 45])
    result = bd_rate(costly, cheap)
    assert result.percent == pytest.approx(100, abs=1e-9)
    assert (result.overlap, result.low, result.high) == (0.5, 35, 40)


def test_the_order_of_the_points_makes_no_difference() -> None:
    mixed = [3, 0, 4, 1, 2]
    shuffled = RateQuality([FIVE.rates[k] for k in mixed], [FIVE.qualities[k] for k in mixed])
    other = RateQuality([0.12, 0.5, 1.0], [29.0, 33.0, 37.5])
    assert bd_rate(shuffled, other) == bd_rate(FIVE, other)


def test_points_that_cost_more_without_being_better_are_dropped() -> None:
    hull = RateQuality([0.1, 0.2, 0.6], [0.40, 0.50, 0.55])
    falling = RateQuality([0.1, 0.15, 0.2, 0.2, 0.4, 0.6, 0.9], [0.40, 0.39, 0.50, 0.45, 0.48, 0.55, 0.55])
    assert bd_rate(falling, hull).percent == pytest.approx(0, abs=1e-12)
    other = RateQuality([0.1, 0.3], [0.42, 0.53])
    assert bd_rate(falling, other) == bd_rate(hull, other)


def test_barely_overlapping_curves_have_no_difference_but_a_share() -> None:
    result = bd_rate(RateQuality([1, 2], [30, 40]), RateQuality([1, 2], [39, 49]))
    assert result.percent is None
    assert result.overlap == pytest.approx(0.1)
    assert (result.low, result.high) == (39, 40)


def test_curves_that_share_no_quality_have_no_difference() -> None:
    result = bd_rate(RateQuality([1, 2], [30, 35]), RateQuality([1, 2], [36, 49]))
    assert (result.percent, result.overlap) == (None, 0.0)


def test_a_curve_whose_hull_is_one_point_has_no_difference() -> None:
    falling = RateQuality([1, 2, 3], [35, 34, 33])
    assert bd_rate(falling, FIVE).percent is None
    assert bd_rate(falling, falling).percent is None


@pytest.mark.parametrize(
    ("rates", "qualities"),
    [
        ([1.0], [30.0]),
        ([], []),
        ([1.0, 2.0], [30.0]),
        ([0.0, 2.0], [30.0, 31.0]),
        ([-1.0, 2.0], [30.0, 31.0]),
        ([1.0, math.inf], [30.0, 31.0]),
        ([1.0, math.nan], [30.0, 31.0]),
        ([1.0, 2.0], [30.0, math.nan]),
        ([1.0, 2.0], [30.0, math.inf]),
    ],
)
def test_bad_curves_are_refused_on_either_side(rates: Sequence[float], qualities: Sequence[float]) -> None:
    bad = RateQuality(rates, qualities)
    for pair in ((bad, FIVE), (FIVE, bad)):
        with pytest.raises(ValueError, match="a curve needs"):
            bd_rate(*pair)


steps = st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.2, 3)), min_size=2, max_size=7)


def built(rises: list[tuple[float, float]]) -> RateQuality:
    """Return a rising curve from steps of log-rate and quality."""
    logs, qualities = np.cumsum(rises, axis=0).T
    return RateQuality(list(np.exp(logs - 3)), list(qualities + 30))


@given(steps, steps)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_swapping_the_curves_inverts_the_ratio(one: list[tuple[float, float]], two: list[tuple[float, float]]) -> None:
    there, back = bd_rate(built(one), built(two)), bd_rate(built(two), built(one))
    assert there.overlap == back.overlap
    assert (there.percent is None) == (back.percent is None)
    if there.percent is not None and back.percent is not None:
        assert (1 + there.percent / 100) * (1 + back.percent / 100) == pytest.approx(1, rel=1e-9)


def test_the_interpolation_is_monotone_cubic() -> None:
    # Pinned from scipy 1.x: PchipInterpolator over each curve, integrated exactly; ours sums 1000 trapezoids.
    reference = RateQuality([0.12, 0.5, 1.0, 1.9], [29.0, 33.0, 37.5, 37.7])
    assert bd_rate(FIVE, reference).percent == pytest.approx(-15.427227531538424, abs=1e-3)


def test_quality_at_a_rate_lies_on_the_curve_over_the_log_of_the_rate() -> None:
    assert [quality_at(FIVE, rate) for rate in FIVE.rates] == pytest.approx(FIVE.qualities)
    assert quality_at(RateQuality([0.1, 0.4], [20.0, 30.0]), 0.2) == pytest.approx(25.0)
    between = quality_at(FIVE, 0.3)
    assert between is not None
    assert 31.0 < between < 33.5
    assert quality_at(FIVE, 0.099) is None
    assert quality_at(FIVE, 1.61) is None


def test_a_curve_stays_level_where_more_bits_bring_nothing() -> None:
    fallen = RateQuality([0.1, 0.4, 0.8], [20.0, 30.0, 28.0])
    assert quality_at(fallen, 0.6) == pytest.approx(30.0)
    assert quality_at(RateQuality([0.1, 0.4], [20.0, 19.0]), 0.2) == 20.0


def test_a_curve_is_cut_to_a_range_of_rates() -> None:
    curve = RateQuality([0.1, 0.2, 0.4, 0.8], [20.0, 23.0, 26.0, 29.0])
    cut = curve.within(0.1 * 2**0.5, 0.5)
    assert cut.rates == pytest.approx([0.1 * 2**0.5, 0.2, 0.4, 0.5])
    assert cut.qualities == pytest.approx([21.5, 23.0, 26.0, 26.0 + 3 * np.log2(1.25)])
    assert curve.within(0.01, 100).rates == pytest.approx(curve.rates)
    with pytest.raises(ValueError, match=r"within 1 to 2 bpp, the curve has 0.1 to 0.8"):
        curve.within(1, 2)


def test_flicker_is_what_changes_in_one_clip_and_not_in_the_other() -> None:
    still = np.full((4, 8, 8, 3), 100, np.uint8)
    assert flicker(still, still) == 0
    assert flicker(still + np.uint8(7), still) == 0  # wrong, but always equally so
    blinking = still.copy()
    blinking[1::2] += 6
    assert flicker(blinking, still) == pytest.approx(6, rel=1e-5)
    moving = np.stack([np.full((8, 8, 3), 100 + 5 * k, np.uint8) for k in range(4)])
    assert flicker(moving, moving) == 0
    assert flicker(still, moving) == pytest.approx(5, rel=1e-5)
    green = still.copy()
    green[1::2, :, :, 1] += 10
    assert flicker(green, still) == pytest.approx(5.87, rel=1e-4)


def test_a_single_frame_cannot_flicker() -> None:
    assert flicker(np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 8, 8, 3), np.uint8)) == 0
    with pytest.raises(ValueError, match="expected the same shape"):
        flicker(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8))


def test_psnr_of_nearly_equal_images_is_no_higher_than_that_of_equal_ones() -> None:
    original = np.zeros((600, 800, 3), np.uint8)
    almost = original.copy()
    almost[0, 0, 0] = 1
    assert psnr(almost, original) == psnr(original, original) == 100
