import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from roadbits.fleet.store import Record, Store, StoreError

RECORD = Record(
    upload_id="jpeg:quality=10/0/0",
    codec="jpeg",
    point="quality=10",
    vehicle=0,
    frame=0,
    camera="cam",
    domain="day",
    height=4,
    width=6,
    captured_us=1_000_000,
    ready_us=1_100_000,
    arrival_us=1_900_000,
    payload_bytes=3,
    verdict="delivered",
    reason="",
    copies=1,
    encode_s=0.1,
    encode_macs=7,
    used_point="quality=10",
    clip=-1,
    payload=b"\x00\xff\x00",
)


def record(frame: int, vehicle: int = 0, **changes: object) -> Record:
    placed = replace(RECORD, upload_id=f"jpeg:quality=10/{vehicle}/{frame}", vehicle=vehicle, frame=frame)
    return replace(placed, **changes)  # type: ignore[arg-type]


def stored(path: Path) -> list[Record]:
    with Store(path) as store:
        return list(store.records("jpeg", "quality=10", payloads=True))


def test_a_record_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    waiting = record(1, arrival_us=None, payload=None, verdict="dropped", reason="encoder busy")
    with Store(tmp_path / "s.sqlite") as store:
        assert store.add([RECORD, waiting], 0, 2, "{}") == 2
        assert store.count() == 2
        assert list(store.records("jpeg", "quality=10", payloads=True)) == [RECORD, waiting]
    assert stored(tmp_path / "s.sqlite") == [RECORD, waiting]


