import math

import numpy as np
import pytest
import torch
from torch import Tensor

from roadbits.codecs.entropy import (
    LIKELIHOOD_BOUND,
    SCALE_BOUND,
    FactorisedLevels,
    FactorisedModel,
    add_noise,
    bits,
    gaussian_bits,
    round_through,
)

CHANNELS = 5


@pytest.fixture(scope="module")
def model() -> FactorisedModel:
    """Return a model whose channels all differ, as if trained."""
    generator = torch.Generator().manual_seed(3)
    model = FactorisedModel(CHANNELS)
    with torch.no_grad():
        for parameters, spread in ((model.matrices, 0.5), (model.biases, 1.0), (model.factors, 0.8)):
            for parameter in parameters:
                parameter.uniform_(-spread, spread, generator=generator).add_(
                    0.2 if parameters is model.matrices else 0
                )
    return model


def column(first: int, last: int) -> Tensor:
    """Return whole numbers (1, CHANNELS, n, 1)."""
    return torch.arange(first, last + 1.0).reshape(1, 1, -1, 1).repeat(1, CHANNELS, 1, 1)


@pytest.mark.parametrize("gain", [0.25, 1.0, 3.0, 10.0])
def test_the_likelihoods_of_all_whole_numbers_sum_to_one(model: FactorisedModel, gain: float) -> None:
    with torch.no_grad():
        likelihood = model.likelihood(column(-1000, 1000), torch.full((1, CHANNELS, 1, 1), gain))
    # Far out every likelihood is the bound.
    sums = torch.where(likelihood > LIKELIHOOD_BOUND, likelihood, 0).double().sum(dim=(0, 2, 3))
    torch.testing.assert_close(sums, torch.ones(CHANNELS, dtype=torch.float64), rtol=0, atol=2e-5)


def test_a_likelihood_is_the_difference_of_the_cumulative(model: FactorisedModel) -> None:
    values, gain = torch.randn(3, CHANNELS, 4, 2), torch.rand(3, CHANNELS, 1, 1) + 0.5
    with torch.no_grad():
        likelihood = model.likelihood(values, gain)
        for image in range(3):
            ends = [
                torch.sigmoid(model.logits(((values[image] + end) / gain[image]).reshape(CHANNELS, -1)).double())
                for end in (-0.5, 0.5)
            ]
            expected = (ends[1] - ends[0]).reshape(CHANNELS, 4, 2).float()
            torch.testing.assert_close(likelihood[image], expected, rtol=1e-4, atol=1e-6)


def test_the_cumulative_rises_everywhere(model: FactorisedModel) -> None:
    with torch.no_grad():
        logits = model.logits(torch.linspace(-50, 50, 2001).repeat(CHANNELS, 1))
    assert (logits.diff(dim=1) > 0).all()


def test_a_likelihood_never_falls_below_the_bound_and_leads_back(model: FactorisedModel) -> None:
    values = torch.full((1, CHANNELS, 1, 1), 1e4)
    likelihood = model.likelihood(values)
    assert (likelihood == torch.tensor(LIKELIHOOD_BOUND)).all()
    assert torch.isfinite(bits(likelihood)).all()


@pytest.mark.parametrize("mass", [2.0**-17, 0.01, 0.25, 0.5, 0.9, 1 - 2.0**-17])
def test_a_quantile_is_the_inverse_of_the_cumulative(model: FactorisedModel, mass: float) -> None:
    quantiles = model.quantile(mass)
    assert quantiles.shape == (CHANNELS,)
    with torch.no_grad():
        cumulative = torch.sigmoid(model.logits(torch.from_numpy(quantiles).float()[:, None]).double())
    np.testing.assert_allclose(cumulative[:, 0].numpy(), mass, rtol=2e-4, atol=0)


def test_quantiles_rise_with_their_mass(model: FactorisedModel) -> None:
    quantiles = np.stack([model.quantile(mass) for mass in (0.001, 0.1, 0.5, 0.9, 0.999)])
    assert (np.diff(quantiles, axis=0) > 0).all()


def test_a_fresh_model_is_about_ten_steps_wide() -> None:
    fresh = FactorisedModel(4)
    width = fresh.quantile(0.84) - fresh.quantile(0.16)
    assert ((width > 5) & (width < 60)).all()


def reference_bits(value: float, mean: float, scale: float) -> float:
    """Return the bits of one value under a Gaussian, in float64; by erfc on the side where it keeps its digits."""
    distance = abs(value - mean)
    upper, lower = (math.erfc((distance + end) / scale / math.sqrt(2)) / 2 for end in (-0.5, 0.5))
    return -math.log2(upper - lower)


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, 3.7, 40.0])
def test_gaussian_bits_equal_those_of_float64(scale: float) -> None:
    for steps in np.linspace(0, 12, 25):
        for sign, mean in ((1, 0.0), (-1, 0.3), (1, -7.25)):
            value = mean + sign * steps * scale
            got = gaussian_bits(torch.full((1, 1, 1, 1), value), mean, torch.full((1, 1, 1, 1), scale)).item()
            assert got == pytest.approx(reference_bits(value, mean, scale), rel=2e-3, abs=2e-4)


def test_gaussian_bits_are_summed_for_each_image() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, -3.0]]).reshape(2, 2, 1, 1)
    scales = torch.tensor([[1.0, 2.0], [0.5, 4.0]]).reshape(2, 2, 1, 1)
    expected = [
        reference_bits(0, 0.25, 1) + reference_bits(1, 0.25, 2),
        reference_bits(2, 0.25, 0.5) + reference_bits(-3, 0.25, 4),
    ]
    assert gaussian_bits(values, 0.25, scales).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [SCALE_BOUND, 1.0, 30.0])
