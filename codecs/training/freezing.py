"""Freezing: a trained network becomes an exact model with integer tables.

Every activation's range is measured on calibration images at the lowest, middle and highest level; its largest
magnitude becomes 511 steps. Where activations depend on the level, they are measured at each, and a whole layer's steps
grow and shrink with them. What a level does to a channel, its modulation, becomes part of the layer before it, with a
row for each position. Weights then get the finest whole-number scale that keeps all sums exact, in as few groups
of input channels as leave them fine enough (`codecs.integer`). Tables of the factorised latent are made for every
position, those of the Gaussians for 64 scales.

Not here: training (`rate_distortion`), the exact arithmetic itself (`codecs.integer`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roadbits.codecs.codec import Image
from roadbits.codecs.entropy import SCALE_BOUND, Density
from roadbits.codecs.integer import (
    LARGEST_ACTIVATION,
    LARGEST_PIXEL,
    LARGEST_SQUARE,
    LARGEST_SUM,
    ExactLayer,
    ExactTransform,
    Output,
    Shape,
    largest_sums,
)
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.conditional import Conditional
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated
from roadbits.codecs.neural.model_file import Architecture, Description, FrozenModel, Hyper, Method, Side
from roadbits.codecs.neural.modulation import Modulation, Position, RateMethod, Transform, binned
from roadbits.codecs.neural.scaling import Scaled
from roadbits.codecs.symbol_tables import Symbols, SymbolTables, whole_frequencies

NUM_SCALES = 64
_LARGEST_SCALE = 256.0
_TAIL_MASS = 2.0**-17
_WIDEST_TABLE = 2000
_HEADROOM = 1.05
_SMALLEST_RANGE = 1e-4
_SQUARE = 2.0 ** math.floor(math.log2(LARGEST_SQUARE / LARGEST_ACTIVATION**2))
_INT16 = 32767
_FINE_WEIGHT = 32.0
"""Root mean square of whole weights at which rounding them costs nothing that can be measured."""
_SMALLEST_GROUP = 16
_BACK_OFF = 0.9995


@dataclass(frozen=True)
class _Ranges:
    """The reach of every channel, at the input of a transform and behind each of its modules."""

    entry: "_Reach"
    outputs: tuple["_Reach", ...]


@dataclass(frozen=True)
class _Reach:
    """The largest magnitude of every channel at every position: a product, so that weights need no rows.

    Attributes:
        channels: double (C,).
        positions: double (positions, 1), or (1, 1) of 1 where the level makes no difference.
    """

    channels: Tensor
    positions: Tensor

    @classmethod
    def fixed(cls, channels: Tensor) -> "_Reach":
        return cls(channels.double(), torch.ones(1, 1).double())

    @property
    def step(self) -> Tensor:
        """The largest magnitude in steps of an activation (C,), where the position's factor is 1."""
        return self.channels / LARGEST_ACTIVATION


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


def freeze(network: CAE | Hyperprior, images: Sequence[Image], steps: int) -> FrozenModel:
    """Return the exact model of a trained network.

    Args:
        network: as trained.
        images: for calibration, uint8 (H, W, 3) with sides of at least 64; they may be training images.
        steps: of the training, for the description.
    """
    network = network.eval()
    with torch.no_grad():
        return _freeze(network, images, steps)


def _freeze(network: CAE | Hyperprior, images: Sequence[Image], steps: int) -> FrozenModel:
    positions, lambdas = network.method.positions(), network.method.lambdas
    samples = _samples([cut_to_stride(image, network.stride) for image in images], network)
    ys = [sample.with_value(network.g_a(sample.value, sample.level)) for sample in samples]
    levels = torch.tensor([position.level for position in positions])

    g_a = _exact(
        network.g_a, _measured(network.g_a, samples, levels, of_pixels=True), levels, last="values", of_pixels=True
    )
    rounded: list[_Sample] = []
    hyper = None
    if isinstance(network, Hyperprior):
        hyper, rounded = _freeze_hyper(network, ys, levels)
    else:
        for sample in _at_all_levels(ys, network):
            gain, inverse = _widest_bins(network, sample)
            rounded.append(sample.with_value(torch.round(sample.value * gain) * inverse))
    g_s_ranges = _measured(network.g_s, rounded, levels)
    g_s = _exact(network.g_s, g_s_ranges, levels, last="pixels")
    side = _side(network.gain, positions, g_s_ranges.entry)
    factorised = hyper.side if hyper else side
    architecture: Architecture = "hyperprior" if hyper else "cae"
    transforms = {"g_a": g_a, "g_s": g_s, **({"h_a": hyper.h_a, "h_s": hyper.h_s} if hyper else {})}
    log_lambdas = np.interp(levels.double(), np.arange(len(lambdas)), np.log(lambdas))
    bin_widths = tuple(position.bin_width for position in positions)
    description = Description(
        architecture=architecture,
        lambdas=tuple(float(value) for value in np.exp(log_lambdas)),
        trained=tuple(index for index, (level, width) in enumerate(positions) if level == int(level) and width == 1),
        method=method_name(network.method),
        bin_widths=() if set(bin_widths) == {1.0} else bin_widths,
        transforms={
            name: tuple(vars(layer.shape) for layer in transform.layers) for name, transform in transforms.items()
        },
        means=getattr(network, "means", True),
        steps=steps,
    )
    tables = _factorised_tables(network.entropy_model, factorised.gain, levels)
    return FrozenModel(description, g_a, g_s, side, tables, hyper)


