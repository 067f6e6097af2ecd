"""Ranges: how far every activation of a trained network reaches, measured on calibration images.

Each transform is run as it will be in use, on rounded latents, at the lowest, middle and highest level. Where
transforms do different things at different levels, at every level; a layer's reach is then a product of a number for
each channel and a factor for each position, so that one set of weights serves all positions.

Not here: what becomes of ranges (`exact_twins`, `freezing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from roadbits.codecs.codec import Image
from roadbits.codecs.integer import LARGEST_ACTIVATION
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import TransformName
from roadbits.codecs.neural.modulation import Modulation, Transform, binned

_HEADROOM = 1.05
_SMALLEST_RANGE = 1e-4
_LEAST_BINS = 2
"""A rounded latent reaches as many bins at least: what calibration images leave at zero others will not."""
_QUIETEST = 1 / 8
"""Of a channel's reach at its loudest level, counted where it is quieter: else channels that are zero at low rates, and
not at high ones, would make all steps of high rates too wide."""


@dataclass(frozen=True)
class Reach:
    """The largest magnitude of every channel at every position.

    Attributes:
        channels: double (C,).
        positions: factors, double (positions, 1), or (1, 1) of 1 where the level makes no difference.
    """

    channels: Tensor
    positions: Tensor

    @classmethod
    def fixed(cls, channels: Tensor) -> "Reach":
        """Return a reach that is the same at every position."""
        return cls(channels.double(), torch.ones(1, 1).double())

    @property
    def step(self) -> Tensor:
        """The largest magnitude in steps of an activation (C,), where the position's factor is 1."""
        return self.channels / LARGEST_ACTIVATION


@dataclass(frozen=True)
class Ranges:
    """The reach of every channel at the input of a transform, and behind each of its modules."""

    entry: Reach
    outputs: tuple[Reach, ...]


@dataclass(frozen=True)
class _Sample:
    """A value on its way through the transforms.

    Attributes:
        value: (1, C, H, W).
        level: (1,).
        matters: whether the transforms do different things at different levels.
    """

    value: Tensor
    level: Tensor
    matters: bool

    def with_value(self, value: Tensor) -> "_Sample":
        return replace(self, value=value)


def measure(network: CAE | Hyperprior, images: Sequence[Image]) -> dict[TransformName, Ranges]:
    """Return the ranges of g_a and g_s, and of h_a and h_s if there are.

    Args:
        network: in evaluation mode.
        images: uint8 (H, W, 3), sides at least the network's stride.
    """
    levels = levels_of(network)
    samples = _samples([cut_to_stride(image, network.stride) for image in images], network)
    ys = [sample.with_value(network.g_a(sample.value, sample.level)) for sample in samples]
    ranges: dict[TransformName, Ranges] = {"g_a": replace(_measured(network.g_a, samples, levels), entry=_of_pixels())}
    if isinstance(network, Hyperprior):
        rounded = _measure_hyper(network, ys, levels, ranges)
    else:
        rounded = []
        for sample in _at_all_levels(ys, network):
            gain, inverse = _widest_bins(network, sample)
            rounded.append(sample.with_value(torch.round(sample.value * gain) * inverse))
    least = [_LEAST_BINS * _widest_bins(network, sample)[1] for sample in rounded]
    ranges["g_s"] = _measured(network.g_s, rounded, levels, least)
    return ranges


def _of_pixels() -> Reach:
    """Return the reach of an image's channels, such that a grey level is a step."""
    return Reach.fixed(torch.full((3,), LARGEST_ACTIVATION / 255))


def _measure_hyper(
    network: Hyperprior, ys: Sequence[_Sample], levels: Tensor, ranges: dict[TransformName, Ranges]
) -> list[_Sample]:
    """Add the ranges of h_a and h_s, and return what enters g_s."""
    ranges["h_a"] = _measured(
        network.h_a, ys if network.means else [sample.with_value(sample.value.abs()) for sample in ys], levels
    )
    entries, rounded, least = [], [], []
    for sample in _at_all_levels(ys, network):
        gain, inverse = _widest_bins(network, sample)
        hyper_gain, hyper_inverse = network.hyper_gain(sample.level)
        y = sample.value
        z = network.h_a(y if network.means else y.abs(), sample.level)
        entries.append(sample.with_value(torch.round(z * hyper_gain) * hyper_inverse))
        least.append(_LEAST_BINS * hyper_inverse)
        predicted = network.h_s(entries[-1].value, sample.level)
        means = predicted.chunk(2, dim=1)[1] * gain if network.means else torch.zeros(1)
        rounded.append(sample.with_value((torch.round(y * gain - means) + means) * inverse))
    ranges["h_s"] = _measured(network.h_s, entries, levels, least)
    return rounded


def levels_of(network: CAE | Hyperprior) -> Tensor:
    """Return the level of every position (P,)."""
    return torch.tensor([position.level for position in network.method.positions()])


def _samples(values: Sequence[Tensor], network: CAE | Hyperprior) -> list[_Sample]:
    """Return images at the levels that make a difference to g_a; at each level other ones, if there are enough."""
    if not _is_modulated(network):
        return [_Sample(value, torch.zeros(1), matters=False) for value in values]
    levels = range(len(network.method.lambdas))
    return [
        _Sample(value, torch.tensor([float(level)]), matters=True)
        for level in levels
        for value in (values[level :: len(levels)] if len(values) >= 2 * len(levels) else values)
    ]


