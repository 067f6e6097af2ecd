import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from roadbits.codecs.metrics import psnr
from roadbits.downstream.setups import Setup
from roadbits.fleet.archive import Archive, Arrays
from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.finished_stages import StagesMissing
from roadbits.fleet.plan import Plan
from roadbits.fleet.report.strips import gallery_of, picture, spaced_arms
from roadbits.fleet.results import Results
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.vehicle import Arm

ARMS = {Arm("jpeg", "quality=10"): 0.25, Arm("jpeg", "quality=40"): 0.75, Arm("webp", "quality=10"): 0.2}
PLENTY = 10**9


def _pixels(uri: str) -> np.ndarray:
    return np.array(PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_pictures_are_lossless() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 31, 3), np.uint8)
    assert np.array_equal(_pixels(picture(image)), image)


def test_test_frames_come_with_what_every_arm_and_segmenter_made_of_them(
    results: Results, save_run: Callable[..., Path]
) -> None:
    folder = save_run(results, stages=True)
    plan = Plan(load_scenario(folder / "scenario.yaml")[0])
    arm = plan.arms[1]
    strip = gallery_of(folder, ARMS, {}, 8, PLENTY).strips[1]
    originals = Archive.open(folder / "stages" / plan.originals_key("test"))
    compressed = Arrays(folder / "stages" / plan.on_board_key(arm), "images")[2]
    assert np.array_equal(_pixels(strip.original), originals.images[2])
    shown = strip.arms[arm]
    assert shown.compressed is not None
    assert np.array_equal(_pixels(shown.compressed), compressed)
    assert shown.psnr_db == psnr(compressed, originals.images[2])
    assert shown.bpp == 0.5
    assert strip.ideal is not None
    assert set(shown.predictions) == {"CO", "CC", "OC"}


@pytest.mark.parametrize("restorer", ["mse", "gan"])
def test_of_several_restorers_the_wanted_one_s_predictions_are_shown(
    restorer: str, results: Results, save_run: Callable[..., Path]
) -> None:
    folder = save_run(results, stages=True, restorers=("mse", "gan"))
    plan = Plan(load_scenario(folder / "scenario.yaml")[0])
    arm, plain = plan.arms[0], plan.arms[2]
    strips = gallery_of(folder, ARMS, {arm: restorer}, 8, PLENTY).strips
    for setup in (Setup.RO, Setup.RC):
        (job,) = [job for job in plan.jobs_of(setup, arm, 0) if job.training.restorer == restorer]
        predicted = Arrays(folder / "stages" / plan.measure_key(job), "predictions")
        for k, strip in enumerate(strips):
            assert strip.arms[arm].restorer == restorer
            assert np.array_equal(_pixels(strip.arms[arm].predictions[setup]), CAMVID11.paint(predicted[k]))
            assert setup not in strip.arms[plain].predictions


def test_a_run_without_downstream_shows_frames_that_were_delivered(
    results: Results, save_run: Callable[..., Path]
) -> None:
    gallery = gallery_of(save_run(results, stages=True, downstream=False), ARMS, {}, 8, PLENTY)
    assert [strip.title for strip in gallery.strips] == [f"vehicle-00, frame {k}, day" for k in (0, 2, 5)]
    assert all(arm.compressed and not arm.predictions for strip in gallery.strips for arm in strip.arms.values())


def test_a_small_budget_takes_fewer_frames_then_fewer_arms(results: Results, save_run: Callable[..., Path]) -> None:
    folder = save_run(results, stages=True)
    whole = gallery_of(folder, ARMS, {}, 8, PLENTY).strips
    some = gallery_of(folder, ARMS, {}, 8, whole[0].num_bytes + 1).strips
    least = gallery_of(folder, ARMS, {}, 8, 1).strips
    assert (len(whole), len(some), len(least)) == (3, 1, 1)
    assert (len(some[0].arms), len(least[0].arms)) == (3, 1)


@pytest.mark.parametrize("gone", ["stages", "scenario.yaml"])
def test_missing_stages_or_scenario_are_told(results: Results, save_run: Callable[..., Path], gone: str) -> None:
    folder = save_run(results, stages=True)
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(StagesMissing, match=r"gone|cannot be read"):
        gallery_of(folder, ARMS, {}, 8, PLENTY)


def test_a_damaged_stage_is_told(results: Results, save_run: Callable[..., Path]) -> None:
    folder = save_run(results, stages=True)
    for file in (folder / "stages").glob("originals-*/images.bin"):
        file.write_bytes(b"short")
    with pytest.raises(StagesMissing, match="cannot be read"):
        gallery_of(folder, ARMS, {}, 8, PLENTY)


def test_reading_leaves_unfinished_stages_alone(results: Results, save_run: Callable[..., Path]) -> None:
    folder = save_run(results, stages=True)
    unfinished = folder / "stages" / ".unfinished-train-0"
    unfinished.mkdir()
    gallery_of(folder, ARMS, {}, 8, PLENTY)
    assert unfinished.is_dir()


def test_chosen_arms_keep_every_codec_and_both_ends_of_its_ladder() -> None:
    bpp = {Arm(codec, f"quality={q}"): q / 100 for codec in ("jpeg", "webp") for q in range(10, 100, 10)}
    chosen = spaced_arms(bpp, 8)
    assert len(chosen) == 8
    for codec in ("jpeg", "webp"):
        points = [arm.point for arm in chosen if arm.codec == codec]
        assert (points[0], points[-1]) == ("quality=10", "quality=90")
