"""Layers that the analysis and synthesis transforms share: strided convolutions and GDN.

Shapes are (B, C, H, W); every convolution pads so that a stride divides the sides exactly.

Source: Balle, Laparra, Simoncelli, "Density Modeling of Images using a Generalized Normalization Transformation",
ICLR 2016, for GDN and its reparametrisation.

Not here: the integer twins of these layers, which deployed codecs run (`integer`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PEDESTAL = 2.0**-36
_FEW_CHANNELS = 8


def down(in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool = True) -> nn.Conv2d:
    """Return the convolution that divides the sides by `stride`."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)


def up(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """Return the transposed convolution that multiplies the sides by `stride`."""
    layer = GatheredUp if gathers(out_channels, kernel, stride) else nn.ConvTranspose2d
    return layer(in_channels, out_channels, kernel, stride, padding=kernel // 2, output_padding=stride - 1)


def gathers(out_channels: int, kernel: int, stride: int) -> bool:
    """Return whether a transposed convolution is faster as a convolution to stride^2 times its few channels."""
    return out_channels < _FEW_CHANNELS and kernel // 2 == stride


def gathered_kernel(weight: Tensor, stride: int) -> Tensor:
    """Return the 3x3 kernel (out * stride^2, in, 3, 3) whose pixel-shuffled output a transposed convolution gives.

    Args:
        weight: of the transposed convolution, (in, out, k, k) with k // 2 = stride.
        stride: its stride.
    """
    num_in, num_out, kernel = weight.shape[:3]
    padded = functional.pad(weight, (0, 3 * stride - kernel, 0, 3 * stride - kernel))
    taps = padded.reshape(num_in, num_out, 3, stride, 3, stride).flip(2, 4)
    return taps.permute(1, 3, 5, 0, 2, 4).reshape(num_out * stride**2, num_in, 3, 3)


class GatheredUp(nn.ConvTranspose2d):
    """A transposed convolution to few channels, run as a convolution and a pixel shuffle: a third of the time."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (B, out, H * stride, W * stride)."""
        stride = self.stride[0]
        kernel = gathered_kernel(self.weight, stride).contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.repeat_interleave(stride**2)
        return functional.pixel_shuffle(functional.conv2d(input, kernel, bias, 1, 1), stride)


class _LowerBound(torch.autograd.Function):
    """The larger of x and a bound, with a gradient that can lead back above the bound."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None  # type: ignore[attr-defined]


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return max(x, bound); the gradient of values below the bound passes where it leads up."""
    bounded: Tensor = _LowerBound.apply(x, bound)
    return bounded


def rooted(value: Tensor) -> Tensor:
    """Return the square root by which a number of at least 0 is held."""
    return torch.sqrt(value + _PEDESTAL)


def unrooted(root: Tensor, least: float = 0.0) -> Tensor:
    """Return the number held as a root, at least `least`; its gradient stays alive near there."""
    return lower_bound(root, (least + _PEDESTAL) ** 0.5) ** 2 - _PEDESTAL


class GDN(nn.Module):
    """Generalised divisive normalisation: x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); its inverse multiplies.

    `beta` and `gamma` are held as square roots, which keeps them positive and their gradients alive near zero.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        """Start near a division by one: beta 1, gamma 0.1 on the diagonal."""
        super().__init__()
        self.inverse = inverse
        self.sqrt_beta = nn.Parameter(rooted(torch.ones(channels)))
        self.sqrt_gamma = nn.Parameter(rooted(0.1 * torch.eye(channels)))

    def beta(self) -> Tensor:
        """Return the offsets (C,), at least 1e-6."""
        return unrooted(self.sqrt_beta, least=1e-6)

    def gamma(self) -> Tensor:
        """Return the weights (C, C), at least 0: row i normalises channel i."""
        return unrooted(self.sqrt_gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised (B, C, H, W)."""
        pixels = x.permute(0, 2, 3, 1)
        flat = pixels.reshape(-1, x.shape[1])
        normalised: Tensor = _Normalise.apply(flat, self.gamma().to(x.dtype), self.beta().to(x.dtype), self.inverse)
        return normalised.reshape(pixels.shape).permute(0, 3, 1, 2)


class _Normalise(torch.autograd.Function):
    """GDN over pixels (n, C).

    Written out because autograd's own backward pass multiplies tensors of differing memory formats, which took a
    quarter of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        norm = torch.addmm(beta, x * x, gamma.T)
        root = norm.sqrt_() if inverse else norm.rsqrt_()
        ctx.save_for_backward(x, gamma, root)
        ctx.inverse = inverse
        return x * root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, root = ctx.saved_tensors
        (gradient,) = gradients
        through = gradient * x
        through = through.div_(root).mul_(0.5) if ctx.inverse else through.mul_(root).mul_(root).mul_(root).mul_(-0.5)
        d_x = (through @ gamma).mul_(x).mul_(2.0).add_(gradient * root)
        return d_x, through.T @ (x * x), through.sum(dim=0), None