def _at_all_levels(samples: Sequence[_Sample], network: CAE | Hyperprior) -> list[_Sample]:
    """Return samples at the levels that make a difference to the quantiser."""
    if _is_modulated(network):
        return list(samples)
    top = len(network.method.lambdas) - 1
    levels = [torch.tensor([level]) for level in sorted({0.0, float(top // 2), float(top)})]
    return [replace(sample, level=level) for level in levels for sample in samples]


def _widest_bins(network: CAE | Hyperprior, sample: _Sample) -> tuple[Tensor, Tensor]:
    """Return the vectors around y's quantiser where its bins are widest: there rounded values reach farthest."""
    return binned(network.gain(sample.level), max(position.bin_width for position in network.method.positions()))


def _is_modulated(network: nn.Module) -> bool:
    return any(isinstance(module, Modulation) for module in network.modules())


def cut_to_stride(image: Image, stride: int) -> Tensor:
    """Return an image as (1, 3, H, W) in 0..1, its sides cut to multiples of the stride."""
    height, width = (side // stride * stride for side in image.shape[:2])
    cut = torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255
    return cut.contiguous(memory_format=torch.channels_last)


def _magnitudes(value: Tensor) -> Tensor:
    """Return the largest magnitude of each channel, double (C,), of a value (1, C, H, W)."""
    return value.abs().amax(dim=(0, 2, 3)).double()


def _reach(
    magnitudes: Sequence[Tensor], samples: Sequence[_Sample], levels: Tensor, least: Sequence[Tensor] | None = None
) -> Reach:
    """Return the reach of values, with headroom; a factor for each position if several levels were sampled.

    Args:
        magnitudes: of each sample (C,).
        samples: whose levels tell them apart.
        levels: of every position.
        least: magnitudes (1, C, 1, 1) that each value is taken to reach at least, if given.
    """
    largest: dict[float, Tensor] = {}
    for k, (magnitude, sample) in enumerate(zip(magnitudes, samples, strict=True)):
        here = (magnitude * _HEADROOM).clamp(min=_SMALLEST_RANGE)
        here = here if least is None else torch.maximum(here, least[k].double().flatten())
        level = float(sample.level) if sample.matters else 0.0
        largest[level] = torch.maximum(largest[level], here) if level in largest else here
    sampled = sorted(largest)
    rows = torch.stack([largest[level] for level in sampled])
    if len(rows) == 1:
        return Reach.fixed(rows[0])
    rows = torch.maximum(rows, _QUIETEST * rows.amax(dim=0))
    means = rows.log().mean(dim=1)
    factors = np.interp(levels.double().numpy(), sampled, means.numpy())
    return Reach((rows / means.exp()[:, None]).amax(dim=0), torch.from_numpy(factors).exp()[:, None])


def _measured(
    transform: Transform, inputs: Sequence[_Sample], levels: Tensor, least: Sequence[Tensor] | None = None
) -> Ranges:
    """Return the ranges of a transform on these inputs, which are taken to reach some magnitudes at least."""
    behind: list[list[Tensor]] = [[] for _ in transform]
    for sample in inputs:  # one after the other: activations of many images are many gigabytes
        value = sample.value
        for module, magnitudes in zip(transform, behind, strict=True):
            value = module(value, sample.level) if isinstance(module, Modulation) else module(value)
            magnitudes.append(_magnitudes(value))
    entry = _reach([_magnitudes(sample.value) for sample in inputs], inputs, levels, least)
    return Ranges(entry, tuple(_reach(magnitudes, inputs, levels) for magnitudes in behind))


def reached(transform: Transform, inputs: Sequence[Tensor], entry: Tensor) -> Ranges:
    """Return the ranges of a transform without levels.

    Args:
        transform: to run.
        inputs: (1, C, H, W) each.
        entry: what inputs are taken to reach, (C,).
    """
    samples = [_Sample(value, torch.zeros(1), matters=False) for value in inputs]
    return replace(_measured(transform, samples, torch.zeros(1)), entry=Reach.fixed(entry))


def united(transforms: Sequence[Transform], ranges: Sequence[Ranges]) -> list[Ranges]:
    """Return ranges with which all widths of a slimmable transform can share the weights of their convolutions.

    What enters a convolution must have the same steps in each width; how far a whole layer reaches may differ, as
    between positions. What enters a GDN stays as measured, since every width has GDNs of its own.

    Args:
        transforms: of each width, the widest last; every channel of one is a channel of the next.
        ranges: of each.
    """
    entries = _shared([own.entry for own in ranges])
    outputs = []
    for index in range(len(ranges[0].outputs)):
        own = [one.outputs[index] for one in ranges]
        behind = [transform[index + 1 :] for transform in transforms]
        following = next((module for module in behind[-1] if not isinstance(module, nn.ReLU | Modulation)), None)
        outputs.append(own if following is None or isinstance(following, GDN) else _shared(own))
    return [Ranges(entry, tuple(output[width] for output in outputs)) for width, entry in enumerate(entries)]


def _shared(reaches: Sequence[Reach]) -> list[Reach]:
    """Return reaches whose channels agree as far as they go."""
    widest = reaches[-1]
    factors = [(reach.channels.log() - widest.channels[: len(reach.channels)].log()).mean().exp() for reach in reaches]
    channels = torch.zeros_like(widest.channels)
    for reach, factor in zip(reaches, factors, strict=True):
        own = channels[: len(reach.channels)]
        torch.maximum(own, reach.channels / factor, out=own)
    return [
        Reach(channels[: len(reach.channels)], reach.positions * factor)
        for reach, factor in zip(reaches, factors, strict=True)
    ]
