"""Freezing: a trained network becomes an exact model with integer tables.

Not here: training (`rate_distortion`), the steps of freezing (`ranges`, `whole_weights`, `exact_twins`,
`frozen_tables`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from roadbits.codecs.codec import Image
from roadbits.codecs.integer import Output
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import Description, FrozenModel, Hyper, Side, TransformName
from roadbits.codecs.neural.modulation import Position
from roadbits.codecs.training.exact_twins import Wholes, exact_twin, stored_rows
from roadbits.codecs.training.frozen_tables import factorised_tables, gaussian_tables
from roadbits.codecs.training.ranges import Ranges, Reach, levels_of, measure

_LAST: dict[TransformName, Output] = {"g_a": "values", "g_s": "pixels", "h_a": "values", "h_s": "values"}


def freeze(network: CAE | Hyperprior, images: Sequence[Image], steps: int) -> FrozenModel:
    """Return the exact model of a trained network.

    Args:
        network: as trained.
        images: for calibration, uint8 (H, W, 3) with sides of at least 64; they may be training images.
        steps: of the training, for the description.
    """
    network = network.eval()
    with torch.no_grad():
        return _assembled(network, measure(network, images), steps, {name: {} for name in _LAST})


def _assembled(
    network: CAE | Hyperprior,
    ranges: Mapping[TransformName, Ranges],
    steps: int,
    wholes: Mapping[TransformName, Wholes],
) -> FrozenModel:
    """Return the exact model for these ranges; whole weights that are not given are made, and added."""
    levels = levels_of(network)
    twins = {
        name: exact_twin(getattr(network, name), own, levels, _LAST[name], wholes[name], of_pixels=name == "g_a")
        for name, own in ranges.items()
    }
    positions = network.method.positions()
    side = _side(network.gain, positions, ranges["g_s"].entry)
    hyper = None
    if isinstance(network, Hyperprior):
        entry = ranges["h_a"].entry
        hyper = Hyper(
            twins["h_a"],
            twins["h_s"],
            stored_rows(1 / (entry.step * entry.positions)),
            _side(network.hyper_gain, [Position(level) for level in levels.tolist()], ranges["h_s"].entry),
            *gaussian_tables(),
        )
    lambdas, bin_widths = network.method.lambdas, tuple(position.bin_width for position in positions)
    log_lambdas = np.interp(levels.double(), np.arange(len(lambdas)), np.log(lambdas))
    description = Description(
        architecture="hyperprior" if hyper else "cae",
        lambdas=tuple(float(value) for value in np.exp(log_lambdas)),
        trained=tuple(index for index, (level, width) in enumerate(positions) if level == int(level) and width == 1),
        method=network.method.name,
        bin_widths=() if set(bin_widths) == {1.0} else bin_widths,
        transforms={name: tuple(vars(layer.shape) for layer in twin.layers) for name, twin in twins.items()},
        means=getattr(network, "means", True),
        steps=steps,
    )
    tables = factorised_tables(network.entropy_model, (hyper.side if hyper else side).gain, levels)
    return FrozenModel(description, twins["g_a"], twins["g_s"], side, tables, hyper)


def _side(latents: nn.Module, positions: Sequence[Position], reach: Reach) -> Side:
    """Return the vectors of every position."""
    gains, inverses = latents(torch.tensor([position.level for position in positions]))
    bin_widths = torch.tensor([position.bin_width for position in positions])[:, None]
    entry = inverses[:, :, 0, 0].double() * bin_widths / (reach.step * reach.positions)
    return Side((gains[:, :, 0, 0] / bin_widths).float().contiguous(), entry.float().contiguous())