def method_name(method: RateMethod) -> Method:
    """Return what a rate method is called."""
    match method:
        case Conditional():
            return "conditional"
        case Modulated():
            return "mae"
        case Scaled():
            return "scaling"
        case _:
            return "gain"


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


def _freeze_hyper(network: Hyperprior, ys: Sequence[_Sample], levels: Tensor) -> tuple[Hyper, list[_Sample]]:
    """Return the exact second stage, and what enters g_s on the calibration images."""
    inputs = ys if network.means else [sample.with_value(sample.value.abs()) for sample in ys]
    h_a_ranges = _measured(network.h_a, inputs, levels)
    h_a = _exact(network.h_a, h_a_ranges, levels, last="values")
    entries, rounded = [], []
    for sample in _at_all_levels(ys, network):
        gain, inverse = _widest_bins(network, sample)
        hyper_gain, hyper_inverse = network.hyper_gain(sample.level)
        y = sample.value
        z = network.h_a(y if network.means else y.abs(), sample.level)
        entries.append(sample.with_value(torch.round(z * hyper_gain) * hyper_inverse))
        predicted = network.h_s(entries[-1].value, sample.level)
        means = predicted.chunk(2, dim=1)[1] * gain if network.means else torch.zeros(1)
        rounded.append(sample.with_value((torch.round(y * gain - means) + means) * inverse))
    h_s_ranges = _measured(network.h_s, entries, levels)
    h_s = _exact(network.h_s, h_s_ranges, levels, last="values")
    scales = np.geomspace(SCALE_BOUND, _LARGEST_SCALE, NUM_SCALES)
    hyper = Hyper(
        h_a,
        h_s,
        _stored_rows(1 / (h_a_ranges.entry.step * h_a_ranges.entry.positions)),
        _side(network.hyper_gain, [Position(float(level)) for level in levels], h_s_ranges.entry),
        torch.from_numpy(np.sqrt(scales[1:] * scales[:-1])).float(),
        SymbolTables.of([_gaussian_table(scale) for scale in scales]),
    )
    return hyper, rounded


