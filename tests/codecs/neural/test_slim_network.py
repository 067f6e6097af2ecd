"""What holds for every slim network: at each width it is a plain one, over kernels that all share."""

import copy

import pytest
import torch
from torch import Tensor

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.slim_layers import GdnRecipe
from roadbits.codecs.neural.slim_network import SlimNetwork, check_widths
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior

WIDTHS, LATENTS = (4, 6, 8), (6, 6, 12)
LAMBDAS = ((0.001, 0.01), (0.02,), (0.001, 0.01, 0.1))
DESIGNS = ["cae", "mean-scale", "scale-only", "four-layers"]
Slim = SlimNetwork[CAE] | SlimNetwork[Hyperprior]


def built(design: str, gdn: GdnRecipe) -> Slim:
    """Return a fresh network whose latents are large enough to be rounded to something."""
    torch.manual_seed(0)
    network: Slim
    if design == "cae":
        network = SlimCAE(WIDTHS, LAMBDAS, LATENTS, gdn)
    else:
        layers = 4 if design == "four-layers" else 3
        network = SlimHyperprior(WIDTHS, LATENTS, LAMBDAS, layers, design != "scale-only", gdn)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_gain"):
                parameter.add_(6)
    return network


@pytest.fixture(params=[(design, gdn) for design in DESIGNS for gdn in ("switch", "slim")], ids="-".join)
def network(request: pytest.FixtureRequest) -> Slim:
    return built(*request.param)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_gives_images_and_their_bits(network: Slim, x: Tensor, width: int) -> None:
    forward = network(x, torch.zeros(2), width)
    assert forward.x_hat.shape == x.shape
    assert forward.bits.shape == (2,)
    assert (forward.bits > 0).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_standalone_network_gives_the_same_bits(
    network: Slim, x: Tensor, training: bool, memory_format: torch.memory_format
) -> None:
    network.to(memory_format=memory_format).train(training)
    for width, lambdas in zip(WIDTHS, LAMBDAS, strict=True):
        levels = torch.tensor([0.0, len(lambdas) - 1.0])
        torch.manual_seed(2)
        slim = network(x, levels, width)
        torch.manual_seed(2)
        alone = network.standalone(width)(x, levels)
        assert torch.equal(slim.x_hat, alone.x_hat)
        assert torch.equal(slim.bits, alone.bits)


def test_a_standalone_network_is_a_plain_one_of_its_size(network: Slim) -> None:
    for width, latents, lambdas in zip(WIDTHS, LATENTS, LAMBDAS, strict=True):
        alone = network.standalone(width)
        assert alone.g_a[0].out_channels == width
        assert alone.gain.log_gain.shape == (len(lambdas), latents)
        narrow = sum(parameter.numel() for parameter in alone.parameters())
        assert narrow < sum(parameter.numel() for parameter in network.parameters())


def test_a_standalone_network_shares_no_memory(network: Slim, x: Tensor) -> None:
    network.eval()
    before = network(x, torch.zeros(2), 6).x_hat
    with torch.no_grad():
        for parameter in network.standalone(6).parameters():
            parameter.fill_(0.5)
    assert torch.equal(network(x, torch.zeros(2), 6).x_hat, before)


def test_kernels_are_shared_by_all_widths(network: Slim, x: Tensor) -> None:
    network.eval()
    before = [network(x, torch.zeros(2), width).x_hat for width in WIDTHS]
    with torch.no_grad():
        network.get_parameter("g_a.0.weight")[0] += 1
    for width, old in zip(WIDTHS, before, strict=True):
        assert not torch.equal(network(x, torch.zeros(2), width).x_hat, old), width


def test_what_lies_beyond_a_width_does_not_change_it(network: Slim, x: Tensor) -> None:
    network.eval()
    before = [network(x, torch.zeros(2), width).x_hat for width in WIDTHS]
    with torch.no_grad():
        network.get_parameter("g_a.0.weight")[6:] += 1
    changed = [not torch.equal(network(x, torch.zeros(2), w).x_hat, b) for w, b in zip(WIDTHS, before, strict=True)]
    assert changed == [False, False, True]


def test_entropy_models_and_gains_are_each_width_s_own(network: Slim, x: Tensor) -> None:
    network.eval()
    before = [network(x, torch.zeros(2), width).bits for width in WIDTHS]
    with torch.no_grad():
        for name in ("entropy_model.1.biases.0", "gain.1.log_gain"):
            network.get_parameter(name).add_(0.5)
    changed = [not torch.equal(network(x, torch.zeros(2), w).bits, b) for w, b in zip(WIDTHS, before, strict=True)]
    assert changed == [False, True, False]


def test_every_parameter_learns(network: Slim, x: Tensor) -> None:
    for width, lambdas in zip(WIDTHS, LAMBDAS, strict=True):
        for level in range(len(lambdas)):
            forward = network(x, torch.full((2,), float(level)), width)
            (forward.bits.sum() + ((forward.x_hat - x) ** 2).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_a_state_can_be_kept_and_restored(network: Slim, x: Tensor) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    other.load_state_dict(network.state_dict())
    for width in WIDTHS:
        assert torch.equal(other.eval()(x, torch.zeros(2), width).x_hat, network.eval()(x, torch.zeros(2), width).x_hat)


def test_a_width_that_was_not_trained_is_refused(network: Slim, x: Tensor) -> None:
    with pytest.raises(ValueError, match="width 100 was not trained; choose from 4, 6, 8"):
        network(x, torch.zeros(2), 100)
    with pytest.raises(ValueError, match="width 5 was not trained; choose from 4, 6, 8"):
        network.standalone(5)


@pytest.mark.parametrize("widths", [(8, 6), (6, 6), ()])
def test_widths_that_do_not_rise_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"widths must rise, got (8, 6|6, 6|none)"):
        check_widths(widths)


def test_a_list_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected 3 latent_widths, one for each width, got 2"):
        SlimCAE(WIDTHS, LAMBDAS, (6, 6))
    with pytest.raises(ValueError, match="expected 3 lambdas, one for each width, got 1"):
        SlimHyperprior(WIDTHS, LATENTS, LAMBDAS[:1])


def test_latents_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="widths must rise in every layer"):
        SlimCAE(WIDTHS, LAMBDAS, (12, 6, 6))
