from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roadbits.codecs.adaptation.danice import adapted_codec
from roadbits.codecs.adaptation.update import unadapted
from roadbits.codecs.bitstream import CodecId, Container, pack
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.legacy.stills import JPEG, WEBP
from roadbits.codecs.neural.still import NeuralStill
from roadbits.fleet.collector import Collector, states_from, upload_id
from roadbits.fleet.policies import Account
from roadbits.fleet.rate_control import ControlState
from roadbits.fleet.rate_profile import Trial
from roadbits.fleet.store import Record, Store
from roadbits.fleet.throughput import Queued, Throughput
from roadbits.fleet.vehicle import Arm, ArmState, Upload

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
POINT = OperatingPoint.of(quality=30)
PAYLOAD = JPEG.encode(IMAGE, POINT)
ARM = Arm("jpeg", "quality=30")
SENT = Upload(
    ARM,
    vehicle=3,
    index=5,
    camera="cam",
    domain="day",
    height=20,
    width=30,
    captured_us=5_000_000,
    ready_us=5_100_000,
    arrival_us=9_000_000,
    payload_bytes=len(PAYLOAD),
    fate="sent",
    payload=PAYLOAD,
    copies=1,
    encode_s=0.1,
    encode_macs=7,
    used_point="quality=10",
)
CONTROL = ControlState((Trial(3, -1.5, 30.25), Trial(9, 0.5, 0.0)), -0.125, Account(0.5, 12.75))
STATES = (
    ArmState(9, 8, (Queued(7, 6, 3), Queued(5, 4, 2)), Throughput(9.5, 0.25), CONTROL),
    ArmState(),
)


def received(folder: Path, *uploads: Upload, deadline_s: float = 60.0) -> list[Record]:
    with Store(folder / "s.sqlite") as store:
        Collector(store, deadline_s).receive(uploads, 3, 6, STATES)
        return list(store.records("jpeg", "quality=30", payloads=True))


def verdict(folder: Path, upload: Upload, deadline_s: float = 60.0) -> tuple[str, str]:
    (row,) = received(folder, upload, deadline_s=deadline_s)
    assert row.payload == upload.payload
    return row.verdict, row.reason


def test_a_good_upload_is_delivered_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    assert received(tmp_path, SENT) == [
        Record(
            upload_id="jpeg:quality=30/3/5",
            codec="jpeg",
            point="quality=30",
            vehicle=3,
            frame=5,
            camera="cam",
            domain="day",
            height=20,
            width=30,
            captured_us=5_000_000,
            ready_us=5_100_000,
            arrival_us=9_000_000,
            payload_bytes=len(PAYLOAD),
            verdict="delivered",
            reason="",
            copies=1,
            encode_s=0.1,
            encode_macs=7,
            used_point="quality=10",
            clip=-1,
            payload=PAYLOAD,
        )
    ]


