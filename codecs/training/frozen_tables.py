"""Integer tables of a trained entropy model: a table for every position and channel, and for 64 Gaussians.

Not here: coding with them (`codecs.symbol_tables`).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.entropy import SCALE_BOUND, Density
from roadbits.codecs.symbol_tables import Symbols, SymbolTables, whole_frequencies

NUM_SCALES = 64
_LARGEST_SCALE = 256.0
_TAIL_MASS = 2.0**-17
_WIDEST_TABLE = 2000


def gaussian_tables() -> tuple[Tensor, SymbolTables]:
    """Return the scales (63,) between which a table ends and the next begins, and the tables of 64 scales."""
    scales = np.geomspace(SCALE_BOUND, _LARGEST_SCALE, NUM_SCALES)
    thresholds = torch.from_numpy(np.sqrt(scales[1:] * scales[:-1])).float()
    return thresholds, SymbolTables.of([_gaussian_table(scale) for scale in scales])


def offset_gaussian_tables(parts: int) -> tuple[Tensor, SymbolTables]:
    """Return the tables of 64 scales, for each with means at so many parts of a step above 0, and the thresholds.

    The thresholds are the logarithms of the scales (63,) between which a table ends and the next begins.
    """
    scales = np.geomspace(SCALE_BOUND, _LARGEST_SCALE, NUM_SCALES)
    thresholds = torch.from_numpy(np.log(scales[1:] * scales[:-1]) / 2).float()
    tables = [_gaussian_table(scale, part / parts) for scale in scales for part in range(parts)]
    return thresholds, SymbolTables.of(tables)


def beside_means() -> tuple[NDArray[np.float64], NDArray[np.int64], SymbolTables]:
    """Return 64 scales, into how many parts of a step means are divided for each, and the tables of all.

    What a mean that is rounded to its part costs, about 1.44 (part / 2 scale)^2 / 6 bits, is less than .004 for each.
    """
    scales = np.geomspace(SCALE_BOUND, _LARGEST_SCALE, NUM_SCALES)
    parts = np.clip(2 ** np.ceil(np.log2(4 / scales)), 1, 8).astype(np.int64)
    tables = [
        _gaussian_table(scale, part / num) for scale, num in zip(scales, parts, strict=True) for part in range(num)
    ]
    return scales, parts, SymbolTables.of(tables)


def factorised_tables(model: Density, gains: Tensor, levels: Tensor) -> SymbolTables:
    """Return a table for every position and channel."""
    tables: list[tuple[int, Symbols]] = []
    density: Density | None = None
    for gain, level in zip(gains, levels.tolist(), strict=True):
        if (here := model.at(level)) is not density:
            density = here
            low, high = (torch.from_numpy(density.quantile(mass)) for mass in (_TAIL_MASS, 1 - _TAIL_MASS))
        tables += _tables_at(here, gain.double(), low, high)
    return SymbolTables.of(tables)


def _tables_at(model: Density, gain: Tensor, low: Tensor, high: Tensor) -> Iterator[tuple[int, Symbols]]:
    """Yield the table of every channel at one gain (C,)."""
    middle = torch.round((low + high) / 2 * gain)
    lowest = torch.maximum(torch.floor(low * gain), middle - _WIDEST_TABLE)
    highest = torch.minimum(torch.ceil(high * gain), middle + _WIDEST_TABLE)
    num = int((highest - lowest).max()) + 2
    edges = lowest[:, None] - 0.5 + torch.arange(num)
    cumulative = torch.sigmoid(model.logits((edges / gain[:, None]).float()).double()).numpy()
    for row, first, last in zip(cumulative, lowest.int().tolist(), highest.int().tolist(), strict=True):
        yield first, _table(np.diff(row[: last - first + 2]))


def _gaussian_table(scale: float, mean: float = 0.0) -> tuple[int, Symbols]:
    """Return the table of a Gaussian around a mean of less than a step."""
    reach = math.ceil(scale * 4.5 + 0.5)
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    return -reach, _table(torch.diff(torch.special.ndtr((edges - mean) / scale)).numpy())


def _table(mass: NDArray[np.float64]) -> Symbols:
    """Return frequencies for the masses and for an escape with the rest."""
    return whole_frequencies(np.append(mass, max(1 - float(mass.sum()), _TAIL_MASS)))
