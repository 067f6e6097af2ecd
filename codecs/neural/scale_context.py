"""Scale context: what is decoded already tells how large the rest is likely to be.

The symbols of a hyperprior's y are coded in stages: groups of channels, those that take most bits first, and of the
first group one half of the places before the other, like the squares of a chessboard. Before a stage a network looks at
the magnitudes of what came before, here and around, in units of the scales that h_s has for them, and at these scales;
it moves the stage's own scales up or down.

    |symbol| / scale, at most 8, and the scale's rung on its ladder of 64      (B, C, h, w)
    conv 1x1, ReLU, conv 3x3, ReLU, conv 1x1                                  -> rungs to move by, over 8

Means and symbols stay what they are: the image that a payload decodes to is the same to the bit, in fewer bits. So a
context is trained for a frozen codec, whose transforms need not be run back through, and signs are not looked at: in a
trial, means moved too saved nothing on images unlike those trained on.

Sources: Minnen, Singh, "Channel-wise autoregressive entropy models for learned image compression", ICIP 2020, for
groups of channels; He, Zheng, Sun, Wang, Qin, "Checkerboard context model for efficient learned image compression",
CVPR 2021, for halves. Differing from both: scales alone are moved, by magnitudes alone, and the transforms are not
trained along.

Not here: the frozen context (`context_model`), the codec that runs it (`still`), training (`training.rate_distortion`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import gaussian_bits
from roadbits.codecs.layers import down
from roadbits.codecs.neural.cae import Forward
from roadbits.codecs.neural.context_model import (
    RUNGS_OF_A_MOVE,
    STEPS_OF_A_SCALE,
    Stage,
    centred_rungs,
    looked_at,
    magnitudes_of,
    stages_of,
)
from roadbits.codecs.neural.hyperprior import STRIDE
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.still import NeuralStill


class ScaleContext(nn.Module):
    """The scale context of a frozen hyperprior, in training.

    Attributes:
        codec: that it is for, without a context of its own.
        groups: of channels, coded one after the other.
        order: int64 (M,): the channels as they are coded.
        scales: float32 (tables,), of the codec's Gaussians.
    """

    stride = STRIDE
    order: Tensor
    scales: Tensor

    def __init__(
        self, codec: NeuralStill, order: Tensor, scales: Tensor, groups: Sequence[int], channels: int = 64
    ) -> None:
        """Begin with scales that stay as they are.

        Args:
            codec: see the class.
            order: see the class.
            scales: see the class.
            groups: see the class; they hold all channels of y.
            channels: of each network's hidden layers.

        Raises:
            ValueError: if the codec has no second stage, or the groups do not hold its channels.
        """
        super().__init__()
        if codec.model.hyper is None:
            raise ValueError(f"{codec.name} has no scales that a context could move: a hyperprior has")
        if sum(groups) != len(order):
            raise ValueError(f"groups hold {sum(groups)} channels, {codec.name} has {len(order)}")
        self.codec, self.groups = codec, tuple(groups)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.networks = nn.ModuleList(_network(stage, channels) for stage in self.stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is coded at once, in order."""
        return stages_of(self.groups)

    def forward(self, x: Tensor, levels: Tensor) -> Forward:
        """Return the bits of images, which come out as they went in.

        Args:
            x: images (B, 3, H, W) in 0..1, sides multiples of 64.
            levels: of each image (B,): the codec's trained positions.
        """
        trained = self.codec.model.description.trained
        coded = [
            self.codec.coded(torch.round(one * 255), trained[int(level)])
            for one, level in zip(x[:, None], levels, strict=True)
        ]
        symbols, rungs = (torch.cat(parts)[:, self.order] for parts in zip(*coded, strict=True))
        return Forward(x, self.bits(symbols, rungs))

    def bits(self, symbols: Tensor, rungs: Tensor) -> Tensor:
        """Return the bits (B,) of symbols whose tables have these numbers, both (B, M, h, w), channels as coded."""
        total = torch.zeros(len(symbols))
        magnitudes, centred = magnitudes_of(symbols, rungs, 1 / self.scales), centred_rungs(rungs)
        log_scales = self.scales.log()
        per_rung = float(log_scales[1] - log_scales[0])
        for stage, network in zip(self.stages, self.networks, strict=True):
            own = stage.own
            moves = network(looked_at(stage, magnitudes, centred) / STEPS_OF_A_SCALE).float()
            scales = torch.exp(log_scales[rungs[:, own]] + per_rung * RUNGS_OF_A_MOVE * moves)
            scales = scales.clamp(max=float(self.scales[-1]))
            places = stage.places(*symbols.shape[2:])
            own_symbols = symbols[:, own][:, :, places][..., None]
            total = total + gaussian_bits(own_symbols.float(), 0.0, scales[:, :, places][..., None])
        return total


def _network(stage: Stage, channels: int) -> Transform:
    """Return a stage's network, which moves nothing; before anything is known there is nothing around to look at."""
    kernel = 3 if stage.known else 1
    network = Transform(
        *(down(stage.num_inputs, channels, 1, 1), nn.ReLU()),
        *(down(channels, channels, kernel, 1), nn.ReLU()),
        down(channels, stage.end - stage.begin, 1, 1),
    )
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return network
