"""First weights that make an autoencoder of three layers a block transform: each layer one step of a 16 x 16 DCT.

From random weights a network finds the low frequencies first and leaves the highest to themselves for very long, since
what g_a does not pass on teaches g_s nothing, and the other way round. Begun as a DCT it knows all of them from the
first step, and as its quantiser and entropy models begin with what lambda and the spectrum of images ask for, it is
about a JPEG before it has learned anything. What is left to learn: overlap, normalisation, dependences.

    4 x 4 blocks -> 8 x 8 -> 16 x 16, in an orthonormal luma and two chroma axes; of each size those coefficients that
    vary most in images, as many as there are channels

The standard deviation of a coefficient is taken to fall as a power of its frequency: of 64 crops of the shipped
weights' training data each band of the luma lies within a tenth of it.

Source: the DCT as in Ahmed, Natarajan, Rao, "Discrete cosine transform", IEEE Transactions on Computers, 1974.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roadbits.codecs.entropy import FactorisedModel
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.gain import Gain
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.modulation import Modulation

_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_DEVIATION = np.array([1.0, 0.33, 0.17])
"""Of each axis of colour at frequency 1, half a wave to a block of 16 pixels; x in 0..1."""
_FALL = 1.12
"""The power of the frequency."""
_MEAN_FREQUENCY = 0.2
"""What stands for the frequency of a block's mean."""
_SCALE = 1 / 4
_WHITENING = 0.5
"""Coefficients stand in the network as `_SCALE` times themselves over their deviation to this power."""
_STEP = 4.7 / 255
"""Of the quantiser, for x in 0..1, times sqrt(lambda): what high rates ask for."""
_OTHERS = 0.1
"""What the weights of channels that are no part of the DCT keep."""
_NORMALISATION = 0.3
"""What the roots of GDNs' weights keep: near a division by one."""
_HYPER_GAIN = 10.0
"""Of h_a's last kernel, which makes z about as wide as its step."""
_HYPER_UP_GAIN = 2.0
"""Of h_s's first kernels, which keeps what they make as wide as z."""
_HYPER_DEVIATION = 1.0
"""Of z, in steps."""
_LOGISTIC = 0.4
"""The scale of the logistic density that stands for coefficients of deviation 1: less than the 0.55 whose own deviation
is 1, since coefficients are more peaked."""

Float64 = NDArray[np.float64]


class _Basis(NamedTuple):
    """Coefficients of a block, those that vary most first.

    Attributes:
        images: float64 (n, 3, b, b), orthonormal.
        scales: of the coefficients where they stand in the network (n,).
        deviations: there (n,).
    """

    images: Float64
    scales: Float64
    deviations: Float64

    def rescaled(self, relative: Float64) -> "_Basis":
        """Return the same with other scales, relative to these (n,)."""
        return _Basis(self.images, self.scales * relative, self.deviations * relative)


_PIXELS = _Basis(np.eye(3).reshape(3, 3, 1, 1), np.ones(3), np.ones(3))


