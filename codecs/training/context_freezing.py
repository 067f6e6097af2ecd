"""Contexts begun and frozen: what one is made of for a codec, and its trained networks made exact beside that codec.

The codec stays as it is.

Not here: freezing codecs (`freezing`), training (`rate_distortion`).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from roadbits.codecs.codec import Image
from roadbits.codecs.integer import LARGEST_ACTIVATION
from roadbits.codecs.neural.context import Context, Contexts
from roadbits.codecs.neural.context_model import (
    STEPS_OF_A_SCALE,
    ContextModel,
    OffsetTables,
    begun_with,
    centred_rungs,
    deviations_of,
    looked_at,
)
from roadbits.codecs.neural.model_file import ContextWords, FrozenModel
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.exact_twins import exact_twin
from roadbits.codecs.training.frozen_tables import beside_means
from roadbits.codecs.training.ranges import cut_to_stride, reached


def contexts_for(
    codec: NeuralStill | SlimStill, images: Sequence[Image], shares: Sequence[int], channels: Sequence[int]
) -> Contexts:
    """Return untrained contexts for all widths of a codec.

    Args:
        codec: contexts that it has are left out.
        images: on which to find out which channels take most bits, uint8 (H, W, 3) with sides of at least 64.
        shares: of y's channels in each group, in proportion.
        channels: of the networks' hidden layers, for each width.

    Raises:
        ValueError: if a width's channels cannot be divided like that.
    """
    codecs = list(codec.codecs.values()) if isinstance(codec, SlimStill) else [codec]
    contexts = []
    for one, hidden in zip(codecs, channels, strict=True):
        plain = replace(one, model=one.model.without_context())
        groups = groups_of(shares, plain.model.side.gain.shape[1])
        contexts.append(begun_context(plain, images, groups, hidden))
    return Contexts(contexts, codec.model.widths if isinstance(codec, SlimStill) else ())


def groups_of(shares: Sequence[int], channels: int) -> tuple[int, ...]:
    """Return so many channels in groups of these proportions.

    Raises:
        ValueError: if they are no whole numbers.
    """
    if any(share * channels % sum(shares) for share in shares):
        raise ValueError(f"{channels} channels cannot be divided like {', '.join(map(str, shares))}")
    return tuple(share * channels // sum(shares) for share in shares)


def begun_context(codec: NeuralStill, images: Sequence[Image], groups: Sequence[int], channels: int) -> Context:
    """Return an untrained context for a codec of one width; see `contexts_for`."""
    scales = scales_of(codec.model)
    begun = None if codec.model.hyper else begun_with(codec.model.tables, 1 / scales)
    return Context(codec, loudest_first(codec, images), scales, begun, groups, channels)


def scales_of(model: FrozenModel) -> Tensor:
    """Return the scales of a context, float32 (scales,), rising: those of a hyperprior's tables, or a ladder alike."""
    if model.hyper is None:
        return torch.from_numpy(beside_means()[0]).float()
    logs = model.hyper.thresholds.double().log()
    ends = [logs[:1] - (logs[1] - logs[0]) / 2, logs[-1:] + (logs[-1] - logs[-2]) / 2]
    return torch.cat((ends[0], (logs[1:] + logs[:-1]) / 2, ends[1])).exp().float()


def loudest_first(codec: NeuralStill, images: Sequence[Image]) -> Tensor:
    """Return the channels of y (M,), those whose scales are largest on some images first.

    A hyperprior tells its scales; those of a factorised latent are its magnitudes'.
    """
    scales = None if codec.model.hyper is None else scales_of(codec.model).log().clamp(min=0)
    loudness = []
    for symbols, which in _coded(codec, images):
        loudness.append(
            symbols.float().abs().mean(dim=(0, 2, 3)).log1p()
            if scales is None or which is None
            else scales[which].mean(dim=(0, 2, 3))
        )
    return torch.stack(loudness).mean(0).argsort(descending=True, stable=True)


def _coded(codec: NeuralStill, images: Sequence[Image]) -> list[tuple[Tensor, Tensor | None]]:
    """Return symbols and tables (1, M, h, w) of each image, at one of the trained positions in turn."""
    trained = codec.model.description.trained
    return [
        codec.coded(_grey_levels(image, codec.stride), trained[number % len(trained)])
        for number, image in enumerate(images)
    ]


def _grey_levels(image: Image, stride: int) -> Tensor:
    return torch.round(cut_to_stride(image, stride) * 255)


@torch.no_grad()
def freeze_contexts(network: Contexts, images: Sequence[Image], steps: int) -> FrozenModel | SlimModel:
    """Return the codec that contexts were trained for, with them.

    Args:
        network: as trained.
        images: for calibration, uint8 (H, W, 3) with sides of at least 64; they may be training images.
        steps: of the contexts' training, for the description.
    """
    models = [_with_context(context, images, steps) for context in network.widths_contexts]
    return SlimModel(network.widths, tuple(models)) if network.widths else models[0]


def _with_context(network: Context, images: Sequence[Image], steps: int) -> FrozenModel:
    """Return a context's codec with the exact context."""
    inverse_scales, trained = 1 / network.scales, network.codec.model.description.trained
    samples = []
    for number, image in enumerate(images):
        x = _grey_levels(image, network.codec.stride)
        symbols, rungs, eighths = network.coded(x, trained[number % len(trained)])
        samples.append((deviations_of(symbols, eighths, rungs, inverse_scales), centred_rungs(rungs)))
    exact = []
    for stage, own in zip(network.stages[network.with_means :], network.networks, strict=True):
        assert isinstance(own, Transform)
        met = [looked_at(stage, *sample, network.with_means) / STEPS_OF_A_SCALE for sample in samples]
        reach = torch.full((stage.num_inputs(network.with_means),), LARGEST_ACTIVATION / STEPS_OF_A_SCALE)
        exact.append(exact_twin(own, reached(own, met, reach), torch.zeros(1), "values", {}, of_pixels=False))
    offset_tables = None
    if network.with_means:
        _, parts, tables = beside_means()
        offset_tables = OffsetTables(torch.from_numpy(parts), tables)
    context = ContextModel(network.order.clone(), network.groups, tuple(exact), inverse_scales, offset_tables)
    source = network.codec.model
    description = source.description.model_copy(update={"context": ContextWords.of(context, steps)})
    return replace(source, description=description, context=context)
