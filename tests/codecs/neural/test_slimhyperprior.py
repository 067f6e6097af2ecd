import pytest
import torch

from roadbits.codecs.neural.slimhyperprior import SlimHyperprior

WIDTHS, LATENTS = (4, 6, 8), (6, 10, 12)


def built(means: bool = True) -> SlimHyperprior:
    torch.manual_seed(0)
    return SlimHyperprior(WIDTHS, LATENTS, [[0.01]] * 3, means=means)


@pytest.mark.parametrize("means", [True, False])
def test_a_width_takes_the_first_scales_and_the_first_means(means: bool) -> None:
    network = built(means)
    shared = network.get_parameter("h_s.4.weight")
    for width, latents in zip(WIDTHS, LATENTS, strict=True):
        weight = network.standalone(width).h_s.get_parameter("4.weight")
        inputs = 3 * width // 2
        assert torch.equal(weight[:latents], shared[:latents, :inputs])
        if means:
            assert torch.equal(weight[latents:], shared[12 : 12 + latents, :inputs])
        else:
            assert len(weight) == latents


def test_scales_start_wide_at_every_width() -> None:
    network = built()
    for width, latents in zip(WIDTHS, LATENTS, strict=True):
        with torch.no_grad():
            predicted = network.standalone(width).h_s(torch.zeros(1, width, 1, 1))
        assert predicted[:, :latents].mean().item() == pytest.approx(4, abs=0.3)
        assert predicted[:, latents:].abs().max() < 1


def test_each_width_has_a_factorised_model_of_its_own_hyper_latent() -> None:
    network = built()
    for width in WIDTHS:
        alone = network.standalone(width)
        assert alone.entropy_model.channels == width
        assert alone.hyper_gain.log_gain.shape == (1, width)
