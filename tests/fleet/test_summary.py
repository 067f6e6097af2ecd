from dataclasses import replace

import pytest

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.results import UploadRow
from roadbits.fleet.rules import Rule, TargetBpp, Way
from roadbits.fleet.scenario import ConstantUplink, Device, Fleet, Group
from roadbits.fleet.store import Record
from roadbits.fleet.summary import Quality, Spent, missed_target, summarise, with_adapting
from roadbits.fleet.vehicle import Arm

ARM = Arm("jpeg", "quality=10")
JPEG = codec_named("jpeg")
UPLINK = ConstantUplink(kind="constant", rate_mbps=1.0)
DEVICE = Device(encode_mpx_per_s={"jpeg": 1.0}, encode_watts=8.0, radio_joules_per_mbit=2.0)


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
        used_point="quality=10",
        clip=-1,
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
    replace(record(7, "dropped", None, 0, copies=0), reason="send buffer full"),
    replace(
        record(8, "dropped", None, 0, copies=0),
        encode_s=0.0,
        encode_macs=0,
        ready_us=8_000_000,
        used_point="",
        reason="encoder busy",
    ),
]


def summary(records: list[Record]) -> UploadRow:
    fleet = Fleet(vehicles=1, uplink=UPLINK, device=DEVICE)
    return summarise(ARM, JPEG, Way(OperatingPoint.of(quality=10), 1, 0), records, Quality(31.5, 0.9), 0.5, fleet)


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


def test_what_was_dropped_is_counted_by_its_reason() -> None:
    row = summary([*RECORDS, replace(RECORDS[8], frame=9, reason="skipped"), replace(RECORDS[8], frame=10)])
    assert (row.dropped, row.dropped_encoder_busy, row.dropped_buffer_full, row.dropped_skipped) == (4, 2, 1, 1)


def test_cost_is_told_per_delivered_frame_and_counts_what_never_arrived() -> None:
    row = summary(RECORDS)
    assert row.gmac_per_delivered_frame == pytest.approx(8 * 0.003 / 3)
    assert row.joules_per_delivered_frame == row.energy_j / 3
    assert row.latency_mean_s == 2.0
    assert summary(RECORDS[-1:]).joules_per_delivered_frame == 0.0


def test_the_points_used_are_counted_by_rising_rate() -> None:
    records = [
        replace(row, used_point=f"quality={quality}") for row, quality in zip(RECORDS, (70, 9, 70, 9, 70), strict=False)
    ]
    assert list(summary([*records, RECORDS[8]]).points_used.items()) == [("quality=9", 2), ("quality=70", 3)]


def test_a_fleet_of_groups_is_told_by_group() -> None:
    strong = DEVICE.model_copy(update={"encode_watts": 1.0, "radio_joules_per_mbit": 0.0})
    fleet = Fleet(
        groups=(
            Group(name="strong", vehicles=2, uplink=UPLINK, device=strong),
            Group(name="weak", vehicles=1, uplink=UPLINK, device=DEVICE),
        )
    )
    records = [replace(row, vehicle=k % 3) for k, row in enumerate(RECORDS)]
    row = summarise(ARM, JPEG, Way(OperatingPoint.of(quality=10), 1, 0), records, Quality(31.5, 0.9), 0.5, fleet)
    assert [(group.group, group.vehicles, group.frames) for group in row.groups] == [("strong", 2, 6), ("weak", 1, 3)]
    # Vehicle 2 has frames 2, 5 and 8: 300 bytes delivered, 200 rejected, and one dropped before it was encoded.
    weak = row.groups[1]
    assert (weak.bytes, weak.delivered, weak.dropped_encoder_busy, weak.latency_mean_s) == (500, 1, 1, 3.0)
    assert weak.bpp == 8 * 500 / 400
    assert weak.energy_j == pytest.approx(8.0 * 2 * 0.25 + 2.0 * 8 * 500 / 1e6)
    assert weak.points_used == {"quality=10": 2}
    assert row.groups[0].energy_j == pytest.approx(1.0 * 6 * 0.25)
    for name in ("frames", "bytes", "delivered", "dropped_buffer_full", "encode_gmac", "energy_j"):
        assert sum(getattr(group, name) for group in row.groups) == pytest.approx(getattr(row, name)), name
    assert summary(RECORDS).groups == []


@pytest.mark.parametrize(("bpp", "missed"), [(6.5, False), (6.6, False), (9.0, True), (1.0, True)])
def test_a_target_that_was_missed_by_more_than_three_percent_is_told(bpp: float, missed: bool) -> None:
    rule: Rule = TargetBpp(kind="target-bpp", bpp=bpp)
    row = replace(summary(RECORDS), point=str(rule))
    assert row.bpp == pytest.approx(6.6667, abs=1e-4)
    told = missed_target(rule, row)
    assert bool(told) == missed
    assert not missed or told.startswith(f"jpeg:{rule} came to 6.67 bpp, most of its frames at quality=10")
    assert missed_target(OperatingPoint.of(quality=10), row) == ""


def test_memory_is_that_of_the_most_demanding_frame() -> None:
    codec = codec_named("cae")
    point = str(codec.points[0])
    records = [
        replace(RECORDS[number], codec="cae", point=point, used_point=point, height=height, width=width)
        for number, (height, width) in enumerate([(64, 96), (128, 96), (32, 96)])
    ]
    device = DEVICE.model_copy(update={"gmac_per_s": 10.0, "joules_per_gmac": 0.3})
    fleet = Fleet(vehicles=1, uplink=UPLINK, device=device)
    row = summarise(Arm("cae", point), codec, Way(codec.points[0], 1, 0), records, Quality(31.5, 0.9), 0.5, fleet)
    assert row.encode_memory_bytes == codec.complexity(codec.points[0], 128, 96).encode_memory_bytes
    assert summary(RECORDS).encode_memory_bytes == 0


def test_a_clip_s_time_is_shared_out_over_its_frames() -> None:
    """The first frame of a clip bears what all of them take."""
    clip = [replace(record(frame, "delivered", 9.0, 100), clip=0) for frame in range(4)]
    frames = [clip[0], *(replace(frame, encode_s=0.0, encode_macs=0) for frame in clip[1:])]
    assert summary([replace(frames[0], encode_s=1.0), *frames[1:]]).encode_s == pytest.approx(0.25)


def test_adapting_costs_bytes_radio_and_computing() -> None:
    device = DEVICE.model_copy(update={"joules_per_gmac": 0.5})
    groups = tuple(Group(name=name, vehicles=n, uplink=UPLINK, device=device) for name, n in (("a", 1), ("b", 2)))
    fleet = Fleet(groups=groups)
    way = Way(OperatingPoint.of(quality=10), 1, 0)
    row = summarise(ARM, JPEG, way, [record(0, "delivered", 1.0, 100)], Quality(31.5, 0.9), 0.5, fleet)
    spent = [Spent(0, 0), Spent(125_000, 4_000_000_000), Spent(125_000, 0)]
    after = with_adapting(row, spent, fleet)
    assert (after.bytes, after.adapter_bytes) == (100 + 250_000, 250_000)
    assert after.energy_j == pytest.approx(row.energy_j + 2 * 2.0 + 4 * 0.5)
    assert after.joules_per_delivered_frame == pytest.approx(after.energy_j)
    assert [group.energy_j for group in after.groups] == pytest.approx(
        [row.groups[0].energy_j, row.groups[1].energy_j + 6.0]
    )
    assert [group.bytes for group in after.groups] == [100, 250_000]
    assert sum(group.energy_j for group in after.groups) == pytest.approx(after.energy_j)
