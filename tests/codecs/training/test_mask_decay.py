"""A shrinking encoder: what stays, what moves, and that what is cut out computes the same."""

import pytest
import torch
from torch import Tensor, nn

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated
from roadbits.codecs.training.mask_decay import FadingAnalysis, shrink_encoder, with_cut_encoder

LAMBDAS = (0.005, 0.02)
KEEP, STEPS = 5, 4


@pytest.fixture(params=["cae", "hyperprior"])
def network(request: pytest.FixtureRequest) -> CAE | Hyperprior:
    torch.manual_seed(0)
    return CAE(12, LAMBDAS, 16) if request.param == "cae" else Hyperprior(12, 16, LAMBDAS)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def advanced(network: CAE | Hyperprior, x: Tensor, steps: int) -> FadingAnalysis:
    shrink_encoder(network, KEEP, STEPS)
    network.train()
    for _ in range(steps):
        network(x, torch.tensor([0.0, 1.0]))
    network.eval()
    assert isinstance(network.g_a, FadingAnalysis)
    return network.g_a


def test_before_the_first_step_nothing_has_changed(network: CAE | Hyperprior, x: Tensor) -> None:
    expected = network.g_a(x)
    assert torch.equal(advanced(network, x, 0)(x), expected)


def test_what_fades_is_gone_when_its_steps_are_over(network: CAE | Hyperprior, x: Tensor) -> None:
    fading = advanced(network, x, STEPS + 1)
    cut = with_cut_encoder(network)
    assert [module.out_channels for module in cut.g_a if isinstance(module, nn.Conv2d)] == [KEEP, KEEP, 16]
    torch.testing.assert_close(cut.g_a(x), fading(x), rtol=1e-4, atol=1e-5)
    whole, small = (sum(parameter.numel() for parameter in each.parameters()) for each in (network.g_a, cut.g_a))
    assert small < whole / 2


def test_half_way_channels_are_half_there(network: CAE | Hyperprior, x: Tensor) -> None:
    whole = network.g_a(x)
    half = advanced(network, x, STEPS // 2)(x)
    gone = with_cut_encoder(network).g_a(x)
    assert (half - whole).abs().mean() < (gone - whole).abs().mean()
    assert not torch.allclose(half, whole)


def test_only_the_encoder_moves(network: CAE | Hyperprior, x: Tensor) -> None:
    advanced(network, x, 2)
    network.train()
    forward = network(x, torch.tensor([0.0, 1.0]))
    (forward.bits.sum() + forward.x_hat.sum()).backward()  # type: ignore[no-untyped-call]
    moving = {name.partition(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert moving == {"g_a"}


def test_channels_of_the_largest_kernels_stay(network: CAE | Hyperprior, x: Tensor) -> None:
    first = next(iter(network.g_a))
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[3:8] *= 100
    fading = advanced(network, x, 1)
    assert torch.nonzero(fading.stays_0)[:, 0].tolist() == [3, 4, 5, 6, 7]


def test_where_a_training_stands_is_part_of_its_state(network: CAE | Hyperprior, x: Tensor) -> None:
    advanced(network, x, 3)
    torch.manual_seed(0)
    other = CAE(12, LAMBDAS, 16) if isinstance(network, CAE) else Hyperprior(12, 16, LAMBDAS)
    shrink_encoder(other, KEEP, STEPS)
    other.load_state_dict(network.state_dict())
    other.eval()
    assert torch.equal(other.g_a(x), network.g_a(x))


def test_more_channels_than_there_are_and_modulated_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer encoder channels than 12, got 12"):
        shrink_encoder(CAE(12, LAMBDAS), 12, STEPS)
    with pytest.raises(ValueError, match="method gain"):
        shrink_encoder(CAE(12, Modulated(LAMBDAS)), KEEP, STEPS)
