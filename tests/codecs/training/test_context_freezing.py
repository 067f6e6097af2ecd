"""A scale context from training to use: it learns, is frozen beside its codec, and saves what it says it saves."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.scale_context import ScaleContext
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.context_freezing import freeze_context, loudest_first, scales_of, without_context
from roadbits.codecs.training.dct_start import start_as_dct
from roadbits.codecs.training.freezing import freeze
from roadbits.codecs.training.rate_distortion import RateDistortionTraining, Schedule

Maker = Callable[..., Image]

LAMBDAS = (0.002, 0.02)
GROUPS = (8, 24)


@pytest.fixture(scope="module")
def pictures(textured: Maker) -> list[Image]:
    return [np.rot90(textured(128, 128), turns).copy() for turns in range(4)]


@pytest.fixture(scope="module")
def codec(pictures: list[Image]) -> NeuralStill:
    """A hyperprior whose transforms are a DCT."""
    torch.manual_seed(0)
    network = Hyperprior(16, sum(GROUPS), LAMBDAS)
    start_as_dct(network)
    return NeuralStill("hyperprior", freeze(network, pictures, 0))


class Pictures:
    """The pictures, again and again."""

    def __init__(self, pictures: list[Image]) -> None:
        self._pictures = np.stack(pictures).transpose(0, 3, 1, 2)

    def batch(self, step: int, num: int) -> np.ndarray:
        return self._pictures[(step * num + np.arange(num)) % len(self._pictures)]


def built(codec: NeuralStill, pictures: list[Image]) -> ScaleContext:
    torch.manual_seed(0)
    return ScaleContext(codec, loudest_first(codec, pictures), scales_of(codec.model), GROUPS, 8)


def sizes(codec: NeuralStill, pictures: list[Image]) -> int:
    return sum(len(codec.encode(image, point)) for image in pictures for point in codec.points)


def test_scales_are_those_of_the_tables(codec: NeuralStill) -> None:
    scales = scales_of(codec.model)
    assert len(scales) == 64
    assert torch.allclose(scales[[0, -1]], torch.tensor([0.11, 256.0]), rtol=1e-4)
    assert torch.allclose(scales.log().diff(), torch.full((63,), float(scales.log().diff().mean())), atol=1e-4)


def test_the_loudest_channels_come_first(codec: NeuralStill, pictures: list[Image]) -> None:
    order = loudest_first(codec, pictures)
    assert sorted(order.tolist()) == list(range(sum(GROUPS)))
    _, rungs = codec.coded(torch.from_numpy(pictures[0]).permute(2, 0, 1)[None].float(), 0)
    loudness = rungs.float().mean(dim=(0, 2, 3))[order]
    assert loudness[:8].mean() > loudness[-8:].mean()


def test_an_untrained_context_changes_hardly_a_byte(codec: NeuralStill, pictures: list[Image]) -> None:
    model = freeze_context(built(codec, pictures), pictures, 0)
    assert abs(sizes(NeuralStill("with", model), pictures) - sizes(codec, pictures)) < 8 * 8 * len(pictures)


def test_training_saves_bytes_as_it_says_and_leaves_images_alone(codec: NeuralStill, pictures: list[Image]) -> None:
    network = built(codec, pictures)
    schedule = Schedule(LAMBDAS, 120, batch_size=2, crop=128, learning_rate=1e-2)
    training = RateDistortionTraining(network, schedule, Pictures(pictures), {})
    progress = list(training.run(120))
    assert progress[-1].psnr_db is None
    model = freeze_context(network, pictures, 120)
    with_context = NeuralStill("with", model)
    before, after = sizes(codec, pictures), sizes(with_context, pictures)
    assert after < 0.97 * before
    for image in pictures[:2]:
        for level, point in enumerate(codec.points):
            payload = with_context.encode(image, point)
            assert np.array_equal(with_context.decode(payload), codec.decode(codec.encode(image, point)))
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            with torch.no_grad():
                saved = [float(one(x, torch.tensor([float(level)])).bits) for one in (built(codec, pictures), network)]
            real = 8 * (len(codec.encode(image, point)) - len(payload))
            # What lies far out of its table costs less, as an escape, than under a Gaussian.
            assert 0.6 < real / (saved[0] - saved[1]) < 1.1


def test_a_codec_without_its_context_is_the_one_before(codec: NeuralStill, pictures: list[Image]) -> None:
    model = freeze_context(built(codec, pictures), pictures, 5)
    assert model.hash != codec.model.hash
    assert model.description.context is not None
    assert model.description.context.steps == 5
    assert without_context(model).hash == codec.model.hash
    assert without_context(codec.model) is codec.model


def test_groups_that_hold_other_channels_are_refused(codec: NeuralStill, pictures: list[Image]) -> None:
    order, scales = loudest_first(codec, pictures), scales_of(codec.model)
    with pytest.raises(ValueError, match="groups hold 31 channels, hyperprior has 32"):
        ScaleContext(codec, order, scales, (8, 23))
