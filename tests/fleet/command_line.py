"""The command line as tests call it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
from click.testing import CliRunner, Result

from roadbits.fleet import cli

HEIGHT, WIDTH = 48, 64


def roadbits(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, list(map(str, arguments)), prog_name="roadbits")


def done(*arguments: object) -> str:
    result = roadbits(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(code: int, *arguments: object) -> str:
    """Return the message of a command that must fail with a code, with one clear message and no traceback."""
    result = roadbits(*arguments)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def written(name: str, lines: Mapping[str, str]) -> Path:
    """Write `name.yaml`, a line for each key."""
    path = Path(f"{name}.yaml")
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def picture(name: str, seed: int = 0) -> Path:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([127 + 60 * np.sin(x / 9 + k) + 50 * np.cos(y / (7 + k)) for k in range(3)], 2)
    noisy = waves + np.random.default_rng(seed).normal(0, 12, waves.shape)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    return path
