"""The hyperprior: side information z tells how wide, and where, each latent value is distributed.

    z = h_a(y), coded by a factorised model;  (scales, means) = h_s(z_hat);  y_hat = round(y - means) + means

Over three-layer transforms (strides 4, 2, 2, as `cae`, a little over half of the multiplications of four) or the
paper's own four layers (stride 2 each). The scale-only model has no means and feeds |y| to h_a.

Sources: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018;
Minnen, Balle, Toderici, "Joint autoregressive and hierarchical priors for learned image compression", NeurIPS 2018,
without the autoregressive part, which decodes pixel by pixel. Differing from the papers: h_s has plain ReLUs, fewer
channels and a last layer of 1x1, since both ends run it.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import FactorisedModel, bits, gaussian_bits, quantised, round_through
from roadbits.codecs.layers import GDN, down, up
from roadbits.codecs.neural.cae import Forward, analysis, synthesis
from roadbits.codecs.neural.gain import Gain

STRIDE = 64
_FIRST_SCALE = 4.0


def _analysis_of_four(channels: int, latent_channels: int) -> nn.Sequential:
    """Return g_a of four layers with stride 2 each."""
    steps = [layer for _ in range(2) for layer in (down(channels, channels, 5, 2), GDN(channels))]
    return nn.Sequential(down(3, channels, 5, 2), GDN(channels), *steps, down(channels, latent_channels, 5, 2))


def _synthesis_of_four(channels: int, latent_channels: int) -> nn.Sequential:
    """Return g_s of four layers with stride 2 each."""
    steps = [layer for _ in range(2) for layer in (up(channels, channels, 5, 2), GDN(channels, inverse=True))]
    return nn.Sequential(
        up(latent_channels, channels, 5, 2), GDN(channels, inverse=True), *steps, up(channels, 3, 5, 2)
    )


class Hyperprior(nn.Module):
    """The scale or mean-scale hyperprior in training."""

    stride = STRIDE

    def __init__(
        self, channels: int, latent_channels: int, lambdas: Sequence[float], num_layers: int = 3, means: bool = True
    ) -> None:
        """Build the networks.

        Args:
            channels: N, of the transforms' inner layers and of z.
            latent_channels: M, of y.
            lambdas: one level of gain for each.
            num_layers: of each transform, 3 or 4.
            means: predict means beside scales.
        """
        super().__init__()
        self.means = means
        n, m = channels, latent_channels
        self.g_a = analysis(n, m, latent_gdn=False) if num_layers == 3 else _analysis_of_four(n, m)
        self.g_s = synthesis(n, m, latent_gdn=False) if num_layers == 3 else _synthesis_of_four(n, m)
        self.h_a = nn.Sequential(down(m, n, 3, 1), nn.ReLU(), down(n, n, 5, 2), nn.ReLU(), down(n, n, 5, 2))
        self.h_s = nn.Sequential(
            up(n, n, 5, 2), nn.ReLU(), up(n, 3 * n // 2, 5, 2), nn.ReLU(), down(3 * n // 2, (1 + means) * m, 1, 1)
        )
        # Wide at first, since values grow faster than scales can follow.
        nn.init.constant_(cast(Tensor, self.h_s[-1].bias)[:m], _FIRST_SCALE)
        self.entropy_model = FactorisedModel(n)
        self.gain = Gain(m, lambdas)
        self.hyper_gain = Gain(n, lambdas)

    def forward(self, x: Tensor, levels: Tensor) -> Forward:
        """Return reconstructions and bits of images (B, 3, H, W) in 0..1, sides multiples of 64, at levels (B,)."""
        gain, inverse = self.gain(levels)
        hyper_gain, hyper_inverse = self.hyper_gain(levels)
        y = self.g_a(x).float()
        z = self.h_a(y if self.means else torch.abs(y)).float() * hyper_gain
        z_likelihood = self.entropy_model.likelihood(quantised(z, self.training), hyper_gain)
        predicted = self.h_s(round_through(z) * hyper_inverse).float()
        scales, means = predicted.chunk(2, dim=1) if self.means else (predicted, torch.zeros_like(predicted))
        y, scales, means = y * gain, scales * gain, means * gain
        y_bits = gaussian_bits(quantised(y - means, self.training), 0.0, scales)
        y_hat = round_through(y - means) + means
        return Forward(self.g_s(y_hat * inverse).float(), y_bits + bits(z_likelihood))
