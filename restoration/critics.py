"""Networks that tell restored images from originals, for adversarial training.

`FeatureCritic` looks at what a frozen, pretrained network makes of the images (Sauer et al., "Projected GANs converge
faster", NeurIPS 2021): the statistics that a segmenter of the same family will see. `PatchCritic` looks at the images
themselves, part by part, as DCNGAN's does (Zhang et al., ICASSP 2022).

Not here: their losses (`losses`).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
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


class PatchCritic(nn.Module):
    """Judges overlapping parts of images."""

    def __init__(self, channels: int = 32) -> None:
        """Build it: four convolutions 4x4/2 of rising channels, and one that judges."""
        super().__init__()
        sizes = (3, channels, 2 * channels, 4 * channels, 8 * channels)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)) for inputs, outputs in pairwise(sizes)
        )
        self.judge = spectral_norm(nn.Conv2d(sizes[-1], 1, 3, 1, 1))
        self.to(memory_format=torch.channels_last)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return what it sees of images (B, 3, H, W) in 0..1, level by level (B, C, h, w)."""
        found, hidden = [], images - 0.5
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), 0.2)
            found.append(hidden)
        return found

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return the judgement (B, 1, h, w) of what `levels` gave."""
        return [self.judge(levels[-1])]
