import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from roadbits.fleet.results import (
    DownstreamRow,
    Quality,
    Results,
    ResultsError,
    Timeline,
    UploadRow,
    read_results,
    summarise,
)
from roadbits.fleet.store import Record
from roadbits.fleet.vehicle import Arm

ARM = Arm("jpeg", "quality=10")


def record(frame: int, verdict: str, arrival_s: float | None, payload_bytes: int, copies: int = 1) -> Record:
    """Return a frame of 10 x 20 pixels, captured at `frame` seconds and encoded in a quarter of one."""
    return Record(
        upload_id=str(frame),
        codec="jpeg",
        point="quality=10",
        vehicle=0,
        frame=frame,
        camera="cam",
        domain="day",
        height=10,
        width=20,
        captured_us=frame * 1_000_000,
        ready_us=frame * 1_000_000 + 250_000,
        arrival_us=None if arrival_s is None else round(arrival_s * 1e6),
        payload_bytes=payload_bytes,
        verdict=verdict,
        reason="",
        copies=copies,
        encode_s=0.25,
        encode_macs=3_000_000,
        payload=None,
    )


RECORDS = [
    record(0, "delivered", 1.0, 100),
    record(1, "delivered", 3.0, 400, copies=2),
    record(2, "delivered", 5.0, 300),
    record(3, "late", 59.0, 100),
    record(4, "lost", 6.0, 200, copies=2),
    record(5, "rejected", 7.0, 200),
    record(6, "backlog", 118.0, 800, copies=2),
    record(7, "dropped", None, 0, copies=0),
    replace(record(8, "dropped", None, 0, copies=0), encode_s=0.0, encode_macs=0, ready_us=8_000_000),
]


def summary(records: list[Record]) -> UploadRow:
    return summarise(ARM, records, Quality(31.5, 0.9), 0.5, encode_watts=8.0, radio_joules_per_mbit=2.0)


def test_the_summary_of_a_handful_of_records_is_what_a_hand_computes() -> None:
    row = summary(RECORDS)
    assert (row.codec, row.point, row.psnr_db, row.ms_ssim, row.vehicle_hours) == ("jpeg", "quality=10", 31.5, 0.9, 0.5)
    assert row.frames == 9
    assert (row.delivered, row.late, row.lost, row.rejected, row.backlog, row.dropped) == (3, 1, 1, 1, 1, 2)
    assert row.bytes == 100 + 400 + 300 + 100 + 200 + 200
    # Retransmissions aside, six payloads travelled: 100, 200, 300, 100, 100 and 200 bytes of 200 pixels each.
    assert row.bpp == 8 * 1000 / (6 * 200)
    assert row.duplicates == 1
    assert row.encode_gmac == pytest.approx(8 * 0.003)
    assert row.encode_s == 0.25
    # Latencies are 1, 2 and 3 s.
    assert row.latency_p50_s == 2.0
    assert row.latency_p95_s == pytest.approx(2.9)
    assert row.energy_j == pytest.approx(8.0 * 8 * 0.25 + 2.0 * 8 * 1300 / 1e6)


def test_the_order_of_the_records_does_not_matter() -> None:
    assert summary(RECORDS[::-1]) == summary(RECORDS)


def test_the_timeline_counts_deliveries_and_waiting_bytes() -> None:
    timeline = summary(RECORDS).timeline
    # 60 points from 0 to 59 s, when the late upload arrives: one every second.
    assert timeline.time_s == [1.0 * k for k in range(60)]
    assert timeline.delivered_frames[:7] == [0, 1, 1, 2, 2, 3, 3]
    assert timeline.delivered_frames[-1] == 3
    # At 2 s the second upload waits, at 4 s the third and the late one, at 6 s the late one and the rejected one.
    assert timeline.backlog_bytes[:8] == [0, 0, 400, 300, 400, 300, 300, 900]
    # The backlog never arrives: it is what waits when the links have closed.
    assert timeline.backlog_bytes[58:] == [900, 800]


def test_an_arm_that_sent_nothing_has_a_row_of_zeros() -> None:
    row = summary(RECORDS[-1:])
    assert (row.frames, row.dropped, row.bytes, row.bpp, row.encode_s, row.latency_p95_s) == (1, 1, 0, 0.0, 0.0, 0.0)
    assert row.timeline.delivered_frames == [0] * 60


def test_no_record_at_all_has_a_row_too() -> None:
    row = summary([])
    assert (row.frames, row.delivered, row.energy_j) == (0, 0, 0.0)


def test_latency_is_that_of_delivered_frames_only() -> None:
    assert summary([RECORDS[3], RECORDS[4]]).latency_p50_s == 0.0


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
ADAPTED = {"method": "cawf", "domain": "dusk", "bd_rate_target": -1.5}
RESULTS = Results(
    "smoke", 7, [summary(RECORDS)], [DOWN], [ADAPTED], ["jpeg delivered no frame"], {"collect": 1.5}, "Why? Größe"
)


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


def test_the_digest_changes_with_rows_notes_and_adaptation() -> None:
    changed = [
        replace(RESULTS, uploads=[]),
        replace(RESULTS, downstream=[DOWN, DOWN]),
        replace(RESULTS, adaptation=[ADAPTED | {"bd_rate_target": -1.4}]),
        replace(RESULTS, notes=[]),
    ]
    assert len({each.digest for each in [RESULTS, *changed]}) == 5


def test_a_number_that_is_not_finite_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = replace(RESULTS, downstream=[replace(DOWN, miou=float("nan"))]).digest


def test_results_read_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(RESULTS.to_json())
    found = read_results(tmp_path)
    assert found == RESULTS
    assert found.digest == RESULTS.digest
    assert found.to_json() == RESULTS.to_json()


def test_the_file_has_the_fields_that_others_read() -> None:
    data = json.loads(RESULTS.to_json())
    assert set(data) == {
        *("roadbits", "scenario", "question", "seed", "digest", "uploads", "downstream", "adaptation", "notes"),
        "timings_s",
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
