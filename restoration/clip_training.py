"""Training DCNGAN on clips that a codec degraded: parts of three frames, and the original of the one in the middle.

The phases are those of still restorers (`training`): pixels alone first, then what a pretrained network sees of the
middle frame, and a critic of its parts whose own levels must agree, too.

Not here: the network (`dcngan`), where clips come from.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.codec import Clip
from roadbits.restoration.condition import condition_vector
from roadbits.restoration.critics import PatchCritic
from roadbits.restoration.dcngan import FRAMES, STRIDE, ClipRestorer
from roadbits.restoration.losses import deceiving, judging
from roadbits.restoration.training import Pairs, RestorerTraining, View, image_batch

_MATCHING = 10.0
"""Weight of the critic's levels against its judgement, as in DCNGAN."""
_UNTOLD = 0.1


class TripletCrops:
    """Batches of three degraded frames around an original, codecs and points visited evenly, mirrored at random."""

    def __init__(
        self, pairs: Sequence[Pairs], lengths: Sequence[int], codecs: Sequence[str], size: int, seed: int
    ) -> None:
        """Take pairs of each codec and point, whose frames are those of clips, one after the other.

        Args:
            pairs: of each codec and point.
            lengths: of the clips, the same for all.
            codecs: of the condition's vector.
            size: of a crop's side, in pixels.
            seed: of all choices.

        Raises:
            ValueError: if there are none, or a frame is smaller than a crop.
        """
        if not pairs or any(len(some.originals) != sum(lengths) or not lengths for some in pairs):
            raise ValueError("no clips to learn from: expected at least one for each codec and point")
        smallest = min(min(image.shape[:2]) for image in pairs[0].originals)
        if smallest < size:
            raise ValueError(f"crops of {size} pixels do not fit into frames with a side of {smallest}")
        self._pairs, self._codecs, self._size, self._seed = pairs, codecs, size, seed
        ends = np.cumsum(lengths)
        self._first, self._last = (np.repeat(bound, lengths) for bound in (ends - lengths, ends - 1))

    def digest(self) -> str:
        """Return what two have in common whose every batch is the same."""
        told = hashlib.sha256(repr((self._codecs, self._size, self._seed, self._first.tolist())).encode())
        for some in self._pairs:
            for degraded, original, condition in zip(some.degraded, some.originals, some.conditions, strict=True):
                told.update(repr((original.shape, condition)).encode() + degraded.tobytes() + original.tobytes())
        return told.hexdigest()

    def batch(self, step: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return degraded frames (B, 9, h, w) in 0..1, the middle ones' originals (B, 3, h, w), and conditions."""
        rng = np.random.default_rng((self._seed, step))
        some = [self._triplet(rng, step * num + slot) for slot in range(num)]
        degraded, originals, told = (np.stack(each) for each in zip(*some, strict=True))
        # (B, T, h, w, 3) to (B, h, w, T * 3), as an image of many channels.
        side_by_side = degraded.transpose(0, 2, 3, 1, 4).reshape(*originals.shape[:3], -1)
        return image_batch(side_by_side), image_batch(originals), torch.from_numpy(told)

    def _triplet(self, rng: np.random.Generator, turn: int) -> tuple[Clip, NDArray[np.uint8], NDArray[np.float32]]:
        pairs, size = self._pairs[turn % len(self._pairs)], self._size
        at = int(rng.integers(len(pairs.originals)))
        around = np.clip(at + np.arange(FRAMES) - FRAMES // 2, self._first[at], self._last[at])
        top, left = (STRIDE * int(rng.integers((side - size) // STRIDE + 1)) for side in pairs.originals[at].shape[:2])
        cut = (slice(top, top + size), slice(left, left + size))
        degraded = np.stack([pairs.degraded[k][cut] for k in around])
        step = -1 if rng.random() < 0.5 else 1
        told = condition_vector(pairs.conditions[at], self._codecs, rng.random() >= _UNTOLD)
        return degraded[:, :, ::step], pairs.originals[at][cut][:, ::step], told


class ClipRestorerTraining(RestorerTraining):
    """One phase of DCNGAN's training."""

    def _built(self) -> nn.Module:
        return ClipRestorer(self.spec)

    def _built_critic(self, sizes: Sequence[int]) -> nn.Module:
        return PatchCritic()

    def _deceit(self, view: View) -> Tensor:
        critic = self._critic
        assert isinstance(critic, PatchCritic)
        ours = critic.levels(view.restored)
        with torch.no_grad():
            theirs = critic.levels(view.originals)
        matches = [functional.l1_loss(mine.float(), his.float()) for mine, his in zip(ours, theirs, strict=True)]
        return deceiving(critic(ours)) + _MATCHING * torch.stack(matches).mean()

    def _judgement(self, view: View) -> Tensor:
        critic = self._critic
        assert isinstance(critic, PatchCritic)
        return judging(critic(critic.levels(view.restored)), critic(critic.levels(view.originals)))
