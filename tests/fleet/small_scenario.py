"""A small scenario as text, and what reading it gives."""

from pathlib import Path

import pytest

from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.yaml_file import YamlFileError

SMALL = """\
name: small
cameras:
  kind: street
  frames_per_vehicle: 4
  test_frames: 2
fleet:
  vehicles: 2
  uplink: {kind: constant, rate_mbps: 1}
  device:
    encode_mpx_per_s: {jpeg: 30}
    encode_watts: 5
    radio_joules_per_mbit: 1
codecs:
  - {name: jpeg, points: [quality=10]}
downstream:
  steps: 3
"""


def load(tmp_path: Path, text: str, *settings: str) -> list[Scenario]:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_scenario(path, settings)


def one(tmp_path: Path, text: str, *settings: str) -> Scenario:
    (scenario,) = load(tmp_path, text, *settings)
    return scenario


def faults(tmp_path: Path, text: str, *settings: str) -> list[str]:
    """Return the lines of the error, without the file's folder."""
    with pytest.raises(YamlFileError) as caught:
        load(tmp_path, text, *settings)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def edited(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)
