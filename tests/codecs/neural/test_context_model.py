"""Contexts: stages hold every symbol once, and nothing is looked at before it is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.context_model import (
    Begun,
    ContextModel,
    Expected,
    OffsetTables,
    Stage,
    begun_with,
    centred_rungs,
    deviations_of,
    looked_at,
    stages_of,
)
from roadbits.codecs.neural.model_file import ContextWords, FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.symbol_tables import TOTAL, Symbols, SymbolTables

Maker = Callable[..., Image]
Tiny = Callable[..., FrozenModel]

GROUPS = (2, 3, 4)
SIZE = (1, 9, 5, 6)


@pytest.fixture(params=["scale-context", "mean-context"])
def context(request: pytest.FixtureRequest, tiny: Tiny) -> ContextModel:
    context = tiny(request.param).context
    assert context is not None
    return context


def random(low: int, high: int, *size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(low, high, size))


def begun(context: ContextModel, rungs: Tensor) -> Begun:
    return Begun(rungs, random(-40, 41, *rungs.shape) if context.with_means else None)


def test_stages_hold_every_channel_and_place_once() -> None:
    count = torch.zeros(SIZE[1:], dtype=torch.int64)
    for stage in stages_of(GROUPS):
        count[stage.begin : stage.end] += stage.places(*SIZE[2:])
    assert (count == 1).all()


@pytest.mark.parametrize("with_means", [False, True])
def test_a_stage_looks_at_nothing_that_is_coded_with_it_or_after_it(with_means: bool) -> None:
    rungs = centred_rungs(random(0, 64, *SIZE))
    deviations = random(-511, 512, *SIZE).float()
    for stage in stages_of(GROUPS):
        unknown = deviations.clone()
        unknown[:, stage.begin : stage.end][:, :, stage.places(*SIZE[2:])] = 77.0
        unknown[:, stage.end :] = 88.0
        if stage.half == 0:
            unknown[:, stage.begin : stage.end] = 99.0
        looked = looked_at(stage, deviations, rungs, with_means)
        assert looked.shape == (1, stage.num_inputs(with_means), *SIZE[2:])
        assert torch.equal(looked_at(stage, unknown, rungs, with_means), looked)
        assert looked.abs().max() <= 511
        signs = looked[:, : stage.known * (1 + with_means)] < 0
        assert bool(signs.any()) == (with_means and stage.known > 0)


def test_deviations_are_in_scales_and_bounded() -> None:
    symbols = torch.tensor([0, -3, 3, 1_000_000]).reshape(1, 4, 1, 1)
    rungs = torch.tensor([0, 1, 1, 0]).reshape(1, 4, 1, 1)
    inverse_scales = torch.tensor([1.0, 0.5])
    assert deviations_of(symbols, None, rungs, inverse_scales).flatten().tolist() == [0, -96, 96, 511]
    eighths = torch.tensor([8, -24, 20, -8]).reshape(1, 4, 1, 1)
    assert deviations_of(symbols, eighths, rungs, inverse_scales).flatten().tolist() == [-64, 0, 16, 511]


def test_a_mean_is_looked_up_beside_the_symbol_below_it() -> None:
    tables = SymbolTables.of([(-1, np.array([1, TOTAL - 2, 1]))] * 15)
    offset_tables = OffsetTables(torch.tensor([8, 4, 2, 1]), tables)
    rungs = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    eighths = torch.tensor([0, 13, -1, 7, -3, 5, 6, 3, 4, -5])
    tables_met, centres = offset_tables.expected(rungs, eighths)
    #                             quarters: 7 is 8, -3 is -2; halves: 5 is 4, 6 is 8; whole: 3 is 0, 4 is 8, -5 is -8
    assert centres.tolist() == [0, 1, -1, 1, -1, 0, 1, 0, 1, -1]
    assert tables_met.tolist() == [0, 5, 7, 8, 11, 13, 12, 14, 14, 14]


def test_a_table_begins_with_its_moments() -> None:
    values = np.arange(-30, 31)
    weights = np.exp(-((values - 2.6) ** 2) / 2 / 3.0**2)
    frequencies = np.append(np.maximum(1, (weights / weights.sum() * (TOTAL - 200)).astype(int)), 1)
    frequencies[-1] += TOTAL - frequencies.sum()
    scales = torch.tensor([0.5, 1, 2, 4, 8])
    rungs, eighths = begun_with(SymbolTables.of([(-30, frequencies)] * 2), 1 / scales)
    assert rungs.tolist() == [3, 3]  # 3.0 lies above the middle of 2 and 4
    assert eighths.tolist() == [21, 21]


def test_both_ends_meet_the_same_tables_and_symbols(context: ContextModel) -> None:
    start = begun(context, random(0, 64, 1, 8, 5, 6))
    symbols = random(-20, 21, 1, 8, 5, 6).to(torch.int32)
    sent: list[tuple[Expected | None, Symbols]] = []

    def hand_out(stage: Stage, expected: Expected | None) -> Symbols:
        values = symbols[0, context.order][stage.own][:, stage.places(5, 6)].reshape(-1).numpy()
        sent.append((expected, values))
        return values

    assert torch.equal(context.run(start, start, (5, 6), hand_out), symbols)
    assert [len(values) for _, values in sent] == [45, 45, 150]
    assert [expected is None for expected, _ in sent] == [context.with_means, False, False]
    stages = iter(sent)

    def read(_: Stage, met: Expected | None) -> Symbols:
        expected, values = next(stages)
        assert (met is None) == (expected is None)
        if met and expected:
            assert met.tables.tolist() == expected.tables.tolist()
            assert met.centres.tolist() == expected.centres.tolist()
        return values

    assert torch.equal(context.run(start, start, (5, 6), read), symbols)


def test_what_is_known_moves_what_follows(context: ContextModel) -> None:
    start = begun(context, torch.full((1, 8, 6, 6), 30))
    met: list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = []
    for value in (0, 40):
        met.append([])

        def same(stage: Stage, expected: Expected | None, value: int = value) -> Symbols:
            if expected:
                met[-1].append((expected.tables, expected.centres))
            return np.full(int(stage.places(6, 6).sum()) * (stage.end - stage.begin), value, np.int32)

        context.run(start, start, (6, 6), same)
    (*_, quiet), (*_, loud) = met
    assert not np.array_equal(quiet[0], loud[0])
    assert np.array_equal(quiet[1], loud[1]) == (not context.with_means)
    num_tables = len(context.offset_tables.tables) if context.offset_tables else 64
    for tables, _ in (quiet, loud):
        assert tables.min() >= 0
        assert tables.max() < num_tables


@pytest.mark.parametrize("design", ["scale-context", "mean-context"])
def test_a_context_changes_the_bytes_and_not_the_image(design: str, tiny: Tiny, textured: Maker) -> None:
    model = tiny(design)
    description = model.description.model_copy(update={"context": None})
    plain = replace(model, description=description, context=None)
    codecs = NeuralStill("with", model), NeuralStill("without", plain)
    assert codecs[0].model_hash != codecs[1].model_hash
    for point in codecs[0].fine_points:
        first, second = (codec.encode(textured(70, 90), point) for codec in codecs)
        assert first != second
        assert np.array_equal(codecs[0].decode(first), codecs[1].decode(second))


@pytest.mark.parametrize(("design", "plain"), [("scale-context", "mean-scale"), ("mean-context", "cae")])
def test_a_context_is_counted(design: str, plain: str, tiny: Tiny) -> None:
    with_context, without = (NeuralStill("x", tiny(each)) for each in (design, plain))
    context = with_context.model.context
    assert context
    costs = [codec.complexity(codec.fine_points[0], 128, 192) for codec in (with_context, without)]
    macs = sum(
        layer.weight.numel() * (128 // 16) * (192 // 16) for network in context.networks for layer in network.layers
    )
    assert costs[0].encode_macs - costs[1].encode_macs == costs[0].decode_macs - costs[1].decode_macs == macs
    assert costs[0].parameters - costs[1].parameters == context.num_parameters()
    assert costs[0].weight_bytes > costs[1].weight_bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": torch.zeros(8, dtype=torch.int64)}, "must name every channel once"),
        ({"groups": (3, 4)}, "do not hold its 8 channels"),
        ({"order": torch.arange(8).int()}, "must name every channel once"),
        ({"groups": (8, 0)}, "do not hold its 8 channels"),
        ({"groups": (4, 4)}, "expected networks of a context with"),
        ({"networks": ()}, "expected networks of a context with"),
        ({"inverse_scales": torch.arange(64, 0, -1).double()}, "rising finite scales"),
        ({"inverse_scales": -torch.arange(1, 65).float()}, "rising finite scales"),
        ({"inverse_scales": torch.full((64,), torch.inf)}, "rising finite scales"),
        ({"inverse_scales": torch.arange(1, 65).float()}, "rising finite scales"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    changes: dict[str, object], message: str, context: ContextModel
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(context, **changes)  # type: ignore[arg-type]


def test_a_context_of_the_other_kind_of_codec_is_refused(tiny: Tiny) -> None:
    for design, other in (("cae", "scale-context"), ("mean-scale", "mean-context")):
        with pytest.raises(ValueError, match="scales alone for a hyperprior, means too for others"):
            replace(tiny(design), context=tiny(other).context)


@pytest.mark.parametrize(
    ("parts", "message"), [([8, 4, 3, 1], "1, 2, 4 or 8 parts"), ([8, 4, 2, 2], "expected 16 tables of Gaussians")]
)
def test_offset_tables_of_other_parts_are_refused(parts: list[int], message: str) -> None:
    tables = SymbolTables.of([(-1, np.array([1, TOTAL - 2, 1]))] * 15)
    with pytest.raises(ValueError, match=message):
        OffsetTables(torch.tensor(parts), tables)


def test_where_a_context_begins_moves_what_it_expects_and_nothing_that_its_networks_see(tiny: Tiny) -> None:
    model = tiny("mean-context")
    assert model.context is not None
    shape = torch.Size((1, len(model.context.order), 5, 6))
    origin = Begun(torch.full(shape, 30), torch.zeros(shape, dtype=torch.int64))
    moved = Begun(origin.rungs - 2, origin.eighths + 8 if origin.eighths is not None else None)
    symbols = random(-3, 4, *shape).to(torch.int32)
    met: list[list[Expected]] = []
    for start in (origin, moved):
        met.append([])

        def hand_out(stage: Stage, expected: Expected | None, start: Begun = start) -> Symbols:
            if expected:
                met[-1].append(expected)
            values: Symbols = stage.picked(symbols[:, model.context.order]).numpy()  # type: ignore[union-attr]
            return values

        model.context.run(start, origin, (5, 6), hand_out)
    for before, after in zip(*met, strict=True):
        # Eight eighths are one symbol; a rung narrower may divide a symbol into more parts, never shift it by another.
        assert set(after.centres - before.centres) <= {0, 1, 2}
        assert (after.centres - before.centres).mean() == pytest.approx(1, abs=0.3)
        assert (after.tables < before.tables).mean() > 0.5


def test_a_context_goes_on_to_look_from_the_tables_that_it_was_trained_with(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("mean-context")
    assert model.context is not None
    positions = len(model.side.gain)
    looking = model.context.looking_from(model.tables, positions)
    expected = begun_with(model.tables, model.context.inverse_scales)
    assert looking.origin is not None
    assert torch.equal(looking.origin.rungs.flatten(), expected.rungs)
    assert looking.looking_from(model.tables, positions) is looking
    words = ContextWords.of(looking, 0)
    changed = replace(model, context=looking, description=model.description.model_copy(update={"context": words}))
    changed.save(tmp_path / "looking.safetensors")
    again = FrozenModel.load(tmp_path / "looking.safetensors")
    assert (again.hash, again.hash == model.hash) == (changed.hash, False)
    assert again.context is not None
    assert again.context.origin is not None
    assert torch.equal(again.context.origin.rungs, looking.origin.rungs)
    with pytest.raises(ValueError, match="from where a context looks"):
        replace(changed, context=replace(looking, origin=Begun(looking.origin.rungs, None)))