def cut_to_stride(image: Image, stride: int) -> Tensor:
    """Return an image as (1, 3, H, W) in 0..1, its sides cut to multiples of the stride."""
    height, width = (side // stride * stride for side in image.shape[:2])
    cut = torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255
    return cut.contiguous(memory_format=torch.channels_last)


def _reach(values: Sequence[Tensor], samples: Sequence[_Sample], levels: Tensor) -> _Reach:
    """Return the reach of values, with headroom; a factor for each position if several levels were sampled.

    Args:
        values: (1, C, H, W), of each sample.
        samples: whose levels tell them apart.
        levels: of every position.
    """
    largest: dict[float, Tensor] = {}
    for value, sample in zip(values, samples, strict=True):
        here = (value.double().abs().amax(dim=(0, 2, 3)) * _HEADROOM).clamp(min=_SMALLEST_RANGE)
        level = float(sample.level) if sample.matters else 0.0
        largest[level] = torch.maximum(largest[level], here) if level in largest else here
    sampled = sorted(largest)
    rows = torch.stack([largest[level] for level in sampled])
    if len(rows) == 1:
        return _Reach.fixed(rows[0])
    means = rows.log().mean(dim=1)
    factors = np.interp(levels.double().numpy(), sampled, means.numpy())
    return _Reach((rows / means.exp()[:, None]).amax(dim=0), torch.from_numpy(factors).exp()[:, None])


def _measured(transform: Transform, inputs: Sequence[_Sample], levels: Tensor, of_pixels: bool = False) -> _Ranges:
    """Return the ranges of a transform on these inputs."""
    values, outputs = [sample.value for sample in inputs], []
    for module in transform:
        values = [
            module(value, sample.level) if isinstance(module, Modulation) else module(value)
            for value, sample in zip(values, inputs, strict=True)
        ]
        outputs.append(_reach(values, inputs, levels))
    if of_pixels:
        return _Ranges(_Reach.fixed(torch.full((3,), LARGEST_ACTIVATION / 255)), tuple(outputs))
    return _Ranges(_reach([sample.value for sample in inputs], inputs, levels), tuple(outputs))


@dataclass(frozen=True)
class _Rows:
    """A modulation at every position: scales and shifts, double (positions, C), or (1, C) where there is none."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, module: nn.Module | None, levels: Tensor, channels: int) -> "_Rows":
        if not isinstance(module, Modulation):
            return cls(torch.ones(1, channels).double(), torch.zeros(1, channels).double())
        return cls(module.scale(levels).double(), module.shift(levels).double())


def _stored_rows(rows: Tensor) -> Tensor:
    """Return float32 rows (positions, C), or (C,) if there is but one."""
    return (rows[0] if len(rows) == 1 else rows).float().contiguous()


def _stored_alike(multiplier: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 multipliers and offsets of one shape."""
    num_rows = max(len(multiplier), len(offset))
    return _stored_rows(multiplier.expand(num_rows, -1)), _stored_rows(offset.expand(num_rows, -1))


def _exact(
    transform: Transform, ranges: _Ranges, levels: Tensor, last: Output, of_pixels: bool = False
) -> ExactTransform:
    """Return the exact twin of a transform; its last layer gives `last`."""
    layers = []
    reach = ranges.entry
    modules = list(transform)
    index = 0
    while index < len(modules):
        module, begin = modules[index], index
        index += 1
        modulation = modules[index] if index < len(modules) and isinstance(modules[index], Modulation) else None
        index += modulation is not None
        rectified = index < len(modules) and isinstance(modules[index], nn.ReLU)
        index += rectified
        output: Output = last if index == len(modules) else "relu" if rectified else "steps"
        rows = _Rows.of(modulation, levels, len(ranges.outputs[begin].channels))
        given = ranges.outputs[index - 1] if output in ("steps", "relu") else _whole_reach(output, rows)
        if isinstance(module, GDN):
            layers.append(_exact_gdn(module, rows, reach, given, output))
        else:
            largest_input = LARGEST_PIXEL if of_pixels and begin == 0 else LARGEST_ACTIVATION
            layers.append(_exact_convolution(module, rows, reach, given, output, largest_input))
        reach = given
    return ExactTransform(tuple(layers))


def _whole_reach(output: Output, rows: _Rows) -> _Reach:
    """Return the reach of a last output, whose steps are 1, or grey levels."""
    return _Reach.fixed(torch.full_like(rows.scale[0], LARGEST_ACTIVATION / (255 if output == "pixels" else 1)))


def _exact_convolution(
    module: nn.Module, rows: _Rows, taken: _Reach, given: _Reach, output: Output, largest_input: int
) -> ExactLayer:
    """Return a convolution in whole numbers."""
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    transposed = isinstance(module, nn.ConvTranspose2d)
    weight = module.weight.double() * (taken.step[:, None, None, None] if transposed else taken.step[:, None, None])
    shape = Shape("up" if transposed else "down", module.stride[0], output, largest_input, 1)
    whole, scale, shape = _whole(weight, shape)
    bias = torch.zeros_like(given.step) if module.bias is None else module.bias.double()
    out_steps = given.step * given.positions
    multiplier = rows.scale * taken.positions / (scale * out_steps)
    offset = (rows.scale * bias + rows.shift) / out_steps
    return ExactLayer(shape, _stored(whole), *_stored_alike(multiplier, offset), torch.ones(()))


def _exact_gdn(module: GDN, rows: _Rows, taken: _Reach, given: _Reach, output: Output) -> ExactLayer:
    """Return a GDN in whole numbers: steps and scales go under its root."""
    assert not rows.shift.any(), "a GDN's output cannot be shifted"
    in_steps, out_steps = rows.scale * taken.step * taken.positions, given.step * given.positions
    ratio = (in_steps / out_steps if module.inverse else out_steps / in_steps) ** 2
    gamma = (module.gamma().double() * taken.step**2 / _SQUARE)[:, :, None, None]
    whole, scale, shape = _whole(gamma, Shape("igdn" if module.inverse else "gdn", 1, output, LARGEST_SQUARE, 1))
    multiplier, offset = ratio * taken.positions**2 / scale, module.beta().double() * ratio
    return ExactLayer(shape, _stored(whole), *_stored_alike(multiplier, offset), torch.tensor(_SQUARE))


def _whole(weight: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Shape]:
    """Return whole weights, the scale (out,) of each output channel and the groups that make them fine enough."""
    num_inputs = weight.shape[0 if shape.kind == "up" else 1]
    while True:
        whole, scale = _finest(weight, shape)
        if whole.square().mean().sqrt() >= _FINE_WEIGHT or num_inputs // (2 * shape.groups) < _SMALLEST_GROUP:
            return whole, scale, shape
        shape = replace(shape, groups=2 * shape.groups)


def _finest(weight: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return whole weights at the finest scales (out,) that keep sums exact."""
    out_shape = (1, -1, 1, 1) if shape.kind == "up" else (-1, 1, 1, 1)
    inputs = (0, 2, 3) if shape.kind == "up" else (1, 2, 3)
    largest = weight.abs().amax(dim=inputs).clamp(min=1e-30)
    scale = torch.minimum(
        LARGEST_SUM / shape.largest_input / largest_sums(weight, shape).clamp(min=1e-30), _INT16 / largest
    )
    while True:
        whole = torch.round(weight * scale.reshape(out_shape))
        excess = largest_sums(whole, shape) * shape.largest_input > LARGEST_SUM
        if not excess.any():
            return whole, scale
        scale = torch.where(excess, scale * _BACK_OFF, scale)


def _stored(whole: Tensor) -> Tensor:
    return whole.float().contiguous(memory_format=torch.channels_last)


def _side(latents: nn.Module, positions: Sequence[Position], reach: _Reach) -> Side:
    """Return the vectors of every position."""
    gains, inverses = latents(torch.tensor([position.level for position in positions]))
    bin_widths = torch.tensor([position.bin_width for position in positions])[:, None]
    entry = inverses[:, :, 0, 0].double() * bin_widths / (reach.step * reach.positions)
    return Side((gains[:, :, 0, 0] / bin_widths).float().contiguous(), entry.float().contiguous())


def _factorised_tables(model: Density, gains: Tensor, levels: Tensor) -> SymbolTables:
    """Return a table for every position and channel."""
    tables: list[tuple[int, Symbols]] = []
    density: Density | None = None
    for gain, level in zip(gains, levels.tolist(), strict=True):
        if (here := model.at(level)) is not density:
            density = here
            low, high = (torch.from_numpy(density.quantile(mass)) for mass in (_TAIL_MASS, 1 - _TAIL_MASS))
        tables += _tables_at(here, gain.double(), low, high)
    return SymbolTables.of(tables)


def _tables_at(model: Density, gain: Tensor, low: Tensor, high: Tensor) -> Iterator[tuple[int, Symbols]]:
    """Yield the table of every channel at one gain (C,)."""
    middle = torch.round((low + high) / 2 * gain)
    lowest = torch.maximum(torch.floor(low * gain), middle - _WIDEST_TABLE)
    highest = torch.minimum(torch.ceil(high * gain), middle + _WIDEST_TABLE)
    num = int((highest - lowest).max()) + 2
    edges = lowest[:, None] - 0.5 + torch.arange(num)
    cumulative = torch.sigmoid(model.logits((edges / gain[:, None]).float()).double()).numpy()
    for row, first, last in zip(cumulative, lowest.int().tolist(), highest.int().tolist(), strict=True):
        yield first, _table(np.diff(row[: last - first + 2]))


def _gaussian_table(scale: float) -> tuple[int, Symbols]:
    """Return the table of a Gaussian around 0."""
    reach = math.ceil(scale * 4.5 + 0.5)
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    return -reach, _table(torch.diff(torch.special.ndtr(edges / scale)).numpy())


def _table(mass: NDArray[np.float64]) -> Symbols:
    """Return frequencies for the masses and for an escape with the rest."""
    return whole_frequencies(np.append(mass, max(1 - float(mass.sum()), _TAIL_MASS)))
