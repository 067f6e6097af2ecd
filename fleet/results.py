"""The results of a run and their digest.

The digest covers every measured number and nothing of wall time, so two runs of one scenario agree in it whatever the
number of workers, the backend, or crashes on the way.

Not here: how the numbers come about (`run`), the page (`report`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from roadbits.fleet.store import Record
from roadbits.fleet.uplink import US_PER_S
from roadbits.fleet.vehicle import Arm

_TIMELINE_POINTS = 60


class ResultsError(Exception):
    """A results file that cannot be read; the message names it."""


@dataclass(frozen=True)
class Timeline:
    """An arm's fleet over virtual time: frames delivered so far, and bytes waiting in all send buffers."""

    time_s: list[float]
    delivered_frames: list[int]
    backlog_bytes: list[int]


@dataclass(frozen=True)
class UploadRow:
    """What an arm's fleet sent.

    Attributes:
        frames: captured.
        bytes: that travelled: delivered, late, lost and rejected payloads, and retransmissions.
        bpp: of the payloads that travelled, retransmissions aside.
        psnr_db: mean over delivered frames; 0 if there are none.
        ms_ssim: mean over delivered frames; 0 if there are none.
        delivered: frames that arrived in time and whole.
        late: arrived after the deadline.
        lost: vanished on the way.
        rejected: refused by the collector or undecodable.
        dropped: never sent: the encoder was busy or the send buffer full.
        backlog: still waiting when the links closed.
        duplicates: uploads that arrived more than once, each of which counts once.
        vehicle_hours: of driving.
        encode_gmac: multiply-accumulates of all encodings, in billions.
        encode_s: device seconds per encoded frame, mean.
        latency_p50_s: capture to arrival, median over delivered frames.
        latency_p95_s: the same, 95th percentile.
        energy_j: of encoding and sending.
    """

    codec: str
    point: str
    frames: int
    bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float
    delivered: int
    late: int
    lost: int
    rejected: int
    dropped: int
    backlog: int
    duplicates: int
    vehicle_hours: float
    encode_gmac: float
    encode_s: float
    latency_p50_s: float
    latency_p95_s: float
    energy_j: float
    timeline: Timeline


@dataclass(frozen=True)
class DownstreamRow:
    """One setup, measured with one seed.

    Attributes:
        bpp: of the arm's uploads; OO and OC repeat for each arm, so that every arm has all its setups.
        miou: mean over the classes that occur, 0..1.
        per_class_iou: of the classes that occur.
        absent: classes that no test label holds, left out of the mean.
        restorer: which restorer made the training frames; null without one.
        train_frames: that trained the segmenter.
        test_frames: that it was measured on.
        test_bpp: of the test frames, where they were compressed on board; else null.
    """

    codec: str
    point: str
    setup: str
    seed: int
    bpp: float
    miou: float
    per_class_iou: dict[str, float]
    absent: list[str]
    restorer: str | None
    train_frames: int
    test_frames: int
    test_bpp: float | None


@dataclass(frozen=True)
class Results:
    """Everything a run found out."""

    scenario: str
    seed: int
    uploads: list[UploadRow]
    downstream: list[DownstreamRow]
    adaptation: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)
    question: str = ""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of every measured number."""
        measured = {
            "uploads": [asdict(row) for row in self.uploads],
            "downstream": [asdict(row) for row in self.downstream],
            "adaptation": self.adaptation,
            "notes": self.notes,
        }
        text = json.dumps(measured, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of `results.json`."""
        head = {
            "roadbits": version("roadbits"),
            "scenario": self.scenario,
            "question": self.question,
            "seed": self.seed,
            "digest": self.digest,
        }
        rows = {name: value for name, value in asdict(self).items() if name not in head}
        return json.dumps(head | rows, indent=1, allow_nan=False) + "\n"


def read_results(run_folder: Path) -> Results:
    """Return the results in a run's folder.

    Raises:
        ResultsError: if there are none or they are not of this format.
    """
    path = run_folder / "results.json"
    try:
        return TypeAdapter(Results).validate_json(path.read_text(), strict=True)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error}; has the run finished?") from error
    except ValueError as error:
        raise ResultsError(f"{path}: is no results file of this version: {error}") from error


@dataclass(frozen=True)
class Quality:
    """Mean distortion of an arm's delivered frames."""

    psnr_db: float
    ms_ssim: float


def summarise(
    arm: Arm,
    records: Iterable[Record],
    quality: Quality,
    vehicle_hours: float,
    encode_watts: float,
    radio_joules_per_mbit: float,
) -> UploadRow:
    """Return the row of one arm; every captured frame is in exactly one of its counts."""
    rows = list(records)
    fates = Counter(row.verdict for row in rows)
    travelled = [row for row in rows if row.verdict not in ("dropped", "backlog")]
    once = sum(row.payload_bytes // max(1, row.copies) for row in travelled)
    pixels = sum(row.height * row.width for row in travelled)
    encode_s = [row.encode_s for row in rows if row.encode_s]
    latency = [
        (row.arrival_us - row.captured_us) / US_PER_S
        for row in rows
        if row.verdict == "delivered" and row.arrival_us is not None
    ] or [0.0]
    sent_bytes = sum(row.payload_bytes for row in travelled)
    return UploadRow(
        codec=arm.codec,
        point=arm.point,
        frames=len(rows),
        bytes=sent_bytes,
        bpp=8 * once / pixels if pixels else 0.0,
        psnr_db=quality.psnr_db,
        ms_ssim=quality.ms_ssim,
        delivered=fates["delivered"],
        late=fates["late"],
        lost=fates["lost"],
        rejected=fates["rejected"],
        dropped=fates["dropped"],
        backlog=fates["backlog"],
        duplicates=sum(row.copies > 1 for row in travelled if row.verdict != "lost"),
        vehicle_hours=vehicle_hours,
        encode_gmac=sum(row.encode_macs for row in rows) / 1e9,
        encode_s=float(np.mean(encode_s)) if encode_s else 0.0,
        latency_p50_s=float(np.percentile(latency, 50)),
        latency_p95_s=float(np.percentile(latency, 95)),
        energy_j=encode_watts * sum(encode_s) + radio_joules_per_mbit * 8 * sent_bytes / 1e6,
        timeline=_timeline(rows),
    )


def _timeline(rows: Sequence[Record]) -> Timeline:
    """Return deliveries and backlog at evenly spaced times until the last frame arrives or is queued.

    What is still waiting then is the backlog that the closing links leave behind.
    """
    arrived = [row.arrival_us for row in rows if row.arrival_us is not None and row.verdict != "backlog"]
    end_us = max([*arrived, *(row.ready_us for row in rows)], default=0)
    at = np.linspace(0, end_us, _TIMELINE_POINTS)
    arrivals = np.sort([row.arrival_us for row in rows if row.verdict == "delivered" and row.arrival_us is not None])
    waiting = np.zeros(_TIMELINE_POINTS, np.int64)
    for row in rows:
        if row.arrival_us is not None:
            waiting[(at >= row.ready_us) & (at < row.arrival_us)] += row.payload_bytes
    return Timeline(
        [round(float(time) / US_PER_S, 3) for time in at],
        [int(count) for count in np.searchsorted(arrivals, at, side="right")],
        [int(count) for count in waiting],
    )
