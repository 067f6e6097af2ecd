import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.cae import Forward
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.fleet import still_training, training_run
from roadbits.fleet.cli import cli
from roadbits.fleet.training_file import load_training
from roadbits.fleet.training_network import build_network, identity_of

CAE = "{kind: cae, channels: 8}"
HYPERPRIOR = "{kind: hyperprior, channels: 8, latent_channels: 12}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, with one thread and a short calibration."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(still_training, "_NUM_CALIBRATION_IMAGES", 3)
    yield tmp_path
    torch.set_num_threads(threads)


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
    path = Path(f"{name}.yaml")
    path.write_text("".join(f"{key}: {value}\n" for key, value in (lines | changes).items()))
    return str(path)


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", "--quiet", *map(str, arguments)], prog_name="roadbits")


def done(*arguments: object) -> str:
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def failed(code: int, *arguments: object) -> str:
    result = train(*arguments)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def checkpoint(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "checkpoint.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def events(folder: str, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


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


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a step."""
    one_step = RateDistortionTraining._one_step

    def interrupted(training: RateDistortionTraining) -> tuple[float, float, float]:
        if training.step + 1 == step:
            os.kill(os.getpid(), number)
        return one_step(training)

    monkeypatch.setattr(RateDistortionTraining, "_one_step", interrupted)


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

    run = training_run.TrainingRun(load_training(Path(file)), Path("trainings/tiny"), quiet=True)
    run._train = second  # type: ignore[method-assign]
    run.execute()
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


def test_a_training_can_start_from_the_weights_of_another() -> None:
    done(config("first"), "--out", "first")
    done(
        config("second", start_from="first/checkpoint.safetensors", steps="1", learning_rate="1e-9"), "--out", "second"
    )
    before, after = (load_file(f"{name}/checkpoint.safetensors") for name in ("first", "second"))
    for name in before:
        if name.startswith("network/g_"):
            assert torch.allclose(before[name], after[name], atol=1e-7), name


def test_a_training_can_start_from_a_frozen_codec() -> None:
    done(config("first"), "--out", "first")
    (*_, before) = events("first", "validation")
    done(config("second", start="cae:first/model.safetensors", steps="1", learning_rate="1e-9"), "--out", "second")
    begun, after = events("second", "validation")
    assert (begun["step"], after["step"], begun["loss"]) == (0, 1, None), "where it begins is measured too"
    for found in (begun, after):
        for old, new in zip(before["points"], found["points"], strict=True):
            assert new["psnr_db"] == pytest.approx(old["psnr_db"], abs=0.2)
            assert new["bpp"] == pytest.approx(old["bpp"], rel=0.1)
    wider = config("wider", codec="{kind: cae, channels: 10}", start="cae:first/model.safetensors")
    assert "cannot begin from cae:" in (message := failed(2, wider, "--out", "wider"))
    assert "the codec's layers are others: down 3-8" in message


@pytest.mark.parametrize(
    "codec",
    ["{kind: cae, channels: 8, latent_channels: 16}", "{kind: slimcae, widths: [6, 8], latent_channels: [8, 16]}"],
)
def test_a_start_as_a_dct_passes_on_more_than_one_from_random_weights(codec: str) -> None:
    def first_psnr_db(start: str) -> float:
        done(config(start, codec=codec, start=start, steps="1"), "--out", start)
        (row,) = events(start, "validation")
        psnr_db: float = row["points"][-1]["psnr_db"]
        return psnr_db

    assert first_psnr_db("dct") > first_psnr_db("random") + 5


def test_an_encoder_shrinks_beside_a_decoder_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    done(config("large", steps="2"), "--out", "large")
    small = config("small", steps="6", start_from="large/checkpoint.safetensors", mask_decay="{channels: 3, steps: 4}")
    done(small, "--out", "small")
    large, shrunk = (FrozenModel.load(Path(f"{name}/model.safetensors")) for name in ("large", "small"))
    assert [layer.num_outputs for layer in shrunk.g_a.layers][::2] == [3, 3, 8]
    assert [layer.num_outputs for layer in shrunk.g_s.layers] == [layer.num_outputs for layer in large.g_s.layers]
    before, after = checkpoint("large"), checkpoint("small")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("network/g_s"))
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 3, signal.SIGINT)
        failed(130, small, "--out", "halves")
    done(small, "--out", "halves", "--resume")
    assert same(checkpoint("small"), checkpoint("halves"))


def test_an_encoder_shrinks_only_once_and_beside_gains_of_its_lambdas() -> None:
    done(config("large", steps="2"), "--out", "large")
    start = {"steps": "3", "mask_decay": "{channels: 3, steps: 2}"}
    done(config("small", start_from="large/checkpoint.safetensors", **start), "--out", "small")
    again = config("again", start_from="small/checkpoint.safetensors", **start)
    assert "shrunk already" in failed(2, again, "--out", "again")
    for lambdas, words in (("[0.001, 0.01]", "its gains are of lambdas"), ("[0.01]", "would not be trained here")):
        other = config("other", start_from="large/checkpoint.safetensors", lambdas=lambdas, **start)
        assert words in failed(2, other, "--out", "other")


def test_a_start_that_is_not_there_is_told_before_anything_is_written() -> None:
    assert "nowhere.safetensors" in failed(2, config(start_from="nowhere.safetensors"), "--out", "new")
    assert not Path("new").exists()


def test_keys_are_set_on_the_command_line() -> None:
    done(config(), "--out", "set", "--set", "steps=3", "--set", "codec.channels=6")
    assert "channels: 6" in Path("set/config.yaml").read_text()
    assert "steps" in failed(2, config(), "--set", "steps=none")


def test_weights_of_another_network_are_no_start() -> None:
    done(config("first", steps="1"), "--out", "first")
    wider = config("second", codec="{kind: cae, channels: 16}", start_from="first/checkpoint.safetensors")
    result = train(wider, "--out", "second")
    assert result.exit_code == 2
    assert "cannot begin from" in result.stderr


def test_an_identity_names_codec_and_data() -> None:
    words = load_training(Path(config(codec=HYPERPRIOR)))
    assert identity_of(words, ["abc"]) == {
        "codec.kind": "hyperprior",
        "codec.method": "gain",
        "codec.channels": 8,
        "codec.latent_channels": 12,
        "codec.layers": 3,
        "codec.means": True,
        "start": "random",
        "busiest_of": 1,
        "mask_decay": None,
        "data[0].weight": 1,
        "data[0].decimated": 0.0,
        "data[0].digest": "abc",
    }


@pytest.mark.parametrize("method", ["mae", "conditional"])
def test_a_method_trains_and_its_file_goes_by_its_name(method: str) -> None:
    file = done(config(codec=f"{{kind: cae, method: {method}, channels: 8}}", steps="3"))
    codec = codec_named(f"{method}:{file}")
    assert isinstance(codec, NeuralStill)
    image = np.asarray(PIL.Image.open("held-out/0.png"))
    assert codec.decode(codec.encode(image, codec.points[0])).shape == image.shape


def test_scaling_tunes_scales_of_a_trained_codec_and_nothing_else() -> None:
    done(config("base", lambdas="[0.05]", steps="3"), "--out", "base")
    scaled = config(
        "scaled", codec="{kind: cae, method: scaling, channels: 8}", steps="3", start_from="base/checkpoint.safetensors"
    )
    file = done(scaled, "--out", "scaled")
    before, after = checkpoint("base"), checkpoint("scaled")
    for name in before:
        if name.startswith("network/") and "gain" not in name:
            assert torch.equal(before[name], after[name]), name
    assert after["network/gain.log_scale"].shape == (2, 8)
    assert isinstance(codec_named(f"scaling:{file}"), NeuralStill)


SLIM = "{kind: slimcae, widths: [8, 16], per_step: sandwich}"


@pytest.mark.parametrize("codec", [SLIM, "{kind: slimhyperprior, widths: [8, 12], latent_channels: [8, 16]}"])
def test_a_slimmable_training_ends_with_a_codec_of_all_widths(codec: str) -> None:
    name = "slimcae" if codec == SLIM else "slimhyperprior"
    still = codec_named(f"{name}:{done(config(codec=codec, steps='4'))}")
    image = np.asarray(PIL.Image.open("held-out/0.png"))
    for point in still.all_points[:: len(still.all_points) - 1]:
        assert still.decode(still.encode(image, point)).shape == image.shape
    (row,) = events("trainings/tiny", "validation")
    assert [point["point"] for point in row["points"]] == [str(point) for point in still.points]


def test_a_lambda_schedule_that_is_stopped_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "codec": SLIM,
        "lambdas": "[0.05]",
        "lambda_schedule": "{first_steps: 4, round_steps: 2, max_rounds: 2}",
        "steps": "14",
        "cooldown": "0.25",
    }
    done(config(**words), "--out", "whole")
    step = RateDistortionTraining._one_step

    def interrupted(training: RateDistortionTraining) -> Any:
        if training.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(training)

    with monkeypatch.context() as patch:
        patch.setattr(RateDistortionTraining, "_one_step", interrupted)
        failed(130, config(**words), "--out", "parted")
    done(config(**words), "--out", "parted", "--resume")
    assert same(checkpoint("whole"), checkpoint("parted"))
    (whole,), parted = events("whole", "lambdas"), events("parted", "lambdas")
    assert whole["lambdas"] == parted[-1]["lambdas"]
    assert whole["lambdas"][0] < whole["lambdas"][1] == pytest.approx(0.05)
    rounds = [json.loads((Path(folder) / "lambda_schedule.json").read_text()) for folder in ("whole", "parted")]
    assert rounds[0] == rounds[1]
