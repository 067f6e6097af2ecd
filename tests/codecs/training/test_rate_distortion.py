import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.cae import CAE, Forward
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.training.crops import CropSampler, ImageCache
from roadbits.codecs.training.rate_distortion import (
    CheckpointError,
    Progress,
    RateDistortionTraining,
    Schedule,
    TrainingError,
    _optimisers,
)

LAMBDAS = (0.002, 0.05)
SCHEDULE = Schedule(LAMBDAS, steps=12, batch_size=2, crop=64)


@pytest.fixture
def crops(tmp_path: Path, textured: Callable[..., Image]) -> CropSampler:
    ImageCache.write(tmp_path / "images.bin", [textured(96, 128, seed) for seed in range(3)])
    return CropSampler([ImageCache.open(tmp_path / "images.bin")], [1.0], 64, seed=0)


def small(schedule: Schedule = SCHEDULE) -> CAE:
    torch.manual_seed(schedule.seed)
    return CAE(8, schedule.lambdas)


def new(crops: CropSampler, schedule: Schedule = SCHEDULE, **identity: object) -> RateDistortionTraining:
    return RateDistortionTraining(small(schedule), schedule, crops, {"codec": "cae", **identity})


def trained(training: RateDistortionTraining, until: int) -> list[Progress]:
    return list(training.run(until))


def saved(training: RateDistortionTraining, path: Path) -> dict[str, torch.Tensor]:
    training.save(path)
    return load_file(path)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    schedule = Schedule(LAMBDAS, steps=1000, cooldown=0.3)
    assert schedule.factor(0) == 1 / 200
    assert schedule.factor(99) == 0.5
    assert schedule.factor(199) == schedule.factor(500) == schedule.factor(schedule.fall_begins) == 1
    assert schedule.fall_begins == 700
    assert schedule.factor(701) < 1
    assert schedule.factor(850) == 0.5
    assert schedule.factor(999) == pytest.approx(1 / 300)


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_networks_train_in_the_numbers_that_the_processor_is_fast_in(
    is_fast: bool, dtype: torch.dtype, crops: CropSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: is_fast)
    training, seen = new(crops), set()
    convolutions = [module for module in training.network.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trained(training, 1)
    assert seen == {dtype}


def test_training_lowers_the_distortion(crops: CropSampler) -> None:
    schedule = replace(SCHEDULE, steps=80, learning_rate=2e-2, cooldown=0.1)
    history = trained(new(crops, schedule), 80)
    assert [progress.step for progress in history] == list(range(1, 81))
    assert history[-1].psnr_db > history[0].psnr_db + 2
    assert all(math.isfinite(value) for progress in history for value in (progress.loss, progress.bpp_estimate))


class Constant(nn.Module):
    """A network whose reconstruction is one grey, at three bits for each image."""

    stride = 64

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(0.5))
        self.kernel = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, x: torch.Tensor, levels: torch.Tensor) -> Forward:
        return Forward(
            self.grey + self.kernel + torch.zeros_like(x), torch.full((len(x),), 3.0) + 0 * self.kernel.sum()
        )


def test_the_loss_is_rate_plus_lambda_times_distortion_weighted_against_lambda(crops: CropSampler) -> None:
    schedule = replace(SCHEDULE, lambdas=(0.01,), steps=1, batch_size=3)
    (progress,) = RateDistortionTraining(Constant(), schedule, crops, {}).run(1)
    x = torch.from_numpy(crops.batch(0, 3)).float() / 255
    mse = ((x - 0.5) ** 2).mean().item()
    assert progress.bpp_estimate == pytest.approx(3 / 64**2)
    assert progress.psnr_db == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    assert progress.loss == pytest.approx(3 / 64**2 + 0.01 * 255**2 * mse, rel=1e-5)


