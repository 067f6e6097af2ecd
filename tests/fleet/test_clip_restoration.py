"""Runs whose vehicles send clips, restored by DCNGAN."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from roadbits.fleet.archive import Arrays
from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.plan import Plan
from roadbits.fleet.results import Results
from roadbits.fleet.run import Run
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.vehicle import Arm
from roadbits.fleet.yaml_file import YamlFileError
from roadbits.restoration.dcngan import ClipRestorer, ClipRestorerSpec
from roadbits.restoration.dcngan_file import pack_clip_restorer

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
H264 = Arm("h264", "crf=40,frames=4")
SETTINGS = (
    "fleet.vehicles=2",
    "fleet.faults={}",
    "cameras.frames_per_vehicle=8",
    "cameras.test_frames=4",
    "fleet.device.encode_mpx_per_s={h264: 60, jpeg: 60}",
    "codecs=[{name: h264, points: [crf=40], clip_frames: 4}]",
    "downstream.steps=2",
    "downstream.seeds=[0]",
    "downstream.setups=[OO, CO, RO, RC]",
)


def scenario(*settings: str) -> Scenario:
    (found,) = load_scenario(SMOKE, (*SETTINGS, *settings))
    return found


def execute(folder: Path, *settings: str) -> Results:
    return Run(scenario(*settings), folder, LocalBackend, quiet=True).execute(resume=folder.exists())


def restorer(folder: Path, codec: str = "h264", brightness: float = 0.02) -> str:
    """Write a restorer of clips that makes them brighter, and return the words that name it."""
    torch.manual_seed(0)
    spec = ClipRestorerSpec((codec,), 4, 1)
    network = ClipRestorer(spec)
    torch.nn.init.constant_(network.tail.bias, brightness)  # type: ignore[arg-type]
    weights = save({name: value.contiguous() for name, value in network.state_dict().items()})
    file = folder / f"{codec}-{brightness}.safetensors"
    file.write_bytes(pack_clip_restorer(spec, weights))
    return f"restoration={{restorers: [dcngan], dcngan: {file}}}"


def test_clips_are_restored_and_trained_on(tmp_path: Path) -> None:
    settings = restorer(tmp_path)
    results = execute(tmp_path / "run", settings)
    assert [row.treatment for row in results.restoration] == ["none", "dcngan"]
    assert {(row.setup, row.restorer) for row in results.downstream} == {
        ("OO", None),
        ("CO", None),
        ("RO", "dcngan"),
        ("RC", "dcngan"),
    }
    assert results.restoration[1].reference_frames == 0
    plan, stages = Plan(scenario(settings)), tmp_path / "run" / "stages"
    assert json.loads((stages / plan.decode_key(H264) / "clips.json").read_text()) == [4] * 4
    decoded = Arrays(stages / plan.decode_key(H264), "images")
    restored = Arrays(stages / plan.restore_key(H264, "dcngan"), "images")
    assert len(decoded) == len(restored) == 16
    assert all(
        4 <= (bright.astype(int) - plain).mean() <= 6 for plain, bright in zip(decoded, restored, strict=True)
    ), "not as much brighter as this restorer makes frames"


def test_another_file_by_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    settings = restorer(tmp_path)
    plan = Plan(scenario(settings))
    before = plan.restore_key(H264, "dcngan")
    path = Path(scenario(settings).restoration.dcngan)  # type: ignore[union-attr, arg-type]
    restorer(tmp_path, brightness=0.5)
    path.write_bytes((tmp_path / "h264-0.5.safetensors").read_bytes())
    assert plan.restore_key(H264, "dcngan") != before


def test_a_codec_it_never_learned_is_refused_or_told(tmp_path: Path) -> None:
    settings = restorer(tmp_path, "av1")
    with pytest.raises(DataError, match=r"restoration\.dcngan: .* learned av1, not h264: train another"):
        execute(tmp_path / "refused", settings)
    results = execute(tmp_path / "warned", settings, "restoration.untrained_codec=warn")
    assert any("h264" in note and "not told" in note for note in results.notes)


def test_a_file_that_is_no_restorer_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    settings = f"restoration={{restorers: [dcngan], dcngan: {tmp_path}/x.safetensors}}"
    with pytest.raises(DataError, match=r"x\.safetensors: no file of a restorer of clips.*roadbits train"):
        execute(tmp_path / "run", settings)
    with pytest.raises(DataError, match="No such file"):
        execute(tmp_path / "other", settings.replace("x.safe", "y.safe"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("restoration={restorers: [gan]}",), "has none for h264:crf=40,frames=4: add dcngan, which restores clips"),
        (("restoration={restorers: [dcngan]}",), "restoration.dcngan names the file of restorer dcngan"),
        (
            (
                "restoration={restorers: [dcngan], dcngan: x}",
                "codecs=[{name: jpeg, points: [quality=10]}, {name: h264, points: [crf=40], clip_frames: 4}]",
            ),
            "has none for jpeg:quality=10: add one for stills",
        ),
        (
            ("restoration={restorers: [dcngan], dcngan: x, remedies: [references]}",),
            "set some apart with cameras.reference",
        ),
    ],
)
def test_restorers_that_do_not_fit_what_is_sent_are_refused(settings: tuple[str, ...], expected: str) -> None:
    with pytest.raises(YamlFileError, match=expected):
        scenario(*settings)
