"""Small recipes, and `roadbits train` as tests call it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from tests.fleet import command_line
from tests.fleet.command_line import roadbits, written

CAE = "{kind: cae, channels: 8}"
HYPERPRIOR = "{kind: hyperprior, channels: 8, latent_channels: 12}"


def pictures(folder: str, num: int = 3, height: int = 96, width: int = 128) -> None:
    y, x = np.mgrid[:height, :width]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed in range(num):
        waves = np.stack([127 + 60 * np.sin(x / (5 + seed) + k) + 50 * np.cos(y / (7 + k)) for k in range(3)], 2)
        noisy = waves + np.random.default_rng(seed).normal(0, 12, waves.shape)
        PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(Path(folder) / f"{seed}.png")


def validation(every: int = 100) -> str:
    return f"{{every: {every}, side: 64, images: [{{kind: folder, path: held-out, min_side: 64}}]}}"


def config(name: str = "tiny", **changes: str) -> str:
    """Write pictures and a small training over them; `changes` replace its lines."""
    pictures("pictures")
    pictures("held-out", 1)
    lines = {
        "name": name,
        "kind": "still-codec",
        "codec": CAE,
        "lambdas": "[0.002, 0.05]",
        "steps": "12",
        "batch_size": "2",
        "crop": "64",
        "checkpoint_every": "5",
        "data": "[{weight: 1, images: {kind: folder, path: pictures, min_side: 64}}]",
        "validation": validation(),
    }
    return str(written(name, lines | changes))


def train(*arguments: object) -> Result:
    return roadbits("train", "--quiet", *arguments)


def done(*arguments: object) -> str:
    """Return the file that a training ends with."""
    return command_line.done("train", "--quiet", *arguments).strip()


def failed(code: int, *arguments: object) -> str:
    return command_line.failed(code, "train", "--quiet", *arguments)


def checkpoint(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "checkpoint.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def events(folder: str, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a step."""
    one_step = RateDistortionTraining._one_step

    def interrupted(training: RateDistortionTraining) -> tuple[float, float, float]:
        if training.step + 1 == step:
            os.kill(os.getpid(), number)
        return one_step(training)

    monkeypatch.setattr(RateDistortionTraining, "_one_step", interrupted)
