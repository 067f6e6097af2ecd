import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from roadbits.codecs import integer, layers
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
    largest_sums,
)
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from tests.codecs.torch_settings import convolution_precision, matmul_precision

Whole = NDArray[np.int64]

convolutions = pytest.mark.parametrize(
    ("kind", "fan_in", "fan_out", "kernel", "stride", "groups"),
    [
        ("down", 3, 8, 9, 4, 1),
        ("down", 16, 8, 5, 2, 1),
        ("down", 16, 8, 5, 2, 4),
        ("down", 6, 9, 3, 1, 2),
        ("up", 16, 8, 5, 2, 1),
        ("up", 16, 24, 5, 2, 4),
        ("up", 16, 3, 9, 4, 1),
        ("up", 16, 3, 9, 4, 2),
        ("up", 8, 7, 5, 2, 2),
    ],
)


def random_layer(kind: Kind, shape: tuple[int, ...], stride: int, groups: int, output: Output = "steps") -> ExactLayer:
    """Return a layer whose sums can come as near to the bound as whole weights let them."""
    generator = np.random.default_rng(sum(shape) + groups)
    normalises = kind in ("gdn", "igdn")
    largest_input = LARGEST_SQUARE if normalises else LARGEST_ACTIVATION
    weight = torch.from_numpy(generator.integers(0 if normalises else -99, 100, shape)).float()
    described = Shape(kind, stride, output, largest_input, groups)
    room = LARGEST_SUM / largest_input / float(largest_sums(weight, described).max())
    weight = (weight * room).trunc()
    num_out = shape[1] if kind == "up" else shape[0]
    scale = 2.0**-24 if normalises else 2.0**-12
    multiplier = torch.from_numpy(generator.uniform(0.5, 1.5, num_out) * scale).float()
    offset = torch.from_numpy(generator.uniform(0.5, 1.5, num_out)).float()
    return ExactLayer(described, weight, multiplier, offset, torch.tensor(2.0**-7 if normalises else 1.0))


def random_steps(*shape: int, largest: int = LARGEST_ACTIVATION) -> Whole:
    return np.random.default_rng(9).integers(-largest, largest + 1, shape)


