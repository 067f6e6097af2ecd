import pytest
import torch
from torch import Tensor

from roadbits.codecs.neural.hyperprior import Hyperprior

LAMBDAS = (0.001, 0.01, 0.1)
M = 12

designs = pytest.mark.parametrize(("num_layers", "means"), [(3, True), (3, False), (4, True), (4, False)])


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 64, 128, generator=torch.Generator().manual_seed(1))


def built(num_layers: int = 3, means: bool = True) -> Hyperprior:
    torch.manual_seed(0)
    return Hyperprior(8, M, LAMBDAS, num_layers, means)


@designs
def test_a_pass_gives_images_and_their_bits(num_layers: int, means: bool, x: Tensor) -> None:
    forward = built(num_layers, means)(x, torch.tensor([0.0, 1.0, 2.0]))
    assert forward.x_hat.shape == x.shape
    assert forward.bits.shape == (3,)
    assert (forward.bits > 0).all()


@designs
def test_both_latents_have_their_sizes(num_layers: int, means: bool, x: Tensor) -> None:
    network = built(num_layers, means)
    y = network.g_a(x)
    z = network.h_a(y)
    assert y.shape == (3, M, 4, 8)
    assert z.shape == (3, 8, 1, 2)
    assert network.h_s(z).shape == (3, M * (1 + means), 4, 8)
    assert network.g_s(y).shape == x.shape


@pytest.mark.parametrize("num_layers", [3, 4])
def test_there_are_as_many_layers_as_asked_for(num_layers: int) -> None:
    network = built(num_layers)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.g_a) == num_layers
    assert sum(isinstance(module, torch.nn.ConvTranspose2d) for module in network.g_s) == num_layers


@pytest.mark.parametrize("means", [True, False])
def test_scales_start_wide(means: bool) -> None:
    network = built(means=means)
    with torch.no_grad():
        predicted = network.h_s(torch.zeros(1, 8, 1, 1))
    assert predicted[:, :M].mean().item() == pytest.approx(4, abs=0.3)
    if means:
        assert predicted[:, M:].abs().max() < 1


def test_a_scale_only_model_cannot_tell_a_latent_from_its_negative(x: Tensor) -> None:
    network = built(means=False)
    levels = torch.ones(3)

    def bits_of(sign: float) -> Tensor:
        torch.manual_seed(2)
        handle = network.g_a.register_forward_hook(lambda *parts: sign * parts[2])
        with torch.no_grad():
            bits: Tensor = network(x, levels).bits
        handle.remove()
        return bits

    # The noise is the same in both passes, so they differ by it, and by far less than the sign would make.
    torch.testing.assert_close(bits_of(1.0), bits_of(-1.0), rtol=0.02, atol=0)


@designs
def test_every_parameter_learns(num_layers: int, means: bool, x: Tensor) -> None:
    network = built(num_layers, means)
    with torch.no_grad():
        # Fresh latents are so small that all round to zero, which teaches h_s and g_s nothing.
        network.gain.log_gain.add_(6)
        network.hyper_gain.log_gain.add_(6)
    forward = network(x, torch.tensor([0.0, 1.0, 2.0]))
    (forward.bits.sum() + ((forward.x_hat - x) ** 2).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
