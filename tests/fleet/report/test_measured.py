from dataclasses import replace

import pytest

from roadbits.fleet.report.measured import Spread, best_arm, cheapest_first, measured_arms, setups_of
from roadbits.fleet.results import Results


def test_spread_is_the_mean_and_half_the_range_over_seeds() -> None:
    spread = Spread({0: 0.4, 1: 0.5, 2: 0.6})
    assert (spread.mean, spread.half_range) == (pytest.approx(0.5), pytest.approx(0.1))


def test_loss_is_split_into_lost_information_and_covariate_shift(results: Results) -> None:
    arm = measured_arms(results)[0]
    assert arm.lost_information == pytest.approx(0.71 - 0.46)
    assert arm.covariate_shift == pytest.approx(0.46 - 0.41)


def test_without_cc_there_is_no_decomposition(results: Results) -> None:
    rows = [row for row in results.downstream if row.setup != "CC"]
    arm = measured_arms(replace(results, downstream=rows))[0]
    assert arm.lost_information is None
    assert arm.covariate_shift is None
    assert setups_of([arm]) == ["OO", "CO", "OC"]


def test_best_arm_is_the_one_with_the_highest_mean_and_the_cheaper_of_equals(results: Results) -> None:
    arms = measured_arms(results)
    best, cheapest_of_equals = best_arm(arms, "CO"), best_arm(arms, "CC")
    assert best is arms[2]
    assert cheapest_of_equals is arms[2]
    assert best_arm(arms, "RO") is None


def test_arms_without_any_byte_have_no_place_on_a_rate_axis(results: Results) -> None:
    silent = replace(results.uploads[0], bpp=0.0, bytes=0, delivered=0)
    arms = measured_arms(replace(results, uploads=[silent, *results.uploads[1:]]))
    assert [arm.upload.bpp for arm in cheapest_first(arms)] == [0.2, 0.75]
    assert arms[0].joules_per_delivered_frame is None


def test_traffic_is_in_megabytes_per_hour_of_driving(results: Results) -> None:
    assert measured_arms(results)[0].megabytes_per_vehicle_hour == pytest.approx(5.0)


def test_a_class_that_occurs_for_some_seed_is_not_absent(results: Results) -> None:
    row = results.downstream[0]
    rows = [row, replace(row, seed=9, per_class_iou={"sky": 0.1}, absent=["road", "train"])]
    arm = measured_arms(replace(results, downstream=rows))[0]
    assert arm.per_class["OO"] == {"sky": pytest.approx((0.7 + 0.1) / 2), "road": 0.7}
    assert arm.absent == ["train"]


def test_widths_with_several_points_are_lines_of_their_own(results: Results) -> None:
    points = ["width=48,lambda=0.01", "lambda=0.02,width=48", "width=96,lambda=0.01", "target-bpp=0.4"]
    policies = ["fixed", "fixed", "fixed", "target-bpp"]
    uploads = [
        replace(results.uploads[0], codec="slimcae", point=point, policy=policy)
        for point, policy in zip(points, policies, strict=True)
    ]
    arms = measured_arms(replace(results, uploads=[*results.uploads, *uploads]))
    lines = [arm.line for arm in arms[len(results.uploads) :]]
    assert lines == ["slimcae width=48", "slimcae width=48", "slimcae width=96", "slimcae"]
    assert [arm.line for arm in arms[: len(results.uploads)]] == ["jpeg", "jpeg", "webp"]


@pytest.mark.parametrize(
    "points", [["lambda=0.01,bin=1", "lambda=0.01,bin=2", "lambda=0.02,bin=1"], ["width=48", "width=96"]]
)
def test_points_that_differ_in_rate_alone_are_one_line(points: list[str], results: Results) -> None:
    uploads = [replace(results.uploads[0], codec="neural", point=point) for point in points]
    assert {arm.line for arm in measured_arms(replace(results, uploads=uploads, downstream=[]))} == {"neural"}
