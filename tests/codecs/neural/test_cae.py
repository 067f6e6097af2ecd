import pytest
import torch
from torch import Tensor

from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE

LAMBDAS = (0.001, 0.01, 0.1)


@pytest.fixture(scope="module")
def network() -> CAE:
    torch.manual_seed(0)
    return CAE(8, LAMBDAS)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 48, 32, generator=torch.Generator().manual_seed(1))


def test_a_pass_gives_images_and_their_bits(network: CAE, x: Tensor) -> None:
    forward = network(x, torch.tensor([0.0, 1.0, 2.0]))
    assert forward.x_hat.shape == x.shape
    assert forward.bits.shape == (3,)
    assert (forward.bits > 0).all()


def test_the_latent_is_a_sixteenth_of_the_image(network: CAE, x: Tensor) -> None:
    assert network.g_a(x).shape == (3, 8, 3, 2)
    assert network.g_s(torch.zeros(1, 8, 3, 2)).shape == (1, 3, 48, 32)


def test_the_latent_may_be_wider_than_the_inner_layers(x: Tensor) -> None:
    network = CAE(8, LAMBDAS, latent_channels=12)
    assert network.g_a(x).shape == (3, 12, 3, 2)
    assert network(x, torch.zeros(3)).x_hat.shape == x.shape
    assert network.g_a[2].out_channels == 8


def test_there_is_a_gdn_on_the_latent_and_none_has_a_bias_before_it(network: CAE) -> None:
    assert [type(module).__name__ for module in network.g_a] == ["Conv2d", "GDN"] * 3
    assert [type(module).__name__ for module in network.g_s] == ["GDN", "ConvTranspose2d"] * 2 + ["GDN", "GatheredUp"]
    assert [module.inverse for module in network.g_a if isinstance(module, GDN)] == [False] * 3
    assert [module.inverse for module in network.g_s if isinstance(module, GDN)] == [True] * 3
    assert network.g_a[4].bias is None


def test_an_image_of_a_batch_does_not_depend_on_the_others(network: CAE, x: Tensor) -> None:
    levels = torch.tensor([0.0, 1.0, 2.0])
    with torch.no_grad():
        together = network(x, levels).x_hat
        alone = torch.cat([network(x[k : k + 1], levels[k : k + 1]).x_hat for k in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_higher_level_costs_more_bits(network: CAE, x: Tensor) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        loud = [network(x * 40, torch.full((3,), level)).bits.sum() for level in (0.0, 1.0, 2.0)]
    assert loud[0] < loud[1] < loud[2]


def test_every_parameter_learns(x: Tensor) -> None:
    torch.manual_seed(0)
    network = CAE(8, LAMBDAS)
    forward = network(x, torch.tensor([0.0, 1.0, 2.0]))
    (forward.bits.sum() + ((forward.x_hat - x) ** 2).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
