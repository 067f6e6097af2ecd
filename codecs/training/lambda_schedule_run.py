"""Running a lambda schedule: train, measure, decide, and go on where one was stopped.

A file keeps what was measured after every round; the rest follows from it.

Not here: the rules (`lambda_schedule`), training (`joint_widths`), measuring.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from roadbits.codecs.training.lambda_schedule import LambdaSchedule, LambdaScheduleError, Measured, Round


def run_lambda_schedule(
    schedule: LambdaSchedule,
    train_on: Callable[[tuple[float, ...], int], None],
    evaluate: Callable[[], Sequence[Measured]],
    path: Path,
) -> list[Round]:
    """Run a schedule, or what is left of it, and return all its rounds; `schedule.after` the last are its lambdas.

    Args:
        schedule: the rules.
        train_on: train with lambdas, narrowest first, up to a step, and keep a checkpoint; doing nothing if the
            training is there already, so that a round that was interrupted is finished.
        evaluate: measure every width as it now is, narrowest first.
        path: of the file that what was measured is kept in, after every round.

    Raises:
        LambdaScheduleError: if a measurement is not a finite number, or the file is another schedule's.
    """
    rounds = _read(path, schedule) if path.exists() else []
    position = schedule.after(rounds[-1]) if rounds else schedule.begin()
    while not schedule.is_done(position):
        train_on(position.lambdas, position.until)
        rounds.append(schedule.judge(position, evaluate()))
        _write(path, schedule, rounds)
        position = schedule.after(rounds[-1])
    return rounds


def _write(path: Path, schedule: LambdaSchedule, rounds: Sequence[Round]) -> None:
    """Write what was measured, complete or not at all."""
    measured = [{"lambdas": one.position.lambdas, "points": one.points} for one in rounds]
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps({"schedule": asdict(schedule), "rounds": measured}, indent=1))
    unfinished.replace(path)


def _read(path: Path, schedule: LambdaSchedule) -> list[Round]:
    """Return the rounds of a file, judged again."""
    try:
        content = json.loads(path.read_text())
        rules = content["schedule"]
        measured = [[Measured(float(bpp), float(psnr)) for bpp, psnr in entry["points"]] for entry in content["rounds"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LambdaScheduleError(f"{path} is no file of a lambda schedule ({error!r}): damaged? remove it") from error
    if rules != asdict(schedule):
        raise LambdaScheduleError(f"{path} is of another schedule: {rules} there, {asdict(schedule)} here")
    rounds: list[Round] = []
    for points in measured:
        position = schedule.after(rounds[-1]) if rounds else schedule.begin()
        if schedule.is_done(position):
            raise LambdaScheduleError(f"{path} holds {len(measured)} rounds, its schedule ends after {len(rounds)}")
        rounds.append(schedule.judge(position, points))
    return rounds
