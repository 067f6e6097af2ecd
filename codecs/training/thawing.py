"""Thawing: a frozen model's weights become the first weights of a training.

Freezing backwards, for what a file still knows. Whole weights times multipliers are weights again; the units of
activations in between, which a file does not keep, are chosen so that GDNs begin with a beta of 1 and convolutions with
weights as large as random ones. Neither changes what a transform computes. The factorised model is fitted to the stored
tables. What cannot come back are the digits that rounding took.

Not here: freezing (`freezing`), adapting a codec while it stays frozen (`codecs.adaptation`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.entropy import Density
from roadbits.codecs.integer import LARGEST_PIXEL, ExactLayer, ExactTransform
from roadbits.codecs.layers import GDN, rooted
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.gain import Gain
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import FrozenModel, Side
from roadbits.codecs.neural.modulation import Transform

_FITTING_STEPS = 600
_FITTING_RATE = 0.02
_ROUNDING = 1e-5
"""Of lambdas as files keep them."""


def thaw(network: CAE | Hyperprior, model: FrozenModel) -> None:
    """Replace all weights of a network by those of a frozen model.

    Lambdas may be others than the model's, within its range: gains between two of its positions are interpolated.

    Raises:
        ValueError: if the network has other layers, means or a method without gains, a lambda lies outside the model's
            range, or the model has an adapter.
    """
    if model.description.method != "gain" or network.method.name != "gain":
        raise ValueError(f"method gain alone can begin so, got a codec of {model.description.method}")
    hyper = model.hyper
    if isinstance(network, Hyperprior) != (hyper is not None):
        raise ValueError(f"the networks of {model.description.architecture} are others")
    lambdas, known = network.method.lambdas, model.description.lambdas
    if lambdas[0] < known[0] * (1 - _ROUNDING) or lambdas[-1] > known[-1] * (1 + _ROUNDING):
        raise ValueError(f"its lambdas reach from {known[0]:g} to {known[-1]:g}, got {lambdas[0]:g} to {lambdas[-1]:g}")
    with torch.no_grad():
        _thaw_analysis(network.g_a, model.g_a)
        unit = _natural_unit(model.side)
        _thaw_onwards(network.g_s, model.g_s, unit, 1 / LARGEST_PIXEL)
        _thaw_gain(network.gain, model.side, unit, lambdas, known)
        if isinstance(network, Hyperprior) and hyper:
            if network.means != model.description.means or hyper.y_entry.ndim != 1:
                raise ValueError("one has means beside scales, the other has not")
            _thaw_onwards(network.h_a, hyper.h_a, 1 / hyper.y_entry.double(), 1.0)
            unit = _natural_unit(hyper.side)
            _thaw_onwards(network.h_s, hyper.h_s, unit, 1.0)
            _thaw_gain(network.hyper_gain, hyper.side, unit, lambdas, known)
    _fit_density(network.entropy_model, WarpedDensity(model))


def _natural_unit(side: Side) -> Tensor:
    """Return how much of a latent one step at the synthesis transform's entry is (C,): inverse gains undo gains."""
    middle = len(side.gain) // 2
    return 1 / (side.entry[middle].double() * side.gain[middle].double())


def _pairs(transform: Transform, frozen: ExactTransform) -> list[tuple[nn.Module, ExactLayer]]:
    """Return the layers that have weights, each beside its frozen twin.

    Raises:
        ValueError: if they differ.
    """
    modules = [module for module in transform if not isinstance(module, nn.ReLU)]
    layers = frozen.layers
    if len(modules) != len(layers) or not all(map(_is_alike, modules, layers)):
        theirs = ", ".join(f"{layer.shape.kind} {layer.num_inputs}-{layer.num_outputs}" for layer in layers)
        raise ValueError(f"the codec's layers are others: {theirs}")
    return list(zip(modules, layers, strict=True))


def _is_alike(module: nn.Module, layer: ExactLayer) -> bool:
    shape = layer.shape
    if layer.num_positions is not None:
        return False
    match module:
        case GDN():
            kind, size, stride = ("igdn" if module.inverse else "gdn"), (*module.sqrt_gamma.shape, 1, 1), 1
        case nn.Conv2d() | nn.ConvTranspose2d():
            kind = "up" if isinstance(module, nn.ConvTranspose2d) else "down"
            size, stride = tuple(module.weight.shape), module.stride[0]
        case _:
            return False
    return (kind, size, stride) == (shape.kind, tuple(layer.weight.shape), shape.stride)


