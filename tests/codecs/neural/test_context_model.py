"""Scale contexts: stages hold every symbol once, and nothing is looked at before it is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.context_model import (
    ContextModel,
    Stage,
    centred_rungs,
    looked_at,
    magnitudes_of,
    stages_of,
)
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.symbol_tables import Symbols

Maker = Callable[..., Image]
Tiny = Callable[..., FrozenModel]

GROUPS = (2, 3, 4)
SIZE = (1, 9, 5, 6)


@pytest.fixture
def context(tiny: Tiny) -> ContextModel:
    hyper = tiny("scale-context").hyper
    assert hyper is not None
    assert hyper.context is not None
    return hyper.context


def random(low: int, high: int, *size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(low, high, size))


def test_stages_hold_every_channel_and_place_once() -> None:
    count = torch.zeros(SIZE[1:], dtype=torch.int64)
    for stage in stages_of(GROUPS):
        count[stage.begin : stage.end] += stage.places(*SIZE[2:])
    assert (count == 1).all()


def test_a_stage_looks_at_nothing_that_is_coded_with_it_or_after_it() -> None:
    rungs = centred_rungs(random(0, 64, *SIZE))
    magnitudes = random(0, 512, *SIZE).float()
    for stage in stages_of(GROUPS):
        unknown = magnitudes.clone()
        unknown[:, stage.begin : stage.end][:, :, stage.places(*SIZE[2:])] = 77.0
        unknown[:, stage.end :] = 88.0
        if stage.half == 0:
            unknown[:, stage.begin : stage.end] = 99.0
        looked = looked_at(stage, magnitudes, rungs)
        assert looked.shape == (1, stage.num_inputs, *SIZE[2:])
        assert torch.equal(looked_at(stage, unknown, rungs), looked)
        assert looked.abs().max() <= 511


def test_magnitudes_are_in_scales_and_bounded() -> None:
    symbols = torch.tensor([0, -3, 3, 1_000_000]).reshape(1, 4, 1, 1)
    rungs = torch.tensor([0, 1, 1, 0]).reshape(1, 4, 1, 1)
    steps = magnitudes_of(symbols, rungs, torch.tensor([1.0, 0.5]))
    assert steps.flatten().tolist() == [0, 96, 96, 511]


def test_both_ends_meet_the_same_tables_and_symbols(context: ContextModel) -> None:
    rungs = random(0, 64, 1, 8, 5, 6)
    symbols = random(-20, 21, 1, 8, 5, 6).to(torch.int32)
    sent: list[tuple[list[int], Symbols]] = []

    def hand_out(stage: Stage, tables: NDArray[np.int64]) -> Symbols:
        values = symbols[0, context.order][stage.own][:, stage.places(5, 6)].reshape(-1).numpy()
        sent.append((tables.tolist(), values))
        return values

    assert torch.equal(context.run(rungs, hand_out), symbols)
    assert [len(values) for _, values in sent] == [45, 45, 150]
    stages = iter(sent)

    def read(_: Stage, tables: NDArray[np.int64]) -> Symbols:
        expected, values = next(stages)
        assert tables.tolist() == expected
        return values

    assert torch.equal(context.run(rungs, read), symbols)


def test_what_is_known_moves_what_follows(context: ContextModel) -> None:
    rungs = torch.full((1, 8, 6, 6), 30)
    met: list[list[NDArray[np.int64]]] = []
    for value in (0, 40):
        met.append([])

        def same(_: Stage, tables: NDArray[np.int64], value: int = value) -> Symbols:
            met[-1].append(tables)
            return np.full(len(tables), value, np.int32)

        context.run(rungs, same)
    quiet, loud = met
    assert np.array_equal(quiet[0], loud[0])
    assert not np.array_equal(quiet[1], loud[1])
    assert not np.array_equal(quiet[2], loud[2])
    assert min(tables.min() for tables in loud) >= 0
    assert max(tables.max() for tables in loud) < 64


def test_a_context_changes_the_bytes_and_not_the_image(tiny: Tiny, textured: Maker) -> None:
    model = tiny("scale-context")
    assert model.hyper is not None
    description = model.description.model_copy(update={"context": None})
    plain = replace(model, description=description, hyper=replace(model.hyper, context=None))
    codecs = NeuralStill("with", model), NeuralStill("without", plain)
    assert codecs[0].model_hash != codecs[1].model_hash
    for point in codecs[0].fine_points:
        first, second = (codec.encode(textured(70, 90), point) for codec in codecs)
        assert first != second
        assert np.array_equal(codecs[0].decode(first), codecs[1].decode(second))


def test_a_context_is_counted(tiny: Tiny) -> None:
    with_context, without = (NeuralStill("x", tiny(design)) for design in ("scale-context", "mean-scale"))
    context = with_context.model.hyper and with_context.model.hyper.context
    assert context
    costs = [codec.complexity(codec.fine_points[0], 128, 192) for codec in (with_context, without)]
    macs = sum(
        layer.weight.numel() * (128 // 16) * (192 // 16) for network in context.networks for layer in network.layers
    )
    assert costs[0].encode_macs - costs[1].encode_macs == costs[0].decode_macs - costs[1].decode_macs == macs
    assert costs[0].parameters - costs[1].parameters == context.num_parameters()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda one: {"order": torch.zeros(8, dtype=torch.int64)}, "name every channel once"),
        (lambda one: {"order": one.order.int()}, "name every channel once"),
        (lambda one: {"groups": (3, 4)}, "do not hold its 8 channels"),
        (lambda one: {"groups": (8, 0)}, "do not hold its 8 channels"),
        (lambda one: {"groups": (4, 4)}, "expected networks"),
        (lambda one: {"networks": one.networks[:2]}, "expected networks"),
        (lambda one: {"inverse_scales": one.inverse_scales * 0}, "finite scales above 0"),
        (lambda one: {"inverse_scales": one.inverse_scales / 0}, "finite scales above 0"),
        (lambda one: {"inverse_scales": one.inverse_scales.double()}, "finite scales above 0"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    change: Callable[[ContextModel], dict[str, object]], expected: str, context: ContextModel
) -> None:
    with pytest.raises(ValueError, match=expected):
        replace(context, **change(context))  # type: ignore[arg-type]
