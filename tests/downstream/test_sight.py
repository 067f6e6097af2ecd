"""What frozen networks see: the levels they promise, with gradients to the image and none to themselves."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from roadbits.codecs.precision import reduced_precision
from roadbits.downstream.segmenter import Segmenter, SegmenterSpec
from roadbits.downstream.sight import Sight, imagenet_sight, segmenter_sight

CLASSES = 5


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def seen(sight: Sight, x: Tensor) -> Sequence[Tensor]:
    with reduced_precision(x.device):
        return sight(x)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SegmenterSpec(), CLASSES)


def test_imagenet_s_levels_have_the_channels_and_strides_that_are_told() -> None:
    sight, channels = imagenet_sight()
    levels = seen(sight, image())
    assert [level.shape[1] for level in levels] == channels
    assert [tuple(level.shape[2:]) for level in levels] == [(64 // k, 96 // k) for k in (2, 4, 8, 16, 32)]


def test_a_segmenter_s_levels_are_its_encoder_s_and_its_logits(segmenter: Segmenter) -> None:
    sight, channels = segmenter_sight(segmenter)
    x = image()
    levels = seen(sight, x)
    assert [level.shape[1] for level in levels] == channels
    with torch.no_grad(), reduced_precision(x.device):
        expected = [*segmenter.network.encoder(2 * x - 1)[1:], segmenter(255 * x)]  # type: ignore[operator, union-attr]
    for level, want in zip(levels, expected, strict=True):
        assert (level - want).float().norm() < 0.03 * want.float().norm()


def test_two_looks_are_told_apart(segmenter: Segmenter) -> None:
    sight, _ = segmenter_sight(segmenter)
    dark, bright = seen(sight, 0.2 * image()), seen(sight, image())
    again = seen(sight, 0.2 * image())
    assert all(torch.equal(one, other) for one, other in zip(dark, again, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(dark, bright, strict=True))


@pytest.mark.parametrize("of", ["imagenet", "segmenter"])
def test_gradients_reach_the_image_and_no_weight(of: str, segmenter: Segmenter) -> None:
    sight, _ = imagenet_sight() if of == "imagenet" else segmenter_sight(segmenter)
    x = image().requires_grad_()
    torch.stack([level.float().square().mean() for level in seen(sight, x)]).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_a_level_without_channels_is_left_out() -> None:
    sight, channels = segmenter_sight(Segmenter(SegmenterSpec("Unet", "mit_b0", pretrained=False), CLASSES))
    levels = seen(sight, image())
    assert [level.shape[1] for level in levels] == channels
    assert all(level.numel() for level in levels)
