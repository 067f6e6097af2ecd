"""From the records of a collection to the rows of the results.

Not here: the rows themselves, their digest and file (`results`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from roadbits.codecs.codec import AnyCodec, OperatingPoint
from roadbits.fleet.devices import encode_joules, radio_joules
from roadbits.fleet.results import GroupRow, Timeline, UploadRow
from roadbits.fleet.rules import Rule, TargetBpp, Way
from roadbits.fleet.scenario import Fleet, Group
from roadbits.fleet.store import Record
from roadbits.fleet.uplink import US_PER_S
from roadbits.fleet.vehicle import BUFFER_FULL, ENCODER_BUSY, SKIPPED, Arm

_TIMELINE_POINTS = 60
_TARGET_TOLERANCE = 0.03


@dataclass(frozen=True)
class Quality:
    """Mean distortion of an arm's delivered frames."""

    psnr_db: float
    ms_ssim: float


def summarise(
    arm: Arm,
    codec: AnyCodec,
    way: Way,
    records: Iterable[Record],
    quality: Quality,
    vehicle_hours: float,
    fleet: Fleet,
) -> UploadRow:
    """Return the row of one arm; every captured frame is in exactly one of its counts.

    Args:
        arm: codec and operating point or policy.
        codec: that its vehicles run; of several the one that takes most memory.
        way: how it sent frames.
        records: of every captured frame.
        quality: of what was delivered.
        vehicle_hours: of driving.
        fleet: whose devices tell the energy.
    """
    rows = list(records)
    fates = Counter(row.verdict for row in rows)
    reasons = Counter(row.reason for row in rows if row.verdict == "dropped")
    travelled = [row for row in rows if row.verdict not in ("dropped", "backlog")]
    points_used = _points_used(codec, rows)
    latency = _latencies(rows) or [0.0]
    groups = [
        _group_row(codec, group, [row for row in rows if row.vehicle in numbers]) for group, numbers in _members(fleet)
    ]
    encode_gmac, energy_j = sum(row.encode_macs for row in rows) / 1e9, sum(row.energy_j for row in groups)
    return UploadRow(
        codec=arm.codec,
        point=arm.point,
        frames=len(rows),
        bytes=sum(row.payload_bytes for row in travelled),
        bpp=_bpp(travelled),
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
        encode_gmac=encode_gmac,
        # Of a clip one frame bears the time of all.
        encode_s=sum(row.encode_s for row in rows) / max(1, sum(points_used.values())),
        latency_p50_s=float(np.percentile(latency, 50)),
        latency_p95_s=float(np.percentile(latency, 95)),
        energy_j=energy_j,
        timeline=_timeline(rows),
        policy="fixed" if isinstance(way.rule, OperatingPoint) else way.rule.kind,
        dropped_encoder_busy=reasons[ENCODER_BUSY],
        dropped_buffer_full=reasons[BUFFER_FULL],
        dropped_skipped=reasons[SKIPPED],
        gmac_per_delivered_frame=encode_gmac / max(1, fates["delivered"]),
        joules_per_delivered_frame=energy_j / max(1, fates["delivered"]),
        latency_mean_s=float(np.mean(latency)),
        encode_memory_bytes=_memory_bytes(codec, rows),
        points_used=points_used,
        groups=groups if fleet.groups else [],
        every=way.every,
        clip_frames=way.clip_frames,
    )


class Spent(NamedTuple):
    """What adapting took of one vehicle beside its frames.

    Attributes:
        sent_bytes: up and down, for adapters and what it takes to learn them.
        macs: multiply-accumulates of watching and of training.
    """

    sent_bytes: int
    macs: int