def sums_of_whole_numbers(x: Whole, layer: ExactLayer) -> list[Whole]:
    """Return the int64 sums of every group of input channels, taken tap by tap."""
    weight, stride, kind = layer.weight.long().numpy(), layer.shape.stride, layer.shape.kind
    kernel, (num, _, height, width) = weight.shape[2], x.shape
    pad, groups = kernel // 2, []
    for members in np.array_split(np.arange(x.shape[1]), layer.shape.groups):
        part = x[:, members]
        if kind == "up":
            full = np.zeros((num, weight.shape[1], height * stride + kernel, width * stride + kernel), dtype=np.int64)
            for row, column in np.ndindex(kernel, kernel):
                added = np.einsum("io,bihw->bohw", weight[members, :, row, column], part)
                rows, columns = (
                    slice(row, row + height * stride, stride),
                    slice(column, column + width * stride, stride),
                )
                full[:, :, rows, columns] += added
            groups.append(full[:, :, pad : pad + height * stride, pad : pad + width * stride])
            continue
        padded = np.pad(part, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        out = np.zeros((num, weight.shape[0], -(-height // stride), -(-width // stride)), dtype=np.int64)
        for row, column in np.ndindex(kernel, kernel):
            seen = padded[:, :, row : row + height : stride, column : column + width : stride]
            out += np.einsum("oi,bihw->bohw", weight[:, members, row, column], seen)
        groups.append(out)
    return groups


def reference(x: Whole, layer: ExactLayer) -> NDArray[np.floating]:
    """Return a layer's output by int64 sums and single IEEE operations in numpy."""
    normalises = layer.shape.kind in ("gdn", "igdn")
    met = np.minimum(np.rint(x**2 * float(layer.square)), LARGEST_SQUARE).astype(np.int64) if normalises else x
    groups = sums_of_whole_numbers(met, layer)
    assert max(np.abs(sums).max() for sums in groups) <= LARGEST_SUM
    values: NDArray[np.floating] = functools.reduce(np.add, [sums.astype(np.float32) for sums in groups])
    values = values * layer.multiplier.numpy()[:, None, None] + layer.offset.numpy()[:, None, None]
    if layer.shape.kind == "gdn":
        values = x.astype(np.float32) / np.sqrt(values)
    elif layer.shape.kind == "igdn":
        values = np.sqrt(values) * x.astype(np.float32)
    low, high = {"steps": (-511, 511), "relu": (0, 511), "pixels": (0, 255)}.get(layer.shape.output, (-np.inf, np.inf))
    return values if layer.shape.output == "values" else np.clip(np.floor(values + np.float32(0.5)), low, high)


def tensor(x: Whole) -> Tensor:
    return torch.from_numpy(x).float()


@convolutions
@pytest.mark.parametrize("output", ["steps", "values"])
def test_a_convolution_equals_whole_number_arithmetic(
    kind: Kind, fan_in: int, fan_out: int, kernel: int, stride: int, groups: int, output: Output
) -> None:
    shape = (fan_in, fan_out) if kind == "up" else (fan_out, fan_in)
    layer = random_layer(kind, (*shape, kernel, kernel), stride, groups, output)
    x = random_steps(2, fan_in, 8, 12)
    given = tensor(x)
    assert np.array_equal(layer(given).numpy(), reference(x, layer))
    assert np.array_equal(given.numpy(), x)


@pytest.mark.parametrize("kind", ["gdn", "igdn"])
@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (32, 1), (32, 2)])
@pytest.mark.parametrize("output", ["steps", "values"])
def test_gdn_equals_whole_number_arithmetic(kind: Kind, channels: int, groups: int, output: Output) -> None:
    layer = random_layer(kind, (channels, channels, 1, 1), 1, groups, output)
    x = random_steps(2, channels, 7, 5)
    given = tensor(x)
    assert np.array_equal(layer(given).numpy(), reference(x, layer))
    assert np.array_equal(given.numpy(), x)


def test_roots_are_correctly_rounded() -> None:
    generator = np.random.default_rng(4)
    multiplier = torch.from_numpy(generator.uniform(0.5, 2, 1000)).float()
    layer = ExactLayer(
        Shape("igdn", 1, "values", LARGEST_SQUARE, 1),
        torch.eye(1000)[:, :, None, None],
        multiplier,
        torch.full((1000,), 2.0**-126),
        torch.ones(()),
    )
    roots = layer(torch.ones(1, 1000, 1, 1)).reshape(-1).numpy()
    assert np.array_equal(roots, np.sqrt(multiplier.double().numpy()).astype(np.float32))


def test_the_largest_sums_there_can_be_are_exact() -> None:
    channels = 32
    for groups in (1, 2):
        layer = random_layer("down", (4, channels, 5, 5), 2, groups, "values")
        layer = replace(layer, multiplier=torch.ones(4), offset=torch.zeros(4))
        signs = np.sign(layer.weight[0].long().numpy())
        x = np.zeros((1, channels, 6, 6), dtype=np.int64)
        x[0, :, :5, :5] = LARGEST_ACTIVATION * signs
        at_centre = sums_of_whole_numbers(x, layer)
        assert all(LARGEST_SUM * 0.8 < sums[0, 0, 1, 1] <= LARGEST_SUM for sums in at_centre)
        assert np.array_equal(layer(tensor(x)).numpy(), reference(x, layer))


@pytest.mark.parametrize(
    ("output", "low", "high"),
    [("steps", -LARGEST_ACTIVATION, LARGEST_ACTIVATION), ("relu", 0, LARGEST_ACTIVATION), ("pixels", 0, LARGEST_PIXEL)],
)
def test_outputs_are_whole_and_bounded(output: Output, low: int, high: int) -> None:
    layer = random_layer("down", (8, 16, 5, 5), 2, 1, output)
    layer = replace(layer, multiplier=layer.multiplier * 4)
    values = layer(tensor(random_steps(1, 16, 16, 16))).numpy()
    assert np.array_equal(values, reference(random_steps(1, 16, 16, 16), layer))
    assert (values.min(), values.max()) == (low, high)
    assert np.array_equal(values, np.rint(values))


def test_halves_are_rounded_up() -> None:
    shape = Shape("down", 1, "steps", LARGEST_ACTIVATION, 1)
    layer = ExactLayer(shape, torch.ones(1, 1, 1, 1), torch.tensor([0.5]), torch.zeros(1), torch.ones(()))
    x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 7)
    assert layer(x).reshape(-1).tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 2.0]


