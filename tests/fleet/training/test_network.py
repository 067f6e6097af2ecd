import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.fleet.training.file import load_training
from roadbits.fleet.training.network import identity_of
from tests.fleet.training.recipes import (
    HYPERPRIOR,
    checkpoint,
    config,
    done,
    events,
    failed,
    interrupt_in_step,
    same,
    train,
)


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


def test_the_codec_that_a_training_began_from_may_lie_elsewhere_but_be_no_other() -> None:
    done(config("first", steps="3"), "--out", "first")
    done(config("other", steps="3", seed="5"), "--out", "other")
    start = {"steps": "9", "cooldown": "0.1"}
    done(config("second", start="cae:first/model.safetensors", **start | {"steps": "3"}), "--out", "second")
    Path("first").rename("moved")
    done(config("second", start="cae:moved/model.safetensors", **start), "--out", "second", "--resume")
    hashes = [FrozenModel.load(Path(f"{name}/model.safetensors")).hash.hex() for name in ("moved", "other")]
    told = failed(2, config("second", start="cae:other/model.safetensors", **start), "--out", "second", "--resume")
    assert f"start: {hashes[0]!r} there, {hashes[1]!r} here" in told


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
    stated = [codec.model.description.lambdas for codec in slim_codec("whole/model.safetensors").codecs.values()]
    assert [lmbda for (lmbda,) in stated] == pytest.approx(whole["lambdas"]), "a frozen model states what came of it"
    assert "lambda_schedule.first_steps: 4 there, None here" in failed(
        2, config(**words | {"lambda_schedule": "null"}), "--out", "whole", "--resume"
    )
    Path("whole/checkpoint.safetensors").unlink()
    done(config(**words | {"seed": "9"}), "--out", "whole")
    assert len(events("whole", "lambdas")) == 1
    assert json.loads(Path("whole/lambda_schedule.json").read_text()) != rounds[0], "its rounds are its own"


def slim_codec(file: str) -> SlimStill:
    codec = codec_named(f"slimcae:{file}")
    assert isinstance(codec, SlimStill)
    return codec


def test_a_model_without_its_checkpoint_is_no_end_of_another_training() -> None:
    done(config(steps="4"), "--out", "out")
    before = Path("out/model.safetensors").read_bytes()
    Path("out/checkpoint.safetensors").unlink()
    model = Path(done(config(steps="4", lambdas="[0.01]"), "--out", "out"))
    assert FrozenModel.load(model).description.lambdas == pytest.approx((0.01,))
    assert Path("out/model.safetensors.before").read_bytes() == before
