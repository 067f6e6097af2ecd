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

from roadbits.codecs.entropy import bits, quantised, round_through
from roadbits.codecs.layers import GDN, down, up
from roadbits.codecs.neural.gain import Gained
from roadbits.codecs.neural.modulation import RateMethod, Transform, binned

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


def analysis(channels: int, latent_channels: int, latent_gdn: bool, method: RateMethod) -> Transform:
    """Return g_a of three layers."""
    n, m, behind = channels, latent_channels, method.behind_down
    layers = [
        *(down(3, n, 9, 4), *behind(n), GDN(n)),
        *(down(n, n, 5, 2), *behind(n), GDN(n)),
        *(down(n, m, 5, 2, bias=not latent_gdn), *behind(m)),
    ]
    return Transform(*layers, *([GDN(m)] if latent_gdn else []))


def synthesis(channels: int, latent_channels: int, latent_gdn: bool, method: RateMethod) -> Transform:
    """Return g_s of three layers."""
    n, m, before, behind = channels, latent_channels, method.before_up, method.behind_up
    layers = [
        *(up(m, n, 5, 2), *behind(n), GDN(n, inverse=True), *before(n)),
        *(up(n, n, 5, 2), *behind(n), GDN(n, inverse=True), *before(n)),
        *(up(n, 3, 9, 4), *behind(3)),
    ]
    return Transform(*([GDN(m, inverse=True), *before(m)] if latent_gdn else []), *layers)


class CAE(nn.Module):
    """The compressive autoencoder in training."""

    stride = STRIDE

    def __init__(self, channels: int, method: RateMethod | Sequence[float], latent_channels: int | None = None) -> None:
        """Build the networks.

        Args:
            channels: N, of the inner layers.
            method: how several rates are reached; lambdas alone mean gains.
            latent_channels: M, of the latent; N if left out, as in the paper. A latent of M numbers to a block of
                16 x 16 pixels bounds what any rate can reach: the M first principal components of such blocks leave
                31.6 dB on frames of CamVid and 27.1 dB on KITTI's at M = 128, 40.8 and 30.8 dB at M = 256.
        """
        super().__init__()
        self.method = Gained(method) if isinstance(method, Sequence) else method
        latent_channels = latent_channels or channels
        self.g_a = analysis(channels, latent_channels, True, self.method)
        self.g_s = synthesis(channels, latent_channels, True, self.method)
        self.entropy_model = self.method.density(latent_channels)
        self.gain = self.method.latents(latent_channels)

    def forward(self, x: Tensor, levels: Tensor, bin_widths: Tensor | float | None = None) -> Forward:
        """Return reconstructions and bits.

        Args:
            x: images (B, 3, H, W) in 0..1, sides multiples of 16.
            levels: of each image (B,).
            bin_widths: of the quantiser; the method's if left out in training, else 1.
        """
        if bin_widths is None:
            bin_widths = self.method.bin_widths(len(x)) if self.training else 1.0
        gain, inverse = binned(self.gain(levels), bin_widths)
        y = self.g_a(x, levels).float() * gain
        likelihood = self.entropy_model.likelihood(quantised(y, self.training), gain, levels)
        return Forward(self.g_s(round_through(y) * inverse, levels).float(), bits(likelihood))