@convolutions
def test_the_bound_of_sums_is_what_signed_ones_reach(
    kind: Kind, fan_in: int, fan_out: int, kernel: int, stride: int, groups: int
) -> None:
    shape = (fan_in, fan_out) if kind == "up" else (fan_out, fan_in)
    layer = random_layer(kind, (*shape, kernel, kernel), stride, groups)
    magnitudes = replace(layer, weight=layer.weight.abs())
    ones = np.ones((1, fan_in, 12, 12), dtype=np.int64)
    reached = np.max([sums.max(axis=(0, 2, 3)) for sums in sums_of_whole_numbers(ones, magnitudes)], axis=0)
    assert largest_sums(layer.weight, layer.shape).tolist() == reached.tolist()


@pytest.mark.parametrize(("kind", "groups"), [("down", 1), ("down", 2), ("up", 1), ("up", 2)])
def test_sums_beyond_what_float32_holds_are_refused(kind: Kind, groups: int) -> None:
    shape = Shape(kind, 2, "steps", LARGEST_ACTIVATION, groups)
    most = LARGEST_SUM // LARGEST_ACTIVATION
    weight = torch.zeros(2, 2, 5, 5)
    weight[0, 0, 0, 0], weight[1 if groups == 1 and kind == "up" else 0, 0, 2, 2] = most - 1, 1
    parts = (torch.ones(2), torch.zeros(2), torch.ones(()))
    ExactLayer(shape, weight, *parts)
    weight[0, 0, 4, 4] = 1
    with pytest.raises(
        ValueError, match=f"may reach {(most + 1) * LARGEST_ACTIVATION}, expected at most {LARGEST_SUM}"
    ):
        ExactLayer(shape, weight, *parts)


