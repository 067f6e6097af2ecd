"""Freezing a scale context: its trained networks become exact, beside the codec that it is for, which stays as it is.

Not here: freezing codecs (`freezing`), training (`rate_distortion`).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from roadbits.codecs.codec import Image
from roadbits.codecs.integer import LARGEST_ACTIVATION
from roadbits.codecs.neural.context_model import (
    STEPS_OF_A_SCALE,
    ContextModel,
    centred_rungs,
    looked_at,
    magnitudes_of,
)
from roadbits.codecs.neural.hyperprior import STRIDE
from roadbits.codecs.neural.model_file import ContextWords, FrozenModel, LayerWords
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.scale_context import ScaleContext
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.exact_twins import exact_twin
from roadbits.codecs.training.ranges import cut_to_stride, reached


def without_context(model: FrozenModel) -> FrozenModel:
    """Return a codec without its scale context, if it has one."""
    if model.hyper is None or model.hyper.context is None:
        return model
    description = model.description.model_copy(update={"context": None})
    return replace(model, description=description, hyper=replace(model.hyper, context=None))


def scales_of(model: FrozenModel) -> Tensor:
    """Return the scale of each of a hyperprior's tables, float32 (tables,): between two thresholds their mean."""
    assert model.hyper is not None
    logs = model.hyper.thresholds.double().log()
    ends = [logs[:1] - (logs[1] - logs[0]) / 2, logs[-1:] + (logs[-1] - logs[-2]) / 2]
    return torch.cat((ends[0], (logs[1:] + logs[:-1]) / 2, ends[1])).exp().float()


def loudest_first(codec: NeuralStill, images: Sequence[Image]) -> Tensor:
    """Return the channels of a hyperprior's y (M,), those whose scales are largest on some images first."""
    scales = scales_of(codec.model).log().clamp(min=0)
    loudness = torch.stack([scales[rungs].mean(dim=(0, 2, 3)) for _, rungs in _coded(codec, images)]).mean(0)
    return loudness.argsort(descending=True, stable=True)


def _coded(codec: NeuralStill, images: Sequence[Image]) -> list[tuple[Tensor, Tensor]]:
    """Return symbols and tables (1, M, h, w) of each image, at one of the trained positions in turn."""
    trained = codec.model.description.trained
    return [
        codec.coded(torch.round(cut_to_stride(image, STRIDE) * 255), trained[number % len(trained)])
        for number, image in enumerate(images)
    ]


@torch.no_grad()
def freeze_context(network: ScaleContext, images: Sequence[Image], steps: int) -> FrozenModel:
    """Return the codec that a scale context was trained for, with the context.

    Args:
        network: as trained.
        images: for calibration, uint8 (H, W, 3) with sides of at least 64; they may be training images.
        steps: of the context's training, for the description.
    """
    inverse_scales = 1 / network.scales
    samples = []
    for symbols, rungs in (
        (symbols[:, network.order], rungs[:, network.order]) for symbols, rungs in _coded(network.codec, images)
    ):
        samples.append((magnitudes_of(symbols, rungs, inverse_scales), centred_rungs(rungs)))
    exact = []
    for stage, own in zip(network.stages, network.networks, strict=True):
        assert isinstance(own, Transform)
        met = [looked_at(stage, magnitudes, rungs) / STEPS_OF_A_SCALE for magnitudes, rungs in samples]
        reach = torch.full((stage.num_inputs,), LARGEST_ACTIVATION / STEPS_OF_A_SCALE)
        exact.append(exact_twin(own, reached(own, met, reach), torch.zeros(1), "values", {}, of_pixels=False))
    context = ContextModel(network.order.clone(), network.groups, tuple(exact), inverse_scales)
    words = ContextWords(groups=network.groups, networks=tuple(map(LayerWords.of, exact)), steps=steps)
    source = network.codec.model
    assert source.hyper is not None
    description = source.description.model_copy(update={"context": words})
    return replace(source, description=description, hyper=replace(source.hyper, context=context))
