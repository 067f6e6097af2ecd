from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from roadbits.codecs import layers
from roadbits.codecs.codec import Image
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.slim_layers import GdnRecipe
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.freezing import freeze

WIDTHS = (48, 72, 96, 144, 192)


@pytest.fixture(scope="module", params=["switch", "slim"])
def network(request: pytest.FixtureRequest) -> SlimCAE:
    torch.manual_seed(0)
    return SlimCAE(WIDTHS, [[0.01]] * 5, gdn=request.param)


@pytest.mark.parametrize(("width", "macs"), [(48, 2043), (72, 4050), (96, 6714), (144, 14013), (192, 23940)])
def test_every_width_costs_what_is_published(width: int, macs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A gathered layer would multiply by the zeros of its padded kernel too.
    monkeypatch.setattr(layers, "gathers", lambda *_: False)
    network = SlimCAE(WIDTHS, [[0.01]] * 5)
    x = torch.zeros(1, 3, 64, 64)
    alone = network.standalone(width)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        y = alone.g_a(x)
    assert counted.get_total_flops() / 2 / 64**2 == macs
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        alone.g_s(y)
    assert counted.get_total_flops() / 2 / 64**2 == macs


@pytest.mark.parametrize(("gdn", "millions"), [("switch", 4.23), ("slim", 4.00)])
def test_the_transforms_of_all_widths_cost_little_more_than_the_widest(gdn: GdnRecipe, millions: float) -> None:
    network = SlimCAE(WIDTHS, [[0.01]] * 5, gdn=gdn)
    parts = (network.get_submodule(name) for name in ("g_a", "g_s"))
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=5e-3)


def test_an_analysis_written_out_gives_the_same_latent() -> None:
    torch.manual_seed(0)
    network = SlimCAE((4, 8), [[0.01], [0.01]], (5, 9))
    x = torch.rand(1, 3, 32, 48)
    kernel, gdn = network.get_parameter, network.get_submodule
    hidden = functional.conv2d(x, kernel("g_a.0.weight")[:4], kernel("g_a.0.bias")[:4], 4, 4)
    hidden = gdn("g_a.1.0")(hidden)
    hidden = functional.conv2d(hidden, kernel("g_a.2.weight")[:4, :4], kernel("g_a.2.bias")[:4], 2, 2)
    hidden = gdn("g_a.3.0")(hidden)
    hidden = functional.conv2d(hidden, kernel("g_a.4.weight")[:5, :4], None, 2, 2)
    assert isinstance(gdn("g_a.5.0"), GDN)
    torch.testing.assert_close(network.standalone(4).g_a(x), gdn("g_a.5.0")(hidden), rtol=0, atol=1e-6)


def test_with_one_lambda_the_gain_of_a_width_is_one(network: SlimCAE) -> None:
    assert network.num_levels == (1,) * 5
    gain, inverse = network.standalone(48).gain(torch.zeros(1))
    assert (gain == 1).all()
    assert (inverse == 1).all()


def test_a_latent_is_as_wide_as_its_width_unless_told() -> None:
    assert SlimCAE((4, 8), [[0.01]] * 2).standalone(4).g_a[4].out_channels == 4
    assert SlimCAE((4, 8), [[0.01]] * 2, (7, 12)).standalone(4).g_a[4].out_channels == 7


@pytest.mark.parametrize("width", [8, 12])
def test_a_width_taken_out_of_training_makes_payloads_like_any_model(
    width: int, textured: Callable[..., Image]
) -> None:
    torch.manual_seed(0)
    lambdas = (0.01, 0.02)
    alone = SlimCAE((8, 12), [lambdas, lambdas], (10, 16), "slim").standalone(width)
    with torch.no_grad():
        alone.gain.log_gain.add_(3)
        alone.gain.log_inverse.sub_(3)
    codec = NeuralStill("cae", freeze(alone, [textured(64, 96)], steps=0))
    image = textured(48, 70, seed=1)
    payload = codec.encode(image, codec.points[-1])
    assert codec.decode(payload).shape == image.shape
    assert codec.encode(image, codec.points[-1]) == payload
