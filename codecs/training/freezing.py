"""Freezing: a trained network becomes an exact model with integer tables.

Not here: training (`rate_distortion`), the steps of freezing (`ranges`, `whole_weights`, `exact_twins`,
`frozen_tables`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from roadbits.codecs.codec import Image
from roadbits.codecs.integer import Output
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.model_file import Description, FrozenModel, Hyper, LayerWords, Side, TransformName
from roadbits.codecs.neural.modulation import Position
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_network import SlimNetwork
from roadbits.codecs.training.exact_twins import Wholes, exact_twin, stored_rows
from roadbits.codecs.training.frozen_tables import factorised_tables, gaussian_tables
from roadbits.codecs.training.ranges import Ranges, Reach, levels_of, measure, united
from roadbits.codecs.training.whole_weights import WholeWeights

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
        transforms={name: LayerWords.of(twin) for name, twin in twins.items()},
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


def freeze_widths(network: SlimNetwork[Any], images: Sequence[Image], steps: int) -> SlimModel:
    """Return the exact models of all widths of a trained slim network; their convolutions share whole weights.

    Args:
        network: as trained.
        images: for calibration, as for `freeze`.
        steps: of the training, for the descriptions.
    """
    plains: list[CAE | Hyperprior] = [network.standalone(width).eval() for width in network.widths]
    with torch.no_grad():
        ranges = _united_ranges(plains, [measure(plain, images) for plain in plains])
        wholes: dict[TransformName, dict[int, WholeWeights]] = {name: {} for name in _LAST}
        models = [_assembled(plains[-1], ranges[-1], steps, wholes)]
        for plain, own in zip(plains[-2::-1], ranges[-2::-1], strict=True):
            models.insert(0, _assembled(plain, own, steps, _narrowed(plain, plains[-1], wholes)))
    return SlimModel(network.widths, tuple(models))


def _united_ranges(
    plains: Sequence[CAE | Hyperprior], measured: Sequence[dict[TransformName, Ranges]]
) -> list[dict[TransformName, Ranges]]:
    """Return every width's ranges, such that convolutions can share weights."""
    by_name = {
        name: united([getattr(plain, name) for plain in plains], [ranges[name] for ranges in measured])
        for name in measured[-1]
    }
    return [{name: ranges[index] for name, ranges in by_name.items()} for index in range(len(plains))]


def _narrowed(
    plain: CAE | Hyperprior, widest: CAE | Hyperprior, wholes: Mapping[TransformName, Mapping[int, WholeWeights]]
) -> dict[TransformName, dict[int, WholeWeights]]:
    """Return the whole weights between a narrow width's channels, where these are the widest's first."""
    narrow: dict[TransformName, dict[int, WholeWeights]] = {name: {} for name in _LAST}
    for name, of_transform in wholes.items():
        for index, whole in of_transform.items():
            own, shared = (cast(Tensor, getattr(network, name)[index].weight) for network in (plain, widest))
            rows, columns = own.shape[:2]
            if torch.equal(own, shared[:rows, :columns]):
                up = whole.shape.kind == "up"
                narrow[name][index] = whole.narrowed(*((rows, columns) if up else (columns, rows)))
    return narrow
