"""Freezing a temporal entropy model: the trained networks of all widths become exact, with tables of whole numbers.

Not here: freezing codecs of stills (`freezing`), training (`joint_widths`).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roadbits.codecs.codec import Clip
from roadbits.codecs.integer import LARGEST_ACTIVATION, ExactTransform
from roadbits.codecs.neural.model_file import FrozenModel, LayerWords
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.slimvc import SlimTemporalPrior, TemporalPrior, as_steps, side_by_side
from roadbits.codecs.neural.temporal_model import MEAN_STEPS, TemporalDescription, TemporalModel
from roadbits.codecs.training.exact_twins import exact_twin
from roadbits.codecs.training.frozen_tables import offset_gaussian_tables
from roadbits.codecs.training.ranges import Ranges, cut_to_stride, reached, united
from roadbits.codecs.training.whole_weights import WholeWeights


@torch.no_grad()
def freeze_prior(network: SlimTemporalPrior, clips: Sequence[Clip], still: str, steps: int) -> TemporalModel:
    """Return the exact model of a trained temporal entropy model; all widths share whole weights.

    Args:
        network: as trained.
        clips: for calibration, uint8 (T, H, W, 3), of two frames at least; they may be training clips.
        still: name of the still codec, for the description.
        steps: of the training, likewise.
    """
    plains = [network.standalone(width).eval() for width in network.widths]
    spreads = [network.spread[: model.side.gain.shape[1]] for model in network.still.models]
    nets = [_in_steps(plain, spread) for plain, spread in zip(plains, spreads, strict=True)]
    measured = [
        reached(net, _calibration(model, clips, spread), _reach_of_steps(spread))
        for net, model, spread in zip(nets, network.still.models, spreads, strict=True)
    ]
    shared: dict[int, WholeWeights] = {}
    exact: list[ExactTransform] = []
    for net, ranges in reversed(list(zip(nets, united(nets, measured), strict=True))):
        wholes = shared if not exact else _narrowed(net, shared)
        exact.insert(0, _exact(net, ranges, wholes))
    thresholds, tables = offset_gaussian_tables(MEAN_STEPS)
    description = TemporalDescription(
        still=still,
        still_hash=network.still.hash.hex(),
        widths=network.widths,
        layers=tuple(map(LayerWords.of, exact)),
        steps=steps,
    )
    log_entries = tuple(model.side.entry.log().contiguous() for model in network.still.models)
    return TemporalModel(description, tuple(exact), log_entries, thresholds, tables)


def _exact(net: Transform, ranges: Ranges, wholes: dict[int, WholeWeights]) -> ExactTransform:
    return exact_twin(net, ranges, torch.zeros(1), "values", wholes, of_pixels=False)


def _in_steps(plain: TemporalPrior, spread: Tensor) -> Transform:
    """Return a width's network whose outputs are in steps: its logarithms and means have the spread in them."""
    net = copy.deepcopy(plain.net)
    last = net[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    last.weight[1::2] *= spread[:, None, None, None]
    last.bias[1::2] *= spread
    last.bias[0::2] += spread.log()
    return net


def _reach_of_steps(spread: Tensor) -> Tensor:
    """Return what the inputs of a network reach (2C,): the largest step, over the spread."""
    return (LARGEST_ACTIVATION / spread).repeat_interleave(2)


def _calibration(model: FrozenModel, clips: Sequence[Clip], spread: Tensor) -> list[Tensor]:
    """Return what a width's network meets: two latents of each clip at one of the trained positions, in turn."""
    met = []
    for number, clip in enumerate(clips):
        position = model.description.trained[-1 - number % len(model.description.trained)]
        frames = torch.cat([torch.round(cut_to_stride(clip[k], 16) * 255) for k in (1, 0)])
        y = model.g_a(frames.contiguous(memory_format=torch.channels_last))
        symbols = torch.round(y * model.side.gain[position][:, None, None])
        steps = as_steps(symbols, model.side.entry[position][:, None, None]) / spread[:, None, None]
        met.append(side_by_side(steps[:1], steps[1:]))
    return met


def _narrowed(net: Transform, wholes: dict[int, WholeWeights]) -> dict[int, WholeWeights]:
    """Return the whole weights between a narrow width's channels, which are the widest's first."""
    narrow = {}
    for index, whole in wholes.items():
        layer = net[index]
        assert isinstance(layer, nn.Conv2d)
        narrow[index] = whole.narrowed(layer.in_channels, layer.out_channels)
    return narrow