def _thaw_analysis(transform: Transform, frozen: ExactTransform) -> None:
    """Take over g_a, from its end, where units are the latent's own."""
    pairs = _pairs(transform, frozen)
    given = torch.ones(frozen.num_outputs).double()
    for index, (module, layer) in reversed(list(enumerate(pairs))):
        if isinstance(module, GDN):
            taken = given / torch.sqrt(layer.offset.double())
        elif index == 0:
            taken = torch.full((layer.num_inputs,), 1 / LARGEST_PIXEL).double()
        else:
            ones = torch.ones(layer.num_inputs).double()
            taken = ones * _root_mean_square(_weight(layer, ones, given)) / _usual_size(layer)
        _take_over(module, layer, taken, given)
        given = taken


def _thaw_onwards(transform: Transform, frozen: ExactTransform, taken: Tensor, last: float) -> None:
    """Take over a transform from its begin.

    Args:
        transform: to be given weights.
        frozen: that has them.
        taken: what a step of its input is (C,).
        last: what a step of its output is.
    """
    pairs = _pairs(transform, frozen)
    for index, (module, layer) in enumerate(pairs):
        ones = torch.ones(layer.num_outputs).double()
        if index == len(pairs) - 1:
            given = ones * last
        elif isinstance(module, GDN):
            given = taken / torch.sqrt(layer.offset.double())
        else:
            given = ones * _usual_size(layer) / _root_mean_square(_weight(layer, taken, ones))
        _take_over(module, layer, taken, given)
        taken = given


def _weight(layer: ExactLayer, taken: Tensor, given: Tensor) -> Tensor:
    """Return a convolution's weights between inputs and outputs whose steps are these (C,)."""
    out_scale = layer.multiplier.double() * given
    if layer.shape.kind == "up":
        return layer.weight.double() * out_scale[:, None, None] / taken[:, None, None, None]
    return layer.weight.double() * out_scale[:, None, None, None] / taken[:, None, None]


def _usual_size(layer: ExactLayer) -> float:
    """Return the root mean square of random weights that keep a signal's size."""
    kernel = layer.weight.shape[2] / (layer.shape.stride if layer.shape.kind == "up" else 1)
    return 1 / math.sqrt(3 * layer.num_inputs * kernel**2)


def _root_mean_square(values: Tensor) -> float:
    return max(float(values.square().mean().sqrt()), 1e-12)


def _take_over(module: nn.Module, layer: ExactLayer, taken: Tensor, given: Tensor) -> None:
    """Give a layer its twin's weights, between inputs and outputs whose steps are these (C,)."""
    offset = layer.offset.double()
    if isinstance(module, GDN):
        ratio = (given / taken if module.inverse else taken / given) ** 2
        gamma = layer.weight[:, :, 0, 0].double() * (layer.multiplier.double() * ratio)[:, None]
        gamma *= layer.square.double() / taken**2
        module.sqrt_gamma.copy_(rooted(gamma))
        module.sqrt_beta.copy_(rooted(offset * ratio))
        return
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    module.weight.copy_(_weight(layer, taken, given))
    if module.bias is not None:
        module.bias.copy_(offset * given)


def _thaw_gain(gain: nn.Module, side: Side, unit: Tensor, lambdas: Sequence[float], known: Sequence[float]) -> None:
    """Take over gains and inverse gains, between the model's positions geometrically."""
    assert isinstance(gain, Gain)
    at = np.interp(np.log(lambdas), np.log(known), np.arange(len(known)))
    for own, rows in ((gain.log_gain, side.gain.double()), (gain.log_inverse, side.entry.double() * unit)):
        logs = torch.log(rows).numpy()
        columns = [np.interp(at, np.arange(len(known)), column) for column in logs.T]
        own.copy_(torch.from_numpy(np.stack(columns, axis=1)))


def _fit_density(own: Density, stored: WarpedDensity) -> None:
    """Fit a factorised model to the stored tables by the bits of what those tables expect."""
    with torch.no_grad():
        edges = torch.nn.functional.pad(stored.edges, (1, 1))
        step = stored.edges[:, 1] - stored.edges[:, 0]
        edges[:, 0], edges[:, -1] = stored.edges[:, 0] - step, stored.edges[:, -1] + step
        mass = torch.sigmoid(stored.logits(edges)).diff(dim=1)
    middles = torch.stack([low + high for low, high in pairwise(edges.unbind(1))], dim=1) / 2
    values, gain = (middles / step[:, None])[None, :, :, None], (1 / step)[None, :, None, None]
    optimiser = torch.optim.Adam(own.parameters(), _FITTING_RATE)
    for index in range(_FITTING_STEPS):
        optimiser.param_groups[0]["lr"] = _FITTING_RATE * (1 - index / _FITTING_STEPS)
        optimiser.zero_grad()
        loss = -(mass * torch.log2(own.likelihood(values, gain)[0, :, :, 0])).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