@pytest.mark.parametrize("away", [-1000.0, -50.0, 50.0, 1000.0])
def test_a_value_far_out_is_finite_and_is_led_back(scale: float, away: float) -> None:
    values = torch.full((1, 1, 1, 1), away * scale, requires_grad=True)
    scales = torch.full((1, 1, 1, 1), scale, requires_grad=True)
    cost = gaussian_bits(values, 0.0, scales)
    cost.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert scales.grad is not None
    assert torch.isfinite(cost).all()
    # Far out, -log2 of the tail is x^2 / 2, so its slopes are those of a square.
    assert values.grad.item() == pytest.approx(away / scale / math.log(2), rel=0.1)
    assert scales.grad.item() < 0


def test_a_scale_below_the_bound_counts_as_the_bound_and_can_come_back() -> None:
    values = torch.full((1, 1, 1, 1), 2.0)
    scales = torch.full((1, 1, 1, 1), -3.0, requires_grad=True)
    cost = gaussian_bits(values, 0.0, scales)
    assert cost.item() == gaussian_bits(values, 0.0, torch.full((1, 1, 1, 1), SCALE_BOUND)).item()
    cost.sum().backward()  # type: ignore[no-untyped-call]
    assert scales.grad is not None
    assert scales.grad.item() < 0


def test_bits_are_those_of_the_likelihoods() -> None:
    likelihood = torch.tensor([[0.5, 0.25], [0.125, 1.0]]).reshape(2, 2, 1, 1)
    assert bits(likelihood).tolist() == [3.0, 3.0]


def test_rounding_has_the_gradient_of_the_identity() -> None:
    x = torch.tensor([-1.6, 0.2, 2.4], requires_grad=True)
    rounded = round_through(x)
    assert rounded.tolist() == [-2.0, 0.0, 2.0]
    rounded.backward(torch.tensor([1.0, -2.0, 3.0]))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, -2.0, 3.0]


def test_noise_is_uniform_over_one_step() -> None:
    torch.manual_seed(0)
    noise = add_noise(torch.full((100_000,), 7.0)) - 7.0
    assert noise.min() >= -0.5
    assert noise.max() <= 0.5
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_likelihoods_equal_those_of_compressai(model: FactorisedModel) -> None:
    models = pytest.importorskip("compressai.entropy_models", reason="CompressAI, the oracle, is not installed")
    oracle = models.EntropyBottleneck(CHANNELS, filters=(3, 3, 3)).eval()
    for name, parameters in (("matrix", model.matrices), ("bias", model.biases), ("factor", model.factors)):
        plural = {"matrix": "matrices", "bias": "biases", "factor": "factors"}[name]
        for layer, parameter in enumerate(parameters):
            # Named `_matrix0` in releases, `matrices.0` since.
            theirs = (
                getattr(oracle, f"_{name}{layer}") if hasattr(oracle, f"_{name}0") else getattr(oracle, plural)[layer]
            )
            theirs.data.copy_(parameter.data)
    with torch.no_grad():
        values = column(-40, 40)
        torch.testing.assert_close(model.likelihood(values), oracle(values)[1], rtol=1e-4, atol=1e-7)


def test_gaussian_bits_equal_those_of_compressai() -> None:
    models = pytest.importorskip("compressai.entropy_models", reason="CompressAI, the oracle, is not installed")
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, 3, 4, 4, generator=generator)
    scales = torch.rand(2, 3, 4, 4, generator=generator) * 5 + 0.05
    values = torch.round(torch.randn(2, 3, 4, 4, generator=generator) * scales) + means
    likelihood = models.GaussianConditional(None).eval()(values, scales, means=means)[1]
    torch.testing.assert_close(gaussian_bits(values, means, scales), bits(likelihood), rtol=1e-3, atol=1e-2)


@pytest.fixture(scope="module")
def levels_model() -> FactorisedLevels:
    torch.manual_seed(3)
    model = FactorisedLevels(CHANNELS, 3)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def test_every_level_has_a_density_of_its_own(levels_model: FactorisedLevels) -> None:
    values = torch.randn(3, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(0))
    together = levels_model.likelihood(values, 1.0, torch.tensor([0.0, 1.0, 2.0]))
    for level in range(3):
        alone = levels_model.models[level].likelihood(values[level : level + 1])
        torch.testing.assert_close(together[level : level + 1], alone)
    assert not torch.allclose(levels_model.models[0].likelihood(values), levels_model.models[1].likelihood(values))


def test_between_two_levels_logits_are_mixed_and_still_rise(levels_model: FactorisedLevels) -> None:
    values = torch.linspace(-30, 30, 301).repeat(CHANNELS, 1)
    with torch.no_grad():
        low, high = (levels_model.at(level).logits(values) for level in (0.0, 1.0))
        between = levels_model.at(0.25).logits(values)
    torch.testing.assert_close(between, 0.75 * low + 0.25 * high)
    assert (between.diff(dim=1) > 0).all()


def test_the_density_of_a_whole_level_is_not_mixed(levels_model: FactorisedLevels) -> None:
    assert levels_model.at(2.0) is levels_model.models[2]
    assert levels_model.at(0.0) is levels_model.models[0]
