from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.legacy.stills import JPEG
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.forecast import forecast
from roadbits.fleet.rules import CodecChoice, Link
from roadbits.fleet.scenario import (
    ConstantUplink,
    Device,
    Fleet,
    FolderCameras,
    Group,
    Scenario,
    TraceFileUplink,
    Uplink,
)
from roadbits.fleet.uplink import UplinkError

CONSTANT = ConstantUplink(kind="constant", rate_mbps=1.5)
IMAGES = [np.random.default_rng(k).integers(0, 60 * (k + 1), (40, 60, 3), dtype=np.uint8) for k in range(4)]


def scenario(folder: Path, uplink: Uplink = CONSTANT, **cameras: Any) -> Scenario:
    (folder / "a").mkdir()
    for k, image in enumerate(IMAGES):
        PIL.Image.fromarray(image).save(folder / "a" / f"{k}.png")
    device = Device(encode_mpx_per_s={"jpeg": 1.0}, encode_watts=1, radio_joules_per_mbit=1)
    return Scenario(
        name="f",
        cameras=FolderCameras(kind="folder", images=str(folder / "a"), interval_s=2.0, **cameras),
        fleet=Fleet(vehicles=1, uplink=uplink, device=device),
        codecs=(CodecChoice(name="jpeg", points=("quality=10", "quality=90")),),
    )


def test_a_forecast_tells_frames_rates_and_bytes_of_real_frames(tmp_path: Path) -> None:
    lines = list(forecast(scenario(tmp_path)))
    assert lines[:2] == ["frames    4 of 1 vehicles, 0 to test on", "uplink    1.50 Mbit/s per vehicle on average"]
    assert len(lines) == 6
    for line, quality in zip(lines[2:4], (10, 90), strict=True):
        mean = sum(len(JPEG.encode(image, OperatingPoint.of(quality=quality))) for image in IMAGES[:3]) / 3
        assert line == (
            f"bytes     jpeg:quality={quality:<19} {mean / 1000:8.1f} kB a frame, {4 * mean / 1e6:8.2f} MB in all, "
            f"{8 * mean / 2 / 1e6:.3f} Mbit/s per vehicle (first 3 frames)"
        )


def test_a_forecast_tells_what_each_arm_asks_of_each_group_s_device(tmp_path: Path) -> None:
    words = scenario(tmp_path)
    networks = {"gmac_per_s": 1.0, "joules_per_gmac": 2.0, "memory_mb": 50.0, "duty": 0.5}
    device = words.fleet.everyone[0].device.model_copy(update=networks)
    groups = (Group(name="weak", vehicles=1, uplink=CONSTANT, device=device),)
    codecs = (CodecChoice(name="cae", points=("lambda=0.0067",), policies=(Link(kind="link"),)),)
    lines = list(forecast(words.model_copy(update={"fleet": Fleet(groups=groups), "codecs": codecs})))
    cae = codec_named("cae")
    cost = cae.complexity(cae.points[0], 40, 60)
    gmac, memory = cost.encode_macs / 1e9, cost.encode_memory_bytes / 1e6
    asked = f"{gmac:.3g} GMAC, {gmac:.3g} of 1 s, {2 * gmac:.3g} J, {memory:.3g} of 50 MB, "
    kilobytes = {
        point: sum(len(cae.encode(image, point)) for image in IMAGES[:3]) / 3000
        for point in (cae.fine_points[0], OperatingPoint.parse("lambda=0.0067"), cae.fine_points[-1])
    }
    low, fixed, high = (f"{size:.3g}" for size in kilobytes.values())
    assert lines[1] == "uplink    1.50 Mbit/s per vehicle of group weak on average"
    assert lines[-2:] == [
        f"device    {'weak cae:lambda=0.0067':<32} {asked}{fixed} kB a frame",
        f"device    {'weak cae:link':<32} {asked}{low} to {high} kB a frame",
    ]


def test_a_missing_trace_is_told_before_anything_runs(tmp_path: Path) -> None:
    uplink = TraceFileUplink(kind="trace", path=str(tmp_path / "gone.csv"))
    with pytest.raises(UplinkError, match=r"gone\.csv"):
        list(forecast(scenario(tmp_path, uplink)))


def test_a_test_folder_inside_the_training_folder_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test frames must never train anything"):
        list(forecast(scenario(tmp_path, test_images=str(tmp_path / "a" / "test"))))


def test_frames_of_two_sizes_make_no_clip_and_are_told_before_anything_runs(tmp_path: Path) -> None:
    words = scenario(tmp_path)
    PIL.Image.fromarray(IMAGES[1][:32]).save(tmp_path / "a" / "1.png")
    device = words.fleet.everyone[0].device.model_copy(update={"encode_mpx_per_s": {"h264": 1.0}})
    fleet, codecs = words.fleet.model_copy(update={"device": device}), (CodecChoice(name="h264", clip_frames=4),)
    with pytest.raises(DataError, match=r"h264:crf=\d+,frames=4 cannot code the first frames of vehicle 0: "):
        list(forecast(words.model_copy(update={"fleet": fleet, "codecs": codecs})))