@pytest.mark.parametrize("part", ["weight", "multiplier", "offset", "square"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(part: str, value: float) -> None:
    layer = random_layer("gdn", (8, 8, 1, 1), 1, 1)
    damaged = getattr(layer, part).clone()
    damaged.view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"{part} of a layer holds NaN or infinity"):
        replace(layer, **{part: damaged})


def test_weights_that_are_not_whole_are_refused() -> None:
    layer = random_layer("down", (8, 3, 5, 5), 2, 1)
    with pytest.raises(ValueError, match="must be whole numbers"):
        replace(layer, weight=layer.weight + 0.5)


@pytest.mark.parametrize(
    ("part", "value"), [("weight", -1.0), ("multiplier", -1e-9), ("offset", 0.0), ("offset", -1.0)]
)
@pytest.mark.parametrize("kind", ["gdn", "igdn"])
def test_a_gdn_that_may_take_the_root_of_a_negative_number_is_refused(kind: Kind, part: str, value: float) -> None:
    layer = random_layer(kind, (8, 8, 1, 1), 1, 1)
    damaged = getattr(layer, part).clone()
    damaged.view(-1)[3] = value
    with pytest.raises(ValueError, match="a GDN's weights"):
        replace(layer, **{part: damaged})


def test_a_transform_survives_its_tensors() -> None:
    layers = (random_layer("down", (8, 3, 9, 9), 4, 1), random_layer("gdn", (8, 8, 1, 1), 1, 1))
    transform = ExactTransform((*layers, random_layer("up", (8, 3, 9, 9), 4, 1, "pixels")))
    tensors = transform.tensors("g")
    assert set(tensors) == {f"g.{k}.{part}" for k in range(3) for part in ("weight", "multiplier", "offset", "square")}
    assert all(tensors[f"g.{k}.weight"].dtype == torch.int16 for k in range(3))
    again = ExactTransform.of("g", [layer.shape for layer in transform.layers], tensors)
    x = tensor(random_steps(1, 3, 16, 24, largest=LARGEST_PIXEL))
    assert torch.equal(again(x), transform(x))
    del tensors["g.1.offset"]
    with pytest.raises(KeyError, match=r"g\.1\.offset"):
        ExactTransform.of("g", [layer.shape for layer in transform.layers], tensors)


def test_macs_and_parameters_of_a_hand_computed_transform() -> None:
    transform = ExactTransform(
        (
            random_layer("down", (8, 3, 9, 9), 4, 1),
            random_layer("gdn", (8, 8, 1, 1), 1, 1),
            random_layer("up", (8, 3, 9, 9), 4, 1, "pixels"),
        )
    )
    assert transform.layers[0].macs(16, 32) == (4 * 8 * 8 * 3 * 81, 4, 8)
    assert transform.layers[1].macs(4, 8) == (4 * 8 * 64, 4, 8)
    assert transform.layers[2].macs(4, 8) == (4 * 8 * 8 * 3 * 81, 16, 32)
    assert transform.macs(16, 32) == 2 * 32 * 8 * 3 * 81 + 32 * 64
    assert transform.num_parameters() == 2 * 8 * 3 * 81 + 8 + 64 + 8 + 3


def blank_twin(transform: torch.nn.Sequential) -> ExactTransform:
    """Return an exact transform of the same sizes, all of whose weights are zero."""
    layers = []
    for module in transform:
        if isinstance(module, GDN):
            kind: Kind = "igdn" if module.inverse else "gdn"
            shape, weight = Shape(kind, 1, "steps", LARGEST_SQUARE, 1), torch.zeros(*module.sqrt_gamma.shape, 1, 1)
        else:
            assert isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
            kind = "up" if isinstance(module, torch.nn.ConvTranspose2d) else "down"
            shape, weight = (
                Shape(kind, module.stride[0], "steps", LARGEST_ACTIVATION, 1),
                torch.zeros_like(module.weight),
            )
        ones = torch.ones(weight.shape[1] if kind == "up" else weight.shape[0])
        layers.append(ExactLayer(shape, weight, ones, ones, torch.ones(())))
    return ExactTransform(tuple(layers))


@pytest.mark.parametrize(
    ("width", "macs", "parameters"),
    [(48, 2043, 0.268), (72, 4050, 0.585), (96, 6714, 1.025), (144, 14013, 2.2695), (192, 23940, 4.003)],
)
def test_a_cae_costs_what_is_published(width: int, macs: int, parameters: float) -> None:
    network = CAE(width, [0.01])
    g_a, g_s = blank_twin(network.g_a), blank_twin(network.g_s)
    assert g_a.macs(256, 256) / 256**2 == macs
    assert g_s.macs(16, 16) / 256**2 == macs
    assert (g_a.num_parameters() + g_s.num_parameters()) / 1e6 == pytest.approx(parameters, abs=5e-4)


@pytest.mark.parametrize("width", [8, 24])
def test_macs_are_those_that_torch_counts(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted as published: a gathered layer multiplies by the zeros of its padded kernel too.
    monkeypatch.setattr(layers, "gathers", lambda *_: False)
    network = CAE(width, [0.01])
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        y = network.g_a(torch.zeros(1, 3, 64, 96))
    assert blank_twin(network.g_a).macs(64, 96) == counted.get_total_flops() // 2
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network.g_s(y)
    assert blank_twin(network.g_s).macs(4, 6) == counted.get_total_flops() // 2


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Forget what was checked, before and after."""
    integer._check_exactness_under.cache_clear()
    yield
    integer._check_exactness_under.cache_clear()


def in_bfloat16(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operation on a processor that takes bfloat16 for float32."""

    def coarse(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        return operation(x.bfloat16(), weight.bfloat16(), *rest).float()

    return coarse


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (integer.functional, "conv2d", "expected 16734228, got"),
        (integer.functional, "conv_transpose2d", "expected 16734228, got"),
        (integer.functional, "linear", "expected 16699426, got"),
        (torch.Tensor, "__matmul__", "expected 16699426, got"),
    ],
)
def test_arithmetic_that_is_not_exact_is_refused(
    module: Any, name: str, message: str, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, in_bfloat16(getattr(module, name)))
        with pytest.raises(integer.InexactArithmeticError, match=message):
            integer.check_exactness()
    integer.check_exactness()


def test_a_frozen_network_does_not_run_where_sums_are_not_exact(
    unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = ExactTransform((random_layer("down", (8, 3, 9, 9), 4, 1),))
    x = tensor(random_steps(1, 3, 16, 24, largest=LARGEST_PIXEL))
    with monkeypatch.context() as patch:
        patch.setattr(integer.functional, "conv2d", in_bfloat16(integer.functional.conv2d))
        with pytest.raises(integer.InexactArithmeticError):
            transform(x)
    transform(x)


@pytest.mark.parametrize("setting", [lambda: matmul_precision("medium"), lambda: convolution_precision("bf16")])
def test_a_precision_that_is_set_later_is_seen(
    setting: Callable[[], AbstractContextManager[None]], unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    integer.check_exactness()
    with setting(), monkeypatch.context() as patch:
        patch.setattr(integer.functional, "linear", in_bfloat16(integer.functional.linear))
        with pytest.raises(integer.InexactArithmeticError):
            integer.check_exactness()
    integer.check_exactness()


def test_one_precision_is_checked_once(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    integer.check_exactness()
    monkeypatch.setattr(integer.functional, "linear", lambda *_: pytest.fail("checked again"))
    integer.check_exactness()
