from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from roadbits.fleet.training import clip, context, still


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, with one thread and short calibrations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(still, "_NUM_CALIBRATION_IMAGES", 3)
    monkeypatch.setattr(context, "_NUM_CALIBRATION_IMAGES", 3)
    monkeypatch.setattr(clip, "_NUM_CALIBRATION_CLIPS", 2)
    yield tmp_path
    torch.set_num_threads(threads)
