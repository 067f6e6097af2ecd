import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.cae import CAE, Forward
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.slim_network import SlimNetwork
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior
from roadbits.codecs.training.crops import CropSampler, ImageCache
from roadbits.codecs.training.joint_widths import JointWidths, JointWidthsTraining
from roadbits.codecs.training.lambda_schedule import LambdaSchedule, Measured
from roadbits.codecs.training.lambda_schedule_run import run_lambda_schedule
from roadbits.codecs.training.rate_distortion import CheckpointError, RateDistortionTraining, Schedule, TrainingError

WIDTHS = (4, 6, 8, 10)
LAMBDAS = (0.002, 0.004, 0.008, 0.016)
SCHEDULE = Schedule(LAMBDAS, steps=8, batch_size=2, crop=64)
ALL, SANDWICH = JointWidths(), JointWidths("sandwich")

Slim = SlimNetwork[CAE] | SlimNetwork[Hyperprior]


@pytest.fixture
def crops(tmp_path: Path, textured: Callable[..., Image]) -> CropSampler:
    ImageCache.write(tmp_path / "images.bin", [textured(96, 128, seed) for seed in range(3)])
    return CropSampler([ImageCache.open(tmp_path / "images.bin")], [1.0], 64, seed=0)


def slimcae() -> SlimCAE:
    torch.manual_seed(0)
    return SlimCAE(WIDTHS, [[lmbda] for lmbda in LAMBDAS], gdn="slim")


def slimhyperprior() -> SlimHyperprior:
    torch.manual_seed(0)
    return SlimHyperprior(WIDTHS, WIDTHS, [[lmbda] for lmbda in LAMBDAS])


def new(
    crops: CropSampler, joint: JointWidths = ALL, schedule: Schedule = SCHEDULE, build: Callable[[], Slim] = slimcae
) -> JointWidthsTraining:
    return JointWidthsTraining(build(), schedule, crops, {}, joint)


def saved(training: RateDistortionTraining, path: Path) -> dict[str, torch.Tensor]:
    training.save(path)
    return load_file(path)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def widths_run(training: JointWidthsTraining, monkeypatch: pytest.MonkeyPatch, steps: int) -> list[list[int]]:
    """Train, and return the widths of every step."""
    seen: list[int] = []
    each: list[list[int]] = []
    forward = training.network.forward

    def noting(x: torch.Tensor, levels: torch.Tensor, width: int) -> Forward:
        seen.append(width)
        return forward(x, levels, width)

    with monkeypatch.context() as patch:
        patch.setattr(training.network, "forward", noting)
        for _ in training.run(steps):
            each.append(seen.copy())
            seen.clear()
    return each


class Greys(nn.Module):
    """A network whose reconstructions are one grey for each width, at as many bits for an image as it is wide."""

    stride, widths, num_levels = 16, (3, 5), (1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.greys = nn.ParameterDict({"3": torch.tensor(0.25), "5": torch.tensor(0.5)})
        self.kernel = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, x: torch.Tensor, levels: torch.Tensor, width: int) -> Forward:
        grey = self.greys[str(width)] + self.kernel
        return Forward(grey + torch.zeros_like(x), torch.full((len(x),), float(width)) + 0 * self.kernel.sum())


@pytest.mark.parametrize(("weighting", "weights"), [("none", (1, 1)), ("root", (2.5**0.5, 0.625**0.5))])
def test_the_loss_is_the_sum_over_widths_at_their_own_lambdas(
    weighting: Literal["none", "root"], weights: tuple[float, float], crops: CropSampler
) -> None:
    schedule = replace(SCHEDULE, lambdas=(0.01, 0.04), steps=1)
    training = JointWidthsTraining(cast(Slim, Greys()), schedule, crops, {}, JointWidths(weighting=weighting))
    (progress,) = training.run(1)
    x = torch.from_numpy(crops.batch(0, 2)).float() / 255
    narrow, wide = (((x - grey) ** 2).mean().item() for grey in (0.25, 0.5))
    expected = weights[0] * (3 / 64**2 + 0.01 * 255**2 * narrow) + weights[1] * (5 / 64**2 + 0.04 * 255**2 * wide)
    assert progress.loss == pytest.approx(expected, rel=1e-5)
    assert progress.bpp_estimate == pytest.approx(4 / 64**2)
    assert progress.psnr_db == pytest.approx(-10 * math.log10((narrow + wide) / 2), abs=1e-4)


