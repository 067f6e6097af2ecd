import math
from collections.abc import Sequence

import pytest

from roadbits.codecs.training.lambda_schedule import (
    LambdaSchedule,
    LambdaScheduleError,
    Measured,
    Position,
    Round,
)

THREE = LambdaSchedule(1.0, num_widths=3, first_steps=100, round_steps=10)
PAPER = LambdaSchedule(4000.0, num_widths=5, first_steps=1_000_000, round_steps=20)


def points(*values: tuple[float, float]) -> list[Measured]:
    return [Measured(*value) for value in values]


def played(schedule: LambdaSchedule, measured: Sequence[Sequence[Measured]]) -> tuple[list[Round], Position]:
    """Return the rounds of a schedule whose trainings measure what is given, and where it stands then."""
    rounds, position = [], schedule.begin()
    for each in measured:
        assert not schedule.is_done(position)
        rounds.append(schedule.judge(position, each))
        position = schedule.after(rounds[-1])
    return rounds, position


def test_it_begins_with_one_lambda_for_all() -> None:
    assert THREE.begin() == Position((1.0, 1.0, 1.0), until=100, level=0, round=0, slope=math.inf)
    assert not THREE.is_done(THREE.begin())


def test_everything_narrower_than_the_widest_is_lowered_first() -> None:
    # The widest two: 2 dB over 0.5 bpp.
    rounds, position = played(THREE, [points((0.5, 29.0), (1.0, 32.0), (1.5, 34.0))])
    assert (rounds[0].verdict, rounds[0].slope) == ("first", 4.0)
    assert position == Position((0.8, 0.8, 1.0), until=110, level=0, round=1, slope=4.0)


def test_a_pair_is_lowered_while_its_slope_falls_and_left_where_it_rises() -> None:
    rounds, position = played(
        THREE,
        [
            points((0.5, 29.0), (1.0, 32.0), (1.5, 34.0)),  # widest pair: 2 dB / 0.5 bpp = 4
            points((0.5, 29.0), (0.5, 31.0), (1.5, 34.0)),  # 3 / 1 = 3: fell
            points((0.5, 29.0), (0.5, 31.0), (1.5, 34.0)),  # 3 again: not above, so on
            points((0.25, 28.0), (0.5, 30.0), (1.5, 34.0)),  # 4 / 1 = 4: rose; narrow pair: 2 / 0.25 = 8
            points((0.1, 27.0), (0.5, 30.0), (1.5, 34.0)),  # 3 / 0.4 = 7.5: fell
            points((0.1, 26.0), (0.5, 30.0), (1.5, 34.0)),  # 4 / 0.4 = 10: rose
        ],
    )
    assert [done.verdict for done in rounds] == ["first", "fell", "fell", "rose", "fell", "rose"]
    assert [done.position.level for done in rounds] == [0, 0, 0, 0, 1, 1]
    assert [done.position.round for done in rounds] == [0, 1, 2, 3, 1, 2]
    assert [done.position.slope for done in rounds] == pytest.approx([math.inf, 4, 3, 3, 8, 7.5])
    assert [done.slope for done in rounds] == pytest.approx([4, 3, 3, 4, 7.5, 10])
    assert [done.position.until for done in rounds] == [100, 110, 120, 130, 140, 150]
    lambdas = [value for done in rounds for value in done.position.lambdas]
    expected = [1, 1, 1, 0.8, 0.8, 1, 0.64, 0.64, 1, 0.512, 0.512, 1, 0.4096, 0.512, 1, 0.32768, 0.512, 1]
    assert lambdas == pytest.approx(expected)
    assert THREE.is_done(position)
    assert position.lambdas == rounds[-1].position.lambdas
    assert position.until == 150


def test_a_slope_that_never_rises_is_bounded_at_seven_rounds_a_pair() -> None:
    flat = points(*((0.1 * k, 20.0 + k) for k in range(1, 6)))
    rounds, position = played(PAPER, [flat] * (1 + 4 * 7))
    assert PAPER.is_done(position)
    assert [done.verdict for done in rounds[1:]] == (["fell"] * 6 + ["bound"]) * 4
    assert position.until == PAPER.most_steps == 1_000_000 + 28 * 20
    # The floors of the authors' rules, narrowest first.
    assert [round(lmbda) for lmbda in position.lambdas] == [8, 37, 176, 839, 4000]


def test_a_narrower_width_that_takes_no_fewer_bits_has_to_come_down_first() -> None:
    rounds, _ = played(
        THREE,
        [
            points((0.5, 29.0), (1.6, 32.0), (1.5, 34.0)),  # more bits for less
            points((0.5, 29.0), (1.5, 31.0), (1.5, 34.0)),  # as many
            points((0.5, 29.0), (1.4, 31.0), (1.5, 34.0)),  # 3 / 0.1
            points((0.5, 29.0), (0.9, 30.0), (1.5, 34.0)),  # 4 / 0.6
        ],
    )
    assert [done.verdict for done in rounds] == ["first", "fell", "fell", "fell"]
    assert [done.slope for done in rounds] == pytest.approx([math.inf, math.inf, 30, 4 / 0.6])


def test_a_narrower_width_that_is_better_and_costs_less_is_lowered_too() -> None:
    rounds, position = played(THREE, [points((0.5, 29.0), (1.0, 35.0), (1.5, 34.0))])
    assert rounds[0].slope == -2.0
    assert position.lambdas == pytest.approx((0.8, 0.8, 1.0))


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (points((0.5, 29.0), (1.0, 32.0)), "expected one point for each of 3 widths, got 2"),
        (points((0.5, 29.0), (math.nan, 32.0), (1.5, 34.0)), "width number 1 measures .*nan.*diverged"),
        (points((0.5, 29.0), (1.0, 32.0), (1.5, math.inf)), "width number 2 measures .*inf.*diverged"),
    ],
)
def test_measurements_that_decide_nothing_are_refused(measured: list[Measured], message: str) -> None:
    with pytest.raises(LambdaScheduleError, match=message):
        THREE.judge(THREE.begin(), measured)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_widths": 1}, "num_widths must be at least 2, got 1"),
        ({"first_steps": 0}, "first_steps must be at least 1, got 0"),
        ({"round_steps": 0}, "round_steps must be at least 1, got 0"),
        ({"max_rounds": 0}, "max_rounds must be at least 1, got 0"),
        ({"factor": 1.0}, "factor in 0..1, got 1.0 and 1.0"),
        ({"start": math.inf}, "start must be above 0 .* got inf and 0.8"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, float], message: str) -> None:
    good: dict[str, float] = {"start": 1.0, "num_widths": 3, "first_steps": 100, "round_steps": 10}
    with pytest.raises(ValueError, match=message):
        LambdaSchedule(**{**good, **rules})  # type: ignore[arg-type]