def test_payloads_come_only_when_asked_for(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add([RECORD], 0, 1, "")
        assert list(store.records("jpeg", "quality=10")) == [replace(RECORD, payload=None)]


def test_records_are_those_of_one_arm_and_verdict_by_vehicle_and_frame(tmp_path: Path) -> None:
    mine = [record(frame, vehicle) for vehicle, frame in ((2, 0), (10, 1), (0, 10), (0, 9))]
    late = record(5, verdict="late")
    others = [
        record(0, 7, upload_id="a", codec="webp"),
        record(0, 7, upload_id="b", point="quality=100"),
        record(0, 7, upload_id="c", codec="JPEG"),
    ]
    with Store(tmp_path / "s.sqlite") as store:
        store.add([*mine, late, *others], 0, 1, "")
        found = [(row.vehicle, row.frame) for row in store.records("jpeg", "quality=10")]
        assert found == [(0, 5), (0, 9), (0, 10), (2, 0), (10, 1)]
        found = [(row.vehicle, row.frame) for row in store.records("jpeg", "quality=10", "delivered")]
        assert found == [(0, 9), (0, 10), (2, 0), (10, 1)]


def test_a_repeated_upload_counts_once_and_the_first_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        assert store.add([record(0), record(1)], 0, 2, "first") == 2
        assert store.add([record(1, verdict="late"), record(2), record(2)], 0, 3, "second") == 1
        assert store.count() == 3
        assert [row.verdict for row in store.records("jpeg", "quality=10")] == ["delivered"] * 3
        assert store.progress() == {0: (3, "second")}


def test_progress_is_kept_per_vehicle(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        assert store.progress() == {}
        store.add([record(0)], 0, 1, "a")
        store.add([], 3, 32, "b")
        store.add([record(1)], 0, 2, "c")
    with Store(tmp_path / "s.sqlite") as store:
        assert store.progress() == {0: (2, "c"), 3: (32, "b")}


@pytest.mark.parametrize(
    "bad",
    [record(9, verdict=None), record(9, payload_bytes=object())],
    ids=["without a verdict", "of no type that can be stored"],
)
def test_a_batch_with_a_bad_record_leaves_no_trace(bad: Record, tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add([record(0)], 0, 1, "before")
        with pytest.raises(StoreError):
            store.add([record(1), record(2, captured_us=2), bad], 0, 3, "after")
        assert [row.frame for row in store.records("jpeg", "quality=10")] == [0]
        assert store.progress() == {0: (1, "before")}
        assert store.add([record(1)], 0, 2, "again") == 1


def test_records_that_cannot_be_made_leave_no_trace(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(ZeroDivisionError):
            store.add((record(1 // frame) for frame in (1, 0)), 0, 2, "after")
        assert (store.count(), store.progress()) == (0, {})


def test_notes_are_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        assert store.about("collection") is None
        store.keep("collection", "a")
        store.keep("collection", "b")
    with Store(tmp_path / "s.sqlite") as store:
        assert store.about("collection") == "b"


def test_a_quarantined_upload_stays_with_its_reason(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add([record(0), record(1)], 0, 2, "")
        store.reject("jpeg:quality=10/0/1", "jpeg body does not decode")
        assert [row.frame for row in store.records("jpeg", "quality=10", "delivered")] == [0]
    (kept,) = [row for row in stored(tmp_path / "s.sqlite") if row.verdict == "rejected"]
    assert kept == record(1, verdict="rejected", reason="jpeg body does not decode")


def test_a_full_disk_is_a_store_error_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store._db.execute("PRAGMA max_page_count = 40")
        added = 0
        with pytest.raises(StoreError, match=r"s\.sqlite: database or disk is full; .* run again with --resume"):
            while added < 1000:
                store.add([record(added + k, payload=bytes(3000)) for k in range(3)], 0, added + 3, str(added))
                added += 3
        assert 3 <= added < 1000
        assert store.count() == added
        assert store.progress() == {0: (added, str(added - 3))}
        store._db.execute("PRAGMA max_page_count = 1000000")
        assert store.add([record(added)], 0, added + 1, "") == 1
    assert [row.frame for row in stored(path)] == list(range(added + 1))


WRITER = """
import resource, sys
from pathlib import Path
from roadbits.fleet.store import Record, Store, StoreError

path, limit = Path(sys.argv[1]), int(sys.argv[2])
with Store(path) as store:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for batch in range(100_000):
        records = [
            Record(f"{batch}/{k}", "jpeg", "quality=10", 0, 4 * batch + k, "c", "day", 4, 6, 0, 0, 0, 3000, "delivered",
                   "", 1, 0.0, 0, "", -1, bytes([batch % 256]) * 3000)
            for k in range(4)
        ]
        try:
            store.add(records, 0, 4 * batch + 4, str(batch))
        except StoreError as error:
            print(error, file=sys.stderr)
            raise SystemExit(9)
        print(batch, flush=True)
"""


def writer(path: Path, limit: int = 0) -> "subprocess.Popen[str]":
    """Start a process that adds batches of four records and prints the number of each acknowledged one."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
    )


def assert_whole_batches(path: Path, acknowledged: int) -> None:
    """Check that the batches acknowledged are there, and at most one that was committed but not yet printed."""
    rows = stored(path)
    batches = len(rows) // 4
    assert acknowledged <= batches <= acknowledged + 1
    assert [row.frame for row in rows] == list(range(4 * batches))
    assert all(row.payload == bytes([row.frame // 4 % 256]) * 3000 for row in rows)
    with Store(path) as store:
        assert store.progress() == {0: (4 * batches, str(batches - 1))}


def test_a_disk_that_fills_up_under_a_process_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    told, errors = writer(path, limit=400_000).communicate(timeout=60)
    assert f"{path}: " in errors
    assert "run again with --resume" in errors
    acknowledged = told.split()
    assert acknowledged == [str(k) for k in range(len(acknowledged))] != []
    assert_whole_batches(path, len(acknowledged))


@pytest.mark.parametrize("after", [1, 7, 40])
def test_a_killed_process_loses_no_acknowledged_batch(after: int, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with writer(path) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        assert process.wait() == -signal.SIGKILL
    assert acknowledged == [str(k) for k in range(len(acknowledged))]
    assert len(acknowledged) >= after
    assert_whole_batches(path, len(acknowledged))


def test_a_committed_batch_survives_a_power_cut() -> None:
    with Store(Path(":memory:")) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_the_store_is_written_ahead(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + bytes(5000)])
def test_a_file_that_is_no_database_is_named_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"s\.sqlite: "):
        Store(path)
    assert path.read_bytes() == content


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE uploads (name TEXT)")
    db.close()
    with pytest.raises(StoreError, match=r"s\.sqlite: no such column"):
        Store(path)


@pytest.mark.parametrize("name", ["folder", "gone/s.sqlite"])
def test_a_place_where_no_file_can_be_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=rf"{name}: unable to open database file"):
        Store(tmp_path / name)


def test_a_damaged_store_is_a_store_error_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.add([record(k, payload=bytes(3000)) for k in range(50)], 0, 50, "")
    content = bytearray(path.read_bytes())
    content[8192:-4096] = bytes(len(content) - 8192 - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"s\.sqlite: database disk image is malformed"), Store(path) as store:
        list(store.records("jpeg", "quality=10", payloads=True))
