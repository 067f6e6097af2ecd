import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from roadbits.codecs.neural.cae import Forward
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.fleet.cli import cli
from roadbits.fleet.training import run
from roadbits.fleet.training.file import load_training
from roadbits.fleet.training.network import build_network
from tests.fleet.training.recipes import (
    CAE,
    HYPERPRIOR,
    checkpoint,
    config,
    done,
    events,
    failed,
    interrupt_in_step,
    pictures,
    same,
    train,
    validation,
)


@pytest.mark.parametrize("codec", [CAE, HYPERPRIOR])
def test_a_training_ends_with_a_model_that_codes_real_bytes(codec: str) -> None:
    model = FrozenModel.load(Path(done(config(codec=codec, validation=validation(6)))))
    assert model.description.steps == 12
    still = NeuralStill("own", model)
    image = np.asarray(PIL.Image.open("held-out/0.png"))[16:80, 32:96]
    rows = events("trainings/tiny", "validation")
    assert [row["step"] for row in rows] == [6, 12]
    assert [row["step"] for row in events("trainings/tiny", "exactness")] == [12]
    last = rows[-1]["points"]
    assert [point["point"] for point in last] == ["lambda=0.002", "lambda=0.05"]
    for point, logged in zip(still.points, last, strict=True):
        payload = still.encode(image, point)
        assert logged["bpp"] == 8 * len(payload) / 64**2
        mse = np.mean((still.decode(payload).astype(float) - image) ** 2)
        assert logged["psnr_db"] == pytest.approx(10 * math.log10(255**2 / mse))
    assert all(math.isfinite(row[key]) for row in rows for key in ("loss", "bpp_estimate", "psnr_db"))


def test_the_default_folder_holds_all_that_was_promised() -> None:
    done(config())
    folder = Path("trainings/tiny")
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "config.yaml",
        "cache",
        "checkpoint.safetensors",
        "model.safetensors",
        "log.jsonl",
        "curves.html",
    }
    assert load_training(folder / "config.yaml") == load_training(Path("tiny.yaml"))
    page = (folder / "curves.html").read_text("utf-8")
    assert "step 12" in page
    assert "<script src=" not in page


