"""SlimVC: a slimmable temporal entropy model over a slimmable still codec, whose transforms stay as they are.

    steps_k = whole steps of frame k's latent, as they enter the still codec's synthesis transform
    n = (steps_{t-1}, steps_{t-2}) / spread,  channel by channel side by side
    conv 1x1, ReLU, conv 5x5, ReLU, conv 3x3, ReLU, conv 1x1      n (B, 2C, h, w) -> (log scale, mean) (B, 2C, h, w)

Each value of a latent is coded under a Gaussian that the two latents before predict. What is coded are the still
codec's own symbols: a frame of a clip decodes to the very image that the still codec's payload of it decodes to, at
every width, in fewer bits. There is no motion, nothing is predicted in the image, and so nothing can drift.

Sources: Liu, Herranz, Yang, Zhang, Wan, Mrak, Gorriz, "Slimmable video codec", CVPR workshops 2022, for a slimmable
temporal entropy model; Sun, Tan, Sun, Zhang, et al., "Spatiotemporal entropy model is all you need for learned video
compression", 2021, arXiv 2104.06083, for predicting latents from latents. Neither paper's layers could be read: these
are this project's own. Side information, or a context of the frame's own symbols, saved nothing beside it in a trial.

Not here: the frozen model (`temporal_model`), the codec (`slim_clip`), training (`training.joint_widths`).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import gaussian_bits
from roadbits.codecs.integer import LARGEST_ACTIVATION
from roadbits.codecs.layers import down
from roadbits.codecs.neural.cae import STRIDE, Forward
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.modulation import Transform
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_network import SlimFamily, check_widths

FRAMES = 3
"""Of a sample: the two before, and the one that is coded."""
_SECOND_SHARE = 0.2
"""Of samples in which the frame before is the first of its group, and stands for the one before it too."""
_LOG_SCALES = 8.0


class TemporalPrior(nn.Module):
    """Predicts a latent from the two before, at one width."""

    def __init__(self, latent_channels: int, channels: int) -> None:
        """Begin with every value's usual spread and mean 0, whatever came before."""
        super().__init__()
        n = channels
        self.net = Transform(
            *(down(2 * latent_channels, n, 1, 1), nn.ReLU()),
            *(down(n, n, 5, 1), nn.ReLU()),
            *(down(n, n, 3, 1), nn.ReLU()),
            down(n, 2 * latent_channels, 1, 1),
        )
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, before: Tensor) -> Tensor:
        """Return log scales and means (B, 2C, h, w), interleaved, given two latents (B, 2C, h, w), likewise."""
        hidden = before
        for layer in self.net[:-1]:
            hidden = layer(hidden)
        # A mean of many steps does not fit into bfloat16.
        with torch.autocast(before.device.type, enabled=False):
            return cast(Tensor, self.net[-1](hidden.float()))


class SlimTemporalPrior(SlimFamily[TemporalPrior]):
    """The temporal entropy model of every width of a still codec, in training.

    Attributes:
        still: the codec that it is for.
        num_levels: of each width: the still codec's trained positions.
        stride: of the still codec.
        spread: float32 (C,) of the widest width: the usual spread of each channel's steps.
    """

    stride = STRIDE
    spread: Tensor

    def __init__(self, still: SlimModel, channels: Sequence[int]) -> None:
        """Build the network.

        Args:
            still: a slimmable codec with a factorised entropy model.
            channels: of the hidden layers at each width, at no narrow one more than at the widest.

        Raises:
            ValueError: if there is no number of channels for each width, or the codec is of another kind.
        """
        check_widths(still.widths, channels=channels)
        if any(model.hyper or model.description.method != "gain" for model in still.models):
            raise ValueError("a temporal entropy model belongs to a slimcae, whose latents are factorised")
        latents = [model.side.gain.shape[1] for model in still.models]
        super().__init__(still.widths, [TemporalPrior(c, n) for c, n in zip(latents, channels, strict=True)])
        self.still = still
        self.num_levels = tuple(len(model.description.trained) for model in still.models)
        self._channels = latents
        self.register_buffer("spread", usual_spread(still.models[-1]), persistent=False)

    def forward(self, x: Tensor, levels: Tensor, width: int) -> Forward:
        """Return the bits of the last of three frames' latents, which come out as they went in.

        Args:
            x: unquantised latents of three consecutive frames (B, 3, C, h, w), the channels of all widths one after the
                other.
            levels: of each sample (B,).
            width: of the codec.
        """
        index, model = self.index(width), self.still.of_width(width)
        first = sum(self._channels[:index])
        positions = torch.tensor(model.description.trained)[levels.long()]
        with torch.no_grad():
            y = x[:, :, first : first + self._channels[index]]
            symbols = torch.round(y * model.side.gain[positions][:, None, :, None, None])
            entry = model.side.entry[positions][:, :, None, None]
            steps = as_steps(symbols, entry[:, None])
            is_second = torch.rand(len(x), 1, 1, 1) < _SECOND_SHARE
            last, before = steps[:, 1], torch.where(is_second, steps[:, 1], steps[:, 0])
            spread = self.spread[: y.shape[2], None, None]
            known = side_by_side(last / spread, before / spread)
        log_scales, means = apart(self.run(width, known))
        unit = spread / entry
        scales = torch.exp(log_scales.clamp(-_LOG_SCALES, _LOG_SCALES)) * unit
        return Forward(x, gaussian_bits(symbols[:, 2], means * unit, scales))


def side_by_side(last: Tensor, before: Tensor) -> Tensor:
    """Return two latents (B, C, h, w) with their channels interleaved (B, 2C, h, w): narrow ones are slices of wide."""
    return torch.stack((last, before), 2).flatten(1, 2)


def apart(interleaved: Tensor) -> tuple[Tensor, Tensor]:
    """Return log scales and means (B, C, h, w), given them with their channels interleaved (B, 2C, h, w)."""
    batch, channels, *places = interleaved.shape
    log_scales, means = interleaved.reshape(batch, channels // 2, 2, *places).unbind(2)
    return log_scales, means


def as_steps(symbols: Tensor, entry: Tensor) -> Tensor:
    """Return symbols as the whole steps that enter a synthesis transform."""
    return torch.floor(symbols * entry + 0.5).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def usual_spread(model: FrozenModel) -> Tensor:
    """Return the deviation of each channel's steps (C,) under a model's own tables, at the highest trained rate."""
    position = model.description.trained[-1]
    channels = model.side.gain.shape[1]
    rows = range(position * channels, (position + 1) * channels)
    deviations = torch.tensor([model.tables.deviation(row) for row in rows], dtype=torch.float32)
    return (deviations * model.side.entry[position]).clamp(min=1.0)
