import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from roadbits.fleet.report.measured import MeasuredRun, measured_arms
from roadbits.fleet.report.policies import delivered_at, policy_tables
from roadbits.fleet.results import DownstreamRow, Results

FIXED = (("quality=10", 90, 0.40), ("quality=40", 50, 0.50), ("quality=70", 20, 0.48))
"""Point, delivered frames, mIoU in CO; the last is surpassed in both."""


def run_with(results: Results, others: Sequence[tuple[str, int, float]]) -> MeasuredRun:
    """Return a run of JPEG's fixed points and of policies that deliver some frames worth some mIoU."""
    arms = [(*arm, "fixed") for arm in FIXED] + [(*arm, "budget") for arm in others]
    uploads = [
        replace(results.uploads[0], point=point, delivered=delivered, policy=policy)
        for point, delivered, _, policy in arms
    ]
    downstream = [
        DownstreamRow("jpeg", point, "CO", seed, 0.25, miou, {"sky": miou}, [], None, delivered, 4, None)
        for point, delivered, miou, _ in arms
        for seed in (0, 1)
    ]
    changed = replace(results, uploads=uploads, downstream=downstream)
    return MeasuredRun("tiny", Path("tiny"), changed, measured_arms(changed))


def test_a_policy_is_compared_with_what_lies_between_fixed_points(results: Results) -> None:
    """Half way from .40 to .50 fixed points deliver (90 + 50) / 2 frames; 84 are a fifth more."""
    text = "".join(policy_tables([run_with(results, [("budget", 84, 0.45)])]))
    rows = re.findall(r"<tr><td.*?</tr>", text)
    assert len(rows) == 1
    assert "<td>84</td><td>45.0 ± 0.0</td><td>70</td><td>+20</td>" in rows[0]


def test_where_no_fixed_point_is_worth_as_much_nothing_is_compared(results: Results) -> None:
    text = "".join(policy_tables([run_with(results, [("budget", 84, 0.51)])]))
    assert "<td>84</td><td>51.0 ± 0.0</td><td>–</td><td>–</td>" in text


def test_below_the_least_fixed_point_its_frames_are_compared(results: Results) -> None:
    arms = run_with(results, []).arms
    assert delivered_at(0.3, arms) == 90
    assert delivered_at(0.4, arms) == 90
    assert delivered_at(0.5, arms) == 50
    assert delivered_at(0.475, arms) == pytest.approx(60), "quality 70 delivers 20, and quality 40 more for more"
    assert delivered_at(0.501, arms) is None


def test_without_policies_or_without_fixed_points_there_is_no_table(results: Results) -> None:
    run = run_with(results, [("budget", 84, 0.45)])
    assert policy_tables([run_with(results, [])]) == []
    assert policy_tables([replace(run, arms=run.arms[-1:])]) == []
