"""A network that tells restored images from originals, for adversarial training.

It looks at what a frozen, pretrained network makes of the images (Sauer et al., "Projected GANs converge faster",
NeurIPS 2021): the statistics that a segmenter of the same family will see.

Not here: their losses (`losses`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class FeatureCritic(nn.Module):
    """Judges every position of each level of features."""

    def __init__(self, channels: Sequence[int], hidden: int = 64) -> None:
        """Build it for levels of that many channels."""
        super().__init__()
        self.judges = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(size, hidden, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(hidden, hidden, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(hidden, 1, 1)),
            )
            for size in channels
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the judgement (B, 1, h, w) of each level (B, C, h, w)."""
        return [judge(level) for judge, level in zip(self.judges, features, strict=True)]
