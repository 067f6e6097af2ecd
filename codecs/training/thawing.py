"""Thawing: a frozen model's weights become the first weights of a training.

Freezing backwards, for what a file still knows. Whole weights times multipliers are weights again; the units of
activations in between, which a file does not keep, are chosen about as training leaves them: filters of norm 1, and a
beta of 1 in GDNs. What a transform computes does not depend on them, how it learns does. The factorised model is fitted
to the stored tables. What cannot come back are the digits that rounding took.

Not here: freezing (`freezing`), adapting a codec while it stays frozen (`codecs.adaptation`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

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
from roadbits.codecs.neural.slim_model import SlimModel

_FITTING_STEPS = 600
_FITTING_RATE = 0.02
_SMALLEST_NORM = 1e-3
"""Of a filter that does nothing, relative to the others."""
_ROUNDING = 1e-5
"""Of lambdas as files keep them."""


def thaw(network: CAE | Hyperprior, model: FrozenModel) -> None:
    """Replace all weights of a network by those of a frozen model.

    Lambdas may be others than the model's, within its range: gains between two of its positions are interpolated.

    Raises:
        ValueError: if the network has other layers, means or a method without gains, a lambda lies outside the model's
            range, or the model has an adapter.
    """
    _check(network, model)
    _thaw_with(network, model, _units(model))


def thaw_widths(networks: Sequence[CAE | Hyperprior], model: SlimModel) -> None:
    """Replace the weights of plain networks of rising widths by those of a slimmable model: kernels stay shared.

    Raises:
        ValueError: see `thaw`; also if the widths are others, or they are hyperpriors.
    """
    if len(networks) != len(model.models) or any(each.hyper for each in model.models):
        raise ValueError(f"its widths are {', '.join(map(str, model.widths))}, and CAEs alone can go on so")
    for network, own in zip(networks, model.models, strict=True):
        _check(network, own)
    widest = model.models[-1]
    units = _units(widest)
    for network, own in zip(networks, model.models, strict=True):
        narrow = _Units(_narrowed(units.g_a, own.g_a, widest.g_a), _narrowed(units.g_s, own.g_s, widest.g_s))
        _thaw_with(network, own, narrow)


class _Units(NamedTuple):
    """What a step of each activation is: of every transform its input, then the output of each layer, (C,) each."""

    g_a: list[Tensor]
    g_s: list[Tensor]
    h_a: list[Tensor] | None = None
    h_s: list[Tensor] | None = None


def _units(model: FrozenModel) -> _Units:
    pixel = torch.full((3,), 1 / LARGEST_PIXEL).double()
    forwards, backwards = _forwards(model.g_a, pixel), _backwards(model.g_s, pixel)
    if model.hyper is None:
        return _Units(forwards, backwards)
    hyper = model.hyper
    if hyper.y_entry.ndim != 1:
        raise ValueError("what enters its h_a differs by position")
    ones = torch.ones(hyper.h_s.num_outputs).double()
    return _Units(forwards, backwards, _forwards(hyper.h_a, 1 / hyper.y_entry.double()), _backwards(hyper.h_s, ones))


def _narrowed(units: list[Tensor], narrow: ExactTransform, widest: ExactTransform) -> list[Tensor]:
    """Return the units of a narrow width, in which its convolutions have the widest's weights.

    Both have the same whole weights, so where their multipliers differ units do: of what comes out, which a GDN of its
    own takes; of what goes in, if what comes out are pixels or latents.
    """
    own = [unit[: layer.num_inputs] for unit, layer in zip(units, narrow.layers, strict=False)]
    own.append(units[-1][: narrow.num_outputs])
    for index, (layer, wide) in enumerate(zip(narrow.layers, widest.layers, strict=True)):
        if layer.shape.kind in ("gdn", "igdn"):
            continue
        ratio = wide.multiplier[: layer.num_outputs].double() / layer.multiplier.double()
        if index < len(narrow.layers) - 1:
            own[index + 1] = own[index + 1] * ratio
        else:
            own[index] = own[index] / ratio.mean()
    return own


def _check(network: CAE | Hyperprior, model: FrozenModel) -> None:
    """Refuse a network that a model's weights do not fit into; its layers are looked at later."""
    if model.description.method != "gain" or network.method.name != "gain":
        raise ValueError(f"method gain alone can begin so, got a codec of {model.description.method}")
    hyper = model.hyper
    if isinstance(network, Hyperprior) != (hyper is not None):
        raise ValueError(f"the networks of {model.description.architecture} are others")
    lambdas, known = network.method.lambdas, model.description.lambdas
    if lambdas[0] < known[0] * (1 - _ROUNDING) or lambdas[-1] > known[-1] * (1 + _ROUNDING):
        raise ValueError(f"its lambdas reach from {known[0]:g} to {known[-1]:g}, got {lambdas[0]:g} to {lambdas[-1]:g}")
    if isinstance(network, Hyperprior) and network.means != model.description.means:
        raise ValueError("one has means beside scales, the other has not")


