"""Vehicles that send clips: from the camera to the results."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.legacy.clips import H264
from roadbits.fleet.camera_words import FolderCameras
from roadbits.fleet.cli import cli
from roadbits.fleet.collector import Collector
from roadbits.fleet.forecast import forecast
from roadbits.fleet.rules import CodecChoice
from roadbits.fleet.scenario import ConstantUplink, Device, Faults, Fleet, Scenario
from roadbits.fleet.sources import train_source
from roadbits.fleet.store import Record, Store
from roadbits.fleet.vehicle import Arm, ArmState, Segment, Upload, arms_of, drive

FRAMES, HEIGHT, WIDTH = 44, 64, 96
FAST = Device(encode_mpx_per_s={"jpeg": 100, "h264": 100}, encode_watts=5, radio_joules_per_mbit=1)
CRF = OperatingPoint.of(crf=39)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drive: a picture that moves."""
    folder = tmp_path_factory.mktemp("drives") / "car"
    folder.mkdir()
    rng = np.random.default_rng(3)
    coarse = np.kron(rng.integers(0, 256, (8, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for k in range(FRAMES):
        PIL.Image.fromarray(coarse[:HEIGHT, 2 * k : 2 * k + WIDTH]).save(folder / f"{k:03}.png")
    return folder.parent


def scenario(drives: Path, choice: CodecChoice, **fleet: Any) -> Scenario:
    uplink = ConstantUplink(kind="constant", rate_mbps=1.0)
    words: dict[str, Any] = {"vehicles": 1, "uplink": uplink, "device": FAST, "drain_s": 5.0}
    cameras = FolderCameras(kind="folder", images=str(drives), interval_s=0.1)
    return Scenario(name="c", seed=7, cameras=cameras, fleet=Fleet(**words | fleet), codecs=(choice,))


def whole_drive(words: Scenario) -> list[Upload]:
    states = (ArmState(),) * len(arms_of(words))
    uploads: list[Upload] = []
    for first in range(0, FRAMES, 32):
        some, states = drive(Segment(words, 0, first, states))
        uploads += some
    return uploads


def collected(words: Scenario, folder: Path, uploads: list[Upload]) -> list[Record]:
    (arm,) = arms_of(words)
    with Store(folder / "s.sqlite") as store:
        Collector(store, words.fleet.deadline_s).receive(uploads, 0, FRAMES, ())
        return list(store.records(arm.codec, arm.point, payloads=True))


def images_of(words: Scenario) -> list[np.ndarray]:
    return [frame.image for frame in train_source(words.cameras, words.seed, 0, 1)]


def test_a_clip_is_one_payload_and_the_last_one_what_is_left_of_the_drive(drives: Path) -> None:
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=16))
    uploads, images = whole_drive(words), images_of(words)
    assert [upload.index for upload in uploads] == list(range(FRAMES))
    assert [upload.clip for upload in uploads] == [0] * 16 + [16] * 16 + [32] * 12
    for upload in uploads:
        if upload.index == upload.clip:
            expected = H264.encode(np.stack(images[upload.clip : upload.clip + 16]), CRF)
            assert upload.payload == expected
            assert upload.payload_bytes == len(expected)
        else:
            assert (upload.payload, upload.payload_bytes) == (None, 0)
        assert upload.fate == "sent"
        assert upload.captured_us == 100_000 * upload.index


def test_a_clip_ends_where_another_camera_s_frames_begin(drives: Path, tmp_path: Path) -> None:
    """Even one whose frames have another size, which no clip could hold."""
    for name, count, height in (("a", 6, HEIGHT), ("b", FRAMES - 6, HEIGHT + 16)):
        (tmp_path / name).mkdir()
        for k in range(count):
            picture = PIL.Image.open(drives / "car" / f"{k:03}.png")
            picture.resize((WIDTH, height)).save(tmp_path / name / f"{k}.png")
    words = scenario(tmp_path, CodecChoice(name="h264", points=("crf=39",), clip_frames=8))
    uploads = whole_drive(words)
    assert [upload.index for upload in uploads] == list(range(FRAMES))
    clips = {0: 6, 6: 8, 14: 8, 22: 8, 30: 2, 32: 8, 40: 4}
    assert Counter(upload.clip for upload in uploads) == clips
    assert {upload.fate for upload in uploads} == {"sent"}
    (line,) = [line for line in forecast(words) if line.startswith("bytes")]
    assert "(first 6 frames)" in line


def test_a_clip_leaves_once_its_last_frame_is_there_and_encoded(drives: Path) -> None:
    slow = Device(encode_mpx_per_s={"h264": 0.5}, encode_watts=5, radio_joules_per_mbit=1)
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=8), device=slow)
    seconds = 8 * HEIGHT * WIDTH / 0.5e6
    for upload in whole_drive(words)[:40]:
        assert upload.ready_us == pytest.approx((upload.clip + 7) * 100_000 + 1e6 * seconds, abs=2)
        assert upload.encode_s == pytest.approx(seconds if upload.index == upload.clip else 0.0)


