"""Small exact models made of whole numbers alone, so that the payloads they write can be pinned."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.integer import (
    LARGEST_ACTIVATION,
    LARGEST_PIXEL,
    LARGEST_SQUARE,
    LARGEST_SUM,
    ExactLayer,
    ExactTransform,
    Kind,
    Output,
    Shape,
)
from roadbits.codecs.neural.context_model import ContextModel, OffsetTables, stages_of
from roadbits.codecs.neural.model_file import ContextWords, Description, FrozenModel, Hyper, Side
from roadbits.codecs.symbol_tables import TOTAL, Symbols, SymbolTables

Design = Literal["cae", "mean-scale", "scale-only", "scale-context", "mean-context"]
DESIGNS: tuple[Design, ...] = get_args(Design)
Tiny = Callable[..., FrozenModel]

POSITIONS = 5
NUM_SCALES = 64


class Numbers:
    """Whole numbers from PCG64's raw output, which numpy promises never to change."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def between(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """Return whole numbers from low to high, both included."""
        raw = self._bits.random_raw(int(np.prod(shape))) % np.uint64(high - low + 1)
        return raw.astype(np.int64).reshape(shape) + low


def table(lowest: int, weights: Sequence[int]) -> tuple[int, Symbols]:
    """Return a table with frequencies in proportion to the weights and an escape of frequency 1 or a little more."""
    spare = TOTAL - len(weights) - 1
    frequencies = np.array([1 + spare * weight // sum(weights) for weight in weights] + [1], dtype=np.int32)
    frequencies[-1] += TOTAL - frequencies.sum()
    return lowest, frequencies


def peaked(reach: int) -> tuple[int, Symbols]:
    """Return a table around 0 whose frequencies fall with the square of the distance from its ends."""
    return table(-reach, [(reach + 1 - abs(value)) ** 2 for value in range(-reach, reach + 1)])


def convolution(
    numbers: Numbers, kind: Kind, sizes: tuple[int, int, int], stride: int, output: Output, gain: float
) -> ExactLayer:
    """Return a layer of (in, out, kernel) channels with weights as large as sums allow, and sums of about `gain`."""
    fan_in, fan_out, kernel = sizes
    largest_input, groups = (LARGEST_PIXEL if fan_in == 3 else LARGEST_ACTIVATION), (2 if fan_in >= 32 else 1)
    taps = (-(-kernel // stride) if kind == "up" else kernel) ** 2
    largest = LARGEST_SUM // (largest_input * (fan_in // groups) * taps)
    weight = numbers.between(
        -largest, largest, *((fan_in, fan_out) if kind == "up" else (fan_out, fan_in)), kernel, kernel
    )
    # What many values of the size of 128 come to with weights of about `largest`, to a power of two.
    typical = 2 ** round(np.log2(largest * 128 * np.sqrt(fan_in * taps)))
    multiplier = numbers.between(32, 96, fan_out) * (gain / typical / 64)
    offset = numbers.between(-64, 64, fan_out) * (gain / 256)
    return exact(Shape(kind, stride, output, largest_input, groups), weight, multiplier, offset, 1.0)


def normalisation(numbers: Numbers, kind: Kind, channels: int, output: Output) -> ExactLayer:
    """Return a GDN or its inverse that leaves values about as large as they are."""
    weight = numbers.between(0, LARGEST_SUM // (LARGEST_SQUARE * channels), channels, channels, 1, 1)
    multiplier = numbers.between(32, 96, channels) * 2.0**-28 * (4 if kind == "gdn" else 1)
    offset = numbers.between(32, 64, channels) / 64
    return exact(Shape(kind, 1, output, LARGEST_SQUARE, 1), weight, multiplier, offset, 2.0**-7)


def exact(
    shape: Shape,
    weight: NDArray[np.int64],
    multiplier: NDArray[np.floating],
    offset: NDArray[np.floating],
    square: float,
) -> ExactLayer:
    numbers = (torch.tensor(values, dtype=torch.float32) for values in (weight, multiplier, offset, square))
    return ExactLayer(shape, *numbers)


def transforms(numbers: Numbers, channels: int, latent_gdn: bool) -> tuple[ExactTransform, ExactTransform]:
    """Return g_a and g_s of three layers; y is about as large as 8."""
    c = channels
    g_a = (
        convolution(numbers, "down", (3, c, 9), 4, "steps", 256),
        normalisation(numbers, "gdn", c, "steps"),
        convolution(numbers, "down", (c, c, 5), 2, "steps", 256),
        normalisation(numbers, "gdn", c, "steps"),
        convolution(numbers, "down", (c, c, 5), 2, "steps" if latent_gdn else "values", 256 if latent_gdn else 8),
        *([latent(normalisation(numbers, "gdn", c, "values"))] if latent_gdn else []),
    )
    g_s = (
        *([normalisation(numbers, "igdn", c, "steps")] if latent_gdn else []),
        convolution(numbers, "up", (c, c, 5), 2, "steps", 256),
        normalisation(numbers, "igdn", c, "steps"),
        convolution(numbers, "up", (c, c, 5), 2, "steps", 256),
        normalisation(numbers, "igdn", c, "steps"),
        pixels(convolution(numbers, "up", (c, 3, 9), 4, "pixels", 256)),
    )
    return ExactTransform(g_a), ExactTransform(g_s)


def latent(layer: ExactLayer) -> ExactLayer:
    """Return a GDN that gives values 32 times as small."""
    return ExactLayer(layer.shape, layer.weight, layer.multiplier * 1024, layer.offset * 1024, layer.square)


def pixels(layer: ExactLayer) -> ExactLayer:
    """Return a layer around middle grey."""
    return ExactLayer(layer.shape, layer.weight, layer.multiplier, layer.offset + 128, layer.square)


def side(channels: int, entry: float) -> Side:
    """Return gains 1/2, 3/4, 1, 5/4, 3/2 and what undoes them, a hundred-odd times as large."""
    gains = torch.arange(2, 2 + POSITIONS)[:, None].repeat(1, channels) / 4
    return Side(gains, entry * torch.tensor([8.0, 5.375, 4.0, 3.25, 2.625])[:, None].repeat(1, channels) / 4)


def hyper(numbers: Numbers, channels: int, means: bool) -> Hyper:
    """Return a second stage; z is about as large as 4, scales as 8."""
    c = channels
    h_a = (
        convolution(numbers, "down", (c, c, 3), 1, "relu", 512),
        convolution(numbers, "down", (c, c, 5), 2, "relu", 512),
        convolution(numbers, "down", (c, c, 5), 2, "values", 8),
    )
    last = convolution(numbers, "down", (c + c // 2, (1 + means) * c, 3), 1, "values", 8)
    scales = torch.tensor([8.0] * c + [0.0] * (c if means else 0))
    h_s = (
        convolution(numbers, "up", (c, c, 5), 2, "relu", 512),
        convolution(numbers, "up", (c, c + c // 2, 5), 2, "relu", 512),
        ExactLayer(last.shape, last.weight, last.multiplier, last.offset + scales, last.square),
    )
    return Hyper(
        ExactTransform(h_a),
        ExactTransform(h_s),
        torch.full((c,), 16.0),
        side(c, 24.0),
        torch.arange(1, NUM_SCALES) / 2,
        SymbolTables.of([peaked(reach) for reach in range(1, NUM_SCALES + 1)]),
    )


def context(numbers: Numbers, channels: int, means: bool) -> ContextModel:
    """Return a context of three and five eighths of the channels, which moves scales by some ten tables."""
    groups = (3 * channels // 8, channels - 3 * channels // 8)
    networks = []
    for stage in stages_of(groups)[means:]:
        layers = (
            convolution(numbers, "down", (stage.num_inputs(means), 6, 1), 1, "relu", 512),
            convolution(numbers, "down", (6, 6, 3 if stage.known else 1), 1, "relu", 512),
            convolution(numbers, "down", (6, stage.num_outputs(means), 1), 1, "values", 1),
        )
        networks.append(ExactTransform(layers))
    inverse_scales = 64 / torch.arange(16, 16 + NUM_SCALES)
    order = torch.arange(channels) * 3 % channels
    return ContextModel(order, groups, tuple(networks), inverse_scales, offset_tables() if means else None)


def offset_tables() -> OffsetTables:
    """Return tables for means in eighths, quarters, halves and none."""
    parts = [8, 4, 2, 1]
    peaks = [peaked(4 + 2 * rung + part % 2) for rung in range(NUM_SCALES) for part in range(parts[rung % 4])]
    return OffsetTables(torch.tensor(parts).repeat(NUM_SCALES // 4), SymbolTables.of(peaks))


def tiny_model(design: Design = "cae", channels: int = 8, seed: int = 0) -> FrozenModel:
    """Return a model of random whole numbers: its pictures are noise, its arithmetic is a trained model's."""
    numbers = Numbers(seed)
    factorised = design in ("cae", "mean-context")
    g_a, g_s = transforms(numbers, channels, latent_gdn=factorised)
    second = None if factorised else hyper(numbers, channels, design != "scale-only")
    moving = context(numbers, channels, factorised) if design in ("scale-context", "mean-context") else None
    networks = {"g_a": g_a, "g_s": g_s, **({"h_a": second.h_a, "h_s": second.h_s} if second else {})}
    description = Description.model_validate(
        {
            "architecture": "hyperprior" if second else "cae",
            "lambdas": [0.001, 0.002, 0.004, 0.008, 0.016],
            "trained": [0, 2, 4],
            "transforms": {name: [vars(layer.shape) for layer in net.layers] for name, net in networks.items()},
            "means": design != "scale-only",
            "context": ContextWords.of(moving, 0).model_dump() if moving else None,
        }
    )
    tables = [peaked(4 + 3 * position + channel % 3) for position in range(POSITIONS) for channel in range(channels)]
    return FrozenModel(description, g_a, g_s, side(channels, 16.0), SymbolTables.of(tables), second, moving)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Return a maker of small models: `tiny(design, channels=8, seed=0)`."""
    return tiny_model


@pytest.fixture(scope="session", params=DESIGNS)
def model(request: pytest.FixtureRequest) -> FrozenModel:
    """Return a small model of every design in turn."""
    return tiny_model(request.param)


def changed(values: Tensor) -> Tensor:
    """Return numbers of which the first is another one."""
    other = values.clone()
    other.view(-1)[0] += 1
    return other
