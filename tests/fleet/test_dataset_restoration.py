"""Runs that restore: every treatment measured, the same digest after an interruption, and what is refused."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roadbits.fleet.archive import Arrays
from roadbits.fleet.backend import BackendError, LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.forecast import forecast
from roadbits.fleet.plan import Plan
from roadbits.fleet.results import RestorationRow, Results
from roadbits.fleet.run import Run
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.vehicle import Arm
from roadbits.fleet.yaml_file import YamlFileError

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
ARM = Arm("jpeg", "quality=10")
RESTORED = (
    "fleet.vehicles=2",
    "fleet.faults={}",
    "cameras.frames_per_vehicle=4",
    "cameras.test_frames=2",
    "cameras.reference={frames_per_vehicle: 3, vehicles: 1}",
    "codecs=[{name: jpeg, points: [quality=10]}]",
    "restoration={restorers: [mse, gan, task, unsharp], remedies: [augmentation, references], channels: 8, "
    "blocks: [1, 1, 1], first_steps: 3, steps: 3, batch_size: 2, crop: 64}",
    "downstream.steps=2",
    "downstream.seeds=[0]",
    "downstream.setups=[OO, CO, RO, CC, OC, RC]",
)


def scenario(*settings: str) -> Scenario:
    (found,) = load_scenario(SMOKE, settings)
    return found


def execute(folder: Path, *settings: str, backend: type[LocalBackend] = LocalBackend, resume: bool = False) -> Results:
    return Run(scenario(*settings), folder, backend, quiet=True).execute(resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, execute(folder, *RESTORED)


def row_of(results: Results, treatment: str) -> RestorationRow:
    (row,) = [row for row in results.restoration if row.treatment == treatment]
    return row


def test_every_restorer_has_its_rows_in_ro_and_rc(whole: tuple[Path, Results]) -> None:
    rows = {(row.setup, row.restorer) for row in whole[1].downstream}
    restored = {(setup, kind) for setup in ("RO", "RC") for kind in ("mse", "gan", "task", "unsharp")}
    assert rows == {*restored, *((setup, None) for setup in ("OO", "CO", "CC", "OC"))}


def test_every_treatment_is_compared_with_none(whole: tuple[Path, Results]) -> None:
    results = whole[1]
    treatments = [row.treatment for row in results.restoration]
    assert treatments == ["none", "mse", "gan", "task", "unsharp", "augmentation", "references"]
    (plain,) = [row.miou for row in results.downstream if row.setup == "CO"]
    for row in results.restoration:
        assert row.miou_low <= row.miou <= row.miou_high
        assert row.gain == pytest.approx(row.miou - plain)
        assert row.miou_by_seed == {"0": row.miou}
        assert (row.psnr_db is None) == (row.treatment in ("augmentation", "references"))
        assert row.reference_frames == (0 if row.treatment in ("none", "augmentation") else 3)
        trained = row.treatment in ("mse", "gan", "task")
        assert (row.steps, row.best_step) == ((3, 3) if trained else (None, None))
    ro = {row.restorer: row.miou for row in results.downstream if row.setup == "RO"}
    assert ro == {kind: row_of(results, kind).miou for kind in ("mse", "gan", "task", "unsharp")}


def test_frames_without_a_restorer_have_the_quality_that_was_decoded(whole: tuple[Path, Results]) -> None:
    row, (upload,) = row_of(whole[1], "none"), whole[1].uploads
    assert (row.psnr_db, row.ms_ssim) == (upload.psnr_db, upload.ms_ssim)


def test_frames_without_a_restorer_are_measured_and_not_written_again(whole: tuple[Path, Results]) -> None:
    folder = whole[0] / "stages" / Plan(scenario(*RESTORED)).restore_key(ARM, None)
    assert [path.name for path in folder.iterdir()] == ["quality.json"]


def test_restored_frames_are_other_frames_of_the_same_sizes(whole: tuple[Path, Results]) -> None:
    folder, _ = whole
    plan, stages = Plan(scenario(*RESTORED)), folder / "stages"
    decoded = Arrays(stages / plan.decode_key(ARM), "images")
    restored = Arrays(stages / plan.restore_key(ARM, "mse"), "images")
    assert [image.shape for image in restored] == [image.shape for image in decoded]
    assert len(decoded) == 8


def test_a_run_interrupted_in_any_training_ends_with_the_same_digest(
    whole: tuple[Path, Results], tmp_path: Path
) -> None:
    class Fails(LocalBackend):
        left = 0

        def train(self, function: Any, items: Sequence[Any], *rest: Any) -> Iterator[tuple[int, Any]]:
            for done in super().train(function, items, *rest):
                if Fails.left == 0:
                    raise BackendError("the power went")
                Fails.left -= 1
                yield done

    # Nine in all: a segmenter for `task`, a restorer's first phase, three second ones, four other segmenters.
    for trainings in (0, 2, 3, 3):
        Fails.left = trainings
        with pytest.raises(BackendError, match="the power went"):
            execute(tmp_path / "run", *RESTORED, backend=Fails, resume=trainings > 0)
    assert execute(tmp_path / "run", *RESTORED, resume=True).digest == whole[1].digest


def test_only_the_stages_of_a_changed_restorer_are_done_again(whole: tuple[Path, Results], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    before = {path.name for path in (tmp_path / "run" / "stages").iterdir()}
    execute(tmp_path / "run", *RESTORED, "restoration.steps=4", "restoration.restorers=[mse]", resume=True)
    new = {path.name.partition("-")[0] for path in (tmp_path / "run" / "stages").iterdir() if path.name not in before}
    assert new == {"restorer", "restore", "train", "measure"}


def test_what_is_told_of_an_upload_can_be_wrong(whole: tuple[Path, Results], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    wrong = execute(tmp_path / "run", *RESTORED, "restoration.condition=wrong", resume=True)
    assert row_of(wrong, "none") == row_of(whole[1], "none")
    before = {path.name for path in (whole[0] / "stages").iterdir() if path.name.startswith("restorer-")}
    after = {path.name for path in (tmp_path / "run" / "stages").iterdir() if path.name.startswith("restorer-")}
    assert before == after, "restorers were trained again for what only restoring depends on"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("cameras.reference=null",), "set some apart with cameras.reference"),
        (("restoration=null",), "downstream.setups names RO, RC: add restoration"),
        (("downstream.setups=[OO, CO]",), "restoration is never measured"),
        (("restoration.arms=['jpeg:quality=11']",), "choose from jpeg:quality=10"),
        (
            ("restoration.trained_on=[{name: webp, points: [quality=20]}]", "restoration.only_trained_on=true"),
            "restoration is not trained on jpeg",
        ),
        (
            ("restoration.trained_on=[{name: webp, points: [quality=20], policies: [{kind: link}]}]",),
            "restoration.trained_on[0].policies: restorers learn from points, not policies: name points",
        ),
        (("restoration.crop=104",), "restoration.crop is 104, and frames are 96 x 128: lower restoration.crop"),
        (("restoration.only_trained_on=true",), "needs codecs and points in restoration.trained_on"),
        (("restoration.crop=60",), "multiple of 8"),
        (("restoration.restorers=[magic]",), "'task', 'unsharp' or 'dcngan'"),
    ],
)
def test_restoration_that_cannot_be_is_refused(settings: tuple[str, ...], expected: str) -> None:
    with pytest.raises(YamlFileError, match=expected.replace("[", r"\[")):
        scenario(*RESTORED, *settings)


def test_a_filter_needs_no_crop_that_fits() -> None:
    settings = ("restoration.restorers=[unsharp]", "restoration.crop=104")
    assert scenario(*RESTORED, *settings).restoration is not None


def test_a_codec_that_was_never_learned_is_restored_untold_if_the_scenario_allows_it(tmp_path: Path) -> None:
    results = execute(
        tmp_path / "run",
        *RESTORED,
        "restoration.restorers=[mse, unsharp]",
        "restoration.remedies=[]",
        "restoration.trained_on=[{name: webp, points: [quality=20]}]",
        "restoration.only_trained_on=true",
        "restoration.untrained_codec=warn",
        "downstream.setups=[OO, CO, RO]",
    )
    assert any("jpeg" in note and "not told" in note for note in results.notes)
    assert {row.treatment for row in results.restoration} == {"none", "mse", "unsharp"}


def test_the_uploads_that_taught_task_are_told_of_where_there_are_others(
    whole: tuple[Path, Results], tmp_path: Path
) -> None:
    settings = ("restoration.restorers=[task]", "restoration.remedies=[]", "downstream.setups=[OO, CO, RO]")
    codecs = "codecs=[{name: jpeg, points: [quality=10, quality=50]}]"
    results = execute(tmp_path / "run", *RESTORED, codecs, *settings)
    assert any("trained on the uploads of jpeg:quality=10" in note for note in results.notes)
    assert not any("taught" in note for note in whole[1].notes)


def test_without_segmenters_the_quality_of_restored_frames_is_told(tmp_path: Path) -> None:
    settings = ("restoration.restorers=[mse]", "restoration.remedies=[]", "downstream=null")
    results = execute(tmp_path / "run", *(each for each in RESTORED if "downstream" not in each), *settings)
    (note,) = [note for note in results.notes if "feature distance" in note]
    (upload,) = results.uploads
    assert f"as decoded {upload.psnr_db:.2f} dB, {upload.ms_ssim:.4f}" in note
    assert "mse " in note


def test_more_references_than_there_are_are_refused_before_anything_is_collected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"restoration\.reference_frames is 9, 3 are there"):
        execute(tmp_path / "run", *RESTORED, "restoration.reference_frames=9")
    assert not (tmp_path / "run").exists()


def test_a_check_finds_that_there_are_fewer_references() -> None:
    with pytest.raises(DataError, match=r"restoration\.reference_frames is 9, 3 are there"):
        list(forecast(scenario(*RESTORED, "restoration.reference_frames=9")))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders of images and masks: six frames each to train, to test and for reference."""
    rng = np.random.default_rng(0)
    for part in ("train", "test", "reference"):
        for kind, shape, most in (("images", (72, 96, 3), 256), ("masks", (72, 96), 11)):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for k in range(6):
                pixels = rng.integers(0, most, shape, dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{k}.png")
    return tmp_path


def in_folders(folders: Path, **others: str) -> tuple[str, ...]:
    words = {
        "kind": "folder",
        "images": f"{folders}/train/images",
        "masks": f"{folders}/train/masks",
        "test_images": f"{folders}/test/images",
        "test_masks": f"{folders}/test/masks",
    }
    reference = {"images": f"{folders}/reference/images", "masks": f"{folders}/reference/masks", **others}
    settings = tuple(each for each in RESTORED if not each.startswith("cameras."))
    return (*settings, f"cameras={json.dumps({**words, 'reference': reference})}", "fleet.vehicles=1")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_reference_frame_that_is_uploaded_or_tested_on_is_refused_by_name(folders: Path, part: str) -> None:
    shutil.copy(folders / part / "images" / "4.png", folders / "reference" / "images" / "2.png")
    with pytest.raises(DataError, match=rf"frame images 2 is also images 4 of the {part} frames"):
        execute(folders / "run", *in_folders(folders))


def test_reference_folders_inside_others_are_refused(folders: Path) -> None:
    settings = in_folders(folders, images=f"{folders}/test/images")
    with pytest.raises(DataError, match=r"cameras\.reference\.images: .* overlaps cameras\.test_images"):
        execute(folders / "run", *settings)


def test_references_without_labels_cannot_be_trained_on(folders: Path) -> None:
    settings = in_folders(folders)
    unlabelled = [each.replace(f', "masks": "{folders}/reference/masks"', "") for each in settings]
    with pytest.raises(YamlFileError, match=r"no reference frame is labelled: give cameras\.reference\.masks"):
        scenario(*unlabelled)


def test_a_reference_frame_smaller_than_a_crop_is_refused_by_name_before_anything_is_learned(folders: Path) -> None:
    for kind, shape in (("images", (72, 60, 3)), ("masks", (72, 60))):
        PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(folders / "reference" / kind / "3.png")
    expected = r"restoration\.crop is 64, and reference frame images 3 is 72 x 60: lower restoration\.crop"
    with pytest.raises(DataError, match=expected):
        execute(folders / "run", *in_folders(folders))
    assert not list((folders / "run" / "stages").glob("pairs-*"))
    others = "restoration.reference_frames=2"  # the first and the fourth
    with pytest.raises(DataError, match=expected):
        execute(folders / "run", *in_folders(folders), others, resume=True)


def test_a_reference_frame_that_a_codec_cannot_take_is_said_to_be_one(folders: Path) -> None:
    """WebP has at most 16383 pixels to a side."""
    for kind, shape in (("images", (64, 16400, 3)), ("masks", (64, 16400))):
        PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(folders / "reference" / kind / "3.png")
    settings = (*in_folders(folders), "codecs=[{name: webp, points: [quality=20]}]", "restoration.restorers=[unsharp]")
    with pytest.raises(DataError, match="reference frames with webp:quality=20: expected sides of 1 to 16383 pixels"):
        execute(folders / "run", *settings)