@pytest.mark.parametrize(
    ("fate", "reason"), [("lost", ""), ("backlog", ""), ("dropped", "encoder busy"), ("dropped", "send buffer full")]
)
def test_the_fate_that_the_vehicle_knows_is_the_verdict(fate: str, reason: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, replace(SENT, fate=fate, reason=reason, payload=None)) == (fate, reason)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda payload: payload[:-1], "its header promises .*: truncated?"),
        (lambda payload: payload + b"x", "its header promises .*: something was appended?"),
        (lambda payload: b"", "payload is 0 bytes, shorter than any header: truncated?"),
        (lambda payload: b"XX" + payload[2:], "payload begins with b'XX', expected b'RB': not a roadbits payload"),
        (lambda payload: b"RB\x09" + payload[3:], "payload has format version 9, this program reads 1"),
        (lambda payload: payload[:40] + b"\x00\x01" + payload[42:], "payload does not match its own digest"),
    ],
)
def test_a_damaged_payload_is_quarantined_with_its_reason(
    damage: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    damaged = damage(PAYLOAD)
    assert damaged != PAYLOAD
    (row,) = received(tmp_path, replace(SENT, payload=damaged))
    assert row.verdict == "rejected"
    assert row.payload == damaged
    assert row.reason.startswith("payload ")
    assert [part in row.reason for part in reason.split(".*")] == [True] * len(reason.split(".*"))


@pytest.mark.parametrize("bit", range(0, 8 * len(PAYLOAD), 97))
def test_any_flipped_bit_is_found(bit: int, tmp_path: Path) -> None:
    damaged = bytearray(PAYLOAD)
    damaged[bit // 8] ^= 1 << bit % 8
    assert verdict(tmp_path, replace(SENT, payload=bytes(damaged)))[0] == "rejected"


@pytest.mark.parametrize(("height", "width"), [(30, 20), (21, 30), (20, 29)])
def test_a_payload_of_another_size_than_the_cameras_is_rejected(height: int, width: int, tmp_path: Path) -> None:
    assert verdict(tmp_path, replace(SENT, height=height, width=width)) == (
        "rejected",
        f"payload is 20 x 30 pixels, the camera has {height} x {width}",
    )


def test_a_payload_of_another_codec_is_rejected(tmp_path: Path) -> None:
    assert verdict(tmp_path, replace(SENT, payload=WEBP.encode(IMAGE, POINT))) == (
        "rejected",
        "payload is of webp, the vehicle uses jpeg",
    )


def test_a_body_that_does_not_decode_is_left_to_the_decoder(tmp_path: Path) -> None:
    payload = pack(Container(CodecId.JPEG, 20, 30, (30,), b"no jpeg"))
    assert verdict(tmp_path, replace(SENT, payload=payload)) == ("delivered", "")


@pytest.mark.parametrize(
    ("arrival_us", "expected"),
    [
        (7_500_000, ("delivered", "")),
        (7_500_001, ("late", "arrived 2.5 s after capture")),
        (65_000_000, ("late", "arrived 60.0 s after capture")),
    ],
)
def test_an_upload_is_late_beyond_the_deadline_from_its_capture(
    arrival_us: int, expected: tuple[str, str], tmp_path: Path
) -> None:
    assert verdict(tmp_path, replace(SENT, arrival_us=arrival_us), deadline_s=2.5) == expected


def test_a_damaged_payload_that_is_late_is_rejected(tmp_path: Path) -> None:
    assert verdict(tmp_path, replace(SENT, payload=PAYLOAD[:-1]), deadline_s=0.1)[0] == "rejected"


def test_a_repeated_upload_counts_once(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        collector = Collector(store, 60.0)
        other = replace(SENT, index=6)
        assert collector.receive([SENT, SENT, other], 3, 7, STATES) == 2
        assert collector.receive([SENT, other], 3, 7, STATES) == 0
        assert store.count() == 2


def test_uploads_of_other_arms_vehicles_and_frames_count_apart(tmp_path: Path) -> None:
    others = [
        SENT,
        replace(SENT, index=6),
        replace(SENT, vehicle=4),
        replace(SENT, arm=Arm("jpeg", "quality=31")),
        replace(SENT, arm=Arm("webp", "quality=30"), payload=WEBP.encode(IMAGE, POINT)),
    ]
    with Store(tmp_path / "s.sqlite") as store:
        assert Collector(store, 60.0).receive(others, 3, 7, STATES) == 5


def test_upload_ids_name_arm_vehicle_and_frame() -> None:
    assert upload_id(ARM, 3, 5) == "jpeg:quality=30/3/5"
    assert upload_id(ARM, 1, 23) != upload_id(ARM, 12, 3)


def test_the_states_of_a_vehicle_are_committed_with_its_uploads(tmp_path: Path) -> None:
    received(tmp_path, SENT)
    with Store(tmp_path / "s.sqlite") as store:
        ((vehicle, (next_frame, text)),) = store.progress().items()
    assert (vehicle, next_frame, states_from(text)) == (3, 6, STATES)


@pytest.fixture(scope="module")
def adapted() -> NeuralStill:
    source = codec_named("cae")
    assert isinstance(source, NeuralStill)
    return adapted_codec(source, unadapted(source.model, with_residuals=False).freeze("night"))


@pytest.mark.parametrize(
    ("here_s", "expected"),
    [
        ({}, ("rejected", "needs the adapter {} on the cae model")),
        ({"ab" * 6: 1}, ("rejected", "needs the adapter {} on the cae model")),
        ({"own": 0}, ("delivered", "")),
        ({"own": 64.9}, ("delivered", "")),
        ({"own": 65.1}, ("late", "its adapter arrived 60.1 s after capture")),
    ],
)
def test_a_payload_waits_for_its_adapter(
    tmp_path: Path, adapted: NeuralStill, here_s: dict[str, float], expected: tuple[str, str]
) -> None:
    image = np.repeat(np.repeat(IMAGE, 2, 0), 2, 1)
    payload = adapted.encode(image, adapted.points[0])
    arm = Arm("cae+local", str(adapted.points[0]))
    upload = replace(SENT, arm=arm, payload=payload, payload_bytes=len(payload), height=40, width=60)
    own = adapted.adapter_hash
    here_us = {own if name == "own" else bytes.fromhex(name): round(s * 1e6) for name, s in here_s.items()}
    with Store(tmp_path / "s.sqlite") as store:
        Collector(store, 60.0, here_us).receive([upload], 3, 6, STATES)
        (row,) = store.records(arm.codec, arm.point, payloads=True)
    assert (row.verdict, row.payload) == (expected[0], payload)
    assert row.arrival_us == max([9_000_000, *(us for us in here_us.values() if row.verdict != "rejected")])
    assert expected[1].format(own.hex()) in row.reason
