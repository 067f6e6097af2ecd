"""The target's density of a factorised latent: the source's, warped by three numbers of each channel.

    F_target(v) = sigmoid(s * logit F_source(a * v + b))

A new domain mostly makes channels narrower or wider (a), moves them (b), or changes how heavy their tails are (s). With
a = s = 1 and b = 0 the target is the source. The source's own density is read from its stored tables, at its finest
rate, linearly between the edges of symbols.

Measured on 15 dusk frames of CamVid with a CAE of photographs and the generated street: the factorised latent takes
.314 bpp with the source's tables, .277 with these three numbers, .271 with histograms of the same frames.

Not here: whole-number tables of it (`training.frozen_tables`).
"""

import numpy as np
import torch
from torch import Tensor, nn

from roadbits.codecs.entropy import Density
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.symbol_tables import TOTAL

_SMALLEST = 0.05
"""No channel is stretched, and no tail thinned, to less than a twentieth."""


class WarpedDensity(Density):
    """The source's density under a warp that is learned."""

    def __init__(self, source: FrozenModel) -> None:
        """Read the source's density; begin with no warp."""
        super().__init__()
        edges, logits = _finest(source)
        self.channels = len(edges)
        self.register_buffer("edges", edges)
        self.register_buffer("source_logits", logits)
        self.log_stretch = nn.Parameter(torch.zeros(self.channels, 1))
        self.shift = nn.Parameter(torch.zeros(self.channels, 1))
        self.log_tail = nn.Parameter(torch.zeros(self.channels, 1))

    edges: Tensor
    source_logits: Tensor

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits of the cumulative at values (C, n), in float64.

        Every end of a link builds its tables from the three numbers alone. In float32 another machine's exponential,
        off by one digit, would give another frequency here and there, and so another adapter.
        """
        warp = (each.double() for each in (self.log_stretch, self.log_tail))
        stretch, tail = (torch.exp(each).clamp(min=_SMALLEST) for each in warp)
        return tail * self._source(stretch * values.double() + self.shift.double())

    def _source(self, values: Tensor) -> Tensor:
        """Return the logits of the source's cumulative, linear between edges and beyond them."""
        above = torch.searchsorted(self.edges, values.detach().contiguous()).clamp(1, self.edges.shape[1] - 1)
        low, high = self.edges.gather(1, above - 1), self.edges.gather(1, above)
        low_logit, high_logit = self.source_logits.gather(1, above - 1), self.source_logits.gather(1, above)
        return low_logit + (high_logit - low_logit) / (high - low) * (values - low)


def _finest(source: FrozenModel) -> tuple[Tensor, Tensor]:
    """Return edges between symbols and the logits of the cumulative there, both (C, K), of each channel's finest table.

    Tables differ in length; shorter ones go on in a straight line.
    """
    gains = (source.hyper.side if source.hyper else source.side).gain
    channels, finest = gains.shape[1], gains.argmax(dim=0)
    tables, starts = source.tables, np.concatenate(([0], np.cumsum(source.tables.lengths)))
    found = []
    for channel in range(channels):
        position = int(finest[channel])
        table = position * channels + channel
        frequencies = tables.frequencies[starts[table] : starts[table + 1]].astype(np.float64) / TOTAL
        # What escapes lies on both sides.
        cumulative = frequencies[-1] / 2 + np.concatenate(([0.0], np.cumsum(frequencies[:-1])))
        edges = (tables.lowest[table] - 0.5 + np.arange(len(cumulative))) / float(gains[position, channel])
        found.append((edges, np.log(cumulative) - np.log1p(-cumulative)))
    longest = max(len(edges) for edges, _ in found)
    pair = [np.stack([_prolonged(each[k], longest) for each in found]) for k in (0, 1)]
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])


def _prolonged(values: np.ndarray, length: int) -> np.ndarray:
    """Return values, prolonged by their last step."""
    step = values[-1] - values[-2]
    return np.concatenate((values, values[-1] + step * np.arange(1, length - len(values) + 1)))
