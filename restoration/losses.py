"""What restorers are trained for: pixels, what a frozen network sees, and what critics cannot tell apart.

`Sight` is a frozen, pretrained network from images to levels of features; the caller brings it. Its differences are
divided by the mean size of the original's features, level by level, so that each level counts alike.

Sources: Mao et al., "Least squares generative adversarial networks", ICCV 2017; feature matching of Wang et al.,
pix2pixHD, CVPR 2018; Ehrlich et al., "Analyzing and mitigating JPEG compression defects in deep learning", ICCVW 2021,
for matching what a task's network computes on the original, which needs no labels.

Not here: the networks (`network`, `critics`), who combines what (`training`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Sight = Callable[[Tensor], Sequence[Tensor]]
"""From images (B, 3, H, W) in 0..1 to levels of features (B, C, h, w)."""


def feature_distance(restored: Sequence[Tensor], original: Sequence[Tensor]) -> Tensor:
    """Return the mean over levels of |restored - original| over the mean of |original|."""
    levels = [
        torch.mean(torch.abs(ours.float() - theirs.float())) / theirs.float().abs().mean().clamp(min=1e-6)
        for ours, theirs in zip(restored, original, strict=True)
    ]
    return torch.stack(levels).mean()


def deceiving(judgements: Sequence[Tensor]) -> Tensor:
    """Return the restorer's least-squares loss: each judgement's distance from 1, the mark of an original."""
    return torch.stack([torch.mean((one.float() - 1) ** 2) for one in judgements]).mean()


def judging(of_restored: Sequence[Tensor], of_originals: Sequence[Tensor]) -> Tensor:
    """Return the critic's least-squares loss: originals to 1, restored images to 0."""
    losses = [
        torch.mean(ours.float() ** 2) + torch.mean((theirs.float() - 1) ** 2)
        for ours, theirs in zip(of_restored, of_originals, strict=True)
    ]
    return torch.stack(losses).mean() / 2


def likeness(restored: Tensor, original: Tensor, exponent: int) -> Tensor:
    """Return the mean of |restored - original| ** exponent over images in 0..1."""
    return functional.l1_loss(restored, original) if exponent == 1 else functional.mse_loss(restored, original)
