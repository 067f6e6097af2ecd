"""Gain vectors: several rates from one model.

Before quantisation each latent channel is multiplied by a gain, and divided by (nearly) the same after it; a rate level
owns one vector for each. As the transforms do not know the level, the latent's density is one for all levels, only
scaled, and so is the entropy model. Between two levels gains are interpolated geometrically, which gives every rate in
between.

Sources: Cui et al., "Asymmetric gained deep image compression with continuous rate adaptation", CVPR 2021; the scaling
of a frozen autoencoder's bottleneck, Theis et al., ICLR 2017, is the same device tuned afterwards.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_RATE_EXPONENT = 0.3


class Gain(nn.Module):
    """The gains and inverse gains of every level."""

    def __init__(self, channels: int, lambdas: Sequence[float]) -> None:
        """Start with gains that grow with lambda, about 1 in the middle of the levels."""
        super().__init__()
        relative = torch.log(torch.tensor(lambdas, dtype=torch.float32))
        start = (_RATE_EXPONENT * (relative - relative.mean()))[:, None].repeat(1, channels)
        self.log_gain = nn.Parameter(start)
        self.log_inverse = nn.Parameter(-start.clone())

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains and inverse gains (B, C, 1, 1) at levels (B,), which may lie between two whole ones."""
        low = levels.floor().long().clamp(max=max(len(self.log_gain) - 2, 0))
        high = (low + 1).clamp(max=len(self.log_gain) - 1)
        share = (levels - low)[:, None]
        gain, inverse = (
            torch.exp((1 - share) * table[low] + share * table[high])[:, :, None, None]
            for table in (self.log_gain, self.log_inverse)
        )
        return gain, inverse