def test_of_so_many_frames_one_goes_into_the_clip(drives: Path) -> None:
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=4, every=4))
    uploads, images = whole_drive(words), images_of(words)
    chosen = [upload for upload in uploads if upload.fate == "sent"]
    assert [upload.index for upload in chosen] == list(range(0, FRAMES, 4))
    assert chosen[0].payload == H264.encode(np.stack(images[0:16:4]), CRF)
    skipped = [upload for upload in uploads if upload.fate == "dropped"]
    assert {upload.reason for upload in skipped} == {"skipped"}
    assert len(chosen) + len(skipped) == FRAMES


def test_stills_may_be_sent_now_and_then(drives: Path) -> None:
    words = scenario(drives, CodecChoice(name="jpeg", points=("quality=10",), every=8))
    sent = [upload.index for upload in whole_drive(words) if upload.fate == "sent"]
    assert sent == list(range(0, FRAMES, 8))


def test_frames_of_a_clip_share_its_verdict(drives: Path, tmp_path: Path) -> None:
    faults = Faults(loss_probability=0.3, corrupt_probability=0.3)
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=2), faults=faults)
    records = collected(words, tmp_path, whole_drive(words))
    verdicts = {record.clip: set() for record in records}  # type: dict[int, set[str]]
    for record in records:
        verdicts[record.clip].add(record.verdict)
    assert all(len(each) == 1 for each in verdicts.values())
    assert {verdict for each in verdicts.values() for verdict in each} == {"delivered", "lost", "rejected"}


def test_a_late_clip_is_late_by_its_first_frame(drives: Path, tmp_path: Path) -> None:
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=16), deadline_s=1.2)
    records = collected(words, tmp_path, whole_drive(words))
    assert {record.verdict for record in records if record.clip < 32} == {"late"}
    assert {record.verdict for record in records if record.clip == 32} == {"delivered"}


def test_a_segment_computed_again_gives_the_same(drives: Path) -> None:
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=32))
    assert whole_drive(words) == whole_drive(words)


def test_another_codec_s_clip_is_rejected(drives: Path, tmp_path: Path) -> None:
    words = scenario(drives, CodecChoice(name="h264", points=("crf=39",), clip_frames=16))
    uploads = whole_drive(words)
    mislabelled = [Upload(**{**vars(upload), "arm": Arm("hevc", "crf=39,frames=16")}) for upload in uploads[:16]]
    with Store(tmp_path / "s.sqlite") as store:
        Collector(store, 60.0).receive(mislabelled, 0, FRAMES, ())
        (reason,) = {record.reason for record in store.records("hevc", "crf=39,frames=16")}
    assert reason == "payload is of h264, the vehicle uses hevc"


SCENARIO = """\
name: clips
seed: 7
cameras:
  kind: street
  height: 64
  width: 96
  domains: [day]
  frames_per_vehicle: 16
  interval_s: 0.2
  test_frames: 6
  test_vehicles: 1
fleet:
  vehicles: 2
  uplink: {kind: constant, rate_mbps: 2}
  device: {encode_mpx_per_s: {jpeg: 30, h264: 30}, encode_watts: 5, radio_joules_per_mbit: 1}
codecs:
  - {name: jpeg, points: [quality=10], every: 8}
  - {name: h264, points: [crf=31], clip_frames: 8}
downstream:
  steps: 2
  batch_size: 2
  crop: [64, 64]
  setups: [OO, CO, CC, OC]
"""


def test_clips_and_stills_end_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips.yaml").write_text(SCENARIO)
    for out, resume in (("run", ()), ("run", ("--resume",)), ("again", ())):
        arguments = ["run", "clips.yaml", "--out", out, "--backend", "local", "--quiet", *resume]
        done = CliRunner().invoke(cli, arguments, prog_name="roadbits")
        assert done.exit_code == 0, done.output
    first, again = (json.loads(Path(f"{folder}/results.json").read_text()) for folder in ("run", "again"))
    assert first["digest"] == again["digest"]
    stills, clips = first["uploads"]
    assert (stills["point"], stills["delivered"], stills["dropped_skipped"]) == ("quality=10,every=8", 4, 28)
    assert (clips["point"], clips["delivered"]) == ("crf=31,frames=8", 32)
    assert clips["psnr_db"] > 20
    assert 0 < clips["bpp"] < stills["bpp"]
    measured = {(row["codec"], row["setup"]): row for row in first["downstream"]}
    assert measured["h264", "CO"]["train_frames"] == 32
    assert measured["jpeg", "CO"]["train_frames"] == 4
    assert measured["h264", "CC"]["test_bpp"] < measured["jpeg", "CC"]["test_bpp"]
    told = CliRunner().invoke(cli, ["check", "clips.yaml"], prog_name="roadbits")
    assert told.exit_code == 0, told.output
    assert "h264:crf=31,frames=8" in told.output
    page = Path("run/report.html").read_text("utf-8")
    assert "crf=31,frames=8" in page
