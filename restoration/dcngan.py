"""DCNGAN: restores the frame in the middle of three, aligned by one deformable convolution, as its coding asks for.

    U of three levels (three frames)  -> 3x3 offsets and masks, for each frame its own
    deformable 3x3 (three frames)     -> w channels: no frame is warped, the convolution looks where it should
    7x7, three 3x3/2                  -> 8 w channels at an eighth of the sides
    residual blocks                   -> each multiplied, behind its first convolution, by the gate of the coding
    three times doubled               -> with skips between equal sizes
    7x7                               -> behind a gate of its own; added to the middle frame

The gate is one vector for all blocks, a softplus behind two linear maps of the condition: the paper's QP gate, which
knows four QPs as one-hot numbers, here for any codec, point and rate. The paper's generator (64 channels, 45.8 million
weights) is a server's; the width is a setting.

Source: Zhang, Herranz, Mrak, Gorriz Blanch, Wan, Yang, "DCNGAN: a deformable convolution-based GAN with QP adaptation
for perceptual quality enhancement of compressed video", ICASSP 2022, and its authors' code. Differing from both: colour
frames, not luma alone; skips, which need the second gate, and what comes out is added to the input; leaky rectifiers
and no batch normalisation, whose statistics of crops are not those of frames.

Not here: stills (`network`), critics and losses, training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from roadbits.codecs.codec import Clip
from roadbits.codecs.precision import reduced_precision
from roadbits.restoration.condition import Condition, condition_vector, vector_size
from roadbits.restoration.restoring import pixels_of

FRAMES = 3
STRIDE = 8
"""Sides are padded to multiples of this."""
MOST_CHANNELS, MOST_BLOCKS = 256, 64
_TAPS = 9
_LEAK = 0.2
"""Of the rectifiers: with none, and without normalisation, whole layers died within some hundred steps."""
_CONDITION_UNITS = 32
_OPEN = 0.5413
"""Softplus of it is 1: the gate lets everything through at first."""


@dataclass(frozen=True)
class ClipRestorerSpec:
    """Which network.

    Attributes:
        codecs: it is trained for, in the order of the condition's vector.
        channels: w; the paper's is 64.
        blocks: residual ones; the paper's are 9.

    Raises:
        ValueError: if there are more channels or blocks than anyone should allocate, or none.
    """

    codecs: tuple[str, ...]
    channels: int = 16
    blocks: int = 9

    def __post_init__(self) -> None:
        """Check the sizes, which may come from a file."""
        if not (0 < self.channels <= MOST_CHANNELS and 0 < self.blocks <= MOST_BLOCKS):
            raise ValueError(
                f"expected 1 to {MOST_CHANNELS} channels and 1 to {MOST_BLOCKS} blocks, got {self.channels} and "
                f"{self.blocks}"
            )


def deformable(x: Tensor, offsets: Tensor, masks: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a modulated deformable 3x3 convolution (B, out, H, W), each frame with offsets and masks of its own.

    On a processor the same sums come from sampled grids: torchvision's own takes four times as long, backwards.

    Args:
        x: frames side by side, float32 (B, C, H, W).
        offsets: down and right of each frame's taps, (B, 2 * 9 * frames, H, W).
        masks: of each frame's taps, (B, 9 * frames, H, W).
        weight: (out, C, 3, 3).
        bias: (out,).
    """
    if x.device.type != "cpu":
        return cast(Tensor, deform_conv2d(x, offsets, weight, bias, padding=(1, 1), mask=masks))
    batch, channels, height, width = x.shape
    frames = batch * (masks.shape[1] // _TAPS)
    steps = torch.arange(3) - 1
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    by, across = offsets.reshape(frames, _TAPS, 2, height, width).unbind(2)
    down = by + steps.repeat_interleave(3).reshape(-1, 1, 1) + rows
    right = across + steps.repeat(3).reshape(-1, 1, 1) + columns
    places = torch.stack(((2 * right + 1) / width - 1, (2 * down + 1) / height - 1), -1)
    places = places.reshape(frames, _TAPS * height, width, 2)
    sampled = functional.grid_sample(x.reshape(frames, -1, height, width), places, align_corners=False)
    taps = sampled.reshape(frames, -1, _TAPS, height, width) * masks.reshape(frames, 1, _TAPS, height, width)
    summed: Tensor = weight.reshape(1, len(weight), -1) @ taps.reshape(batch, channels * _TAPS, -1)
    return summed.reshape(batch, -1, height, width) + bias[:, None, None]


class _Alignment(nn.Module):
    """One modulated deformable convolution over three frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        n = max(8, channels // 2)
        self.enter, self.below, self.lowest = (
            nn.Conv2d(inputs, n, 3, stride, 1) for inputs, stride in ((3 * FRAMES, 1), (n, 2), (n, 2))
        )
        self.rise_1, self.rise_2 = (nn.Conv2d(n, n, 3, 1, 1) for _ in range(2))
        self.offsets = nn.Conv2d(n, 2 * _TAPS * FRAMES, 3, 1, 1)
        self.masks = nn.Conv2d(n, _TAPS * FRAMES, 3, 1, 1)
        for layer in (self.offsets, self.masks):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))
        self.looking = nn.Conv2d(3 * FRAMES, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, w, H, W) of three frames (B, 9, H, W)."""
        top = _rectified(self.enter(x))
        middle = _rectified(self.below(top))
        bottom = _rectified(self.lowest(middle))
        middle = middle + _rectified(self.rise_1(_doubled(bottom)))
        top = top + _rectified(self.rise_2(_doubled(middle)))
        offsets, masks = self.offsets(top).float(), 2 * torch.sigmoid(self.masks(top).float())
        with torch.autocast(x.device.type, enabled=False):
            bias = cast(Tensor, self.looking.bias)
            looked = deformable(x.float(), offsets, masks, self.looking.weight, bias)
        result: Tensor = _rectified(looked)
        return result


class _GatedBlock(nn.Module):
    """Two convolutions around the gate, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        result: Tensor = x + self.second(_rectified(self.first(x) * gate))
        return result


class ClipRestorer(nn.Module):
    """Three degraded frames and the coding of the middle one to that frame restored."""

    def __init__(self, spec: ClipRestorerSpec) -> None:
        """Build the network of a spec; it returns the middle frame at first."""
        super().__init__()
        self.spec = spec
        w = spec.channels
        self.alignment = _Alignment(w)
        self.head = nn.Conv2d(w, w, 7, 1, 3)
        self.down = nn.ModuleList(nn.Conv2d(w << k, w << (k + 1), 3, 2, 1) for k in range(3))
        self.condition = nn.Linear(vector_size(spec.codecs), _CONDITION_UNITS)
        self.gates = nn.Linear(_CONDITION_UNITS, w + 8 * w)
        nn.init.zeros_(self.gates.weight)
        nn.init.constant_(self.gates.bias, _OPEN)
        self.blocks = nn.ModuleList(_GatedBlock(8 * w) for _ in range(spec.blocks))
        self.up = nn.ModuleList(nn.Conv2d(w << (3 - k), w << (2 - k), 3, 1, 1) for k in range(3))
        self.tail = nn.Conv2d(w, 3, 7, 1, 3)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: three consecutive frames float32 (B, 9, H, W) in 0..1; H and W multiples of `STRIDE`.
            conditions: of the middle frames, float32 (B, D) of `condition_vector`.

        Returns:
            float32 (B, 3, H, W), not clipped.
        """
        gates = functional.softplus(self.gates(_rectified(self.condition(conditions))))[:, :, None, None]
        narrow, deep = torch.split(gates, [self.spec.channels, 8 * self.spec.channels], 1)
        hidden = _rectified(self.head(self.alignment(x - 0.5)))
        skipped = []
        for layer in self.down:
            skipped.append(hidden)
            hidden = _rectified(layer(hidden))
        for block in self.blocks:
            hidden = block(hidden, deep)
        for layer in self.up:
            hidden = _rectified(layer(_doubled(hidden)) + skipped.pop())
        restored: Tensor = x[:, 3:6] + self.tail(hidden * narrow).float()
        return restored


def _rectified(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, _LEAK)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def triplet(clip: Clip, at: int) -> NDArray[np.uint8]:
    """Return a frame between its neighbours, uint8 (9, H, W); at a clip's ends it stands for the missing one."""
    around = [clip[min(max(at + step, 0), len(clip) - 1)] for step in (-1, 0, 1)]
    return np.ascontiguousarray(np.concatenate(around, 2).transpose(2, 0, 1))


def restore_clip(restorer: ClipRestorer, clip: Clip, conditions: Sequence[Condition]) -> Clip:
    """Return a clip uint8 (T, H, W, 3) restored, each frame as it was coded.

    Raises:
        RestorerWeightsError: if what comes out is not finite.
    """
    device, (height, width) = next(restorer.parameters()).device, clip.shape[1:3]
    restored = np.empty_like(clip)
    for at, condition in enumerate(conditions):
        x = torch.from_numpy(triplet(clip, at))[None].to(device).float().div(255)
        x = functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        told = torch.from_numpy(condition_vector(condition, restorer.spec.codecs))[None].to(device)
        with torch.inference_mode(), reduced_precision(device):
            image = restorer(x.to(memory_format=torch.channels_last), told)[0, :, :height, :width]
        restored[at] = pixels_of(image)
    return restored
