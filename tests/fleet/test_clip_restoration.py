"""Runs whose vehicles send clips, restored by DCNGAN."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from roadbits.fleet.archive import Arrays
from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.cli import cli
from roadbits.fleet.clip_restorer_file import clip_restorer_of
from roadbits.fleet.conditions import condition_of
from roadbits.fleet.finished_stages import StageFolders
from roadbits.fleet.plan import Plan
from roadbits.fleet.results import Results
from roadbits.fleet.run import Run
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.vehicle import Arm
from roadbits.fleet.yaml_file import YamlFileError
from roadbits.restoration.dcngan import ClipRestorer, ClipRestorerSpec, restore_clip
from roadbits.restoration.dcngan_file import open_clip_restorer, pack_clip_restorer

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
H264 = Arm("h264", "crf=40,frames=4")
BOTH = "codecs=[{name: jpeg, points: [quality=10]}, {name: h264, points: [crf=40], clip_frames: 4}]"
LEARNING = "channels: 8, blocks: [1, 1, 1], first_steps: 2, steps: 2, batch_size: 2, crop: 64"
REFERENCE = "cameras.reference={frames_per_vehicle: 3, vehicles: 1}"
SETTINGS = (
    "fleet.vehicles=2",
    "fleet.faults={}",
    "cameras.frames_per_vehicle=6",
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


def restorer(folder: Path, codec: str = "h264", seed: int = 0) -> Path:
    """Write a restorer of clips that does something to them, another for each condition, and return its file."""
    torch.manual_seed(seed)
    spec = ClipRestorerSpec((codec,), 4, 1)
    network = ClipRestorer(spec)
    with torch.no_grad():
        for layer in (network.tail, network.gates):
            layer.weight.normal_(0, 0.1)
    file = folder / f"{codec}.safetensors"
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    file.write_bytes(pack_clip_restorer(spec, save(weights)))
    return file


def words(file: Path, *restorers: str, more: str = "") -> str:
    return f"restoration={{restorers: [{', '.join((*restorers, 'dcngan'))}], dcngan: {file}{more and ', ' + more}}}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Results]:
    folder = tmp_path_factory.mktemp("clips")
    file = restorer(folder)
    return file, folder / "run", execute(folder / "run", words(file))


def test_clips_are_restored_and_trained_on(whole: tuple[Path, Path, Results]) -> None:
    results = whole[2]
    assert [row.treatment for row in results.restoration] == ["none", "dcngan"]
    assert {(row.setup, row.restorer) for row in results.downstream} == {
        ("OO", None),
        ("CO", None),
        ("RO", "dcngan"),
        ("RC", "dcngan"),
    }
    none, restored = results.restoration
    assert none.psnr_db != restored.psnr_db
    assert restored.reference_frames == 0


@pytest.mark.parametrize("condition", ["told", "untold", "wrong"])
def test_each_clip_is_restored_by_itself_as_it_was_coded(
    condition: str, whole: tuple[Path, Path, Results], tmp_path: Path
) -> None:
    """Drives of six frames: clips of four and of two."""
    file, folder, _ = whole
    settings = words(file, more=f"condition: {condition}")
    if condition != "told":
        folder = tmp_path / "run"
        execute(folder, settings)
    plan, stages = Plan(scenario(settings), file.read_bytes()), folder / "stages"
    decoded_at = stages / plan.decode_key(H264)
    lengths = json.loads((decoded_at / "clips.json").read_text())
    assert lengths == [4, 2] * 2
    decoded = Arrays(decoded_at, "images")
    restored = list(Arrays(stages / plan.restore_key(H264, "dcngan"), "images"))
    told = [condition_of("h264", *each) for each in json.loads((decoded_at / "told.json").read_text())]
    opened = open_clip_restorer(file.read_bytes())
    expected = [
        frame
        for a, b in itertools.pairwise(itertools.accumulate(lengths, initial=0))
        for frame in restore_clip(opened, np.stack(decoded[a:b]), told[a:b])
    ]
    as_expected = [np.array_equal(ours, theirs) for ours, theirs in zip(restored, expected, strict=True)]
    assert all(as_expected) if condition == "told" else not any(as_expected)


def test_a_run_goes_on_and_is_looked_at_without_the_file_it_named(tmp_path: Path) -> None:
    file = restorer(tmp_path)
    before = execute(tmp_path / "run", words(file))
    key = StageFolders(tmp_path / "run").plan.restore_key(H264, "dcngan")
    file.unlink()
    assert StageFolders(tmp_path / "run").restored(H264, "dcngan") is not None
    assert execute(tmp_path / "run", words(file)).digest == before.digest
    restorer(tmp_path, seed=1)  # another by the same name
    assert execute(tmp_path / "run", words(file)).digest != before.digest
    assert StageFolders(tmp_path / "run").plan.restore_key(H264, "dcngan") != key
    exported = tmp_path / "exported"
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "run"), str(exported), "--setup", "RO"])
    assert result.exit_code == 0, result.output
    assert json.loads((exported / "manifest.json").read_text())["restorer"] == "dcngan"


def test_stills_and_clips_have_restorers_of_their_own(tmp_path: Path) -> None:
    settings = (words(restorer(tmp_path), "mse", more=LEARNING), BOTH, REFERENCE, "downstream.setups=[OO, CO, RO]")
    results = execute(tmp_path / "run", *settings)
    rows = [(row.codec, row.treatment, row.reference_frames) for row in results.restoration]
    assert rows == [("jpeg", "none", 0), ("jpeg", "mse", 3), ("h264", "none", 0), ("h264", "dcngan", 0)]


def test_a_codec_it_never_learned_is_refused_or_told(tmp_path: Path) -> None:
    settings = words(restorer(tmp_path, "av1"))
    with pytest.raises(DataError, match=r"restoration\.dcngan: .* learned av1, not h264: train another"):
        execute(tmp_path / "refused", settings)
    assert not (tmp_path / "refused").exists(), "refused only after something was written"
    results = execute(tmp_path / "warned", settings, "restoration.untrained_codec=warn")
    assert any("h264" in note and "not told" in note for note in results.notes)


def test_a_file_that_is_no_restorer_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"x\.safetensors: no file of a restorer of clips.*roadbits train"):
        clip_restorer_of(scenario(words(tmp_path / "x.safetensors")), tmp_path)
    with pytest.raises(DataError, match="No such file"):
        clip_restorer_of(scenario(words(tmp_path / "y.safetensors")), tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("restoration={restorers: [gan]}",), "has none for h264:crf=40,frames=4: add dcngan, which restores clips"),
        (("restoration={restorers: [gan, dcngan], dcngan: x}",), "names gan, which restores stills, and no arm"),
        (("restoration={restorers: [gan, dcngan], dcngan: x}", "codecs=[{name: jpeg, points: [quality=10]}]"),
         "names dcngan, which restores clips, and no arm"),
        (("restoration={restorers: [dcngan]}",), "restoration.dcngan names the file of restorer dcngan"),
        (("restoration={restorers: [dcngan], dcngan: x}", BOTH), "has none for jpeg:quality=10: add one for stills"),
        (("restoration={restorers: [dcngan], dcngan: x, trained_on: [{name: jpeg, points: [quality=9]}]}",),
         "restoration.trained_on is for restorers of stills"),
        (("restoration={restorers: [dcngan, gan], dcngan: x, trained_on: [{name: av1, points: [crf=60]}]}", BOTH,
          REFERENCE), "restoration.trained_on names av1: restorers of stills learn no codec of clips"),
        (("restoration={restorers: [dcngan], dcngan: x, remedies: [references]}",),
         "set some apart with cameras.reference"),
    ],
)  # fmt: skip
def test_restorers_that_do_not_fit_what_is_sent_are_refused(settings: tuple[str, ...], expected: str) -> None:
    with pytest.raises(YamlFileError, match=expected):
        scenario(*settings)