@pytest.mark.parametrize("codec", [CAE, HYPERPRIOR])
def test_an_interrupted_training_resumes_to_the_same_bits(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(codec=codec, validation=validation(6))
    done(file, "--out", "whole")
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 7, signal.SIGTERM)
        assert "interrupted; add --resume" in failed(130, file, "--out", "halves")
    assert not same(checkpoint("halves"), checkpoint("whole"))
    assert len(events("halves", "validation")) == 1
    done(file, "--out", "halves", "--resume")
    assert same(checkpoint("halves"), checkpoint("whole"))
    models = [Path(folder, "model.safetensors").read_bytes() for folder in ("halves", "whole")]
    assert models[0] == models[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_step_end_and_writes_a_checkpoint(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 3, number)
        failed(130, file)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    with safe_open("trainings/tiny/checkpoint.safetensors", "pt") as written:
        assert written.metadata()["step"] == "3"
    done(file, "--out", "trainings/whole")
    done(file, "--resume")
    assert same(checkpoint("trainings/tiny"), checkpoint("trainings/whole"))


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    file = config()
    done(file, "--out", "whole")
    one_step = RateDistortionTraining._one_step

    def dying(training: RateDistortionTraining) -> tuple[float, float, float]:
        if training.step == 8:
            raise MemoryError
        return one_step(training)

    with monkeypatch.context() as patch:
        patch.setattr(RateDistortionTraining, "_one_step", dying)
        assert isinstance(train(file, "--out", "halves").exception, MemoryError)
    (Path("halves") / "checkpoint.99.tmp").write_bytes(b"half")
    done(file, "--out", "halves", "--resume")
    assert same(checkpoint("halves"), checkpoint("whole"))
    assert not list(Path("halves").glob("*.tmp"))


def test_an_interrupted_validation_is_made_up_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    file = config()
    encode = NeuralStill.encode

    def interrupted(still: NeuralStill, *arguments: Any) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        return encode(still, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(NeuralStill, "encode", interrupted)
        failed(130, file)
    assert not Path("trainings/tiny/model.safetensors").exists()
    assert FrozenModel.load(Path(done(file, "--resume"))).description.steps == 12
    (row,) = events("trainings/tiny", "validation")
    assert (row["step"], row["loss"]) == (12, None)


def test_a_finished_training_has_nothing_left_to_do() -> None:
    file = config()
    done(file)
    model, weights = Path("trainings/tiny/model.safetensors"), checkpoint("trainings/tiny")
    before = model.read_bytes()
    done(file, "--resume")
    assert model.read_bytes() == before
    assert same(checkpoint("trainings/tiny"), weights)
    assert len(events("trainings/tiny", "validation")) == 1


def test_a_folder_that_holds_a_training_wants_resume() -> None:
    file = config()
    done(file)
    before = checkpoint("trainings/tiny")
    assert "trainings/tiny holds a training already: add --resume" in failed(2, file)
    assert same(checkpoint("trainings/tiny"), before)


def test_two_processes_cannot_train_in_one_folder() -> None:
    file = config()
    inside: list[str] = []

    def second(*_: object) -> None:
        inside.append(failed(2, file, "--resume"))

    training = run.TrainingRun(load_training(Path(file)), Path("trainings/tiny"), quiet=True)
    training._train = second  # type: ignore[method-assign]
    training.execute()
    assert inside == ["roadbits: another process is training in trainings/tiny: wait for it, or end it\n"]


def test_a_checkpoint_of_another_configuration_is_refused_naming_the_keys() -> None:
    done(config(), "--out", "out")
    before = Path("out/config.yaml").read_text()
    pictures("pictures", 2)
    Path("pictures/2.png").unlink()
    other = config_over("pictures", codec="{kind: cae, channels: 10}", seed="3", start="dct")
    told = failed(2, other, "--out", "out", "--resume")
    assert "codec.channels: 8 there, 10 here" in told
    assert "start: 'random' there, 'dct' here" in told
    assert "seed: 0 there, 3 here" in told
    assert "data[0].digest" in told
    assert Path("out/config.yaml").read_text() == before


def config_over(folder: str, **changes: str) -> str:
    """Write the training without making its pictures again."""
    kept = {path: path.read_bytes() for path in Path(folder).iterdir()}
    file = config(**changes)
    for path in Path(folder).iterdir():
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    return file


def test_caches_are_made_once_and_again_only_when_their_source_changes() -> None:
    file = config()
    done(file)
    cache = Path("trainings/tiny/cache")
    times = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(times) == 4
    done(file, "--resume")
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == times
    pictures("held-out", 2)
    done(file, "--resume")
    changed = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(changed) == 4, "the cache of the old source is still there"
    assert len(changed.items() & times.items()) == 2


def test_what_others_keep_in_a_folder_stays_there() -> None:
    others = [Path("out") / name for name in ("notes.tmp", "cache/records.bin", "cache/records.json", "cache/a.tmp")]
    (Path("out") / "cache").mkdir(parents=True)
    for path in others:
        path.write_text("of others")
    done(config(steps="1"), "--out", "out")
    pictures("held-out", 2)
    done(config(steps="1"), "--out", "out", "--resume")
    assert all(path.read_text() == "of others" for path in others)


def test_a_log_that_was_cut_off_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(validation=validation(6))
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 7, signal.SIGTERM)
        failed(130, file)
    with Path("trainings/tiny/log.jsonl").open("a") as log:
        log.write('{"time_s": 1764000000.0, "event": "valida')
    done(file, "--resume")
    page = Path("trainings/tiny/curves.html").read_text("utf-8")
    assert "step 6" in page
    assert "step 12" in page


def test_a_training_that_begins_anew_has_a_log_of_its_own() -> None:
    done(config(steps="4"), "--out", "out")
    before = Path("out/log.jsonl").read_text()
    Path("out/checkpoint.safetensors").unlink()
    done(config(steps="3", seed="1"), "--out", "out")
    assert Path("out/log.jsonl.before").read_text() == before
    assert [row["step"] for row in events("out", "validation")] == [3]
    assert "step 4" not in Path("out/curves.html").read_text("utf-8")
    again = Path("out/log.jsonl").read_text()
    Path("out/checkpoint.safetensors").unlink()
    done(config(steps="3"), "--out", "out")
    assert Path("out/log.jsonl.before").read_text() == before + again


def test_the_street_is_rendered_drive_by_drive() -> None:
    street = "{kind: street, seed: 1, drives: 1, first_drive: 1, frames: 1, interval_s: 2, sizes: [[64, 80], [64, 96]]}"
    done(config(validation=f"{{every: 6, side: 64, images: [{street}]}}", steps="1"))
    (index,) = Path("trainings/tiny/cache").glob("street-*.json")
    assert json.loads(index.read_text()) == [[64, 96]]
    assert np.fromfile(index.with_suffix(".bin"), np.uint8).std() > 10


@pytest.mark.parametrize("make", [lambda: None, lambda: Path("none").mkdir()])
def test_a_folder_without_images_is_told_before_anything_is_written(make: Callable[[], None]) -> None:
    make()
    told = failed(2, config(data="[{weight: 1, images: {kind: folder, path: none}}]"))
    assert "none: " in told
    assert ("no such folder" in told) != ("holds no image" in told)
    assert not Path("trainings").exists()


def test_images_that_are_all_too_small_are_told() -> None:
    told = failed(2, config(data="[{weight: 1, images: {kind: folder, path: pictures, factors: [2], min_side: 64}}]"))
    assert "pictures: none of its 3 images" in told


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    file = config()
    network = type(build_network(load_training(Path(file))))
    forward = network.forward
    steps = iter(range(1, 100))

    def broken(self: Any, x: torch.Tensor, levels: torch.Tensor) -> Forward:
        good = forward(self, x, levels)
        return Forward(good.x_hat, good.bits * math.nan) if next(steps) == 8 else good

    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", broken)
        assert "step 8 of 12: the loss is nan" in failed(3, file)
    assert all(value.isfinite().all() for value in checkpoint("trainings/tiny").values())
    done(file, "--resume")
    done(file, "--out", "whole")
    assert same(checkpoint("trainings/tiny"), checkpoint("whole"))


def test_all_faults_of_the_file_are_told() -> None:
    told = failed(2, config(steps="0", crop="72"))
    assert "tiny.yaml:5: steps" in told
    assert "tiny.yaml:7: crop must be a multiple of 16" in told


def test_the_number_of_threads_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    wished: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", wished.append)
    done(config(steps="1"), "--threads", 3)
    assert wished == [3]


def test_the_bar_tells_loss_rate_and_quality() -> None:
    result = CliRunner().invoke(cli, ["train", config()], prog_name="roadbits", env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for words in ("train", "12/12", "loss", "bpp", "dB", "steps/s", "step 12: bpp/dB"):
        assert words in result.stderr
    assert result.stdout == "trainings/tiny/model.safetensors\n"


def test_keys_are_set_on_the_command_line() -> None:
    done(config(), "--out", "set", "--set", "steps=3", "--set", "codec.channels=6")
    assert "channels: 6" in Path("set/config.yaml").read_text()
    assert "steps" in failed(2, config(), "--set", "steps=none")


def test_what_is_trained_on_is_not_held_out() -> None:
    Path("links").mkdir()
    file = config(validation="{every: 100, side: 64, images: [{kind: folder, path: links, min_side: 64}]}")
    Path("links/own.png").symlink_to(Path("pictures/1.png").resolve())
    assert "pictures/1.png is both trained on and held out" in failed(2, file, "--out", "new")
    street = "{kind: street, seed: 3, first_drive: %d, drives: 2, frames: 1, interval_s: 1, sizes: [[64, 64]]}"
    trained, held_out = street % 0, street % 1
    file = config(
        data=f"[{{weight: 1, images: {trained}}}]", validation=f"{{every: 100, side: 64, images: [{held_out}]}}"
    )
    assert "drive 1 of the street of seed 3 is both trained on and held out" in failed(2, file, "--out", "new")
    assert not Path("new").exists()
