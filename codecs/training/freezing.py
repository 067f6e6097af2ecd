"""Freezing: a trained network becomes an exact model with integer tables.

Every activation's range is measured on calibration images at the lowest, middle and highest level; its largest
magnitude becomes 511 steps. Weights then get the finest whole-number scale that keeps all sums exact, in as few groups
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
from roadbits.codecs.entropy import SCALE_BOUND, FactorisedModel
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
from roadbits.codecs.neural.gain import Gain
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import Architecture, Description, FrozenModel, Hyper, Side
from roadbits.codecs.symbol_tables import Symbols, SymbolTables, whole_frequencies

STEPS_PER_LEVEL = 8
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
    """The largest magnitude of every channel (C,), at the input of a transform and behind each of its modules."""

    entry: Tensor
    outputs: tuple[Tensor, ...]


def freeze(network: CAE | Hyperprior, lambdas: Sequence[float], images: Sequence[Image], steps: int) -> FrozenModel:
    """Return the exact model of a trained network.

    Args:
        network: as trained.
        lambdas: of its levels, rising.
        images: for calibration, uint8 (H, W, 3) with sides of at least 64; they may be training images.
        steps: of the training, for the description.
    """
    network = network.eval()
    with torch.no_grad():
        return _freeze(network, lambdas, images, steps)


def _freeze(network: CAE | Hyperprior, lambdas: Sequence[float], images: Sequence[Image], steps: int) -> FrozenModel:
    levels = np.linspace(0, len(lambdas) - 1, (len(lambdas) - 1) * STEPS_PER_LEVEL + 1)
    log_lambdas = np.interp(levels, np.arange(len(lambdas)), np.log(lambdas))
    calibration = [cut_to_stride(image, network.stride) for image in images]
    ys = [network.g_a(x) for x in calibration]
    tops = sorted({0.0, (len(lambdas) - 1) / 2, len(lambdas) - 1.0})
    with_hyper = isinstance(network, Hyperprior)

    g_a = _exact(network.g_a, _measured(network.g_a, calibration), last="values", of_pixels=True)
    rounded: list[Tensor] = []
    hyper = None
    if isinstance(network, Hyperprior):
        hyper, rounded = _freeze_hyper(network, ys, tops, levels)
    else:
        for level in tops:
            gain, inverse = network.gain(torch.tensor([level]))
            rounded += [torch.round(y * gain) * inverse for y in ys]
    g_s_ranges = _measured(network.g_s, rounded)
    g_s = _exact(network.g_s, g_s_ranges, last="pixels")
    side = _side(network.gain, levels, g_s_ranges.entry)
    factorised = hyper.side if hyper else side
    architecture: Architecture = "hyperprior" if with_hyper else "cae"
    transforms = {"g_a": g_a, "g_s": g_s, **({"h_a": hyper.h_a, "h_s": hyper.h_s} if hyper else {})}
    description = Description(
        architecture=architecture,
        lambdas=tuple(float(value) for value in np.exp(log_lambdas)),
        trained=tuple(range(0, len(levels), STEPS_PER_LEVEL)),
        transforms={
            name: tuple(vars(layer.shape) for layer in transform.layers) for name, transform in transforms.items()
        },
        means=getattr(network, "means", True),
        steps=steps,
    )
    return FrozenModel(description, g_a, g_s, side, _factorised_tables(network.entropy_model, factorised.gain), hyper)


def _freeze_hyper(
    network: Hyperprior, ys: Sequence[Tensor], tops: Sequence[float], levels: NDArray[np.float64]
) -> tuple[Hyper, list[Tensor]]:
    """Return the exact second stage, and what enters g_s on the calibration images."""
    inputs = ys if network.means else [y.abs() for y in ys]
    h_a_ranges = _measured(network.h_a, inputs)
    h_a = _exact(network.h_a, h_a_ranges, last="values")
    entries, rounded = [], []
    for level in tops:
        gain, inverse = network.gain(torch.tensor([level]))
        hyper_gain, hyper_inverse = network.hyper_gain(torch.tensor([level]))
        for y, steps in zip(ys, inputs, strict=True):
            z_hat = torch.round(network.h_a(steps) * hyper_gain) * hyper_inverse
            entries.append(z_hat)
            predicted = network.h_s(z_hat)
            means = predicted.chunk(2, dim=1)[1] * gain if network.means else torch.zeros(1)
            rounded.append((torch.round(y * gain - means) + means) * inverse)
    h_s_ranges = _measured(network.h_s, entries)
    h_s = _exact(network.h_s, h_s_ranges, last="values")
    scales = np.geomspace(SCALE_BOUND, _LARGEST_SCALE, NUM_SCALES)
    hyper = Hyper(
        h_a,
        h_s,
        1 / (h_a_ranges.entry / LARGEST_ACTIVATION),
        _side(network.hyper_gain, levels, h_s_ranges.entry),
        torch.from_numpy(np.sqrt(scales[1:] * scales[:-1])).float(),
        SymbolTables.of([_gaussian_table(scale) for scale in scales]),
    )
    return hyper, rounded


def cut_to_stride(image: Image, stride: int) -> Tensor:
    """Return an image as (1, 3, H, W) in 0..1, its sides cut to multiples of the stride."""
    height, width = (side // stride * stride for side in image.shape[:2])
    cut = torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255
    return cut.contiguous(memory_format=torch.channels_last)


def _largest(values: Sequence[Tensor]) -> Tensor:
    """Return the largest magnitude of every channel, with headroom."""
    largest = torch.stack([value.abs().amax(dim=(0, 2, 3)) for value in values]).amax(dim=0)
    return (largest * _HEADROOM).clamp(min=_SMALLEST_RANGE)


def _measured(transform: nn.Sequential, inputs: Sequence[Tensor]) -> _Ranges:
    """Return the ranges of a transform on these inputs."""
    values, outputs = list(inputs), []
    for module in transform:
        values = [module(value) for value in values]
        outputs.append(_largest(values))
    return _Ranges(_largest(inputs), tuple(outputs))


def _exact(transform: nn.Sequential, ranges: _Ranges, last: Output, of_pixels: bool = False) -> ExactTransform:
    """Return the exact twin of a transform; its last layer gives `last`."""
    layers = []
    step = torch.full_like(ranges.entry, 1 / 255) if of_pixels else ranges.entry / LARGEST_ACTIVATION
    modules = list(transform)
    for index, module in enumerate(modules):
        if isinstance(module, nn.ReLU):
            continue
        rectified = index + 1 < len(modules) and isinstance(modules[index + 1], nn.ReLU)
        output: Output = last if index + 1 == len(modules) else "relu" if rectified else "steps"
        out_range = ranges.outputs[index + 1 if rectified else index]
        out_step = {"values": torch.ones_like(out_range), "pixels": torch.full_like(out_range, 1 / 255)}.get(
            output, out_range / LARGEST_ACTIVATION
        )
        if isinstance(module, GDN):
            layers.append(_exact_gdn(module, step.double(), out_step.double(), output))
        else:
            largest_input = LARGEST_PIXEL if of_pixels and index == 0 else LARGEST_ACTIVATION
            layers.append(_exact_convolution(module, step.double(), out_step.double(), output, largest_input))
        step = out_step
    return ExactTransform(tuple(layers))


def _exact_convolution(
    module: nn.Module, step: Tensor, out_step: Tensor, output: Output, largest_input: int
) -> ExactLayer:
    """Return a convolution in whole numbers."""
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    transposed = isinstance(module, nn.ConvTranspose2d)
    weight = module.weight.double() * (step[:, None, None, None] if transposed else step[:, None, None])
    shape = Shape("up" if transposed else "down", module.stride[0], output, largest_input, 1)
    whole, scale, shape = _whole(weight, shape)
    bias = torch.zeros_like(out_step) if module.bias is None else module.bias.double()
    return ExactLayer(
        shape, _stored(whole), (1 / (scale * out_step)).float(), (bias / out_step).float(), torch.ones(())
    )


def _exact_gdn(module: GDN, step: Tensor, out_step: Tensor, output: Output) -> ExactLayer:
    """Return a GDN in whole numbers: both steps go under its root."""
    ratio = (step / out_step if module.inverse else out_step / step) ** 2
    gamma = (module.gamma().double() * step**2 / _SQUARE)[:, :, None, None]
    whole, scale, shape = _whole(gamma, Shape("igdn" if module.inverse else "gdn", 1, output, LARGEST_SQUARE, 1))
    offset = (module.beta().double() * ratio).float()
    return ExactLayer(shape, _stored(whole), (ratio / scale).float(), offset, torch.tensor(_SQUARE))


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


def _side(gain: Gain, levels: NDArray[np.float64], entry_range: Tensor) -> Side:
    """Return the vectors of every position."""
    gains, inverses = gain(torch.from_numpy(levels).float())
    entry = inverses[:, :, 0, 0].double() / (entry_range.double() / LARGEST_ACTIVATION)
    return Side(gains[:, :, 0, 0].float().contiguous(), entry.float().contiguous())


def _factorised_tables(model: FactorisedModel, gains: Tensor) -> SymbolTables:
    """Return a table for every position and channel."""
    low, high = (torch.from_numpy(model.quantile(mass)) for mass in (_TAIL_MASS, 1 - _TAIL_MASS))
    return SymbolTables.of([table for gain in gains for table in _tables_at(model, gain.double(), low, high)])


def _tables_at(model: FactorisedModel, gain: Tensor, low: Tensor, high: Tensor) -> Iterator[tuple[int, Symbols]]:
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
