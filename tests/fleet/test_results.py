import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from roadbits.fleet.results import (
    AdaptationRow,
    DownstreamRow,
    GroupRow,
    Results,
    ResultsError,
    Timeline,
    UploadRow,
    read_results,
)

GROUP = GroupRow(
    group="weak",
    vehicles=2,
    frames=9,
    bytes=900,
    bpp=0.25,
    delivered=5,
    dropped_encoder_busy=1,
    dropped_buffer_full=2,
    dropped_skipped=0,
    encode_gmac=1.5,
    energy_j=20.0,
    latency_mean_s=1.25,
    points_used={"quality=10": 6},
)
UP = UploadRow(
    codec="jpeg",
    point="quality=10",
    frames=9,
    bytes=1300,
    bpp=0.25,
    psnr_db=31.5,
    ms_ssim=0.9,
    delivered=3,
    late=1,
    lost=1,
    rejected=1,
    dropped=2,
    backlog=1,
    duplicates=1,
    vehicle_hours=0.5,
    encode_gmac=0.024,
    encode_s=0.25,
    latency_p50_s=2.0,
    latency_p95_s=2.9,
    energy_j=16.0,
    timeline=Timeline([0.0, 1.0], [0, 3], [0, 800]),
    policy="fixed",
    dropped_encoder_busy=1,
    dropped_buffer_full=1,
    dropped_skipped=0,
    gmac_per_delivered_frame=0.008,
    joules_per_delivered_frame=5.3,
    latency_mean_s=2.0,
    encode_memory_bytes=0,
    points_used={"quality=10": 8},
    groups=[GROUP],
)
DOWN = DownstreamRow(
    codec="jpeg",
    point="quality=10",
    setup="CO",
    seed=0,
    bpp=0.5,
    miou=0.25,
    per_class_iou={"road": 0.5, "sky": 0.0},
    absent=["pole"],
    restorer=None,
    train_frames=3,
    test_frames=2,
    test_bpp=None,
)
RESULTS = Results("smoke", 7, [UP], [DOWN], [], ["jpeg delivered no frame"], {"collect": 1.5}, "Why? Größe")


def test_the_digest_ignores_the_clock() -> None:
    assert replace(RESULTS, timings_s={"collect": 99.0, "train": 1.0}).digest == RESULTS.digest
    assert re.fullmatch(r"[0-9a-f]{64}", RESULTS.digest)


def other(value: Any) -> Any:
    """Return a value of the same type that differs as little as it can."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value + 1e-12
        case str():
            return value + "x"
        case list():
            return [*value[:-1], other(value[-1])]
        case dict():
            return {**value, "road": 0.75}
        case GroupRow():
            return replace(value, points_used=other(value.points_used))
        case Timeline():
            return replace(value, backlog_bytes=other(value.backlog_bytes))
        case None:
            return 0.5
    raise AssertionError(value)


@pytest.mark.parametrize("name", [field.name for field in fields(UploadRow)])
def test_the_digest_changes_with_every_number_of_an_upload_row(name: str) -> None:
    row = RESULTS.uploads[0]
    assert replace(RESULTS, uploads=[replace(row, **{name: other(getattr(row, name))})]).digest != RESULTS.digest


@pytest.mark.parametrize("name", [field.name for field in fields(DownstreamRow)])
def test_the_digest_changes_with_every_number_of_a_downstream_row(name: str) -> None:
    changed = replace(DOWN, **{name: other(getattr(DOWN, name))})
    assert replace(RESULTS, downstream=[changed]).digest != RESULTS.digest


def test_the_digest_changes_with_rows_notes_and_adaptation(adapted: AdaptationRow) -> None:
    changed = [
        replace(RESULTS, uploads=[]),
        replace(RESULTS, downstream=[DOWN, DOWN]),
        replace(RESULTS, adaptation=[adapted]),
        replace(RESULTS, adaptation=[replace(adapted, bd_rate_target=-1.4)]),
        replace(RESULTS, notes=[]),
    ]
    assert len({each.digest for each in [RESULTS, *changed]}) == 6


def test_a_number_that_is_not_finite_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = replace(RESULTS, downstream=[replace(DOWN, miou=float("nan"))]).digest


def test_results_read_back_as_they_were_written(tmp_path: Path, adapted: AdaptationRow) -> None:
    results = replace(RESULTS, adaptation=[adapted])
    (tmp_path / "results.json").write_text(results.to_json())
    found = read_results(tmp_path)
    assert found == results
    assert found.digest == results.digest
    assert found.to_json() == results.to_json()


def test_the_file_has_the_fields_that_others_read() -> None:
    data = json.loads(RESULTS.to_json())
    assert set(data) == {
        *("roadbits", "scenario", "question", "seed", "digest", "uploads", "downstream", "adaptation", "notes"),
        *("timings_s", "restoration", "adapter_sharing", "adaptation_curves"),
    }
    assert (data["scenario"], data["seed"], data["digest"]) == ("smoke", 7, RESULTS.digest)
    assert set(data["uploads"][0]) >= {
        *("codec", "point", "frames", "bytes", "bpp", "psnr_db", "ms_ssim", "delivered", "late", "lost", "rejected"),
        *("vehicle_hours", "encode_gmac"),
    }
    assert set(data["downstream"][0]) >= {
        *("codec", "point", "setup", "seed", "bpp", "miou", "per_class_iou", "restorer"),
    }


def without(key: str) -> str:
    return json.dumps({name: value for name, value in json.loads(RESULTS.to_json()).items() if name != key})


@pytest.mark.parametrize(
    "text",
    [
        "",
        RESULTS.to_json()[:400],
        "[]",
        "null",
        "{}",
        without("uploads"),
        without("seed"),
        RESULTS.to_json().replace('"miou"', '"mean_iou"'),
        RESULTS.to_json().replace('"backlog_bytes"', '"waiting"'),
        '{"uploads": [1]}',
        '{"uploads": [{"timeline": null}]}',
    ],
    ids=range(11),
)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=r"results\.json: is no results file of this version"):
        read_results(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match=r"results\.json: is no results file of this version"):
        read_results(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"gone/results\.json: cannot be read: .*; has the run finished\?"):
        read_results(tmp_path / "gone")
