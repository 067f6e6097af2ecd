import json
from collections.abc import Callable
from pathlib import Path

import pytest

from roadbits.codecs.training.lambda_schedule import LambdaSchedule, LambdaScheduleError, Measured
from roadbits.codecs.training.lambda_schedule_run import run_lambda_schedule

RULES = LambdaSchedule(1.0, num_widths=3, first_steps=100, round_steps=10)


class Curves:
    """Widths whose points move along curves of their own as their lambdas change; it can be killed on the way."""

    def __init__(self) -> None:
        self.lambdas: tuple[float, ...] = ()
        self.trained: list[tuple[tuple[float, ...], int]] = []
        self.left = 10_000

    def train_on(self, lambdas: tuple[float, ...], until: int) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.lambdas = lambdas
        self.trained.append((lambdas, until))

    def evaluate(self) -> list[Measured]:
        # Of a narrow width, quality ends early, and the last bits buy little.
        return [
            Measured(lmbda, 30 + end * (1 - 2 ** (-8 * lmbda)))
            for lmbda, end in zip(self.lambdas, (4.0, 5.0, 6.0), strict=True)
        ]


def test_a_schedule_trains_measures_and_ends_with_lambdas_that_rise(tmp_path: Path) -> None:
    curves = Curves()
    rounds = run_lambda_schedule(RULES, curves.train_on, curves.evaluate, tmp_path / "schedule.json")
    assert curves.trained == [(done.position.lambdas, done.position.until) for done in rounds]
    final = RULES.after(rounds[-1])
    assert RULES.is_done(final)
    assert final.lambdas[0] < final.lambdas[1] < final.lambdas[2] == 1.0
    # The slope of the widest pair is least where a line from (1, 36) touches the other's curve, at 0.43 bpp.
    assert [done.verdict for done in rounds if done.position.level == 0] == ["first", *["fell"] * 4, "rose"]


def test_every_round_s_lambdas_and_points_can_be_read_in_the_file(tmp_path: Path) -> None:
    curves, path = Curves(), tmp_path / "schedule.json"
    rounds = run_lambda_schedule(RULES, curves.train_on, curves.evaluate, path)
    content = json.loads(path.read_text())
    assert content["schedule"]["round_steps"] == 10
    assert [tuple(entry["lambdas"]) for entry in content["rounds"]] == [done.position.lambdas for done in rounds]
    assert [tuple(point) for point in content["rounds"][-1]["points"]] == list(rounds[-1].points)
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.json"]


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_schedule_that_was_stopped_goes_on_where_it_was(after: int, tmp_path: Path) -> None:
    whole = run_lambda_schedule(RULES, (curves := Curves()).train_on, curves.evaluate, tmp_path / "whole.json")
    stopped, resumed = Curves(), Curves()
    stopped.left = after
    with pytest.raises(KeyboardInterrupt):
        run_lambda_schedule(RULES, stopped.train_on, stopped.evaluate, tmp_path / "stopped.json")
    assert run_lambda_schedule(RULES, resumed.train_on, resumed.evaluate, tmp_path / "stopped.json") == whole
    assert stopped.trained + resumed.trained == curves.trained
    assert (tmp_path / "stopped.json").read_text() == (tmp_path / "whole.json").read_text()


def test_a_schedule_that_is_done_trains_no_more(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    rounds = run_lambda_schedule(RULES, (curves := Curves()).train_on, curves.evaluate, path)
    idle = Curves()
    assert run_lambda_schedule(RULES, idle.train_on, idle.evaluate, path) == rounds
    assert idle.trained == []


def test_the_file_of_another_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    run_lambda_schedule(RULES, (curves := Curves()).train_on, curves.evaluate, path)
    other = LambdaSchedule(2.0, num_widths=3, first_steps=100, round_steps=10)
    with pytest.raises(LambdaScheduleError, match=r"is of another schedule: .*'start': 1\.0.* there, .*'start': 2\.0"):
        run_lambda_schedule(other, curves.train_on, curves.evaluate, path)


def _without_points(text: str) -> str:
    return text.replace('"points"', '"dots"')


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _list(text: str) -> str:
    return "[]"


def _with_text(text: str) -> str:
    content = json.loads(text)
    content["rounds"][0]["points"][0] = ["much", "good"]
    return json.dumps(content)


@pytest.mark.parametrize("damage", [_without_points, _cut, _list, _with_text])
def test_a_damaged_file_is_refused(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    run_lambda_schedule(RULES, (curves := Curves()).train_on, curves.evaluate, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(LambdaScheduleError, match=r"is no file of a lambda schedule .*damaged\? remove it"):
        run_lambda_schedule(RULES, curves.train_on, curves.evaluate, path)


def test_a_file_with_more_rounds_than_its_schedule_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    rounds = run_lambda_schedule(RULES, (curves := Curves()).train_on, curves.evaluate, path)
    content = json.loads(path.read_text())
    content["rounds"] += content["rounds"][-1:]
    path.write_text(json.dumps(content))
    message = f"holds {len(rounds) + 1} rounds, its schedule ends after {len(rounds)}"
    with pytest.raises(LambdaScheduleError, match=message):
        run_lambda_schedule(RULES, curves.train_on, curves.evaluate, path)
