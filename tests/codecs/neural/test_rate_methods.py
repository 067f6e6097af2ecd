import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.conditional import Conditional, Conditioned
from roadbits.codecs.neural.gain import Gain, Gained
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated, Modulator
from roadbits.codecs.neural.modulation import Modulation, RateMethod, Transform
from roadbits.codecs.neural.scaling import Scale, Scaled, train_scales_only, with_trained_gains

LAMBDAS = (0.001, 0.01, 0.1)
METHODS: dict[str, Callable[[], RateMethod]] = {
    "gain": partial(Gained, LAMBDAS),
    "scaling": partial(Scaled, LAMBDAS),
    "mae": partial(Modulated, LAMBDAS),
    "conditional": partial(Conditional, LAMBDAS),
}


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def modulations(transform: nn.Module) -> list[str]:
    """Return what stands before every modulation of a transform."""
    modules = list(transform.children())
    return [type(before).__name__ for before, module in pairwise(modules) if isinstance(module, Modulation)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", ["cae", "hyperprior"])
def test_every_method_trains_every_parameter_on_either_backbone(method: str, backbone: str, x: Tensor) -> None:
    torch.manual_seed(0)
    rates = METHODS[method]()
    network = CAE(8, rates) if backbone == "cae" else Hyperprior(8, 12, rates)
    if method == "mae":
        # Zero weights hide the hidden layer's gradient.
        for module in network.modules():
            if isinstance(module, Modulator):
                nn.init.normal_(module.out.weight, std=0.1)
    with torch.no_grad():
        # Fresh latents are so small that all round to zero, which teaches the synthesis nothing.
        for transform in (network.g_a, getattr(network, "h_a", None)):
            if transform is not None:
                last = [module for module in transform if isinstance(module, nn.Conv2d)][-1]
                last.weight.mul_(1000)
    forward = network(x, torch.tensor([0.0, 1.0, 2.0]))
    assert forward.x_hat.shape == x.shape
    (forward.bits.sum() + ((forward.x_hat - x) ** 2).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_mae_scales_behind_convolutions_and_behind_inverse_gdns() -> None:
    network = CAE(8, Modulated(LAMBDAS))
    assert modulations(network.g_a) == ["Conv2d"] * 3
    assert modulations(network.g_s) == ["GDN"] * 3


def test_cae_scales_and_shifts_behind_every_convolution() -> None:
    network = Hyperprior(8, 12, Conditional(LAMBDAS))
    assert modulations(network.g_a) == ["Conv2d"] * 3
    assert modulations(network.g_s) == ["ConvTranspose2d"] * 2 + ["GatheredUp"]
    assert modulations(network.h_a) == ["Conv2d"] * 3
    assert modulations(network.h_s) == ["ConvTranspose2d"] * 2 + ["Conv2d"]


def test_gain_and_scaling_leave_the_transforms_alone() -> None:
    for method in (Gained(LAMBDAS), Scaled(LAMBDAS)):
        network = CAE(8, method)
        assert not modulations(network.g_a) + modulations(network.g_s)


@pytest.mark.parametrize("channels", [48, 192])
def test_mae_s_modulators_are_as_small_as_published(channels: int) -> None:
    network = CAE(channels, Modulated(LAMBDAS))
    added = sum(
        parameter.numel()
        for module in network.modules()
        if isinstance(module, Modulator)
        for parameter in module.parameters()
    )
    # A network of 1 -> 50 -> C for each of six layers.
    assert added == 6 * (100 + 51 * channels)
    if channels == 192:
        assert added == 59_352


def test_a_fresh_modulation_changes_nothing() -> None:
    values = torch.randn(2, 8, 4, 4)
    for modulation in (Modulator(8, LAMBDAS), Conditioned(8, 3)):
        torch.testing.assert_close(modulation(values, torch.tensor([0.0, 2.0])), values)


def test_mae_s_scales_depend_on_lambda_alone() -> None:
    torch.manual_seed(0)
    few, many = Modulator(8, LAMBDAS), Modulator(8, (0.001, 0.003, 0.01, 0.05, 0.1))
    nn.init.normal_(few.out.weight)
    many.load_state_dict(few.state_dict())
    torch.testing.assert_close(few.scale(torch.tensor([2.0, 1.0])), many.scale(torch.tensor([4.0, 2.0])))
    between = few.scale(torch.tensor([0.5]))
    assert not torch.allclose(between, few.scale(torch.tensor([0.0])))
    single = Modulator(8, (math.sqrt(0.001 * 0.01),))
    single.load_state_dict(few.state_dict())
    torch.testing.assert_close(between, single.scale(torch.tensor([0.0])))


def test_cae_s_training_draws_bins_from_half_to_twice_as_wide() -> None:
    torch.manual_seed(0)
    widths = torch.as_tensor(Conditional(LAMBDAS).bin_widths(1000))
    assert widths.shape == (1000, 1, 1, 1)
    assert 0.5 <= widths.min() < 0.51
    assert 1.98 < widths.max() <= 2.0
    assert torch.log2(widths).mean().abs() < 0.1


def test_wider_bins_cost_fewer_bits(x: Tensor) -> None:
    torch.manual_seed(0)
    network = CAE(8, Conditional(LAMBDAS)).eval()
    with torch.no_grad():
        bits = [network(x * 40, torch.ones(3), width).bits.sum() for width in (0.5, 1.0, 2.0)]
    assert bits[0] > bits[1] > bits[2]


def test_the_positions_of_cae_are_all_lambdas_with_all_bins() -> None:
    positions = Conditional(LAMBDAS).positions()
    assert [position.level for position in positions] == [0.0] * 9 + [1.0] * 9 + [2.0] * 9
    widths = [position.bin_width for position in positions[:9]]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[4], widths[8]) == pytest.approx((math.sqrt(2), 1.0, math.sqrt(0.5)))


def test_scaling_divides_by_what_it_multiplied_with_and_leaves_the_highest_level_as_it_was() -> None:
    scale = Scale(8, LAMBDAS)
    before, after = scale(torch.tensor([0.0, 1.5, 2.0]))
    torch.testing.assert_close(before * after, torch.ones(3, 8, 1, 1))
    torch.testing.assert_close(before[2], torch.ones(8, 1, 1))
    assert (before[0] < 1).all()


def test_scaling_trains_nothing_but_scales() -> None:
    network = CAE(8, Scaled(LAMBDAS))
    train_scales_only(network)
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == ["gain.log_scale"]


def test_a_transform_hands_its_levels_to_modulations_only() -> None:
    modulation = Conditioned(3, 2)
    with torch.no_grad():
        modulation.shifts[1] = 5.0
    transform = Transform(nn.ReLU(), modulation)
    values = torch.ones(2, 3, 1, 1)
    torch.testing.assert_close(transform(values, torch.tensor([0.0, 1.0])).flatten(1)[:, 0], torch.tensor([1.0, 6.0]))
    torch.testing.assert_close(Transform(nn.ReLU())(values), values)


def test_bottleneck_scaling_goes_on_from_the_gains_that_a_codec_was_trained_with() -> None:
    generator = torch.Generator().manual_seed(0)
    trained, scale = Gain(4, LAMBDAS[-1:]), Scale(4, LAMBDAS)
    with torch.no_grad():
        trained.log_gain.normal_(generator=generator)
        trained.log_inverse.normal_(generator=generator)
    weights = {f"gain.{name}": value for name, value in trained.state_dict().items()}
    taken = with_trained_gains([f"gain.{name}" for name in scale.state_dict()], weights)
    assert set(taken) == {"gain.log_gain", "gain.log_inverse", "gain.log_trained"}
    with torch.no_grad():
        scale.log_trained.copy_(taken["gain.log_trained"])
        for mine, theirs in zip(scale(torch.tensor([2.0])), trained(torch.tensor([0.0])), strict=True):
            assert torch.allclose(mine, theirs)


def test_only_the_scales_of_bottleneck_scaling_move() -> None:
    network = CAE(8, Scaled(LAMBDAS))
    train_scales_only(network)
    moving = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert moving == ["gain.log_scale"]


@pytest.mark.parametrize("modulation", [Modulator(6, LAMBDAS), Conditioned(6, 3)])
def test_a_modulation_begins_with_the_scales_that_it_is_given(modulation: Modulator | Conditioned) -> None:
    wanted = torch.tensor([0.3, 1.0, 2.5])
    modulation.begin(wanted)
    assert torch.allclose(modulation.scale(torch.arange(3.0)), wanted[:, None].expand(3, 6), rtol=1e-4)
    assert (modulation.scale(torch.tensor([0.5])) > 0.3).all()
    assert (modulation.scale(torch.tensor([0.5])) < 1.0).all()


def test_more_lambdas_than_hidden_units_are_refused() -> None:
    lambdas = [0.001 * 1.1**k for k in range(52)]
    with pytest.raises(ValueError, match="50 hidden units can follow 51 at most"):
        Modulator(6, lambdas).begin(torch.ones(52))
