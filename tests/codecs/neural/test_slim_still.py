from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs.bitstream import BitstreamError, unpack
from roadbits.codecs.catalogue import codec_named, codec_of
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.neural.model_file import FrozenModel, ModelFileError
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.neural.slim_network import SlimNetwork
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.freezing import freeze, freeze_widths

WIDTHS = (32, 48, 96)
LEVELS = ((0.002, 0.02),) * 3
NARROW, MIDDLE, WIDE = WIDTHS


def clouds(height: int, width: int, seed: int) -> Image:
    """Return a smooth image with a little noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 40, (-(-height // 16), -(-width // 16), 3))
    image = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width] + generator.normal(0, 8, (height, width, 3))
    return np.clip(image + 127, 0, 255).astype(np.uint8)


def awake(kind: str, levels: tuple[tuple[float, ...], ...]) -> SlimNetwork:  # type: ignore[type-arg]
    """Return a network that was never trained, but whose latents are not all zero."""
    torch.manual_seed(3)
    network = SlimCAE(WIDTHS, levels) if kind == "slimcae" else SlimHyperprior(WIDTHS, (40, 64, 96), levels)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_gain"):
                parameter.add_(4.0)
            if name.endswith("log_inverse"):
                parameter.sub_(4.0)
    return network


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [clouds(128, 192, seed) for seed in (1, 2)]


@pytest.fixture(scope="module", params=["slimcae", "slimhyperprior"])
def codec(request: pytest.FixtureRequest, images: list[Image]) -> SlimStill:
    return SlimStill(request.param, freeze_widths(awake(request.param, LEVELS), images, steps=5))


def test_every_width_codes_images_of_odd_sizes(codec: SlimStill) -> None:
    image = clouds(70, 53, 9)
    sizes = set()
    for point in codec.all_points[::4]:
        payload = codec.encode(image, point)
        assert codec.decode(payload).shape == image.shape
        sizes.add(len(payload))
    assert len(sizes) > 3


def test_a_width_taken_out_makes_the_same_bytes(codec: SlimStill, images: list[Image], tmp_path: Path) -> None:
    for width in WIDTHS:
        path = tmp_path / f"{width}.safetensors"
        codec.model.of_width(width).save(path)
        alone = NeuralStill("alone", FrozenModel.load(path))
        point = alone.fine_points[3]
        payload = alone.encode(images[0], point)
        assert payload == codec.encode(images[0], OperatingPoint.of(width=width, **dict(point.settings)))
        assert np.array_equal(alone.decode(payload), codec.decode(payload))
        assert unpack(payload).model_hash == codec.model.of_width(width).hash == alone.model_hash


def kernels(model: FrozenModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.tensors().items() if tensor.ndim == 4 and tensor.shape[-1] > 1}


def test_narrow_widths_share_the_widest_s_kernels(codec: SlimStill) -> None:
    widest = kernels(codec.model.models[-1])
    assert len(widest) >= 6
    for model in codec.model.models[:-1]:
        for name, kernel in kernels(model).items():
            rows, columns = kernel.shape[:2]
            assert torch.equal(kernel, widest[name][:rows, :columns]), name


def test_sharing_costs_little_precision(images: list[Image]) -> None:
    network = awake("slimcae", LEVELS)
    shared = freeze_widths(network, images, steps=0)
    for width in WIDTHS:
        own = freeze(network.standalone(width), images, steps=0)
        y = [NeuralStill("cae", model).analysed(images[0], 0).double() for model in (shared.of_width(width), own)]
        with torch.no_grad():
            x = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float() / 255
            exact = network.standalone(width).eval().g_a(x).double()
        errors = [float((one - exact).square().mean().sqrt() / exact.std()) for one in y]
        assert errors[0] < max(0.02, 2 * errors[1]), (width, errors)


def test_a_file_holds_shared_weights_once_and_gives_the_same_models(codec: SlimStill, tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    codec.model.save(path)
    again = load_model(path)
    assert isinstance(again, SlimModel)
    assert [model.hash for model in again.models] == [model.hash for model in codec.model.models]
    assert again.hash == codec.model.hash
    assert codec.model.num_bytes / 2 < path.stat().st_size < codec.model.num_bytes + 40_000  # large ones are packed
    saved = sum(2 * kernel.numel() for model in codec.model.models[:-1] for kernel in kernels(model).values())
    assert codec.model.num_bytes <= sum(model.num_bytes for model in codec.model.models) - saved


def test_the_catalogue_knows_slimmable_files(codec: SlimStill, images: list[Image], tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    codec.model.save(path)
    found = codec_named(f"{codec.name}:{path}")
    assert isinstance(found, SlimStill)
    payload = found.encode(images[0], found.points[1])
    assert codec_of(payload, [found]) is found
    with pytest.raises(BitstreamError, match="needs the"):
        codec_of(payload)
    alone = codec_named(f"{codec.name}/{MIDDLE}:{path}")
    assert isinstance(alone, NeuralStill)
    assert alone.name == f"{codec.name}/{MIDDLE}:{path}"
    assert alone.model_hash == codec.model.of_width(MIDDLE).hash
    with pytest.raises(ValueError, match="width 33 was not trained; choose from 32, 48, 96"):
        codec_named(f"{codec.name}/33:{path}")
    other = "cae" if codec.name == "slimcae" else "hyperprior"
    with pytest.raises(ValueError, match=f"are of {codec.name}"):
        codec_named(f"{other}:{path}")
    codec.model.of_width(MIDDLE).save(path)
    assert isinstance(codec_named(f"{other}:{path}"), NeuralStill)
    with pytest.raises(ValueError, match=f"are of {other}"):
        codec_named(f"{codec.name}:{path}")


def test_points_name_width_and_lambda_and_climb_with_both(codec: SlimStill) -> None:
    assert len(codec.all_points) == 3 * 9
    assert [point["width"] for point in codec.all_points] == [32.0] * 9 + [48.0] * 9 + [96.0] * 9
    assert codec.fine_points == codec.all_points[18:]
    assert [str(point) for point in codec.points] == [
        "width=32,lambda=0.002",
        "width=48,lambda=0.002",
        "width=96,lambda=0.002",
        "width=96,lambda=0.02",
    ]
    for point in codec.points:
        codec.check(point)


def test_one_lambda_for_each_width_makes_widths_the_points(images: list[Image]) -> None:
    model = freeze_widths(awake("slimcae", ((0.002,), (0.007,), (0.02,))), images, steps=0)
    codec = SlimStill("slimcae", model)
    names = ["width=32", "width=48", "width=96"]
    assert [str(point) for point in codec.points] == [str(point) for point in codec.fine_points] == names
    assert codec.decode(codec.encode(images[0], codec.points[0])).shape == images[0].shape


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("width=100,lambda=0.01", "width 100 was not trained; choose from 32, 48, 96"),
        ("lambda=0.01", "name a width from 32, 48, 96"),
        ("width=48", "width 48 has several rates: name one, as in width=32,lambda=0.002"),
        ("width=48,lambda=0.5", "choose lambda from 0.002 to 0.02"),
        ("width=48,quality=3", "choose lambda from 0.002 to 0.02"),
    ],
)
def test_a_point_it_does_not_have_is_refused(codec: SlimStill, images: list[Image], point: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        codec.encode(images[0], OperatingPoint.parse(point))


def test_complexity_is_that_of_the_width(codec: SlimStill) -> None:
    costs = [codec.complexity(OperatingPoint.of(width=width, **{"lambda": 0.01}), 128, 192) for width in WIDTHS]
    assert costs[0].encode_macs < costs[1].encode_macs < costs[2].encode_macs
    assert costs[0].weight_bytes < costs[1].weight_bytes < costs[2].weight_bytes


def test_a_stranger_s_payload_names_what_it_needs(codec: SlimStill, images: list[Image]) -> None:
    torch.manual_seed(1)
    network = awake(codec.name, LEVELS)
    stranger = NeuralStill("other", freeze(network.standalone(NARROW), images[:1], steps=77))
    payload = stranger.encode(images[0], stranger.points[0])
    with pytest.raises(BitstreamError, match=f"model {stranger.model_hash.hex()}, {codec.name} has for its widths 32"):
        codec.decode(payload)


def test_damaged_slices_are_refused(codec: SlimStill, tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    codec.model.save(path)
    text = path.read_bytes()
    broken = text.replace(b"[32,3]", b"[32,9]").replace(b"[32, 3]", b"[32, 9]")
    assert broken != text
    path.write_bytes(broken)
    with pytest.raises(ModelFileError, match="is no slice 32 x 9"):
        load_model(path)


def test_widths_and_models_must_match(codec: SlimStill) -> None:
    with pytest.raises(ValueError, match="expected rising widths and a model of each"):
        SlimModel((32, 48), codec.model.models)
    with pytest.raises(ValueError, match="expected rising widths and a model of each"):
        SlimModel((48, 32, 96), codec.model.models)
