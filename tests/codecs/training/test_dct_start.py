"""A start as a DCT: every frequency from the first step, rates and qualities in their order, every width and method."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.conditional import Conditional
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated
from roadbits.codecs.neural.modulation import RateMethod
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior
from roadbits.codecs.training.dct_start import start_as_dct

LAMBDAS = (0.0009, 0.0067, 0.0483)


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Return an image (1, 3, 128, 128) whose spectrum falls as photographs' do, a little coloured."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    frequency[0, 0] = 1 / 128
    grey, colour = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(2, 128, 128))) * frequency**-1.1))
    planes = np.stack([grey + 0.2 * colour, grey, grey - 0.2 * colour])
    return torch.from_numpy(0.5 + 0.15 * planes / grey.std()).float().clamp(0, 1)[None]


def psnr_db(x: Tensor, x_hat: Tensor) -> float:
    return float(-10 * torch.log10(torch.mean((x - x_hat) ** 2)))


def all_start_as_dct(networks: Sequence[CAE | Hyperprior]) -> None:
    for network in networks:
        start_as_dct(network)


def network_of(kind: str, method: RateMethod | Sequence[float] = LAMBDAS) -> CAE | Hyperprior:
    torch.manual_seed(0)
    return (CAE(64, method, 128) if kind == "cae" else Hyperprior(64, 128, method)).eval()


@pytest.mark.parametrize("kind", ["cae", "hyperprior"])
def test_an_unquantised_latent_of_all_coefficients_gives_the_image_back(kind: str, image: Tensor) -> None:
    torch.manual_seed(0)
    network = CAE(192, LAMBDAS, 768) if kind == "cae" else Hyperprior(192, 768, LAMBDAS)
    with torch.no_grad():
        before = psnr_db(image, network.g_s(network.g_a(image)))
        start_as_dct(network)
        after = psnr_db(image, network.g_s(network.g_a(image)))
    assert before < 15
    assert after > 38


@pytest.mark.parametrize("kind", ["cae", "hyperprior"])
def test_rate_and_quality_follow_lambda_from_the_start(kind: str, image: Tensor) -> None:
    network = network_of(kind)
    start_as_dct(network)
    with torch.no_grad():
        passes = [network(image, torch.tensor([float(level)])) for level in range(len(LAMBDAS))]
        unquantised = psnr_db(image, network.g_s(network.g_a(image)))
    bpp = [float(one.bits) / 128**2 for one in passes]
    quality = [psnr_db(image, one.x_hat) for one in passes]
    assert sorted(bpp) == bpp
    assert sorted(quality) == quality
    assert quality[0] > 20
    assert quality[-1] > unquantised - 0.5
    assert bpp[-1] < 4


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "method"),
    [("cae", Modulated(LAMBDAS)), ("cae", Conditional(LAMBDAS)), ("hyperprior", Conditional(LAMBDAS))],
)
def test_modulations_begin_with_what_gains_would(kind: str, method: RateMethod, level: int, image: Tensor) -> None:
    check_as_with_gains(kind, method, level, image)


def test_a_hyperprior_whose_scales_know_no_lambda_begins_at_the_middle_one(image: Tensor) -> None:
    check_as_with_gains("hyperprior", Modulated(LAMBDAS), 1, image)


def check_as_with_gains(kind: str, method: RateMethod, level: int, image: Tensor) -> None:
    gained, own = network_of(kind), network_of(kind, method)
    levels = torch.tensor([float(level)])
    with torch.no_grad():
        for network in (gained, own):
            start_as_dct(network)
        expected, got = (network(image, levels) for network in (gained, own))
    assert psnr_db(image, got.x_hat) == pytest.approx(psnr_db(image, expected.x_hat), abs=0.2)
    assert float(got.bits) == pytest.approx(float(expected.bits), rel=0.05)


@pytest.mark.parametrize("kind", ["slimcae", "slimhyperprior"])
def test_every_width_of_a_slim_network_begins_as_one(kind: str, image: Tensor) -> None:
    torch.manual_seed(0)
    widths, latents, lambdas = (48, 96, 192), (64, 128, 256), (LAMBDAS,) * 3
    network = (
        SlimCAE(widths, lambdas, latents, prepare=all_start_as_dct)
        if kind == "slimcae"
        else SlimHyperprior(widths, latents, lambdas, prepare=all_start_as_dct)
    ).eval()
    with torch.no_grad():
        quality = [psnr_db(image, network(image, torch.tensor([2.0]), width).x_hat) for width in widths]
    assert sorted(quality) == quality
    assert quality[0] > 24


def test_a_network_of_more_channels_than_coefficients_keeps_the_rest_small(image: Tensor) -> None:
    torch.manual_seed(0)
    network = CAE(200, LAMBDAS, 800)
    start_as_dct(network)
    with torch.no_grad():
        y = network.g_a(image)
        assert psnr_db(image, network.g_s(y)) > 35
    assert float(y[:, 768:].abs().mean()) < 0.1


def test_four_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="three layers, got 4"):
        start_as_dct(Hyperprior(16, 16, LAMBDAS, num_layers=4))