def test_lambdas_are_shared_out_by_the_levels_of_each_width(crops: CropSampler) -> None:
    network = SlimCAE((4, 6, 8), [[1.0], [1.0, 2.0, 3.0], [1.0, 2.0]])
    schedule = replace(SCHEDULE, lambdas=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert JointWidthsTraining(network, schedule, crops, {}, ALL).lambdas == ((1,), (2, 3, 4), (5, 6))


def test_the_gradient_is_that_of_the_sum(crops: CropSampler) -> None:
    training = new(crops, JointWidths(weighting="none"))
    x = torch.rand(2, 3, 64, 64)
    alone = []
    for one in training._passes():
        torch.manual_seed(1)
        training._add_gradients(x, one)
        alone.append([None if p.grad is None else p.grad.clone() for p in training.network.parameters()])
        training.network.zero_grad()
    for one in training._passes():
        torch.manual_seed(1)
        training._add_gradients(x, one)
    for parameter, gradients in zip(training.network.parameters(), zip(*alone, strict=True), strict=True):
        given = [gradient for gradient in gradients if gradient is not None]
        torch.testing.assert_close(parameter.grad, torch.stack(given).sum(dim=0), rtol=1e-4, atol=1e-6)


def test_one_width_is_trained_as_a_plain_network_is(crops: CropSampler, tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, lambdas=(0.01, 0.02), steps=3)
    torch.manual_seed(0)
    plain = CAE(8, schedule.lambdas)
    torch.manual_seed(0)
    slim = SlimCAE((8,), [schedule.lambdas])
    for training in (
        RateDistortionTraining(plain, schedule, crops, {}),
        JointWidthsTraining(slim, schedule, crops, {}, ALL),
    ):
        assert len(list(training.run(3))) == 3
    for name, tensor in slim.standalone(8).state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_all_widths_learn_in_every_step(crops: CropSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    assert widths_run(new(crops), monkeypatch, 3) == [[10, 8, 6, 4]] * 3


def test_a_sandwich_is_the_widest_the_narrowest_and_any_between(
    crops: CropSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SCHEDULE, steps=16, batch_size=1)
    steps = widths_run(new(crops, SANDWICH, schedule), monkeypatch, 16)
    assert all(len(widths) == 3 and widths[0] == 10 and widths[2] == 4 for widths in steps)
    assert {widths[1] for widths in steps} == {6, 8}
    assert widths_run(new(crops, SANDWICH, schedule), monkeypatch, 16) == steps


@pytest.mark.parametrize(("widths", "expected"), [((4, 8), [8, 4]), ((4,), [4])])
def test_a_sandwich_of_less_than_three_widths_is_all_of_them(
    widths: tuple[int, ...], expected: list[int], crops: CropSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SlimCAE(widths, [[0.01]] * len(widths))
    schedule = replace(SCHEDULE, lambdas=(0.01,) * len(widths))
    training = JointWidthsTraining(network, schedule, crops, {}, SANDWICH)
    assert widths_run(training, monkeypatch, 2) == [expected] * 2


def test_a_single_width_can_be_trained_alone(crops: CropSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    assert widths_run(new(crops, JointWidths(6)), monkeypatch, 3) == [[6]] * 3
    with pytest.raises(ValueError, match="no width 7: choose from 4, 6, 8, 10"):
        new(crops, JointWidths(7))


def test_a_width_that_a_step_leaves_out_keeps_its_own_numbers(
    crops: CropSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = new(crops, SANDWICH, build=slimhyperprior)
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    ((_, between, _),) = widths_run(training, monkeypatch, 1)
    for index, width in enumerate(WIDTHS):
        name = f"entropy_model.{index}.biases.0"
        moved = not torch.equal(training.network.state_dict()[name], before[name])
        assert moved == (width in (4, between, 10))


def test_training_lowers_the_distortion_of_every_width(crops: CropSampler) -> None:
    schedule = replace(SCHEDULE, steps=50, learning_rate=2e-2, cooldown=0.1)
    training = new(crops, ALL, schedule)
    x = torch.from_numpy(crops.batch(0, 3)).float() / 255

    def distortions() -> list[float]:
        training.network.eval()
        with torch.no_grad():
            passes = [training.network(x, torch.zeros(3), width) for width in WIDTHS]
        training.network.train()
        return [((x - one.x_hat) ** 2).mean().item() for one in passes]

    before = distortions()
    list(training.run(50))
    assert all(now < 0.6 * then for now, then in zip(distortions(), before, strict=True))


@pytest.mark.parametrize("joint", [ALL, SANDWICH], ids=["all", "sandwich"])
@pytest.mark.parametrize("build", [slimcae, slimhyperprior])
def test_a_resumed_training_ends_with_the_same_bits(
    build: Callable[[], Slim], joint: JointWidths, crops: CropSampler, tmp_path: Path
) -> None:
    whole, half, resumed = (new(crops, joint, build=build) for _ in range(3))
    list(whole.run(8))
    list(half.run(3))
    half.save(tmp_path / "half")
    torch.manual_seed(99)
    resumed.load(tmp_path / "half")
    assert len(list(resumed.run(8))) == 5
    assert same(saved(whole, tmp_path / "a"), saved(resumed, tmp_path / "b"))


def test_a_checkpoint_of_another_way_to_share_steps_is_refused(crops: CropSampler, tmp_path: Path) -> None:
    new(crops).save(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="per_step: 'all' there, 'sandwich' here"):
        new(crops, SANDWICH).load(tmp_path / "checkpoint")


def test_lambdas_can_be_changed_between_steps(crops: CropSampler, tmp_path: Path) -> None:
    changed, kept = new(crops), new(crops)
    for training in (changed, kept):
        list(training.run(2))
    changed.set_lambdas([0.001, 0.002, 0.004, 0.016])
    assert changed.lambdas == tuple((pytest.approx(value),) for value in (0.001, 0.002, 0.004, 0.016))
    for training in (changed, kept):
        list(training.run(4))
    assert not same(saved(changed, tmp_path / "a"), saved(kept, tmp_path / "b"))


@pytest.mark.parametrize("lambdas", [(0.01,) * 3, (0.01,) * 5, (0.01, 0.01, 0.0, 0.01), (0.01, 0.01, math.nan, 0.01)])
def test_lambdas_that_do_not_fit_the_levels_are_refused(lambdas: tuple[float, ...], crops: CropSampler) -> None:
    with pytest.raises(ValueError, match=r"expected lambdas above 0 for .* \(1 of 4, 1 of 6, 1 of 8, 1 of 10\), got"):
        new(crops, schedule=replace(SCHEDULE, lambdas=lambdas))


def test_a_width_that_diverges_stops_the_training_before_the_weights_move(
    crops: CropSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = new(crops)
    list(training.run(2))
    before = saved(training, tmp_path / "before")
    forward = training.network.forward

    def broken(x: torch.Tensor, levels: torch.Tensor, width: int) -> Forward:
        good: Forward = forward(x, levels, width)
        return Forward(good.x_hat, good.bits * (math.nan if width == 6 else 1.0))

    monkeypatch.setattr(training.network, "forward", broken)
    with pytest.raises(TrainingError, match="step 3 of 8: the loss is nan"):
        list(training.run(8))
    assert same(saved(training, tmp_path / "after"), before)


class Stopped(Exception):
    """A process that was killed."""


def test_a_schedule_stopped_within_a_round_ends_with_the_same_bits(crops: CropSampler, tmp_path: Path) -> None:
    rules = LambdaSchedule(0.016, num_widths=4, first_steps=3, round_steps=2, max_rounds=2)
    steps = replace(SCHEDULE, lambdas=(0.016,) * 4, steps=4 * rules.most_steps, cooldown=0.0)

    def run(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        training = new(crops, SANDWICH, steps)
        checkpoint = folder / "checkpoint"
        if checkpoint.exists():
            training.load(checkpoint)

        def train_on(lambdas: tuple[float, ...], until: int) -> None:
            training.set_lambdas(lambdas)
            for progress in training.run(until):
                training.save(checkpoint)
                if progress.step == stop_at:
                    raise Stopped

        def evaluate() -> list[Measured]:
            x = torch.from_numpy(crops.batch(0, 1)).float() / 255
            training.network.eval()
            with torch.no_grad():
                passes = [training.network(x, torch.zeros(1), width) for width in WIDTHS]
            training.network.train()
            return [
                Measured(one.bits.item() / 64**2, -10 * ((one.x_hat - x) ** 2).mean().log10().item()) for one in passes
            ]

        run_lambda_schedule(rules, train_on, evaluate, folder / "schedule.json")
        return saved(training, checkpoint)

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole")
    for stop_at in (2, 3, 6):
        with pytest.raises(Stopped):
            run(tmp_path / "stopped", stop_at)
    assert same(run(tmp_path / "stopped"), whole)
    assert (tmp_path / "whole/schedule.json").read_text() == (tmp_path / "stopped/schedule.json").read_text()
