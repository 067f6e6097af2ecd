import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from roadbits.codecs.catalogue import clip_codec_of, still_or_clip_codec_named
from roadbits.codecs.image import list_images, read_clip, read_image
from roadbits.codecs.neural.slim_clip import SlimClip
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.training.freezing import freeze_widths
from roadbits.fleet.training.file import load_training
from tests.fleet.command_line import done, roadbits, written
from tests.fleet.training import recipes

PHOTOGRAPHS = "{kind: moving-photographs, path: pictures, clips: 4, frames: 4, side: 64}"
HELD_OUT = "{kind: moving-photographs, path: held-out, clips: 1, frames: 3, side: 64, seed: 9}"


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    """Lay out a few pictures and a small still codec."""
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    Path("held-out").mkdir()
    pictures = [np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(3)]
    for number, picture in enumerate(pictures):
        PIL.Image.fromarray(picture).save(f"{'held-out' if number == 2 else 'pictures'}/{number}.png")
    torch.manual_seed(3)
    network = SlimCAE((8, 16), ((0.002, 0.02),) * 2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "log_" in name:
                parameter.add_(4.0 if "gain" in name else -4.0)
    freeze_widths(network, [picture[:64, :64] for picture in pictures], steps=1).save(Path("still.safetensors"))


def config(name: str = "tiny", **changes: str) -> str:
    lines = {
        "name": name,
        "kind": "clip-codec",
        "codec": "{kind: slimvc, still: 'slimcae:still.safetensors', channels: [4, 8]}",
        "steps": "8",
        "batch_size": "2",
        "crop": "64",
        "checkpoint_every": "3",
        "data": f"[{{weight: 1, clips: {PHOTOGRAPHS}}}]",
        "validation": f"{{every: 100, side: 64, clips: [{HELD_OUT}]}}",
    }
    return str(written(name, lines | changes))


def test_a_training_ends_with_a_codec_of_clips() -> None:
    model = recipes.done(config())
    codec = still_or_clip_codec_named(f"slimvc:{model}")
    assert isinstance(codec, SlimClip)
    assert codec.model.description.steps == 8
    rows = [json.loads(line) for line in Path("trainings/tiny/log.jsonl").read_text().splitlines()]
    (measured,) = (row for row in rows if row["event"] == "validation")
    assert [point["point"] for point in measured["points"]] == [str(point) for point in codec.points]
    assert measured["psnr_db"] is None  # nothing is lost by predicting

    done("encode", "pictures", "p.rb", "--codec", f"slimvc:{model}")
    payload = Path("p.rb").read_bytes()
    assert clip_codec_of(payload, [codec]) is codec
    assert "payload needs the slimcae model" in roadbits("decode", "p.rb", "out").stderr
    assert done("decode", "p.rb", "out", "--codec", f"slimvc:{model}") == "96 x 128 pixels, 2 frames\n"
    decoded = [read_image(path) for path in list_images(Path("out"))]
    clip = read_clip(list_images(Path("pictures")))
    expected = codec.decode(codec.encode(clip, codec.points[len(codec.points) // 2]))
    np.testing.assert_array_equal(decoded, expected)


def test_a_resumed_training_ends_with_the_same_bits() -> None:
    recipes.done(config())
    whole = load_file("trainings/tiny/checkpoint.safetensors")
    recipes.done(config("short", steps="3", cooldown="0"), "--out", "stopped")
    recipes.done(config("long", cooldown="0"), "--out", "straight")
    recipes.done(config("long", cooldown="0"), "--out", "stopped", "--resume")
    straight, resumed = (load_file(f"{folder}/checkpoint.safetensors") for folder in ("straight", "stopped"))
    assert straight.keys() == resumed.keys() == whole.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert Path("straight/model.safetensors").read_bytes() == Path("stopped/model.safetensors").read_bytes()


def test_caches_and_latents_go_with_their_training_and_not_before() -> None:
    recipes.done(config())
    cache = Path("trainings/tiny/cache")
    (cache / "latents-of-mine.npy").write_bytes(b"of others")
    before = {path.name for path in cache.iterdir()}
    assert sum(name.startswith("latents-") for name in before) == 2
    other = config(crop="80", data=f"[{{weight: 1, clips: {PHOTOGRAPHS.replace('side: 64', 'side: 80')}}}]")
    assert "is of another configuration" in recipes.failed(2, other, "--resume")
    assert before < {path.name for path in cache.iterdir()}, "refused, it takes nothing away"
    Path("trainings/tiny/checkpoint.safetensors").unlink()
    recipes.done(other)
    after = {path.name for path in cache.iterdir()}
    assert len(after) == len(before)
    assert len(after & before) == 3, "what is held out, and what is of others"


def test_a_file_is_found_again_beside_its_still_codec() -> None:
    model = recipes.done(config())
    Path("elsewhere").mkdir()
    for file in (Path(model), Path("still.safetensors")):
        file.rename(Path("elsewhere") / file.name)
    assert isinstance(still_or_clip_codec_named("slimvc:elsewhere/model.safetensors"), SlimClip)
    Path("elsewhere/model.safetensors").rename("alone.safetensors")
    with pytest.raises(ValueError, match=r"codec slimvc:.*No such file.*still\.safetensors"):
        still_or_clip_codec_named("slimvc:alone.safetensors")


def test_the_words_survive_a_round_trip() -> None:
    recipes.done(config())
    assert load_training(Path("trainings/tiny/config.yaml")) == load_training(Path("tiny.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "{kind: slimvc, still: jpeg, channels: [4, 8]}"}, "jpeg is no slimcae"),
        ({"codec": "{kind: slimvc, still: 'slimcae:gone.safetensors', channels: [4, 8]}"}, "No such file"),
        (
            {"codec": "{kind: slimvc, still: 'slimcae:still.safetensors', channels: [4]}"},
            "a number for each width of slimcae",
        ),
        (
            {"codec": "{kind: slimvc, still: 'slimcae:still.safetensors', channels: [8, 4]}"},
            "codec.channels of a narrow width must be no more than the widest's, 4; got 8, 4",
        ),
        ({"crop": "70"}, "crop input should be a multiple of 16"),
        ({"data": f"[{{weight: 1, clips: {PHOTOGRAPHS.replace('64', '512')}}}]"}, "shorter side of 512 pixels"),
        ({"data": f"[{{weight: 1, clips: {PHOTOGRAPHS.replace('frames: 4', 'frames: 2')}}}]"}, "greater than or equal"),
        (
            {"kind": "moving-pictures"},
            "kind must be one of still-codec, context, clip-codec, clip-restorer, got 'moving-pictures'",
        ),
        ({"lambdas": "[0.01]"}, "lambdas is no key of a training"),
        ({"crop": "96"}, "no part of 96 x 96 pixels fits into frames of 64 x 64"),
    ],
)
def test_wrong_words_are_told(changes: dict[str, str], message: str) -> None:
    assert message in recipes.failed(2, config(**changes))


def test_a_street_drives_at_every_interval() -> None:
    street = "{kind: street, seed: 1, drives: 2, frames: 3, intervals_s: [0.05, 0.5], sizes: [[64, 64]]}"
    recipes.done(config(data=f"[{{weight: 1, clips: {street}}}]"))
    (cache,) = (path for path in Path("trainings/tiny/cache").glob("street*.bin"))
    clips = np.fromfile(cache, np.uint8).reshape(2, 3, 64, 64, 3).astype(int)
    slow, fast = (np.abs(clip[1:] - clip[:-1]).mean() for clip in clips)
    assert slow < fast
