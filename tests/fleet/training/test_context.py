import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.image import read_image
from roadbits.codecs.neural.context_model import ContextModel
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training import context_freezing
from roadbits.codecs.training.freezing import freeze
from roadbits.fleet.training.file import load_training
from tests.fleet.command_line import done, roadbits, written
from tests.fleet.training import recipes

STILL = "hyperprior:still.safetensors"


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    """Lay out a few pictures and a small hyperprior."""
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(3)]
    for number, picture in enumerate(pictures):
        folder = Path("held-out" if number == 2 else "pictures")
        folder.mkdir(exist_ok=True)
        PIL.Image.fromarray(picture).save(folder / f"{number}.png")
    torch.manual_seed(3)
    freeze(Hyperprior(8, 12, (0.002, 0.02)), pictures, 1).save(Path("still.safetensors"))


def config(name: str = "tiny", **changes: str) -> str:
    lines = {
        "name": name,
        "kind": "context",
        "codec": f"{{still: '{STILL}', groups: [4, 8], channels: 6}}",
        "steps": "8",
        "batch_size": "2",
        "crop": "64",
        "checkpoint_every": "3",
        "data": "[{weight: 1, images: {kind: folder, path: pictures, min_side: 64}}]",
        "validation": "{every: 100, side: 64, images: [{kind: folder, path: held-out, min_side: 64}]}",
    }
    return str(written(name, lines | changes))


def test_a_training_ends_with_the_codec_and_its_context() -> None:
    file = recipes.done(config())
    codec, before = codec_named(f"hyperprior:{file}"), codec_named(STILL)
    assert isinstance(codec, NeuralStill)
    assert codec.model.description.context is not None
    assert codec.model.description.context.steps == 8
    assert codec.model.description.steps == 1
    rows = [json.loads(line) for line in Path("trainings/tiny/log.jsonl").read_text().splitlines()]
    (measured,) = (row for row in rows if row["event"] == "validation")
    assert [point["point"] for point in measured["points"]] == [str(point) for point in codec.points]
    assert measured["psnr_db"] is None  # nothing is lost by a context
    image = read_image(Path("held-out/2.png"))
    done("encode", "held-out/2.png", "p.rb", "--codec", f"hyperprior:{file}", "--point", str(codec.points[0]))
    done("decode", "p.rb", "decoded.png", "--codec", f"hyperprior:{file}")
    expected = before.decode(before.encode(image, before.points[0]))
    assert np.array_equal(read_image(Path("decoded.png")), expected)
    assert "payload needs" in roadbits("decode", "p.rb", "again.png", "--codec", STILL).stderr


def test_a_resumed_training_ends_with_the_same_bits() -> None:
    recipes.done(config("short", steps="3", cooldown="0"), "--out", "stopped")
    recipes.done(config("long", cooldown="0"), "--out", "straight")
    recipes.done(config("long", cooldown="0"), "--out", "stopped", "--resume")
    straight, resumed = (load_file(f"{folder}/checkpoint.safetensors") for folder in ("straight", "stopped"))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


ORDER = "network/contexts.0.order"


def found_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """Let calibration find the channels in another order than before, as on other images."""
    found = context_freezing.loudest_first
    patch.setattr(context_freezing, "loudest_first", lambda *given: found(*given).flip(0))


def context_of(file: str) -> ContextModel:
    codec = codec_named(f"hyperprior:{file}")
    assert isinstance(codec, NeuralStill)
    assert codec.model.context is not None
    return codec.model.context


def test_a_context_can_start_from_the_weights_of_another_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.done(config("first"), "--out", "first")
    second = config("second", start_from="first/checkpoint.safetensors", steps="1", learning_rate="1e-9")
    found_in_reverse(monkeypatch)
    file = recipes.done(second, "--out", "second")
    before, after = (load_file(f"{name}/checkpoint.safetensors") for name in ("first", "second"))
    for name in (name for name in before if name.startswith("network/")):
        assert torch.allclose(before[name], after[name], atol=1e-7), name
    assert torch.equal(context_of(file).order, before[ORDER])


def test_the_networks_of_a_resumed_context_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.done(config("short", steps="3", cooldown="0"), "--out", "stopped")
    before = load_file("stopped/checkpoint.safetensors")[ORDER]
    found_in_reverse(monkeypatch)
    file = recipes.done(config("long", cooldown="0"), "--out", "stopped", "--resume")
    assert torch.equal(load_file("stopped/checkpoint.safetensors")[ORDER], before)
    assert torch.equal(context_of(file).order, before)
    recipes.done(config("anew", steps="1"), "--out", "anew")
    assert torch.equal(load_file("anew/checkpoint.safetensors")[ORDER], before.flip(0))


def test_a_context_may_be_trained_anew_and_only_the_codec_stays() -> None:
    first = recipes.done(config())
    again = config("again", codec=f"{{still: 'hyperprior:{first}', groups: [12], channels: 6}}")
    model = codec_named(f"hyperprior:{recipes.done(again)}")
    assert isinstance(model, NeuralStill)
    assert model.model.description.context is not None
    assert model.model.description.context.groups == (12,)


def test_a_checkpoint_of_other_groups_is_refused() -> None:
    recipes.done(config())
    other = config(codec=f"{{still: '{STILL}', groups: [6, 6], channels: 6}}")
    assert "codec.groups: [4, 8] there, [6, 6] here" in recipes.failed(2, other, "--resume")


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (f"{{still: '{STILL}', groups: [4, 9], channels: 6}}", "12 channels cannot be divided like 4, 9"),
        (f"{{still: '{STILL}', groups: [4, 8], channels: [6, 7]}}", "codec.channels must be a number, or 1 of them"),
        ("{still: jpeg, groups: [4, 8], channels: 6}", "jpeg can have no context"),
        (f"{{still: '{STILL}', groups: [], channels: 6}}", "codec.groups"),
        ("{still: 'hyperprior:none.safetensors', groups: [12]}", "No such file"),
    ],
)
def test_a_codec_that_cannot_have_such_a_context_is_refused(codec: str, expected: str) -> None:
    assert expected in recipes.failed(2, config(codec=codec))
    assert not Path("trainings").exists()


def test_the_file_of_the_codec_is_taken_from_the_folder_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(config()).absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    words = load_training(path)
    assert words.model_dump()["codec"]["still"] == f"hyperprior:{path.parent / 'still.safetensors'}"
