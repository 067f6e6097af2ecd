"""The hyperprior: side information z tells how wide, and where, each latent value is distributed.

    z = h_a(y), coded by a factorised model;  (scales, means) = h_s(z_hat);  y_hat = round(y - means) + means

Over three-layer transforms (strides 4, 2, 2, as `cae`, a little over half of the multiplications of four) or the
paper's own four layers (stride 2 each). The scale-only model has no means and feeds |y| to h_a.

Sources: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018;
Minnen, Balle, Toderici, "Joint autoregressive and hierarchical priors for learned image compression", NeurIPS 2018,
without the autoregressive part, which decodes pixel by pixel. Differing from the papers: h_s has plain ReLUs, fewer
channels and a last layer of 1x1, since both ends run it.

Not here: the frozen codec (`still`), a context that sharpens its scales (`context`).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import bits, gaussian_bits, quantised, round_through
from roadbits.codecs.layers import GDN, down, up
from roadbits.codecs.neural.cae import Forward, analysis, synthesis
from roadbits.codecs.neural.gain import Gained
from roadbits.codecs.neural.modulation import RateMethod, Transform, binned

STRIDE = 64
_FIRST_SCALE = 4.0


def _analysis_of_four(channels: int, latent_channels: int, method: RateMethod) -> Transform:
    """Return g_a of four layers with stride 2 each."""
    n, m, behind = channels, latent_channels, method.behind_down
    inner = [layer for inputs in (3, n, n) for layer in (down(inputs, n, 5, 2), *behind(n), GDN(n))]
    return Transform(*inner, down(n, m, 5, 2), *behind(m))


def _synthesis_of_four(channels: int, latent_channels: int, method: RateMethod) -> Transform:
    """Return g_s of four layers with stride 2 each."""
    n, behind = channels, method.behind_up
    inner = [
        layer
        for inputs in (latent_channels, n, n)
        for layer in (up(inputs, n, 5, 2), *behind(n), GDN(n, inverse=True), *method.before_up(n))
    ]
    return Transform(*inner, up(n, 3, 5, 2), *behind(3))


class Hyperprior(nn.Module):
    """The scale or mean-scale hyperprior in training."""

    stride = STRIDE

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        method: RateMethod | Sequence[float],
        num_layers: int = 3,
        means: bool = True,
    ) -> None:
        """Build the networks.

        Args:
            channels: N, of the transforms' inner layers and of z.
            latent_channels: M, of y.
            method: how several rates are reached; lambdas alone mean gains.
            num_layers: of each transform, 3 or 4.
            means: predict means beside scales.
        """
        super().__init__()
        self.means = means
        self.method = method = Gained(method) if isinstance(method, Sequence) else method
        n, m, behind = channels, latent_channels, method.behind_hyper
        self.g_a = analysis(n, m, False, method) if num_layers == 3 else _analysis_of_four(n, m, method)
        self.g_s = synthesis(n, m, False, method) if num_layers == 3 else _synthesis_of_four(n, m, method)
        self.h_a = Transform(
            *(down(m, n, 3, 1), *behind(n), nn.ReLU()),
            *(down(n, n, 5, 2), *behind(n), nn.ReLU()),
            *(down(n, n, 5, 2), *behind(n)),
        )
        outputs = (1 + means) * m
        self.h_s = Transform(
            *(up(n, n, 5, 2), *behind(n), nn.ReLU()),
            *(up(n, 3 * n // 2, 5, 2), *behind(3 * n // 2), nn.ReLU()),
            *(down(3 * n // 2, outputs, 1, 1), *behind(outputs)),
        )
        # Wide at first, since values grow faster than scales can follow.
        last = [layer for layer in self.h_s if isinstance(layer, nn.Conv2d)][-1]
        nn.init.constant_(cast(Tensor, last.bias)[:m], _FIRST_SCALE)
        self.entropy_model = method.density(n)
        self.gain = method.latents(m)
        self.hyper_gain = method.latents(n)

    def forward(self, x: Tensor, levels: Tensor, bin_widths: Tensor | float | None = None) -> Forward:
        """Return reconstructions and bits.

        Args:
            x: images (B, 3, H, W) in 0..1, sides multiples of 64.
            levels: of each image (B,).
            bin_widths: of y's quantiser; the method's if left out in training, else 1.
        """
        if bin_widths is None:
            bin_widths = self.method.bin_widths(len(x)) if self.training else 1.0
        gain, inverse = binned(self.gain(levels), bin_widths)
        hyper_gain, hyper_inverse = self.hyper_gain(levels)
        y = self.g_a(x, levels).float()
        z = self.h_a(y if self.means else torch.abs(y), levels).float() * hyper_gain
        z_likelihood = self.entropy_model.likelihood(quantised(z, self.training), hyper_gain, levels)
        predicted = self.h_s(round_through(z) * hyper_inverse, levels).float()
        scales, means = predicted.chunk(2, dim=1) if self.means else (predicted, torch.zeros_like(predicted))
        y, scales, means = y * gain, scales * gain, means * gain
        y_bits = gaussian_bits(quantised(y - means, self.training), 0.0, scales)
        y_hat = round_through(y - means) + means
        return Forward(self.g_s(y_hat * inverse, levels).float(), y_bits + bits(z_likelihood))
