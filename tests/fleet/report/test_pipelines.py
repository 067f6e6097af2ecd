import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from roadbits.fleet.report.measured import MeasuredRun, measured_arms
from roadbits.fleet.report.pipelines import pipeline_tables
from roadbits.fleet.results import DownstreamRow, Results


def told(results: Results, restored: Mapping[str, tuple[float, float]]) -> str:
    """Return the tables of a run in which JPEG was restored at points of some bpp to some mIoU."""
    rows = [
        DownstreamRow("jpeg", point, "RO", seed, bpp, miou, {"sky": miou}, ["train"], "gan", 90, 4, None)
        for point, (bpp, miou) in restored.items()
        for seed in (0, 1)
    ]
    results = replace(results, downstream=[*results.downstream, *rows])
    return "".join(pipeline_tables([MeasuredRun("tiny", Path("tiny"), results, measured_arms(results))]))


def test_only_pipelines_that_no_cheaper_one_equals_are_worth_their_bytes(results: Results) -> None:
    """WebP has 61 % for .2 bpp: JPEG, 41 and 51 % at .25 and .75, has to be restored to be worth more bytes."""
    text = told(results, {"quality=10": (0.25, 0.66), "quality=40": (0.75, 0.64)})
    best = text[: text.index("Pipelines at equal mIoU")]
    rows = re.findall(r"<tr><td.*?</tr>", best)
    assert len(rows) == 2
    assert '<td class="text">webp</td><td class="text">quality=10</td>' in rows[0]
    assert "<td>0.200</td><td>61.0 ± 1.0</td><td>–</td>" in rows[0], "JPEG was not sent at so few bytes"
    assert '<td class="text">gan</td>' in rows[1]
    assert "<td>0.250</td><td>66.0 ± 0.0</td><td>41.0</td>" in rows[1]


def test_pipelines_are_compared_at_equal_miou(results: Results) -> None:
    """Restored JPEG lies half a step of the ladder above JPEG: the root of a step fewer bits, where both overlap."""
    text = told(results, {"quality=10": (0.25, 0.46), "quality=40": (0.75, 0.56)})
    assert '<td class="text">jpeg</td><td class="text">–</td><td>0.0</td><td>0.0</td>' in text
    assert "avif CO" not in text, "there is none in this run"
    found = re.search('<td class="text">jpeg</td><td class="text">gan</td><td>(.*?)</td><td>(.*?)</td>', text)
    assert found
    assert found[1] == found[2], "against JPEG's CO, which is its own"
    # CO rises by 0.1 over a factor of 3 in rate, RO lies 0.05 above it: the root of 3 fewer bits.
    assert float(found[1].replace("−", "-")) == pytest.approx(100 * (3**-0.5 - 1), abs=0.1)


def test_without_restoration_there_are_no_pipelines(results: Results) -> None:
    assert told(results, {}) == ""


def test_arms_that_send_unlike_numbers_of_frames_are_not_compared_by_bits_per_pixel(results: Results) -> None:
    unlike = replace(results, uploads=[replace(results.uploads[0], every=4), *results.uploads[1:]])
    assert "The best pipelines at equal bytes" not in told(unlike, {"quality=40": (0.75, 0.64)})
    assert "The best pipelines at equal bytes" in told(results, {"quality=40": (0.75, 0.64)})
