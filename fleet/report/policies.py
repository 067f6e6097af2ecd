"""Policies beside fixed points: how many frames more does a vehicle deliver that chooses its rate itself?

Not here: what each kind of vehicle made of it (`delivery`).
"""

from collections.abc import Sequence

import numpy as np

from roadbits.fleet.report.markup import Cell, Column, Html, element, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.wording import NONE, number, signed, spread

_COLUMNS = (
    Column("delivered", "frames that arrived in time and whole"),
    Column("mIoU CO, %", "on original frames, ± half the range over seeds"),
    Column("fixed points deliver", "at the same mIoU, between the best of this codec's fixed points"),
    Column("more frames, %"),
)


def policy_tables(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return the table of policies at equal mIoU; none if no codec has both a policy and fixed points with CO."""
    rows: list[list[str | Cell]] = []
    for run in runs:
        for arm in run.arms:
            fixed = [each for each in run.arms if each.is_fixed and each.upload.codec == arm.upload.codec]
            if not arm.is_fixed and "CO" in arm.miou and any("CO" in each.miou for each in fixed):
                rows.append([*arm_cells(runs, run, arm), *_cells(arm, fixed)])
    if not rows:
        return []
    note = (
        "A fixed point of higher rate is worth more to the segmenter and delivers fewer frames; compared is with what "
        f"lies between the two that are next in mIoU, and {NONE} stands where no fixed point is worth as much."
    )
    columns = [*arm_columns(runs), *_COLUMNS]
    return [element("h3", "Policies at equal mIoU"), table(columns, rows), element("p", note, class_="note")]


def delivered_at(miou: float, fixed: Sequence[MeasuredArm]) -> float | None:
    """Return how many frames fixed points deliver at a mean mIoU in CO, or None where none reaches it.

    Between two neighbours of those that no other surpasses in both, it is linear in mIoU: some vehicles at one, some at
    the other. Below the least of them it is what that one delivers.
    """
    worths, frames = _frontier(fixed)
    if not worths or miou > worths[-1]:
        return None
    return float(np.interp(miou, worths, frames))


def _frontier(fixed: Sequence[MeasuredArm]) -> tuple[list[float], list[int]]:
    """Return mIoU, rising, and delivered frames, falling, of the points that no other equals in both."""
    worths: list[float] = []
    frames: list[int] = []
    measured = [arm for arm in fixed if "CO" in arm.miou]
    for arm in sorted(measured, key=lambda arm: (-arm.miou["CO"].mean, -arm.upload.delivered)):
        if not frames or arm.upload.delivered > frames[-1]:
            worths.append(arm.miou["CO"].mean)
            frames.append(arm.upload.delivered)
    return worths[::-1], frames[::-1]


def _cells(arm: MeasuredArm, fixed: Sequence[MeasuredArm]) -> list[str]:
    delivered, miou = arm.upload.delivered, arm.miou["CO"]
    others = delivered_at(miou.mean, fixed)
    more = 100 * (delivered / others - 1) if others else None
    return [number(delivered, 0), spread(miou), number(others, 0), signed(more, 0)]
