"""The collector's store: one SQLite file with a row per captured frame and arm, payloads as blobs.

Write-ahead logging with full synchronisation: what was committed survives a killed process and a power cut. A batch of
uploads is one transaction together with the state that the vehicle was left in, so that a resumed run begins exactly
where the last committed batch ended.

Not here: the checks that give an upload its verdict (`collector`).
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uploads (
    upload_id TEXT PRIMARY KEY, codec TEXT NOT NULL, point TEXT NOT NULL, vehicle INTEGER NOT NULL,
    frame INTEGER NOT NULL, camera TEXT NOT NULL, domain TEXT NOT NULL, height INTEGER NOT NULL,
    width INTEGER NOT NULL, captured_us INTEGER NOT NULL, ready_us INTEGER NOT NULL, arrival_us INTEGER,
    payload_bytes INTEGER NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, copies INTEGER NOT NULL,
    encode_s REAL NOT NULL, encode_macs INTEGER NOT NULL, used_point TEXT NOT NULL, clip INTEGER NOT NULL,
    payload BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_arm ON uploads (codec, point, verdict, vehicle, frame);
CREATE TABLE IF NOT EXISTS vehicles (vehicle INTEGER PRIMARY KEY, next_frame INTEGER NOT NULL, state TEXT NOT NULL);
"""

_COLUMNS = (
    "upload_id, codec, point, vehicle, frame, camera, domain, height, width, captured_us, ready_us, arrival_us, "
    "payload_bytes, verdict, reason, copies, encode_s, encode_macs, used_point, clip, payload"
)


class StoreError(Exception):
    """The store cannot be read or written; what was acknowledged before is intact."""


@dataclass(frozen=True)
class Record:
    """One row of the store: see `roadbits.fleet.vehicle.Upload`; `verdict` is its final fate."""

    upload_id: str
    codec: str
    point: str
    vehicle: int
    frame: int
    camera: str
    domain: str
    height: int
    width: int
    captured_us: int
    ready_us: int
    arrival_us: int | None
    payload_bytes: int
    verdict: str
    reason: str
    copies: int
    encode_s: float
    encode_macs: int
    used_point: str
    clip: int
    payload: bytes | None


class Store:
    """The store of one run; use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open or create the store.

        Raises:
            StoreError: if the file cannot be opened or is no store.
        """
        self._path = path
        with self._errors():
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
            except sqlite3.Error:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path}: {error}; every upload acknowledged before is stored: "
                "free some space or mend the file, then run again with --resume"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def about(self, key: str) -> str | None:
        """Return a note that was kept under a key."""
        with self._errors():
            row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, key: str, value: str) -> None:
        """Keep a note under a key."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def add(self, records: Iterable[Record], vehicle: int, next_frame: int, state: str) -> int:
        """Store records and where their vehicle stands, all or nothing; return how many were new.

        An upload id that is stored already is left as it is: a repeated upload counts once.

        Raises:
            StoreError: for instance if the disk is full; nothing of this batch is stored then.
        """
        rows = [tuple(vars(record).values()) for record in records]
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(
                f"INSERT INTO uploads ({_COLUMNS}) VALUES ({','.join('?' * 21)}) ON CONFLICT (upload_id) DO NOTHING",
                rows,
            )
            new = self._db.total_changes - before
            self._db.execute("INSERT OR REPLACE INTO vehicles VALUES (?, ?, ?)", (vehicle, next_frame, state))
        return new

    def progress(self) -> dict[int, tuple[int, str]]:
        """Return, per vehicle, its next frame and its state."""
        with self._errors():
            rows = self._db.execute("SELECT vehicle, next_frame, state FROM vehicles").fetchall()
        return {vehicle: (next_frame, state) for vehicle, next_frame, state in rows}

    def records(self, codec: str, point: str, verdict: str = "%", payloads: bool = False) -> Iterator[Record]:
        """Yield an arm's records by vehicle and frame; those of one verdict if given, with payloads if asked for."""
        columns = _COLUMNS if payloads else _COLUMNS.removesuffix("payload") + "NULL"
        with self._errors():
            rows = self._db.execute(
                f"SELECT {columns} FROM uploads WHERE codec = ? AND point = ? AND verdict LIKE ? "
                "ORDER BY vehicle, frame",
                (codec, point, verdict),
            )
            for row in rows:
                yield Record(*row)

    def reject(self, upload_id: str, reason: str) -> None:
        """Quarantine an upload that proved undecodable."""
        with self._transaction():
            self._db.execute(
                "UPDATE uploads SET verdict = 'rejected', reason = ? WHERE upload_id = ?", (reason, upload_id)
            )

    def count(self) -> int:
        """Return the number of records."""
        with self._errors():
            return int(self._db.execute("SELECT COUNT(*) FROM uploads").fetchone()[0])