def with_adapting(row: UploadRow, spent: Sequence[Spent], fleet: Fleet) -> UploadRow:
    """Return the row of an arm with what adapting took: bytes, and the energy of radio and computer.

    Args:
        row: of its frames alone.
        spent: by each of its vehicles.
        fleet: whose devices tell the energy.
    """
    taken_bytes, energies_j = [], []
    for group, numbers in _members(fleet):
        sent_bytes = sum(spent[vehicle].sent_bytes for vehicle in numbers)
        macs = sum(spent[vehicle].macs for vehicle in numbers)
        assert group.device.joules_per_gmac is not None, "a device that encodes with networks says what they take"
        taken_bytes.append(sent_bytes)
        energies_j.append(radio_joules(group.device, sent_bytes) + macs / 1e9 * group.device.joules_per_gmac)
    energy_j = row.energy_j + sum(energies_j)
    return replace(
        row,
        bytes=row.bytes + sum(taken_bytes),
        adapter_bytes=sum(taken_bytes),
        energy_j=energy_j,
        joules_per_delivered_frame=energy_j / max(1, row.delivered),
        groups=[
            replace(group, bytes=group.bytes + sent_bytes, energy_j=group.energy_j + energy)
            for group, sent_bytes, energy in zip(row.groups, taken_bytes, energies_j, strict=bool(row.groups))
        ],
    )


def missed_target(rule: Rule, row: UploadRow) -> str:
    """Return what to tell of an arm that did not hold its target rate; empty if it did, or has none."""
    if not isinstance(rule, TargetBpp) or not row.bpp or abs(row.bpp / rule.bpp - 1) <= _TARGET_TOLERANCE:
        return ""
    used = max(row.points_used, key=lambda point: row.points_used[point])
    return (
        f"{row.codec}:{row.point} came to {row.bpp:.3g} bpp, most of its frames at {used}: "
        "the target is beyond the codec, or the drives are too short to make up for their first frames"
    )


def _members(fleet: Fleet) -> Iterator[tuple[Group, range]]:
    """Yield each group and its vehicles' numbers."""
    first = 0
    for group in fleet.everyone:
        yield group, range(first, first + group.vehicles)
        first += group.vehicles


def _group_row(codec: AnyCodec, group: Group, rows: Sequence[Record]) -> GroupRow:
    travelled = [row for row in rows if row.verdict not in ("dropped", "backlog")]
    reasons = Counter(row.reason for row in rows if row.verdict == "dropped")
    sent_bytes = sum(row.payload_bytes for row in travelled)
    seconds, macs = sum(row.encode_s for row in rows if row.encode_s), sum(row.encode_macs for row in rows)
    encoding_j = encode_joules(group.device, codec, np.array([seconds]), np.array([macs]))
    return GroupRow(
        group=group.name,
        vehicles=group.vehicles,
        frames=len(rows),
        bytes=sent_bytes,
        bpp=_bpp(travelled),
        delivered=sum(row.verdict == "delivered" for row in rows),
        dropped_encoder_busy=reasons[ENCODER_BUSY],
        dropped_buffer_full=reasons[BUFFER_FULL],
        dropped_skipped=reasons[SKIPPED],
        encode_gmac=macs / 1e9,
        energy_j=float(encoding_j[0]) + radio_joules(group.device, sent_bytes),
        latency_mean_s=float(np.mean(_latencies(rows) or [0.0])),
        points_used=_points_used(codec, rows),
    )


def _bpp(travelled: Sequence[Record]) -> float:
    """Return the rate of what travelled, retransmissions aside."""
    once = sum(row.payload_bytes // max(1, row.copies) for row in travelled)
    pixels = sum(row.height * row.width for row in travelled)
    return 8 * once / pixels if pixels else 0.0


def _latencies(rows: Sequence[Record]) -> list[float]:
    """Return the seconds from capture to arrival of delivered frames."""
    return [
        (row.arrival_us - row.captured_us) / US_PER_S
        for row in rows
        if row.verdict == "delivered" and row.arrival_us is not None
    ]


def _points_used(codec: AnyCodec, rows: Sequence[Record]) -> dict[str, int]:
    """Return how many frames were encoded at each point, in the order of the codec's rates."""
    used = Counter(row.used_point for row in rows if row.used_point)
    ranks = {str(point): rank for rank, point in enumerate(codec.all_points)}
    return {point: used[point] for point in sorted(used, key=lambda point: (ranks.get(point, 0), point))}


def _memory_bytes(codec: AnyCodec, rows: Sequence[Record]) -> int:
    """Return the most that any frame took to encode."""
    used = {(row.used_point, row.height, row.width) for row in rows if row.used_point}
    costs = (codec.complexity(OperatingPoint.parse(point), height, width) for point, height, width in used)
    return max((cost.encode_memory_bytes for cost in costs), default=0)


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
