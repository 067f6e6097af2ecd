import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from roadbits.fleet.archive import ArraysWriter, FrameNote, write_notes
from roadbits.fleet.plan import Plan
from roadbits.fleet.results import AdaptationRow, DownstreamRow, Results, Timeline, UploadRow
from roadbits.fleet.scenario_file import load_scenario

HEIGHT, WIDTH, TRAIN_FRAMES, TEST_FRAMES = 64, 96, 6, 4

UPLOAD = UploadRow(
    codec="jpeg",
    point="quality=10",
    frames=100,
    bytes=2_500_000,
    bpp=0.25,
    psnr_db=27.125,
    ms_ssim=0.9125,
    delivered=90,
    late=4,
    lost=3,
    rejected=1,
    dropped=2,
    backlog=0,
    duplicates=0,
    vehicle_hours=0.5,
    encode_gmac=0.0,
    encode_s=0.02,
    latency_p50_s=0.75,
    latency_p95_s=3.5,
    energy_j=45.0,
    timeline=Timeline([0.0, 10.0, 20.0], [0, 40, 90], [0, 5000, 0]),
    policy="fixed",
    dropped_encoder_busy=2,
    dropped_buffer_full=0,
    dropped_skipped=0,
    gmac_per_delivered_frame=0.0,
    joules_per_delivered_frame=0.5,
    latency_mean_s=1.0,
    encode_memory_bytes=0,
    points_used={"quality=10": 98},
    groups=[],
)
ADAPTED = AdaptationRow(
    method="cawf",
    sharing="federated",
    domain="dusk",
    seed=0,
    bd_rate_target=-1.5,
    bd_rate_source=0.0,
    bd_rate_on={"day": 0.0, "dusk": -1.5},
    old_payloads_bit_exact=1.0,
    old_payloads_change_db=0.0,
    adapter_bytes=783,
    rounds=2,
    traffic_bytes=4000,
    frames=12,
    vehicles=3,
    equipped=3,
    first_equipped_s=80.5,
    watch_gmac=0.5,
    train_gmac=12.5,
    saved_bytes_per_frame=20.0,
    break_even_frames=200.0,
    parameters_percent=0.02,
)
RESTORED_ARMS = ["jpeg:quality=10", "jpeg:quality=40"]
ARMS = (("jpeg", "quality=10", 0.25), ("jpeg", "quality=40", 0.75), ("webp", "quality=10", 0.2))


def rows_of(codec: str, point: str, bpp: float, mious: dict[str, Sequence[float]]) -> list[DownstreamRow]:
    return [
        DownstreamRow(codec, point, setup, seed, bpp, miou, {"sky": miou, "road": miou}, ["train"], None, 90, 4, None)
        for setup, values in mious.items()
        for seed, miou in enumerate(values)
    ]


@pytest.fixture
def adapted() -> AdaptationRow:
    return ADAPTED


@pytest.fixture
def results() -> Results:
    """Three arms, four setups, two seeds: mIoU rises by 0.1 from arm to arm."""
    uploads = [replace(UPLOAD, codec=codec, point=point, bpp=bpp) for codec, point, bpp in ARMS]
    downstream = [
        row
        for k, (codec, point, bpp) in enumerate(ARMS)
        for row in rows_of(
            codec,
            point,
            bpp,
            {"OO": (0.70, 0.72), "CO": (0.40 + k / 10, 0.42 + k / 10), "CC": (0.45, 0.47), "OC": (0.30, 0.32)},
        )
    ]
    return Results("tiny", 7, uploads, downstream, timings_s={"collect": 1.5}, question="Does it work?")


@pytest.fixture
def save_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder: results, scenario and, on request, faked stages; JPEG's uploads restored, if by anything."""

    def save(
        results: Results,
        name: str = "run",
        stages: bool = False,
        downstream: bool = True,
        restorers: Sequence[str] = (),
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(results.to_json())
        (folder / "scenario.yaml").write_text(yaml.safe_dump(_scenario(downstream, restorers)))
        if stages:
            _write_stages(folder)
        return folder

    return save


def _scenario(downstream: bool, restorers: Sequence[str]) -> dict[str, Any]:
    ladders = {"jpeg": ["quality=10", "quality=40"], "webp": ["quality=10"]}
    words: dict[str, Any] = {
        "name": "tiny",
        "cameras": {"kind": "street", "height": HEIGHT, "width": WIDTH, "frames_per_vehicle": 6, "test_frames": 4},
        "fleet": {
            "vehicles": 1,
            "uplink": {"kind": "constant", "rate_mbps": 1.0},
            "device": {
                "encode_mpx_per_s": dict.fromkeys(ladders, 10.0),
                "encode_watts": 5.0,
                "radio_joules_per_mbit": 1.0,
            },
        },
        "codecs": [{"name": name, "points": points} for name, points in ladders.items()],
    }
    if downstream:
        words["downstream"] = {"steps": 1, "seeds": [0, 1]}
    if restorers:
        words["cameras"]["reference"] = {"frames_per_vehicle": 1}
        words["restoration"] = {"restorers": [*restorers], "arms": RESTORED_ARMS, "crop": 64}
        words["downstream"]["setups"] = ["OO", "CO", "RO", "CC", "OC", "RC"]
    return words


def _write_stages(run_folder: Path) -> None:
    plan = Plan(load_scenario(run_folder / "scenario.yaml")[0])
    luck = np.random.default_rng(3)

    def write(key: str, name: str, count: int, *shape: int, below: int = 256) -> Path:
        folder = run_folder / "stages" / key
        folder.mkdir(parents=True, exist_ok=True)
        with ArraysWriter(folder, name) as arrays:
            for _ in range(count):
                arrays.append(luck.integers(0, below, (HEIGHT, WIDTH, *shape), np.uint8))
        return folder

    for split, count in (("train", TRAIN_FRAMES), ("test", TEST_FRAMES)):
        folder = write(plan.originals_key(split), "images", count, 3)
        write(plan.originals_key(split), "labels", count, below=11)
        write_notes(folder, [FrameNote(0, k, "vehicle-00", "day") for k in range(count)])
    for arm in plan.arms:
        folder = write(plan.decode_key(arm), "images", 3, 3)
        (folder / "positions.json").write_text(json.dumps([0, 2, 5]))
        if plan.scenario.downstream:
            folder = write(plan.on_board_key(arm), "images", TEST_FRAMES, 3)
            (folder / "rate.json").write_text("0.5")
            for job in (job for setup in plan.setups for job in plan.jobs_of(setup, arm, 0)):
                write(plan.measure_key(job), "predictions", 3, below=11)
        for kind in plan.restorers_of(arm):
            write(plan.restore_key(arm, kind), "images", 3, 3)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder without data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ROADBITS_DATA", str(tmp_path / "no-data"))