def _thaw_with(network: CAE | Hyperprior, model: FrozenModel, units: _Units) -> None:
    """Take over a model's weights, in these units."""
    hyper, lambdas, known = model.hyper, network.method.lambdas, model.description.lambdas
    with torch.no_grad():
        _take_over_all(network.g_a, model.g_a, units.g_a)
        _take_over_all(network.g_s, model.g_s, units.g_s)
        _thaw_gain(network.gain, model.side, units.g_s[0], lambdas, known)
        if isinstance(network, Hyperprior) and hyper and units.h_a and units.h_s:
            _take_over_all(network.h_a, hyper.h_a, units.h_a)
            _take_over_all(network.h_s, hyper.h_s, units.h_s)
            _thaw_gain(network.hyper_gain, hyper.side, units.h_s[0], lambdas, known)
    _fit_density(network.entropy_model, WarpedDensity(model))


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


def _forwards(frozen: ExactTransform, taken: Tensor) -> list[Tensor]:
    """Return units for g_a or h_a such that filters have norm 1, and GDNs a beta of 1.

    Args:
        frozen: with layers that serve all positions.
        taken: what a step of its input is (C,).
    """
    units = [taken]
    for index, layer in enumerate(frozen.layers):
        given = torch.ones(layer.num_outputs).double()
        if index < len(frozen.layers) - 1:
            if layer.shape.kind == "gdn":
                given = units[-1] * torch.sqrt(layer.offset.double())
            else:
                given = 1 / _norms(_weight(layer, units[-1], given), dim=0)
        units.append(given)
    return units


def _backwards(frozen: ExactTransform, given: Tensor) -> list[Tensor]:
    """Return units for g_s or h_s such that what a channel adds to the next layer has norm 1, and GDNs a beta of 1.

    Args:
        frozen: with layers that serve all positions.
        given: what a step of its output is (C,).
    """
    units = [given]
    for layer in reversed(frozen.layers):
        if layer.shape.kind == "igdn":
            taken = units[0] * torch.sqrt(layer.offset.double())
        else:
            taken = _norms(_weight(layer, torch.ones(layer.num_inputs).double(), units[0]), dim=1)
        units.insert(0, taken)
    return units


def _take_over_all(transform: Transform, frozen: ExactTransform, units: list[Tensor]) -> None:
    """Give all layers of a transform their twins' weights, in these units."""
    for (module, layer), (taken, given) in zip(_pairs(transform, frozen), pairwise(units), strict=True):
        _take_over(module, layer, taken, given)


def _norms(weight: Tensor, dim: int) -> Tensor:
    """Return the norms of weights (out, in, k, k) for each output (dim 0) or input (dim 1), none near 0."""
    norms = weight.square().sum(dim=(1 - dim, 2, 3)).sqrt()
    return norms.clamp(min=float(norms.median()) * _SMALLEST_NORM + 1e-12)


def _weight(layer: ExactLayer, taken: Tensor, given: Tensor) -> Tensor:
    """Return a convolution's weights (out, in, k, k) between inputs and outputs whose steps are these (C,)."""
    weight = layer.weight.double().transpose(0, 1) if layer.shape.kind == "up" else layer.weight.double()
    return weight * (layer.multiplier.double() * given)[:, None, None, None] / taken[:, None, None]


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
    weight = _weight(layer, taken, given)
    module.weight.copy_(weight.transpose(0, 1) if layer.shape.kind == "up" else weight)
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
