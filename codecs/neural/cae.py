"""The compressive autoencoder: a nonlinear transform of three layers and a factorised entropy model.

    g_a: conv 9x9/4, GDN, conv 5x5/2, GDN, conv 5x5/2, GDN        x (B, 3, H, W) -> y (B, N, H/16, W/16)
    g_s: IGDN, up 5x5/2, IGDN, up 5x5/2, IGDN, up 9x9/4           y_hat -> x_hat

The third GDN, on the latent, is kept as in the paper, MAE and SlimCAE; some later implementations drop it.

Sources: Balle, Laparra, Simoncelli, "End-to-end optimized image compression", ICLR 2017, for the transforms and the
noise in training; Theis, Shi, Cunningham, Huszar, "Lossy image compression with compressive autoencoders", ICLR 2017,
for the rounding with identity gradient, which here trains the synthesis transform on what it will meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from roadbits.codecs.entropy import FactorisedModel, bits, quantised, round_through
from roadbits.codecs.layers import GDN, down, up
from roadbits.codecs.neural.gain import Gain

STRIDE = 16


@dataclass(frozen=True)
class Forward:
    """What a pass in training gives.

    Attributes:
        x_hat: reconstructions (B, 3, H, W), in 0..1 but for overshoot.
        bits: of each image (B,), from the likelihoods.
    """

    x_hat: Tensor
    bits: Tensor


def analysis(channels: int, latent_channels: int, latent_gdn: bool) -> nn.Sequential:
    """Return g_a of three layers."""
    layers = [
        down(3, channels, 9, 4),
        GDN(channels),
        down(channels, channels, 5, 2),
        GDN(channels),
        down(channels, latent_channels, 5, 2, bias=not latent_gdn),
    ]
    return nn.Sequential(*layers, *([GDN(latent_channels)] if latent_gdn else []))


def synthesis(channels: int, latent_channels: int, latent_gdn: bool) -> nn.Sequential:
    """Return g_s of three layers."""
    layers = [
        up(latent_channels, channels, 5, 2),
        GDN(channels, inverse=True),
        up(channels, channels, 5, 2),
        GDN(channels, inverse=True),
        up(channels, 3, 9, 4),
    ]
    return nn.Sequential(*([GDN(latent_channels, inverse=True)] if latent_gdn else []), *layers)


class CAE(nn.Module):
    """The compressive autoencoder in training."""

    stride = STRIDE

    def __init__(self, channels: int, lambdas: Sequence[float], latent_channels: int | None = None) -> None:
        """Build the networks.

        Args:
            channels: N, of the inner layers.
            lambdas: one level of gain for each.
            latent_channels: M, of the latent; N if left out, as in the paper. A latent of M numbers to a block of
                16 x 16 pixels bounds what any rate can reach: the M first principal components of such blocks leave
                31.6 dB on frames of CamVid and 27.1 dB on KITTI's at M = 128, 40.8 and 30.8 dB at M = 256.
        """
        super().__init__()
        latent_channels = latent_channels or channels
        self.g_a = analysis(channels, latent_channels, latent_gdn=True)
        self.g_s = synthesis(channels, latent_channels, latent_gdn=True)
        self.entropy_model = FactorisedModel(latent_channels)
        self.gain = Gain(latent_channels, lambdas)

    def forward(self, x: Tensor, levels: Tensor) -> Forward:
        """Return reconstructions and bits of images (B, 3, H, W) in 0..1, sides multiples of 16, at levels (B,)."""
        gain, inverse = self.gain(levels)
        y = self.g_a(x).float() * gain
        likelihood = self.entropy_model.likelihood(quantised(y, self.training), gain)
        return Forward(self.g_s(round_through(y) * inverse).float(), bits(likelihood))
