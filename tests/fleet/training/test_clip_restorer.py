import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.legacy.clips import H264
from roadbits.fleet.conditions import condition_of
from roadbits.fleet.training.clip_restorer import Coded, degraded
from roadbits.fleet.training.file import load_training
from roadbits.restoration.dcngan_file import open_clip_restorer
from roadbits.restoration.training import RestorerTraining
from tests.fleet.command_line import written
from tests.fleet.training.recipes import done, failed, train

CLIPS = "{kind: moving-photographs, path: pictures, clips: 3, frames: 4, side: 64}"
HELD_OUT = "{kind: moving-photographs, path: held-out, clips: 2, frames: 3, side: 64, seed: 9}"


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    """Lay out a few pictures."""
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    Path("held-out").mkdir()
    for number in range(3):
        picture = np.kron(rng.integers(0, 256, (20, 24, 3)), np.ones((6, 6, 1))).astype(np.uint8)
        PIL.Image.fromarray(picture).save(f"{'held-out' if number == 2 else 'pictures'}/{number}.png")


def config(name: str = "tiny", **changes: str) -> str:
    lines = {
        "name": name,
        "kind": "clip-restorer",
        "channels": "4",
        "blocks": "1",
        "codecs": "[{name: hevc-lowdelay, points: [qp=40], tested_points: [qp=30]}]",
        "first_steps": "4",
        "steps": "4",
        "checkpoint_every": "3",
        "batch_size": "2",
        "crop": "64",
        "data": f"[{CLIPS}]",
        "held_out": f"[{HELD_OUT}]",
    }
    return str(written(name, lines | changes))


def test_a_training_ends_with_a_restorer_and_how_good_it_is() -> None:
    restorer = open_clip_restorer(Path(done(config(learning_rate="0.05", steps="12"))).read_bytes())
    assert restorer.spec.codecs == ("hevc-lowdelay",)
    rows = json.loads(Path("trainings/tiny/quality.json").read_text())
    told = [(row["point"], row["told"], row["is_learned"]) for row in rows]
    assert told == [
        ("qp=40", "hevc-lowdelay qp=40", True),
        ("qp=40", "hevc-lowdelay qp=30", True),
        ("qp=30", "hevc-lowdelay qp=30", False),
        ("qp=30", "hevc-lowdelay qp=40", False),
    ]
    assert rows[0]["bpp"] < rows[2]["bpp"]
    assert rows[0]["distance"] > rows[2]["distance"] > 0
    assert all(np.isfinite(row["restored_psnr_db"]) for row in rows)
    assert rows[0]["restored_psnr_db"] != rows[0]["psnr_db"]


@pytest.mark.parametrize("stopped_after", ["first_steps", "steps"])
def test_a_resumed_training_ends_with_the_same_bits(stopped_after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in either phase, between two checkpoints."""
    done(config(), "--out", "straight")
    from roadbits.fleet.training import clip_restorer

    phase, steps_taken = (0 if stopped_after == "first_steps" else 1), []
    whole = clip_restorer.write_whole

    def write_and_stop(path: Path, data: bytes) -> None:
        whole(path, data)
        if path.name == "checkpoint.safetensors" and data[0] == phase and not steps_taken:
            steps_taken.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(clip_restorer, "write_whole", write_and_stop)
    assert train(config(), "--out", "stopped").exit_code == 130
    assert "add --resume" in failed(2, config(), "--out", "stopped")
    done(config(), "--out", "stopped", "--resume")
    straight, resumed = (load_file(f"{folder}/model.safetensors") for folder in ("straight", "stopped"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_other_data_is_not_gone_on_with() -> None:
    done(config(steps="2"), "--out", "begun")
    caches = set(Path("begun/cache").iterdir())
    other = CLIPS.replace("side: 64", "side: 64, seed: 5")
    refused = train(config(steps="2", data=f"[{other}]"), "--out", "begun", "--resume")
    assert (refused.exit_code, "another training's" in refused.stderr) == (3, True)
    assert "seed: 5" not in Path("begun/config.yaml").read_text(), "what it was begun with is still told"
    assert caches < set(Path("begun/cache").iterdir()), "and still there"
    Path("begun/checkpoint.safetensors").unlink()
    done(config(steps="2", data=f"[{other}]"), "--out", "begun")
    assert len(set(Path("begun/cache").iterdir())) == len(caches), "until another takes its place"


def test_another_first_phase_is_not_gone_on_from() -> None:
    done(config(), "--out", "begun")
    refused = train(config(first_steps="9"), "--out", "begun", "--resume")
    assert (refused.exit_code, "another training's" in refused.stderr) == (3, True)


def test_an_interrupted_training_keeps_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from roadbits.fleet.training import clip_restorer

    steps: list[int] = []
    run = clip_restorer.ClipRestorerTraining.run

    def interrupted(training: RestorerTraining, until: int) -> Iterator[float]:
        for loss in run(training, until):
            steps.append(training.step)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield loss

    monkeypatch.setattr(clip_restorer.ClipRestorerTraining, "run", interrupted)
    assert train(config(checkpoint_every="100"), "--out", "interrupted").exit_code == 130
    done(config(checkpoint_every="100"), "--out", "interrupted", "--resume")
    assert steps == [1, 2, 3, 4, 1, 2, 3, 4]


def test_the_words_survive_a_round_trip() -> None:
    done(config())
    assert load_training(Path("trainings/tiny/config.yaml")) == load_training(Path("tiny.yaml"))


def test_a_restorer_is_told_how_a_clip_was_coded() -> None:
    clip = np.zeros((2, 64, 64, 3), np.uint8)
    ((decoded, told),) = degraded(Coded(H264, OperatingPoint.parse("crf=30")), [clip])
    assert decoded.shape == clip.shape
    payload = H264.encode(clip, OperatingPoint.parse("crf=30"))
    assert (told.codec, told.position) == ("h264", condition_of("h264", "crf=30", 1).position)
    assert told.bpp == 8 * len(payload) / clip[..., 0].size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": "[{name: jpeg, points: [quality=8]}]"}, "jpeg codes stills"),
        ({"codecs": "[{name: hevc-lowdelay, points: [qp=99]}]"}, "hevc-lowdelay has no point qp=99"),
        ({"codecs": "[{name: h265, points: [qp=30]}]"}, "no codec 'h265'"),
        ({"crop": "68"}, "crop input should be a multiple of 8"),
        ({"objective": "task"}, "objective input should be 'mse', 'perceptual' or 'gan'"),
        ({"held_out": "[]"}, "held_out"),
    ],
)
def test_wrong_words_are_told(changes: dict[str, str], message: str) -> None:
    assert message in failed(2, config(**changes))
