import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roadbits.codecs.bitstream import BitstreamError, unpack
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet import vehicle
from roadbits.fleet.camera_words import FolderCameras
from roadbits.fleet.collector import Collector
from roadbits.fleet.links import link_for
from roadbits.fleet.rules import Budget, CodecChoice, Link, TargetBpp
from roadbits.fleet.scenario import ConstantUplink, Device, Faults, Fleet, Group, Scenario
from roadbits.fleet.sources import train_source
from roadbits.fleet.store import Store
from roadbits.fleet.summary import Quality, summarise
from roadbits.fleet.uplink import US_PER_S
from roadbits.fleet.vehicle import Arm, ArmState, Segment, Upload, arms_of, drive, ways_of

FRAMES, VEHICLES = 40, 2
HEIGHT, WIDTH = 24, 32
FAST = Device(encode_mpx_per_s={"jpeg": 100.0, "webp": 10.0}, encode_watts=5, radio_joules_per_mbit=1)
FATES = ("dropped", "backlog", "lost", "sent")


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drives")
    for k in range(FRAMES * VEHICLES):
        image = np.random.default_rng(k).integers(0, 120 + 3 * (k % FRAMES), (HEIGHT, WIDTH, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(folder / f"{k:03}.png")
    return folder


def scenario(drives: Path, rate_mbps: float = 0.02, **fleet: Any) -> Scenario:
    """Return a small fleet whose payloads, of a few hundred bytes every second, a link of 0.02 Mbit/s carries."""
    uplink = ConstantUplink(kind="constant", rate_mbps=rate_mbps)
    words: dict[str, Any] = {"vehicles": VEHICLES, "uplink": uplink, "device": FAST, "drain_s": 5.0}
    return Scenario(
        name="v",
        seed=7,
        cameras=FolderCameras(kind="folder", images=str(drives), interval_s=1.0),
        fleet=Fleet(**words | fleet),
        codecs=(
            CodecChoice(name="jpeg", points=("quality=10", "quality=60")),
            CodecChoice(name="webp", points=("quality=20",)),
        ),
    )


def whole_drive(words: Scenario, number: int = 0) -> list[Upload]:
    """Return the uploads of a drive, segment after segment."""
    states = (ArmState(),) * len(arms_of(words))
    uploads: list[Upload] = []
    for first in range(0, FRAMES, vehicle.SEGMENT_FRAMES):
        some, states = drive(Segment(words, number, first, states))
        uploads += some
    return uploads


def of_arm(uploads: list[Upload], arm: Arm) -> list[Upload]:
    return [upload for upload in uploads if upload.arm == arm]


HARSH = Faults(loss_probability=0.2, corrupt_probability=0.2, duplicate_probability=0.3, outages_s=((5.0, 9.0),))
CROWDED: dict[str, Any] = {
    "rate_mbps": 0.004,
    "faults": HARSH,
    "max_backlog_bytes": 4000,
    "device": Device(encode_mpx_per_s={"jpeg": 0.0006, "webp": 0.001}, encode_watts=5, radio_joules_per_mbit=1),
}


def test_every_frame_of_every_arm_has_one_fate_in_order_of_capture(drives: Path) -> None:
    words = scenario(drives, **CROWDED)
    for number in range(VEHICLES):
        uploads = whole_drive(words, number)
        assert [(upload.index, upload.arm) for upload in uploads] == [
            (index, arm) for index in range(FRAMES) for arm in arms_of(words)
        ]
        assert {upload.vehicle for upload in uploads} == {number}
        assert set(FATES) == {upload.fate for upload in uploads}


def test_every_captured_frame_is_in_exactly_one_count_of_the_results(drives: Path, tmp_path: Path) -> None:
    words = scenario(drives, **CROWDED, deadline_s=3.0)
    with Store(tmp_path / "s.sqlite") as store:
        for number in range(VEHICLES):
            Collector(store, words.fleet.deadline_s).receive(whole_drive(words, number), number, FRAMES, ())
        rows = [
            summarise(
                arm, codec_named(arm.source), way, store.records(*vars(arm).values()), Quality(0, 0), 1, words.fleet
            )
            for arm, way in ways_of(words).items()
        ]
    for row in rows:
        counts = (row.delivered, row.late, row.lost, row.rejected, row.dropped, row.backlog)
        assert sum(counts) == row.frames == VEHICLES * FRAMES
    for name in ("delivered", "late", "lost", "rejected", "dropped", "backlog", "duplicates"):
        assert sum(getattr(row, name) for row in rows) > 0, name


def test_bytes_queued_are_those_of_the_payloads_and_their_copies(drives: Path) -> None:
    words = scenario(drives, **CROWDED)
    frames = list(train_source(words.cameras, words.seed, 0, VEHICLES))
    for upload in whole_drive(words):
        codec, point = codec_named(upload.arm.codec), OperatingPoint.parse(upload.arm.point)
        payload = codec.encode(frames[upload.index].image, point)
        assert (upload.height, upload.width) == (HEIGHT, WIDTH)
        assert upload.payload_bytes == upload.copies * len(payload)
        if upload.fate == "dropped":
            assert (upload.copies, upload.arrival_us, upload.payload) == (0, None, None)
            assert upload.reason in ("encoder busy", "send buffer full")
        else:
            assert upload.copies in (1, 2)
            assert upload.arrival_us is not None
            assert upload.arrival_us > upload.ready_us > upload.captured_us
            assert (upload.payload is not None) == (upload.fate == "sent")
            assert upload.payload is None or len(upload.payload) == len(payload)
            assert upload.reason == ""


def test_what_the_link_carried_is_what_was_queued(drives: Path) -> None:
    """Check the conservation of bytes: an always busy link's last bit is at the sum of all bits queued."""
    words = scenario(drives, rate_mbps=0.0005)
    uploads, states = drive(Segment(words, 0, 0, (ArmState(),) * 3))
    for arm, state in zip(arms_of(words), states, strict=True):
        mine = of_arm(uploads, arm)
        queued = sum(upload.payload_bytes for upload in mine)
        idle_bits = mine[0].ready_us * 0.0005
        assert state.finished_bits == int(idle_bits) + 8 * queued
        still = sum(queued.payload_bytes for queued in state.in_flight)
        arrived = sum(u.payload_bytes for u in mine if u.arrival_us is not None and u.arrival_us <= mine[-1].ready_us)
        assert still + arrived == queued


@pytest.mark.parametrize("settings", [{}, CROWDED], ids=["easy", "crowded"])
@pytest.mark.parametrize("length", [1, 7, 32])
def test_segment_by_segment_is_the_same_as_the_whole_drive_at_once(
    settings: dict[str, Any], length: int, drives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = scenario(drives, **settings)
    monkeypatch.setattr(vehicle, "SEGMENT_FRAMES", FRAMES)
    at_once = whole_drive(words, 1)
    monkeypatch.setattr(vehicle, "SEGMENT_FRAMES", length)
    assert whole_drive(words, 1) == at_once
    assert len(at_once) == 3 * FRAMES


def test_a_segment_is_a_pure_function(drives: Path) -> None:
    words = scenario(drives, **CROWDED)
    first = drive(Segment(words, 0, 0, (ArmState(),) * 3))
    drive(Segment(words, 1, 0, (ArmState(),) * 3))
    assert drive(Segment(words, 0, 0, (ArmState(),) * 3)) == first
    middle = Segment(words, 0, 32, first[1])
    assert drive(middle) == drive(middle)


def test_a_segment_ends_with_the_drive(drives: Path) -> None:
    uploads, _ = drive(Segment(scenario(drives), 0, 32, (ArmState(),) * 3))
    assert sorted({upload.index for upload in uploads}) == list(range(32, FRAMES))


def test_vehicles_drive_through_frames_of_their_own(drives: Path) -> None:
    words = scenario(drives, rate_mbps=10)
    payloads = [[upload.payload for upload in whole_drive(words, number)] for number in range(VEHICLES)]
    assert not set(payloads[0]) & set(payloads[1])


def test_arrivals_are_the_links_own_where_nothing_is_dropped(drives: Path) -> None:
    words = scenario(drives)
    for number in range(VEHICLES):
        uploads = whole_drive(words, number)
        assert {upload.fate for upload in uploads} == {"sent"}
        for arm in arms_of(words):
            mine = of_arm(uploads, arm)
            ready_s = [upload.ready_us / US_PER_S for upload in mine]
            expected = link_for(words.fleet, words.seed, number).delivery_times(
                ready_s, [upload.payload_bytes for upload in mine]
            )
            arrivals = [upload.arrival_us / US_PER_S for upload in mine if upload.arrival_us is not None]
            assert arrivals == expected.tolist()


def test_a_payload_is_ready_when_the_device_has_encoded_it(drives: Path) -> None:
    device = Device(encode_mpx_per_s={"jpeg": 0.00192, "webp": 0.00384}, encode_watts=0, radio_joules_per_mbit=0)
    for upload in whole_drive(scenario(drives, device=device)):
        encode_us = {"jpeg": 400_000, "webp": 200_000}[upload.arm.codec]
        assert upload.captured_us == upload.index * US_PER_S
        assert upload.ready_us == upload.captured_us + encode_us
        assert upload.encode_s == pytest.approx(encode_us / US_PER_S)
        assert upload.encode_macs == 0


def test_a_slow_encoder_drops_the_frames_it_has_no_time_for(drives: Path) -> None:
    """Check by hand: 2.5 s a frame, one frame waits; the encoder is free at 2.5, 5, 7.5, 10 s and so on."""
    seconds = HEIGHT * WIDTH / 1e6 / 2.5
    device = Device(encode_mpx_per_s={"jpeg": seconds, "webp": 100}, encode_watts=0, radio_joules_per_mbit=0)
    uploads = whole_drive(scenario(drives, rate_mbps=10, device=device))
    slow = of_arm(uploads, Arm("jpeg", "quality=10"))
    kept = [upload.index for upload in slow if upload.fate == "sent"]
    # At 1 s the first frame has 1.5 s to go: more than an interval, so that frame is dropped; at 2 s it waits.
    assert kept[:8] == [0, 2, 4, 7, 9, 12, 14, 17]
    assert [upload.ready_us for upload in slow if upload.fate == "sent"][:4] == [2_500_000, 5_000_000, 7_500_000, 10**7]
    assert {upload.reason for upload in slow if upload.fate == "dropped"} == {"encoder busy"}
    assert all(upload.encode_s == 0 for upload in slow if upload.fate == "dropped")
    assert {upload.fate for upload in of_arm(uploads, Arm("webp", "quality=20"))} == {"sent"}


def test_a_full_send_buffer_drops_the_newest_frame(drives: Path) -> None:
    """Check by hand what waits when a payload is ready, which is some time after its frame's capture."""
    device = Device(encode_mpx_per_s={"jpeg": 0.00096, "webp": 0.00096}, encode_watts=0, radio_joules_per_mbit=0)
    words = scenario(drives, rate_mbps=0.001, max_backlog_bytes=2500, device=device)
    for arm in arms_of(words):
        mine = of_arm(whole_drive(words), arm)
        waiting: list[tuple[int, int]] = []
        frames = list(train_source(words.cameras, words.seed, 0, VEHICLES))
        codec, point = codec_named(arm.codec), OperatingPoint.parse(arm.point)
        dropped = 0
        for upload in mine:
            waiting = [(arrival, size) for arrival, size in waiting if arrival > upload.ready_us]
            size = len(codec.encode(frames[upload.index].image, point))
            overfull = sum(size for _, size in waiting) + size > 2500
            assert (upload.reason == "send buffer full") == overfull
            assert upload.encode_s > 0
            dropped += overfull
            if not overfull:
                assert upload.arrival_us is not None
                waiting.append((upload.arrival_us, size))
        assert 0 < dropped < FRAMES


def test_what_has_not_arrived_when_the_links_close_is_backlog(drives: Path) -> None:
    words = scenario(drives, rate_mbps=0.002)
    close_us = (FRAMES - 1 + 5) * US_PER_S
    uploads = whole_drive(words)
    for upload in uploads:
        assert upload.arrival_us is not None
        assert (upload.fate == "backlog") == (upload.arrival_us > close_us)
    assert {"backlog", "sent"} == {upload.fate for upload in uploads}


def test_a_longer_drain_brings_more_home_and_changes_nothing_else(drives: Path) -> None:
    short = whole_drive(scenario(drives, rate_mbps=0.002, drain_s=0.0))
    long = whole_drive(scenario(drives, rate_mbps=0.002, drain_s=1e6))
    assert [upload.arrival_us for upload in short] == [upload.arrival_us for upload in long]
    assert Counter(u.fate for u in long) == {"sent": 3 * FRAMES} != Counter(u.fate for u in short)


def test_without_faults_payloads_arrive_once_and_whole(drives: Path) -> None:
    frames = list(train_source(scenario(drives).cameras, 7, 0, VEHICLES))
    for upload in whole_drive(scenario(drives)):
        assert upload.payload is not None
        assert (upload.fate, upload.copies) == ("sent", 1)
        codec, point = codec_named(upload.arm.codec), OperatingPoint.parse(upload.arm.point)
        assert upload.payload == codec.encode(frames[upload.index].image, point)


def test_with_certain_loss_everything_travels_and_nothing_arrives(drives: Path) -> None:
    sent, lost = (whole_drive(scenario(drives, faults=Faults(loss_probability=p))) for p in (0.0, 1.0))
    assert {(upload.fate, upload.payload) for upload in lost} == {("lost", None)}
    assert [(u.arrival_us, u.payload_bytes) for u in lost] == [(u.arrival_us, u.payload_bytes) for u in sent]


def test_with_certain_corruption_one_bit_of_every_payload_is_wrong(drives: Path) -> None:
    whole, damaged = (whole_drive(scenario(drives, faults=Faults(corrupt_probability=p))) for p in (0.0, 1.0))
    bits = set()
    for before, after in zip(whole, damaged, strict=True):
        assert before.payload is not None
        assert after.payload is not None
        differs = int.from_bytes(before.payload) ^ int.from_bytes(after.payload)
        assert differs.bit_count() == 1
        bits.add(differs.bit_length() / (8 * len(before.payload)))
        with pytest.raises(BitstreamError):
            unpack(after.payload)
    assert min(bits) < 0.1
    assert max(bits) > 0.9


def test_with_certain_duplication_everything_travels_twice(drives: Path) -> None:
    words = scenario(drives, faults=Faults(duplicate_probability=1.0))
    for once, twice in zip(whole_drive(scenario(drives)), whole_drive(words), strict=True):
        assert (twice.copies, twice.payload_bytes) == (2, 2 * once.payload_bytes)
        assert twice.payload in (None, once.payload)
    first = of_arm(whole_drive(words), arms_of(words)[0])
    sizes = np.repeat([upload.payload_bytes // 2 for upload in first], 2)
    ready_s = np.repeat([upload.ready_us / US_PER_S for upload in first], 2)
    expected = link_for(words.fleet, words.seed, 0).delivery_times(ready_s, sizes)[::2]
    assert [u.arrival_us / US_PER_S for u in first if u.arrival_us is not None] == expected.tolist()


def test_a_lost_upload_that_was_sent_twice_counts_both_copies(drives: Path) -> None:
    faults = Faults(loss_probability=1.0, duplicate_probability=1.0)
    for upload in whole_drive(scenario(drives, faults=faults)):
        assert (upload.fate, upload.copies) in (("lost", 2), ("backlog", 2))


def test_faults_come_as_often_as_they_are_declared(drives: Path) -> None:
    faults = Faults(loss_probability=0.3, corrupt_probability=0.2, duplicate_probability=0.6)
    words = scenario(drives, rate_mbps=10, faults=faults)
    uploads = [upload for number in range(VEHICLES) for upload in whole_drive(words, number)]
    count = len(uploads)
    for probability, seen in (
        (0.3, sum(upload.fate == "lost" for upload in uploads)),
        (0.6, sum(upload.copies == 2 for upload in uploads)),
    ):
        assert abs(seen - probability * count) < 4 * math.sqrt(count * probability * (1 - probability))


def test_an_outage_delays_what_is_sent_in_it(drives: Path) -> None:
    plain = whole_drive(scenario(drives, rate_mbps=1))
    hit = whole_drive(scenario(drives, rate_mbps=1, faults=Faults(outages_s=((5.0, 9.0),))))
    for before, after in zip(plain, hit, strict=True):
        assert before.arrival_us is not None
        assert after.arrival_us is not None
        if 5 <= before.captured_us / US_PER_S < 9:
            assert before.arrival_us < 9 * US_PER_S < after.arrival_us < 10 * US_PER_S
        elif before.captured_us != 9 * US_PER_S:
            assert after.arrival_us == before.arrival_us
        else:
            assert after.arrival_us > before.arrival_us, "it waits behind what the outage held up"


def with_policies(drives: Path, **settings: Any) -> Scenario:
    policies = (Link(kind="link"), Budget(kind="budget", max_bpp=8.0), TargetBpp(kind="target-bpp", bpp=6.0))
    codecs = (CodecChoice(name="jpeg", points=("quality=80",), policies=policies),)
    return scenario(drives, **settings).model_copy(update={"codecs": codecs})


@pytest.mark.parametrize("length", [1, 7])
def test_a_drive_under_policies_may_be_cut_anywhere(length: int, drives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = with_policies(drives, **CROWDED)
    monkeypatch.setattr(vehicle, "SEGMENT_FRAMES", FRAMES)
    at_once = whole_drive(words, 1)
    monkeypatch.setattr(vehicle, "SEGMENT_FRAMES", length)
    assert whole_drive(words, 1) == at_once


def test_every_encoded_frame_names_the_point_that_made_its_payload(drives: Path) -> None:
    words = with_policies(drives, rate_mbps=0.008)
    frames = list(train_source(words.cameras, words.seed, 0, VEHICLES))
    points: dict[Arm, set[str]] = {arm: set() for arm in arms_of(words)}
    for upload in whole_drive(words):
        assert bool(upload.used_point) == (upload.reason not in ("encoder busy", "skipped"))
        if upload.payload is not None:
            point = OperatingPoint.parse(upload.used_point)
            assert upload.payload == codec_named("jpeg").encode(frames[upload.index].image, point)
            points[upload.arm].add(upload.used_point)
    assert points[Arm("jpeg", "quality=80")] == {"quality=80"}
    assert all(len(found) > 1 for arm, found in points.items() if arm.point != "quality=80")


def test_a_policy_that_follows_the_link_delivers_what_a_fixed_point_leaves_waiting(drives: Path) -> None:
    words = with_policies(drives, rate_mbps=0.005, deadline_s=6.0)
    in_time = Counter(
        upload.arm.point
        for upload in whole_drive(words)
        if upload.fate == "sent" and (upload.arrival_us or 0) - upload.captured_us <= 6 * US_PER_S
    )
    assert in_time["link"] > 1.2 * in_time["quality=80"]
    assert in_time["budget,max_bpp=8"] > 1.2 * in_time["quality=80"]


def test_a_device_rests_so_that_encoding_takes_no_more_than_its_duty(drives: Path) -> None:
    """Check by hand: 0.4 s a frame, and at a duty of a quarter 1.2 s of rest: every frame but one in five is taken."""
    words = {"encode_mpx_per_s": {"jpeg": 0.00192, "webp": 100}, "encode_watts": 0, "radio_joules_per_mbit": 0}
    resting, tireless = (Device(**words, duty=duty) for duty in (0.25, 1.0))
    slow = of_arm(whole_drive(scenario(drives, rate_mbps=10, device=resting)), Arm("jpeg", "quality=10"))
    taken = [upload for upload in slow if upload.fate == "sent"]
    assert len(taken) / FRAMES == pytest.approx(1 / 1.6, abs=0.03)
    assert [upload.ready_us for upload in taken[:3]] == [400_000, 2_000_000, 3_600_000]
    assert {upload.fate for upload in whole_drive(scenario(drives, rate_mbps=10, device=tireless))} == {"sent"}


def test_vehicles_of_a_group_have_its_device_and_its_link(drives: Path) -> None:
    slow = Device(encode_mpx_per_s={"jpeg": 0.00192, "webp": 1}, encode_watts=1, radio_joules_per_mbit=1)
    links = [ConstantUplink(kind="constant", rate_mbps=rate) for rate in (0.05, 10.0)]
    groups = (
        Group(name="narrow", vehicles=1, uplink=links[0], device=FAST),
        Group(name="weak", vehicles=1, uplink=links[1], device=slow),
    )
    words = scenario(drives).model_copy(update={"fleet": Fleet(groups=groups, drain_s=5.0)})
    for number, (device, rate) in enumerate(((FAST, 0.05), (slow, 10.0))):
        alone = scenario(drives, rate_mbps=rate, device=device)
        assert whole_drive(words, number) == whole_drive(alone, number)


def test_arms_are_every_codec_at_every_point_in_order(drives: Path) -> None:
    assert [arm.key for arm in arms_of(scenario(drives))] == ["jpeg:quality=10", "jpeg:quality=60", "webp:quality=20"]
