import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs import catalogue
from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.catalogue import LEGACY_CODECS, codec_named, codec_of, decode, still_codecs
from roadbits.codecs.codec import Codec, Image
from roadbits.codecs.metrics import bpp, psnr
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.freezing import freeze

Maker = Callable[..., Image]

SHIPPED = Path(catalogue.__file__).parent / "weights"
LAMBDAS = (0.002, 0.02)

PLAIN = ("cae", "hyperprior")
both = pytest.mark.parametrize("name", PLAIN)
if_shipped = pytest.mark.skipif(
    not all((SHIPPED / f"{name}.safetensors").exists() for name in PLAIN), reason="no weights are shipped yet"
)


def fresh(kind: str, seed: int, image: Image) -> FrozenModel:
    """Return a model of a network that was never trained."""
    torch.manual_seed(seed)
    network = CAE(8, LAMBDAS) if kind == "cae" else Hyperprior(8, 8, LAMBDAS)
    return freeze(network, [image], steps=0)


@pytest.fixture(scope="module")
def models(textured: Maker) -> dict[tuple[str, int], FrozenModel]:
    return {(kind, seed): fresh(kind, seed, textured(64, 64)) for kind in PLAIN for seed in (0, 1)}


@pytest.fixture
def shipped(
    models: dict[tuple[str, int], FrozenModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, FrozenModel]:
    """Let small models stand in for the shipped ones."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for kind in PLAIN:
        models[kind, 0].save(folder / f"{kind}.safetensors")
    monkeypatch.setattr(catalogue, "WEIGHTS", folder)
    return {kind: models[kind, 0] for kind in PLAIN}


@pytest.fixture
def own(models: dict[tuple[str, int], FrozenModel], tmp_path: Path) -> dict[str, Path]:
    """Return files of weights of one's own."""
    paths = {kind: tmp_path / f"my {kind}.weights" for kind in PLAIN}
    for kind, path in paths.items():
        models[kind, 1].save(path)
    return paths


def neural(codec: Codec) -> NeuralStill:
    assert isinstance(codec, NeuralStill)
    return codec


@both
def test_a_plain_name_takes_the_shipped_weights(name: str, shipped: dict[str, FrozenModel]) -> None:
    codec = neural(codec_named(name))
    assert codec.name == name
    assert codec.model.hash == shipped[name].hash


@both
def test_a_name_with_a_file_takes_its_weights(
    name: str, models: dict[tuple[str, int], FrozenModel], own: dict[str, Path]
) -> None:
    codec = neural(codec_named(f"{name}:{own[name]}"))
    assert codec.name == f"{name}:{own[name]}"
    assert codec.model.hash == models[name, 1].hash


def test_a_file_with_a_colon_in_its_name_is_found(
    models: dict[tuple[str, int], FrozenModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models["cae", 1].save(tmp_path / "rain:day")
    monkeypatch.chdir(tmp_path)
    assert neural(codec_named("cae:rain:day")).model.hash == models["cae", 1].hash


def test_weights_are_read_once_until_their_file_changes(
    models: dict[tuple[str, int], FrozenModel], own: dict[str, Path]
) -> None:
    name = f"cae:{own['cae']}"
    codec = codec_named(name)
    assert codec_named(name) is codec
    models["cae", 0].save(own["cae"])
    os.utime(own["cae"], ns=(1, 1))
    assert neural(codec_named(name)).model.hash == models["cae", 0].hash


def test_all_codecs_are_listed_once(shipped: dict[str, FrozenModel]) -> None:
    assert set(shipped) == set(PLAIN)
    assert [codec.name for codec in still_codecs()] == [*(codec.name for codec in LEGACY_CODECS), *PLAIN]


@pytest.mark.parametrize(
    "name", ["bpg", "", "CAE", "cae:", "hyperprior:", ":file", "jpeg:file", "cae file", "cae/96", "slimcae/"]
)
def test_an_unknown_name_lists_those_there_are(name: str) -> None:
    message = (
        f"no codec '{name}': choose from jpeg, jpeg2000, webp, avif, hevc-intra, cae, hyperprior, slimcae, "
        "or NAME:FILE for weights of your own, of cae, hyperprior, scaling, mae"
    )
    with pytest.raises(ValueError, match=message):
        codec_named(name)


@both
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(ValueError, match=f"codec {name}:{path}: .*{path}"):
        codec_named(f"{name}:{path}")


def test_a_folder_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no file of weights {tmp_path}"):
        codec_named(f"cae:{tmp_path}")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("what I did on my holidays")
    with pytest.raises(ValueError, match=f"codec cae:{path}: cannot use the weights in {path}"):
        codec_named(f"cae:{path}")


@pytest.mark.parametrize(("name", "other"), [("cae", "hyperprior"), ("hyperprior", "cae")])
def test_weights_of_the_other_architecture_are_refused(name: str, other: str, own: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=f"codec {name}:{own[other]}: the weights in {own[other]} are of {other}"):
        codec_named(f"{name}:{own[other]}")


@both
def test_a_payload_of_shipped_weights_needs_nothing_further(
    name: str, shipped: dict[str, FrozenModel], textured: Maker
) -> None:
    codec = codec_named(name)
    assert codec.model_hash == shipped[name].hash
    payload = codec.encode(textured(48, 33), codec.points[0])
    assert codec_of(payload) is codec
    assert np.array_equal(decode(payload), codec.decode(payload))


@both
@pytest.mark.usefixtures("shipped")
def test_a_payload_of_weights_of_ones_own_is_decoded_where_they_are_given(
    name: str, own: dict[str, Path], textured: Maker
) -> None:
    mine = [codec_named(f"{kind}:{own[kind]}") for kind in PLAIN]
    codec = codec_named(f"{name}:{own[name]}")
    payload = codec.encode(textured(48, 33), codec.points[0])
    assert codec_of(payload, mine) is codec
    assert np.array_equal(decode(payload, [*LEGACY_CODECS, *mine]), codec.decode(payload))


@both
def test_further_weights_do_not_stand_in_the_way_of_the_shipped_ones(
    name: str, shipped: dict[str, FrozenModel], own: dict[str, Path], textured: Maker
) -> None:
    mine = [codec_named(f"{kind}:{own[kind]}") for kind in PLAIN]
    codec = codec_named(name)
    payload = codec.encode(textured(48, 33), codec.points[0])
    assert neural(codec_of(payload, mine)).model.hash == shipped[name].hash
    for legacy in LEGACY_CODECS:
        assert codec_of(legacy.encode(textured(16, 16), legacy.points[0]), mine) is legacy


@both
def test_a_payload_whose_weights_are_not_there_names_those_needed_and_those_at_hand(
    name: str,
    shipped: dict[str, FrozenModel],
    models: dict[tuple[str, int], FrozenModel],
    own: dict[str, Path],
    textured: Maker,
) -> None:
    stranger = NeuralStill("stranger", fresh(name, 2, textured(64, 64)))
    payload = stranger.encode(textured(48, 33), stranger.points[0])
    further = [codec_named(f"{name}:{own[name]}")]
    for function in (codec_of, decode):
        with pytest.raises(BitstreamError, match=f"needs the {name} model {stranger.model.hash.hex()}") as caught:
            function(payload, further)
        assert f"{name}:{own[name]} {models[name, 1].hash.hex()}" in str(caught.value)
        assert f"{name} {shipped[name].hash.hex()}" in str(caught.value)
        assert f"name its weights as {name}:FILE, or as slim{name}:FILE if" in str(caught.value)


@if_shipped
@both
def test_the_shipped_weights_decode_what_they_encode(name: str, textured: Maker) -> None:
    codec = neural(codec_named(name))
    assert codec.model.description.architecture == name
    assert codec.model.description.steps > 0
    image = textured(100, 139)
    assert decode(codec.encode(image, codec.points[0])).shape == image.shape


@if_shipped
@both
def test_the_shipped_weights_give_good_images_at_rising_rates(name: str, smooth: Maker) -> None:
    codec, image = codec_named(name), smooth(128, 192)
    payloads = [codec.encode(image, point) for point in codec.points]
    qualities = [psnr(codec.decode(payload), image) for payload in payloads]
    sizes = [len(payload) for payload in payloads]
    assert sizes == sorted(set(sizes))
    assert qualities[-1] > max(qualities[0], 36)
    assert bpp(sizes[0], 128, 192) < 0.2


@if_shipped
@both
def test_the_shipped_weights_keep_colours_in_their_channels(name: str) -> None:
    codec = codec_named(name)
    for colour in ((200, 40, 60), (30, 180, 70), (20, 60, 210)):
        image = np.full((64, 64, 3), colour, np.uint8)
        decoded = codec.decode(codec.encode(image, codec.points[-1]))
        assert np.abs(decoded.astype(int) - colour).mean() < 10
