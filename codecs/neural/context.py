"""Contexts: what is decoded already of a latent tells what the rest of it is likely to be.

The symbols of y are coded in stages: groups of channels, those that take most bits first, and of the first group one
half of the places before the other, like the squares of a chessboard. Before a stage a network looks at how far what
came before, here and around, lay from what was expected, in scales, and at these scales; it moves what is expected of
the stage's own symbols.

    |deviation| / scale, at most 8; with its sign where means move; the scale's rung on its ladder    (B, C, h, w)
    conv 1x1, ReLU, conv 3x3, ReLU, conv 1x1                        -> rungs to move by, over 8; scales to shift by

Of a hyperprior scales move alone, begun with those of h_s: means moved too saved nothing, in a trial, on images unlike
those trained on. Of a factorised latent, as the CAE's and SlimCAE's, means move too; they begin with what each
channel's table says, which also codes the first stage as it is.

Symbols stay what they are: the image that a payload decodes to is the same to the bit, in fewer bits. So a context is
trained for a frozen codec, whose transforms need not be run back through.

Sources: Minnen, Singh, "Channel-wise autoregressive entropy models for learned image compression", ICIP 2020, for
groups of channels; He, Zheng, Sun, Wang, Qin, "Checkerboard context model for efficient learned image compression",
CVPR 2021, for halves. Differing from both: the transforms are not trained along, and a hyperprior's means stay.

Not here: the frozen context (`context_model`), the codec that runs it (`still`), training (`training.rate_distortion`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import gaussian_bits
from roadbits.codecs.layers import down
from roadbits.codecs.neural.cae import Forward
from roadbits.codecs.neural.context_model import (
    MEAN_STEPS,
    RUNGS_OF_A_MOVE,
    STEPS_OF_A_SCALE,
    Begun,
    Stage,
    centred_rungs,
    deviations_of,
    looked_at,
    stages_of,
)
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.still import NeuralStill


class Context(nn.Module):
    """The context of a frozen codec of one width, in training.

    Attributes:
        codec: that it is for, without a context of its own.
        groups: of channels, coded one after the other.
        with_means: whether means move beside scales: those of a factorised latent.
        order: int64 (M,): the channels as they are coded.
        scales: float32 (scales,), rising.
    """

    order: Tensor
    scales: Tensor
    begun_rungs: Tensor
    begun_eighths: Tensor

    def __init__(
        self,
        codec: NeuralStill,
        order: Tensor,
        scales: Tensor,
        begun: Begun | None,
        groups: Sequence[int],
        channels: int = 64,
    ) -> None:
        """Begin with what is expected as it is.

        Args:
            codec: see the class.
            order: see the class.
            scales: see the class.
            begun: with which rungs and means, in eighths, each of the codec's tables begins (tables,); None for a
                hyperprior, whose h_s says that.
            groups: see the class; they hold all channels of y.
            channels: of each network's hidden layers.

        Raises:
            ValueError: if the groups do not hold the codec's channels.
        """
        super().__init__()
        if sum(groups) != len(order):
            raise ValueError(f"groups hold {sum(groups)} channels, {codec.name} has {len(order)}")
        self.codec, self.groups, self.with_means = codec, tuple(groups), begun is not None
        self.register_buffer("order", order)  # a checkpoint's networks are of its own order
        self.register_buffer("scales", scales, persistent=False)
        shape = codec.model.side.gain.shape
        rungs, eighths = begun.reshaped(*shape) if begun else (None, None)
        self.register_buffer("begun_rungs", rungs, persistent=False)
        self.register_buffer("begun_eighths", eighths, persistent=False)
        self.networks = nn.ModuleList(
            _network(stage, self.with_means, channels) for stage in self.stages[self.with_means :]
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is coded at once, in order."""
        return stages_of(self.groups)

    def coded(self, x: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return an image's symbols (1, M, h, w), and with which rungs and means, in eighths, a context begins.

        Args:
            x: grey levels (1, 3, H, W), sides multiples of the codec's stride.
            position: among the codec's rates.

        Returns:
            All with channels as they are coded; None for means of a hyperprior.
        """
        symbols, which = self.codec.coded(x, position)
        symbols = symbols[:, self.order]
        if which is not None:
            return symbols, which[:, self.order], None
        rungs, eighths = (
            rows[position][self.order][None, :, None, None].expand(symbols.shape)
            for rows in (self.begun_rungs, self.begun_eighths)
        )
        return symbols, rungs, eighths

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """Return the bits (B,) of images.

        Args:
            x: images (B, 3, H, W) in 0..1, sides multiples of the codec's stride.
            levels: of each image (B,): the codec's trained positions.
        """
        trained = self.codec.model.description.trained
        positions = [trained[int(level)] for level in levels]
        coded = [
            self.coded(torch.round(one * 255), position) for one, position in zip(x[:, None], positions, strict=True)
        ]
        symbols, rungs, eighths = zip(*coded, strict=True)
        means = torch.cat([one for one in eighths if one is not None]) if self.with_means else None
        return self.bits(torch.cat(symbols), torch.cat(rungs), means, positions)

    def bits(self, symbols: Tensor, rungs: Tensor, eighths: Tensor | None, positions: Sequence[int]) -> Tensor:
        """Return the bits (B,) of symbols (B, M, h, w), all as `coded` gives it, at these positions."""
        total = self._bits_of_own_tables(symbols, positions) if self.with_means else torch.zeros(len(symbols))
        deviations, centred = deviations_of(symbols, eighths, rungs, 1 / self.scales), centred_rungs(rungs)
        log_scales = self.scales.log()
        per_rung = float(log_scales[1] - log_scales[0])
        for stage, network in zip(self.stages[self.with_means :], self.networks, strict=True):
            own = stage.own
            predicted = network(looked_at(stage, deviations, centred, self.with_means) / STEPS_OF_A_SCALE).float()
            begun = log_scales[rungs[:, own]]
            scales = torch.exp(begun + per_rung * RUNGS_OF_A_MOVE * predicted[:, : begun.shape[1]])
            scales = scales.clamp(max=float(self.scales[-1]))
            distances = symbols[:, own].float()
            if eighths is not None:
                distances = distances - eighths[:, own] / MEAN_STEPS - predicted[:, begun.shape[1] :] * begun.exp()
            places = stage.places(*symbols.shape[2:])
            parts = (values[:, :, places][..., None] for values in (distances, scales))
            total = total + gaussian_bits(next(parts), 0.0, next(parts))
        return total

    def _bits_of_own_tables(self, symbols: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the bits (B,) of the first stage, which the codec's own tables code."""
        stage, channels = self.stages[0], symbols.shape[1]
        totals = []
        for one, position in zip(symbols, positions, strict=True):
            rows = (self.order[stage.own] + position * channels)[None, :, None, None].expand(1, -1, *one.shape[1:])
            values = stage.picked(one[None]).numpy()
            totals.append(float(self.codec.model.tables.bits(values, stage.picked_of_own(rows).numpy()).sum()))
        return torch.tensor(totals)


class Contexts(nn.Module):
    """The contexts of a frozen codec's widths, trained side by side.

    Attributes:
        contexts: from the narrowest width.
        widths: rising; empty if the codec has but one, and no name for it.
        stride: what sides must be multiples of.
    """

    def __init__(self, contexts: Sequence[Context], widths: tuple[int, ...] = ()) -> None:
        """Hold them; see the class."""
        super().__init__()
        self.widths = widths
        self.contexts = nn.ModuleList(contexts)
        self.stride = contexts[0].codec.stride

    @property
    def widths_contexts(self) -> tuple[Context, ...]:
        """The contexts."""
        return tuple(context for context in self.contexts if isinstance(context, Context))

    def forward(self, x: Tensor, levels: Tensor) -> Forward:
        """Return images as they are, and the mean of their bits over the widths; see `Context`."""
        bits = torch.stack([context(x, levels) for context in self.contexts])
        return Forward(x, bits.mean(0))


def _network(stage: Stage, with_means: bool, channels: int) -> Transform:
    """Return a stage's network, which moves nothing; before anything is known there is nothing around to look at."""
    kernel = 3 if stage.known else 1
    network = Transform(
        *(down(stage.num_inputs(with_means), channels, 1, 1), nn.ReLU()),
        *(down(channels, channels, kernel, 1), nn.ReLU()),
        down(channels, stage.num_outputs(with_means), 1, 1),
    )
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return network