def start_as_dct(network: CAE | Hyperprior) -> None:
    """Replace the weights of g_a and g_s of three layers, biases by 0, and those of gains and entropy models.

    Where modulations stand for gains, those next to the latent begin with what gains would. GDNs begin weaker, and the
    ends of h_a and h_s in proportion to the latent's deviations.

    Raises:
        ValueError: if the network has other layers.
    """
    downs = [module for module in network.g_a if isinstance(module, nn.Conv2d)]
    ups = [module for module in network.g_s if isinstance(module, nn.ConvTranspose2d)]
    if len(downs) != 3:
        raise ValueError(f"a DCT start needs transforms of three layers, got {len(downs)}")
    bases = [_basis(side, down.out_channels) for side, down in zip((4, 8, 16), downs, strict=True)]
    steps = _STEP / torch.sqrt(torch.tensor(network.method.lambdas))
    gain = network.gain if isinstance(network.gain, Gain) else None
    # Without gains the quantiser's step is 1.
    relative = np.ones_like(bases[-1].scales) if gain else 1 / float(steps[len(steps) // 2]) / bases[-1].scales
    bases[-1] = bases[-1].rescaled(relative)
    with torch.no_grad():
        for down, up, fine, coarse in zip(downs, reversed(ups), [_PIXELS, *bases[:2]], bases, strict=True):
            step = _step(fine.images, coarse.images)
            change = coarse.scales[:, None, None, None] / fine.scales[:, None, None]
            _place(down.weight, step * change, down.stride[0])
            _place(up.weight, step / change, up.stride[0])
            for layer in (down, up):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for gdn in (*network.g_a, *network.g_s):
            if isinstance(gdn, GDN):
                gdn.sqrt_gamma.mul_(_NORMALISATION)
        for gdn in (network.g_a[-1], network.g_s[0]):
            if isinstance(gdn, GDN):
                gdn.sqrt_gamma[:, : len(relative)].div_(torch.from_numpy(relative).float())
        if gain:
            logs = torch.log(steps)[:, None] + torch.from_numpy(np.log(bases[-1].scales)).float()
            gain.log_gain[:, : len(relative)] = -logs
            gain.log_inverse[:, : len(relative)] = logs
        by_level = _start_modulations(network, steps[len(steps) // 2] / steps)
        _start_entropy_models(network, torch.from_numpy(bases[-1].deviations).float(), by_level)


def _start_modulations(network: CAE | Hyperprior, by_level: Tensor) -> Tensor:
    """Let the latent grow with lambda as the quantiser's steps should shrink (levels,), and undo that behind it.

    Not for a hyperprior whose hyper-transforms are not modulated: its scales could not follow.

    Returns:
        By what the latent has grown at each level: ones where no modulation does that.
    """
    ends = [(network.g_a, -1, by_level), (network.g_s, 0, 1 / by_level)]
    if isinstance(network, Hyperprior):
        ends += [(network.h_a, 0, 1 / by_level), (network.h_s, -1, by_level)]
    modulations = [[module for module in transform if isinstance(module, Modulation)] for transform, _, _ in ends]
    if not all(modulations):
        return torch.ones_like(by_level)
    for (_, which, scales), found in zip(ends, modulations, strict=True):
        found[which].begin(scales)
    return by_level


def _start_entropy_models(network: CAE | Hyperprior, deviations: Tensor, by_level: Tensor) -> None:
    """Let entropy models expect the deviations of coefficients as they stand in the latent.

    Args:
        network: see `start_as_dct`.
        deviations: where the latent has not grown (n,).
        by_level: by what it has at each level (levels,); a hyper-latent does not.
    """
    if isinstance(network, Hyperprior):
        _start_hyper_transforms(network, deviations)
        deviations = torch.full((network.entropy_model.channels,), _HYPER_DEVIATION)
        by_level = torch.ones_like(by_level)
    # One density for all levels, or one for each.
    densities = [each for each in network.entropy_model.modules() if isinstance(each, FactorisedModel)]
    for density, scale in zip(densities, by_level[: len(densities)], strict=True):
        _widen(density, deviations * scale)


def _start_hyper_transforms(network: Hyperprior, deviations: Tensor) -> None:
    """Begin with a scale for each channel and without means; what comes and goes counts in units of the deviations."""
    h_a, h_s = ([layer for layer in h if isinstance(layer, nn.Conv2d)] for h in (network.h_a, network.h_s))
    num, last = len(deviations), h_s[-1]
    h_a[0].weight[:, :num].div_(deviations[:, None, None])
    h_a[-1].weight.mul_(_HYPER_GAIN)
    for layer in network.h_s:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.mul_(_HYPER_UP_GAIN)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    last.bias[:num] = deviations
    for rows in torch.chunk(last.weight, 1 + network.means):
        rows[:num] *= deviations[:, None, None, None]


def _widen(density: FactorisedModel, deviations: Tensor) -> None:
    """Make the first channels' densities logistic ones for coefficients of these deviations (n,)."""
    num, factor = len(deviations), (_LOGISTIC * deviations) ** (1 / len(density.matrices))
    for matrix, bias in zip(density.matrices, density.biases, strict=True):
        fan_out = matrix.shape[1]
        matrix[:num] = torch.log(torch.expm1(1 / factor / fan_out))[:, None, None]
        bias[:num] *= 0.1


def _basis(side: int, num: int) -> _Basis:
    """Return `num` coefficients of blocks of a side, or as many as there are."""
    places = (np.arange(side) + 0.5) * np.pi / side
    cosines = np.cos(np.arange(side)[:, None] * places) * np.sqrt(2 / side)
    cosines[0] /= np.sqrt(2)
    images = np.einsum("cx,uh,vw->cuvxhw", _COLOURS, cosines, cosines).reshape(-1, 3, side, side)
    u, v = np.mgrid[:side, :side]
    frequency = np.maximum(np.hypot(u, v), _MEAN_FREQUENCY) * 16 / side
    deviations = (_DEVIATION[:, None, None] * frequency**-_FALL).reshape(-1)
    first = np.argsort(-deviations, kind="stable")[:num]
    scales = _SCALE * deviations[first] ** -_WHITENING
    return _Basis(images[first], scales, scales * deviations[first])


def _step(fine: Float64, coarse: Float64) -> Float64:
    """Return how coarse coefficients follow from the fine ones of their parts, float64 (coarse, fine, s, s)."""
    side = fine.shape[-1]
    num, parts = len(coarse), coarse.shape[-1] // side
    blocks = coarse.reshape(num, 3, parts, side, parts, side)
    step: Float64 = np.einsum("ncpaqb,mcab->nmpq", blocks, fine)
    return step


def _place(weight: Tensor, step: Float64, stride: int) -> None:
    """Write a step (coarse, fine, s, s) into a kernel (coarse, fine, k, k) whose middle is where its block begins."""
    middle, kept = weight.shape[-1] // 2, weight[: len(step), : step.shape[1]]
    weight.mul_(_OTHERS)
    kept.zero_()
    kept[..., middle : middle + stride, middle : middle + stride] = torch.from_numpy(step).float()
