"""What a latent costs under a context while its codec adapts: what its payloads cost, with gradients."""

import numpy as np
import pytest
import torch

from roadbits.codecs.adaptation.context_rate import Moments, context_bits, density_moments
from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Image
from roadbits.codecs.neural.context_model import MEAN_STEPS, Begun, begun_with
from roadbits.codecs.neural.still import NeuralStill


@pytest.fixture(scope="module", params=["cae", "slimcae/48"])
def codec(request: pytest.FixtureRequest) -> NeuralStill:
    codec = codec_named(request.param)
    assert isinstance(codec, NeuralStill)
    return codec


def scene() -> Image:
    """Return stripes of several widths under a slope of light: something to code at every rate."""
    x, y = np.meshgrid(np.arange(192), np.arange(128))
    light = 60 + 0.5 * x + 40 * np.sin(x / 5) + 30 * np.sin((x + 2 * y) / 11) + 20 * ((y // 16) % 2)
    return np.clip(np.stack((light, 0.9 * light, 200 - 0.7 * light), axis=-1), 0, 255).astype(np.uint8)


def latent(codec: NeuralStill, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scene's y in symbols, and its gains."""
    gain = codec.model.side.gain[position][:, None, None]
    with torch.inference_mode():
        y = codec.analysed(scene(), position)
    return y.clone() * gain, gain


def looked_from(codec: NeuralStill, position: int) -> Begun:
    """Return what the codec's own tables say of every channel."""
    assert codec.model.context is not None
    begun = begun_with(codec.model.tables, codec.model.context.inverse_scales)
    return begun.reshaped(*codec.model.side.gain.shape).at(position)


def own_bits(codec: NeuralStill, symbols: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return -torch.log2(WarpedDensity(codec.model).likelihood(symbols, gain[None]))


def test_a_rounded_latent_costs_what_its_payload_has(codec: NeuralStill) -> None:
    context = codec.model.context
    assert context is not None
    for point in codec.points[1::3]:
        position = codec.position_of(point)
        values, gain = latent(codec, position)
        symbols = values.round()
        begun = density_moments(WarpedDensity(codec.model), gain)
        with torch.no_grad():
            origin = looked_from(codec, position)
            estimate = context_bits(context, symbols, symbols, begun, origin, own_bits(codec, symbols, gain))
        payload = codec.encode(scene(), point)
        assert float(estimate) == pytest.approx(8 * len(payload), rel=0.06, abs=8 * 40)


def test_a_density_without_a_warp_begins_as_its_tables_do(codec: NeuralStill) -> None:
    context, position = codec.model.context, codec.model.description.trained[-2]
    assert context is not None
    gain = codec.model.side.gain[position][:, None, None]
    with torch.no_grad():
        begun = density_moments(WarpedDensity(codec.model), gain)
    rungs, eighths = (rows.flatten() for rows in looked_from(codec, position) if rows is not None)
    wide = begun.scales.flatten() > 0.5
    scales = 1 / context.inverse_scales[rungs]
    assert wide.sum() > 10
    assert (torch.log(begun.scales.flatten() / scales).abs() < 0.15)[wide].float().mean() > 0.9
    assert ((begun.means.flatten() - eighths / MEAN_STEPS).abs() < 0.25).float().mean() > 0.9


def test_gradients_reach_the_latent_and_where_the_context_begins(codec: NeuralStill) -> None:
    context, position = codec.model.context, codec.model.description.trained[-2]
    assert context is not None
    values, gain = latent(codec, position)
    values.requires_grad_()
    density = WarpedDensity(codec.model)
    begun = Moments(*(each.requires_grad_() for each in map(torch.Tensor.detach, density_moments(density, gain))))
    symbols = values.detach().round()
    origin = looked_from(codec, position)
    bits = context_bits(context, values, symbols, begun, origin, own_bits(codec, values, gain))
    bits.sum().backward()  # type: ignore[no-untyped-call]
    for each in (values, begun.scales, begun.means):
        assert each.grad is not None
        assert torch.isfinite(each.grad).all()
        assert each.grad.abs().sum() > 0
