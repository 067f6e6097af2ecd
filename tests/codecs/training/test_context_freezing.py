"""Contexts from training to use: they learn, are frozen beside their codec, and save what they say they save."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.context import Contexts
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.context_freezing import (
    begun_context,
    contexts_for,
    freeze_contexts,
    groups_of,
    loudest_first,
    scales_of,
)
from roadbits.codecs.training.dct_start import start_as_dct
from roadbits.codecs.training.freezing import freeze, freeze_widths
from roadbits.codecs.training.rate_distortion import RateDistortionTraining, Schedule

Maker = Callable[..., Image]

LAMBDAS = (0.002, 0.02)
GROUPS = (8, 24)


@pytest.fixture(scope="module")
def pictures(textured: Maker) -> list[Image]:
    return [np.rot90(textured(128, 128), turns).copy() for turns in range(4)]


@pytest.fixture(scope="module", params=["cae", "hyperprior"])
def codec(request: pytest.FixtureRequest, pictures: list[Image]) -> NeuralStill:
    """A codec whose transforms are a DCT."""
    torch.manual_seed(0)
    network = CAE(sum(GROUPS), LAMBDAS) if request.param == "cae" else Hyperprior(16, sum(GROUPS), LAMBDAS)
    start_as_dct(network)
    return NeuralStill(request.param, freeze(network, pictures, 0))


class Pictures:
    """The pictures, again and again."""

    def __init__(self, pictures: list[Image]) -> None:
        self._pictures = np.stack(pictures).transpose(0, 3, 1, 2)

    def batch(self, step: int, num: int) -> np.ndarray:
        return self._pictures[(step * num + np.arange(num)) % len(self._pictures)]


def built(codec: NeuralStill, pictures: list[Image]) -> Contexts:
    torch.manual_seed(0)
    return Contexts([begun_context(codec, pictures, GROUPS, 8)])


def frozen(network: Contexts, pictures: list[Image], steps: int) -> FrozenModel:
    model = freeze_contexts(network, pictures, steps)
    assert isinstance(model, FrozenModel)
    return model


def sizes(codec: NeuralStill, pictures: list[Image]) -> int:
    return sum(len(codec.encode(image, point)) for image in pictures for point in codec.points)


def estimated(network: Contexts, image: Image, level: int) -> float:
    """Return the bits that a context in training tells of an image."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return float(network(x, torch.tensor([float(level)])).bits)


def test_scales_are_those_of_the_tables(codec: NeuralStill) -> None:
    scales = scales_of(codec.model)
    assert len(scales) == 64
    assert torch.allclose(scales[[0, -1]], torch.tensor([0.11, 256.0]), rtol=1e-4)
    assert torch.allclose(scales.log().diff(), torch.full((63,), float(scales.log().diff().mean())), atol=1e-4)


def test_the_loudest_channels_come_first(codec: NeuralStill, pictures: list[Image]) -> None:
    order = loudest_first(codec, pictures)
    assert sorted(order.tolist()) == list(range(sum(GROUPS)))
    symbols, _ = codec.coded(torch.from_numpy(pictures[0]).permute(2, 0, 1)[None].float(), 0)
    loudness = symbols.float().abs().mean(dim=(0, 2, 3))[order]
    assert loudness[:8].mean() > loudness[-8:].mean()


def test_an_untrained_context_expects_about_what_the_codec_does(codec: NeuralStill, pictures: list[Image]) -> None:
    model = frozen(built(codec, pictures), pictures, 0)
    # A hyperprior's tables are of Gaussians too; the factorised ones have tails that Gaussians have not.
    most = 8 * 8 * len(pictures) if codec.model.hyper else 0.3 * sizes(codec, pictures)
    assert abs(sizes(NeuralStill("with", model), pictures) - sizes(codec, pictures)) < most


def test_training_saves_bytes_as_it_says_and_leaves_images_alone(codec: NeuralStill, pictures: list[Image]) -> None:
    network = built(codec, pictures)
    schedule = Schedule(LAMBDAS, 120, batch_size=2, crop=128, learning_rate=1e-2)
    training = RateDistortionTraining(network, schedule, Pictures(pictures), {})
    progress = list(training.run(120))
    assert progress[-1].psnr_db is None
    model = frozen(network, pictures, 120)
    with_context = NeuralStill("with", model)
    assert sizes(with_context, pictures) < 0.97 * sizes(codec, pictures)
    for image in pictures[:2]:
        for level, point in enumerate(codec.points):
            payload = with_context.encode(image, point)
            assert np.array_equal(with_context.decode(payload), codec.decode(codec.encode(image, point)))
            # What lies far out of its table costs less, as an escape, than under a Gaussian.
            told = estimated(network, image, level)
            if codec.model.hyper:  # begins with the very tables that the codec has, and has z beside
                saved = estimated(built(codec, pictures), image, level) - told
                assert 0.6 < 8 * (len(codec.encode(image, point)) - len(payload)) / saved < 1.1
            else:
                assert 0.7 < 8 * len(payload) / told < 1.1


def test_a_codec_without_its_context_is_the_one_before(codec: NeuralStill, pictures: list[Image]) -> None:
    model = frozen(built(codec, pictures), pictures, 5)
    assert model.hash != codec.model.hash
    assert model.description.context is not None
    assert model.description.context.steps == 5
    assert model.without_context().hash == codec.model.hash
    assert codec.model.without_context() is codec.model


def test_groups_that_hold_other_channels_are_refused(codec: NeuralStill, pictures: list[Image]) -> None:
    with pytest.raises(ValueError, match=f"groups hold 31 channels, {codec.name} has 32"):
        begun_context(codec, pictures, (8, 23), 8)


def test_groups_are_in_proportion() -> None:
    assert groups_of((1, 2, 3, 4, 6), 320) == (20, 40, 60, 80, 120)
    assert groups_of((1, 2, 3, 4, 6), 96) == (6, 12, 18, 24, 36)
    with pytest.raises(ValueError, match="100 channels cannot be divided like 1, 2, 4"):
        groups_of((1, 2, 4), 100)


def test_every_width_has_a_context_of_its_own(pictures: list[Image], tmp_path: Path) -> None:
    torch.manual_seed(0)
    slim = SlimCAE((8, 16), (LAMBDAS, LAMBDAS), (16, 32))
    codec = SlimStill("slimcae", freeze_widths(slim, pictures, 0))
    network = contexts_for(codec, pictures, (1, 3), (6, 8))
    training = RateDistortionTraining(network, Schedule(LAMBDAS, 3, 2, 128), Pictures(pictures), {})
    assert [progress.step for progress in training.run(3)] == [1, 2, 3]
    model = freeze_contexts(network, pictures, 3)
    assert isinstance(model, SlimModel)
    assert model.widths == (8, 16)
    assert [one.context and one.context.groups for one in model.models] == [(4, 12), (8, 24)]
    model.save(tmp_path / "slim.safetensors")
    again = load_model(tmp_path / "slim.safetensors")
    assert isinstance(again, SlimModel)
    assert again.hash == model.hash != codec.model_hash
    with_contexts = SlimStill("slimcae", again)
    for point in codec.points:
        first, second = (each.encode(pictures[0], point) for each in (codec, with_contexts))
        assert np.array_equal(codec.decode(first), with_contexts.decode(second))
