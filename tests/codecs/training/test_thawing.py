"""Thawing: a network begun from a frozen codec computes what that codec computes, at lambdas between its own too."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.dct_start import start_as_dct
from roadbits.codecs.training.freezing import freeze, freeze_widths
from roadbits.codecs.training.thawing import thaw, thaw_widths

LAMBDAS = (0.002, 0.01, 0.05)
Network = CAE | Hyperprior


def network(kind: str, lambdas: tuple[float, ...] = LAMBDAS, seed: int = 1) -> Network:
    torch.manual_seed(seed)
    if kind == "cae":
        return CAE(12, lambdas, 24)
    return Hyperprior(12, 24, lambdas, 3, kind == "mean-scale hyperprior")


@pytest.fixture(scope="module")
def image() -> Image:
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 10)))
    fine = torch.nn.functional.interpolate(coarse, (128, 192), mode="bicubic")[0].permute(1, 2, 0).numpy()
    return np.clip(fine + rng.normal(0, 4, fine.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["cae", "scale hyperprior", "mean-scale hyperprior"])
def frozen(request: pytest.FixtureRequest, image: Image) -> tuple[str, FrozenModel]:
    untrained = network(request.param, seed=0)
    start_as_dct(untrained)
    return request.param, freeze(untrained, [image], 0)


def passed(network: Network, image: Image, level: float) -> tuple[float, float]:
    """Return the estimated bytes and the PSNR of an image."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        forward = network.eval()(x, torch.tensor([level]))
    pixels = torch.round(forward.x_hat.clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
    return float(forward.bits) / 8, psnr_db(image, pixels)


def psnr_db(image: Image, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - other) ** 2)))


def test_a_thawed_network_computes_what_the_codec_does(frozen: tuple[str, FrozenModel], image: Image) -> None:
    kind, model = frozen
    codec, thawed = NeuralStill(kind, model), network(kind)
    before = passed(thawed, image, 1.0)
    thaw(thawed, model)
    for level, point in enumerate(codec.points):
        payload = codec.encode(image, point)
        num_bytes, quality = passed(thawed, image, float(level))
        assert quality == pytest.approx(psnr_db(image, codec.decode(payload)), abs=0.2)
        assert num_bytes == pytest.approx(len(payload), rel=0.12)
    assert abs(before[1] - quality) > 1


def test_a_thawed_network_has_the_gains_of_lambdas_in_between(frozen: tuple[str, FrozenModel], image: Image) -> None:
    kind, model = frozen
    own, between = network(kind), network(kind, (0.004, 0.02))
    thaw(own, model)
    thaw(between, model)
    (few, low), (more, middle), (most, high) = (
        passed(net, image, level) for net, level in ((own, 0.0), (between, 0.0), (own, 1.0))
    )
    assert few < more < most
    assert low < middle < high


def test_units_are_such_that_filters_have_norm_1_and_gdns_a_beta_of_1(frozen: tuple[str, FrozenModel]) -> None:
    kind, model = frozen
    thawed = network(kind)
    thaw(thawed, model)
    for gdn in (thawed.g_a[1], thawed.g_a[3], thawed.g_s[-2], thawed.g_s[-4]):
        assert isinstance(gdn, GDN)
        assert torch.allclose(gdn.beta(), torch.ones(12), atol=1e-3)
    first, last = thawed.g_a[0].weight, thawed.g_s[-1].weight
    assert torch.allclose(first.square().sum(dim=(1, 2, 3)), torch.ones(12), atol=1e-3)
    assert torch.allclose(last.square().sum(dim=(1, 2, 3)), torch.ones(12), atol=1e-3)


def slim(prepare: Callable[[Sequence[CAE]], None], widths: Sequence[int] = (8, 12)) -> SlimCAE:
    torch.manual_seed(0)
    return SlimCAE(widths, (LAMBDAS,) * len(widths), [2 * width for width in widths], prepare=prepare)


def start_all(networks: Sequence[CAE]) -> None:
    for network in networks:
        start_as_dct(network)


@pytest.fixture(scope="module")
def slim_model(image: Image) -> SlimModel:
    return freeze_widths(slim(start_all), [image], 0)


def test_every_width_of_a_thawed_slim_network_computes_what_the_codec_does(slim_model: SlimModel, image: Image) -> None:
    network = slim(lambda networks: thaw_widths(networks, slim_model))
    for width, codec in SlimStill("slimcae", slim_model).codecs.items():
        for level, point in enumerate(codec.points):
            payload = codec.encode(image, point)
            num_bytes, quality = passed(network.standalone(width), image, float(level))
            assert quality == pytest.approx(psnr_db(image, codec.decode(payload)), abs=0.3)
            assert num_bytes == pytest.approx(len(payload), rel=0.15)


def test_a_slim_network_of_other_widths_is_refused(slim_model: SlimModel) -> None:
    with pytest.raises(ValueError, match="its widths are 8, 12"):
        slim(lambda networks: thaw_widths(networks, slim_model), (8, 10, 12))
    with pytest.raises(ValueError, match="layers are others"):
        slim(lambda networks: thaw_widths(networks, slim_model), (8, 16))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (CAE(8, LAMBDAS, 24), "layers are others: down 3-12, gdn 12-12"),
        (CAE(12, LAMBDAS), "layers are others"),
        (Hyperprior(12, 24, LAMBDAS), "networks of cae are others"),
        (CAE(12, Modulated(LAMBDAS), 24), "method gain"),
        (CAE(12, (0.001, 0.05), 24), "lambdas reach from 0.002 to 0.05, got 0.001"),
    ],
)
def test_what_does_not_fit_is_refused(other: Network, message: str, image: Image) -> None:
    with pytest.raises(ValueError, match=message):
        thaw(other, freeze(network("cae"), [image], 0))