@pytest.mark.parametrize("batch_size", [5, 10, 7])
def test_every_level_is_visited_evenly(batch_size: int, crops: CropSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within each step, as evenly as its crops can be divided; in another order each time."""
    seen: list[list[float]] = []
    network = Constant()
    forward = network.forward

    def noting(x: torch.Tensor, levels: torch.Tensor) -> Forward:
        seen.append(levels.tolist())
        return forward(x, levels)

    monkeypatch.setattr(network, "forward", noting)
    lambdas = (0.001, 0.002, 0.004, 0.008, 0.016)
    schedule = replace(SCHEDULE, lambdas=lambdas, steps=6, batch_size=batch_size)
    trained(RateDistortionTraining(network, schedule, crops, {}), 6)
    assert len(seen) == 6
    for levels in seen:
        visits = [levels.count(level) for level in range(5)]
        assert sum(visits) == batch_size
        assert max(visits) - min(visits) == (1 if batch_size % 5 else 0)
    assert len({tuple(levels) for levels in seen}) > 1


def test_kernels_are_moved_by_muon_and_the_rest_by_adam(crops: CropSampler, tmp_path: Path) -> None:
    training = new(crops)
    trained(training, 1)
    state = saved(training, tmp_path / "checkpoint")
    kernels = sum(parameter.ndim == 4 for parameter in training.network.parameters())
    assert sum(name.startswith("optimiser/0/") for name in state) == kernels == 6
    assert {name.split("/")[-1] for name in state if name.startswith("optimiser/0/")} == {"average"}
    rest = len(list(training.network.parameters())) - kernels
    assert sum(name.startswith("optimiser/1/") for name in state) == 3 * rest


def hyperprior(schedule: Schedule) -> nn.Module:
    torch.manual_seed(schedule.seed)
    return Hyperprior(8, 12, schedule.lambdas)


@pytest.mark.parametrize("build", [small, hyperprior])
def test_a_resumed_training_ends_with_the_same_bits(
    build: Callable[[Schedule], nn.Module], crops: CropSampler, tmp_path: Path
) -> None:
    whole = RateDistortionTraining(build(SCHEDULE), SCHEDULE, crops, {})
    trained(whole, 12)
    half = RateDistortionTraining(build(SCHEDULE), SCHEDULE, crops, {})
    trained(half, 6)
    half.save(tmp_path / "half")
    torch.manual_seed(99)
    resumed = RateDistortionTraining(build(SCHEDULE), SCHEDULE, crops, {})
    resumed.load(tmp_path / "half")
    assert resumed.step == 6
    assert len(trained(resumed, 12)) == 6
    assert same(saved(whole, tmp_path / "a"), saved(resumed, tmp_path / "b"))
    assert not same(load_file(tmp_path / "half"), load_file(tmp_path / "a"))


def test_a_training_stops_where_it_is_told_and_at_its_end(crops: CropSampler) -> None:
    training = new(crops)
    assert [progress.step for progress in training.run(5)] == [1, 2, 3, 4, 5]
    assert trained(training, 100)[-1].step == 12
    assert trained(training, 100) == []


def test_a_checkpoint_names_its_step_and_configuration(crops: CropSampler, tmp_path: Path) -> None:
    training = new(crops, data="abc")
    trained(training, 2)
    training.save(tmp_path / "checkpoint")
    with safe_open(tmp_path / "checkpoint", "pt") as file:
        metadata = file.metadata()
    assert metadata["step"] == "2"
    identity = json.loads(metadata["identity"])
    assert identity["lambdas"] == [0.002, 0.05]
    assert (identity["steps"], identity["codec"], identity["data"]) == (12, "cae", "abc")
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint"]


def test_a_checkpoint_of_another_configuration_is_refused_naming_every_difference(
    crops: CropSampler, tmp_path: Path
) -> None:
    new(crops, data="abc").save(tmp_path / "checkpoint")
    other = new(crops, replace(SCHEDULE, seed=7), data="def")
    with pytest.raises(CheckpointError, match="data: 'abc' there, 'def' here; seed: 0 there, 7 here"):
        other.load(tmp_path / "checkpoint")


def test_a_training_can_be_prolonged_before_its_cooldown_but_not_in_it(crops: CropSampler, tmp_path: Path) -> None:
    training = new(crops)
    for step in (8, 9):
        trained(training, step)
        training.save(tmp_path / f"{step}")
    longer = new(crops, replace(SCHEDULE, steps=20))
    longer.load(tmp_path / "8")
    assert trained(longer, 99)[-1].step == 20
    with pytest.raises(
        CheckpointError,
        match=r"steps: 12 with a cooldown of 0\.\d+ there, 20 with .* here, and step 9 is in a cooldown",
    ):
        new(crops, replace(SCHEDULE, steps=20)).load(tmp_path / "9")


@pytest.mark.parametrize("cooldown", [0.3, 0.6])
def test_prolonged_before_its_cooldown_a_training_equals_the_long_one(
    cooldown: float, crops: CropSampler, tmp_path: Path
) -> None:
    training = new(crops)
    trained(training, 8)
    training.save(tmp_path / "8")
    longer, long = (new(crops, replace(SCHEDULE, steps=20, cooldown=cooldown)) for _ in range(2))
    longer.load(tmp_path / "8")
    trained(longer, 10)
    trained(long, 10)
    assert same(saved(longer, tmp_path / "a"), saved(long, tmp_path / "b"))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", None])
def test_what_is_no_checkpoint_is_refused(content: bytes | None, crops: CropSampler, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    new(crops).save(path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(CheckpointError, match="is no checkpoint of a codec's training"):
        new(crops).load(path)


def test_a_loss_that_is_no_number_stops_the_training_before_the_weights_move(
    crops: CropSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = new(crops)
    trained(training, 3)
    before = saved(training, tmp_path / "before")
    forward = training.network.forward

    def broken(x: torch.Tensor, levels: torch.Tensor) -> Forward:
        good = forward(x, levels)
        return Forward(good.x_hat, good.bits * math.nan)

    monkeypatch.setattr(training.network, "forward", broken)
    with pytest.raises(TrainingError, match="step 4 of 12: the loss is nan"):
        trained(training, 12)
    assert same(saved(training, tmp_path / "after"), before)


def test_a_gradient_that_is_infinite_stops_the_training_before_the_weights_move(
    crops: CropSampler, tmp_path: Path
) -> None:
    training = new(crops)
    trained(training, 3)
    before = saved(training, tmp_path / "before")
    weight = next(training.network.parameters())
    weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(TrainingError, match=r"step 4 of 12: the gradient's norm is (nan|inf)"):
        trained(training, 12)
    assert same(saved(training, tmp_path / "after"), before)


def test_a_broken_weight_is_never_saved(crops: CropSampler, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    training = new(crops)
    training.save(path)
    good = path.read_bytes()
    with torch.no_grad():
        next(training.network.parameters())[0, 0, 0, 0] = math.inf
    with pytest.raises(TrainingError, match=r"step 0: network/g_a\.0\.weight is not finite"):
        training.save(path)
    assert path.read_bytes() == good


@pytest.mark.parametrize("hyper_learning_rate", [None, 4e-3])
def test_kernels_of_hyper_transforms_may_have_a_learning_rate_of_their_own(hyper_learning_rate: float | None) -> None:
    network = Hyperprior(4, 6, (0.01,))
    schedule = Schedule((0.01,), 10, learning_rate=1e-3, hyper_learning_rate=hyper_learning_rate)
    rates = {
        id(parameter): group["full_lr"]
        for optimiser in _optimisers(network, schedule)
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            own = hyper_learning_rate if name.startswith("h_") else None
            assert rates[id(parameter)] == (own or 1e-3), name
