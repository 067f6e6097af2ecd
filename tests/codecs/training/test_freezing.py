import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roadbits.codecs.bitstream import unpack
from roadbits.codecs.codec import Image
from roadbits.codecs.entropy import bits, gaussian_bits
from roadbits.codecs.integer import LARGEST_SUM, ExactTransform, largest_sums
from roadbits.codecs.layers import GDN
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.conditional import Conditional, Conditioned
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated, Modulator
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.modulation import Modulation, binned
from roadbits.codecs.neural.scaling import Scaled
from roadbits.codecs.neural.still import NeuralStill, _steps
from roadbits.codecs.symbol_tables import Symbols, SymbolTables, coder_of
from roadbits.codecs.training.freezing import freeze
from roadbits.codecs.training.ranges import _reach, _Sample

Network = CAE | Hyperprior

LAMBDAS = (0.002, 0.01, 0.05)
DESIGNS: dict[str, Callable[[], Network]] = {
    "cae": partial(CAE, 8, LAMBDAS),
    "three layers": partial(Hyperprior, 8, 12, LAMBDAS, 3, True),
    "four layers": partial(Hyperprior, 8, 12, LAMBDAS, 4, True),
    "three layers, scales only": partial(Hyperprior, 8, 12, LAMBDAS, 3, False),
    "four layers, scales only": partial(Hyperprior, 8, 12, LAMBDAS, 4, False),
    "scaled cae": partial(CAE, 8, Scaled(LAMBDAS)),
    "modulated cae": partial(CAE, 8, Modulated(LAMBDAS)),
    "modulated hyperprior": partial(Hyperprior, 8, 12, Modulated(LAMBDAS)),
    "modulated hyperprior, four layers": partial(Hyperprior, 8, 12, Modulated(LAMBDAS), 4),
    "conditional cae": partial(CAE, 8, Conditional(LAMBDAS)),
    "conditional hyperprior": partial(Hyperprior, 8, 12, Conditional(LAMBDAS)),
}


@dataclass(frozen=True)
class Frozen:
    """A network that was never trained but whose values are as large as a trained one's, and its exact twin."""

    network: Network
    model: FrozenModel
    codec: NeuralStill

    def levels(self, position: int) -> Tensor:
        """Return the level of a position (1,)."""
        return torch.tensor([self.network.method.positions()[position].level])

    def vectors(self, position: int) -> tuple[Tensor, Tensor]:
        """Return what y is multiplied by before and after its quantiser, (1, C, 1, 1)."""
        return binned(self.network.gain(self.levels(position)), self.network.method.positions()[position].bin_width)


def as_tensor(image: Image) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def stretch(transform: nn.Sequential, x: Tensor, inner: float, last: float, middle: float = 0.0) -> Tensor:
    """Scale the convolutions so that each gives values of a standard deviation; return the output.

    Args:
        transform: to be scaled in place.
        x: its input.
        inner: of every convolution but the last.
        last: of the last one.
        middle: the mean of the last one.
    """
    convolutions = [module for module in transform if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    levels = torch.full((len(x),), 1.0)
    for module in transform:
        if isinstance(module, Modulation):
            x = module(x, levels)
            continue
        if module in convolutions:
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            values = module(x)
            scale = (last if module is convolutions[-1] else inner) / values.std(dim=(0, 2, 3))
            module.weight *= (
                scale[None, :, None, None] if isinstance(module, nn.ConvTranspose2d) else scale[:, None, None, None]
            )
            if module.bias is not None:
                wanted = middle if module is convolutions[-1] else 0.0
                module.bias.copy_(wanted - (module(x) - module.bias[:, None, None]).mean(dim=(0, 2, 3)))
        elif isinstance(module, GDN):
            generator = torch.Generator().manual_seed(len(x))
            module.sqrt_gamma.add_(0.1 * torch.rand(module.sqrt_gamma.shape, generator=generator))
        x = module(x)
    return x


def modulate(network: Network) -> None:
    """Make the levels of a fresh network differ."""
    generator = torch.Generator().manual_seed(9)
    for module in network.modules():
        if isinstance(module, Modulator):
            module.out.weight += 0.03 * torch.randn(module.out.weight.shape, generator=generator)
        if isinstance(module, Conditioned):
            module.scales += 0.15 * torch.randn(module.scales.shape, generator=generator)
            module.shifts += 0.05 * torch.randn(module.shifts.shape, generator=generator)


def wake(network: Network, images: Sequence[Image]) -> None:
    """Make the values of a fresh network as large as a trained one's."""
    modulate(network)
    x = torch.cat([as_tensor(image) for image in images])
    y = stretch(network.g_a, x, inner=2.0, last=5.0)
    if isinstance(network, Hyperprior):
        z = stretch(network.h_a, y if network.means else y.abs(), inner=2.0, last=4.0)
        stretch(network.h_s, torch.round(z), inner=2.0, last=0.8)
        head = [module for module in network.h_s if isinstance(module, nn.Conv2d)][-1]
        assert head.bias is not None
        # As large as y is, so that hardly a value lies so far out that an escape is cheaper than its Gaussian.
        head.bias[: y.shape[1]] += 6.0
    stretch(network.g_s, torch.round(y), inner=2.0, last=0.15, middle=0.5)
    generator = torch.Generator().manual_seed(7)
    for parameter in network.entropy_model.parameters():
        parameter.add_(0.2 * torch.rand(parameter.shape, generator=generator))


def clouds(height: int, width: int, seed: int) -> Image:
    """Return an image with noise of every size, from single pixels to a quarter of it."""
    generator, image = np.random.default_rng(seed), np.zeros((height, width, 3))
    for size in (1, 2, 4, 8, 16, 32, 64):
        coarse = generator.normal(0, 20, (-(-height // size), -(-width // size), 3))
        image += np.kron(coarse, np.ones((size, size, 1)))[:height, :width]
    return np.clip(image + 127, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def calibration() -> list[Image]:
    return [clouds(256, 320, seed) for seed in (10, 11)]


def made(design: str, calibration: Sequence[Image]) -> Frozen:
    torch.manual_seed(5)
    network = DESIGNS[design]()
    with torch.no_grad():
        wake(network, calibration)
    model = freeze(network, calibration, steps=123)
    return Frozen(network, model, NeuralStill(model.description.architecture, model))


@pytest.fixture(scope="module", params=DESIGNS)
def frozen(request: pytest.FixtureRequest, calibration: list[Image]) -> Frozen:
    return made(request.param, calibration)


@pytest.fixture(scope="module")
def image(calibration: list[Image]) -> Image:
    """Return an image whose values are all within the ranges of the calibration."""
    return calibration[1]


def test_the_description_is_that_of_the_training(frozen: Frozen) -> None:
    description = frozen.model.description
    assert description.architecture == ("cae" if isinstance(frozen.network, CAE) else "hyperprior")
    assert description.steps == 123
    trained = (4, 13, 22) if isinstance(frozen.network.method, Conditional) else (0, 8, 16)
    assert description.trained == trained
    assert [description.lambdas[position] for position in description.trained] == pytest.approx(LAMBDAS)
    if isinstance(frozen.network.method, Conditional):
        assert description.lambdas == pytest.approx(np.repeat(LAMBDAS, 9))
        assert np.diff(np.log2(description.bin_widths[:9])) == pytest.approx(-1 / 8)
    else:
        assert np.diff(np.log(description.lambdas[:9])) == pytest.approx(math.log(5) / 8)
        assert not description.bin_widths
    assert description.means is getattr(frozen.network, "means", True)


def test_every_convolution_and_gdn_has_its_twin(frozen: Frozen) -> None:
    for name in frozen.model.description.transforms:
        modules = [module for module in getattr(frozen.network, name) if not isinstance(module, nn.ReLU | Modulation)]
        exact = frozen.model.g_a if name == "g_a" else frozen.model.g_s
        if frozen.model.hyper and name.startswith("h"):
            exact = getattr(frozen.model.hyper, name)
        assert len(exact.layers) == len(modules)
        for layer, module in zip(exact.layers, modules, strict=True):
            assert isinstance(module, GDN) == (layer.shape.kind in ("gdn", "igdn"))


def transforms(model: FrozenModel) -> list[ExactTransform]:
    return [model.g_a, model.g_s, *([model.hyper.h_a, model.hyper.h_s] if model.hyper else [])]


def test_no_sum_can_exceed_what_float32_holds_and_all_of_it_is_used(frozen: Frozen) -> None:
    for transform in transforms(frozen.model):
        for layer in transform.layers:
            largest = largest_sums(layer.weight, layer.shape) * layer.shape.largest_input
            assert largest.max() <= LARGEST_SUM
            fine = layer.weight.abs().amax() > 32_000
            assert fine or largest.min() > 0.9 * LARGEST_SUM
            assert layer.weight.abs().max() <= 32_767


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().mean().sqrt() / theirs.std())


@pytest.mark.parametrize("position", [0, 16])
def test_the_exact_latent_is_near_that_of_the_network(frozen: Frozen, image: Image, position: int) -> None:
    with torch.no_grad():
        expected = frozen.network.g_a(as_tensor(image), frozen.levels(position))
        assert expected.std() > 1
        assert relative_error(frozen.codec.analysed(image, position), expected) < 0.01


def float_reconstruction(frozen: Frozen, image: Image, position: int) -> Tensor:
    """Return what the network itself makes of an image, rounding in place of noise."""
    network = frozen.network
    with torch.no_grad():
        levels = frozen.levels(position)
        gain, inverse = frozen.vectors(position)
        y = network.g_a(as_tensor(image), levels)
        means = torch.zeros(1)
        if isinstance(network, Hyperprior) and network.means:
            hyper_gain, hyper_inverse = network.hyper_gain(levels)
            predicted = network.h_s(torch.round(network.h_a(y, levels) * hyper_gain) * hyper_inverse, levels)
            means = predicted.chunk(2, dim=1)[1] * gain
        x_hat: Tensor = network.g_s((torch.round(y * gain - means) + means) * inverse, levels)
    return x_hat


@pytest.mark.parametrize("position", [0, 5, 16])
def test_the_decoded_image_is_near_that_of_the_network(frozen: Frozen, image: Image, position: int) -> None:
    decoded = frozen.codec.decode(frozen.codec.encode(image, frozen.codec.fine_points[position]))
    expected = float_reconstruction(frozen, image, position)[0].permute(1, 2, 0).numpy() * 255
    assert expected.std() > 20
    # A latent value near the middle of two whole numbers may be rounded either way, which this counts too.
    assert np.abs(decoded - np.clip(expected, 0, 255)).mean() < 0.06 * expected.std()


@pytest.mark.parametrize("position", [0, 5, 16])
def test_the_same_symbols_give_nearly_the_same_image(frozen: Frozen, image: Image, position: int) -> None:
    codec = frozen.codec
    payload = codec.encode(image, codec.fine_points[position])
    with torch.inference_mode():
        y_hat = codec._pop(coder_of(unpack(payload).body), image.shape[0], image.shape[1], position)
        _, inverse = frozen.vectors(position)
        expected = frozen.network.g_s(y_hat * inverse, frozen.levels(position))[0].permute(1, 2, 0).numpy() * 255
    difference = np.abs(codec.decode(payload) - np.clip(expected, 0, 255))
    # The rounding to whole grey levels alone makes 0.25. A modulated channel's steps serve levels that reach less far.
    modulated = any(isinstance(module, Modulation) for module in frozen.network.modules())
    assert difference.mean() < (2 if modulated else 0.85)
    assert difference.max() < (20 if modulated else 16)


def bits_estimate(frozen: Frozen, image: Image, position: int) -> float:
    """Return the bits of the exact model's own symbols under the network's entropy models."""
    codec, network, hyper = frozen.codec, frozen.network, frozen.model.hyper
    pushed: list[Symbols] = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        push = SymbolTables.push

        def recorded(tables: SymbolTables, coder: Any, values: Symbols, chosen: NDArray[np.integer]) -> None:
            pushed.append(values.copy())
            push(tables, coder, values, chosen)

        patch.setattr(SymbolTables, "push", recorded)
        codec.encode(image, codec.fine_points[position])
        levels = frozen.levels(position)
        gain, _ = frozen.vectors(position)
        y_shape = codec.analysed(image, position).shape
        y = torch.from_numpy(pushed[0]).reshape(y_shape).float()
        if hyper is None or not isinstance(network, Hyperprior):
            return bits(network.entropy_model.likelihood(y, gain, levels)).item()
        hyper_gain, _ = network.hyper_gain(levels)
        z = torch.from_numpy(pushed[1]).reshape(1, 8, y_shape[2] // 4, y_shape[3] // 4).float()
        scales = hyper.h_s(_steps(z, hyper.side.entry[position]), position)[:, : y_shape[1]] * gain
        z_bits = bits(network.entropy_model.likelihood(z, hyper_gain, levels))
        return (gaussian_bits(y, 0.0, scales) + z_bits).item()


@pytest.mark.parametrize("position", [0, 5, 16])
def test_the_bytes_are_near_the_estimate(frozen: Frozen, position: int) -> None:
    image = clouds(256, 320, 4)
    body = unpack(frozen.codec.encode(image, frozen.codec.fine_points[position])).body
    estimate = bits_estimate(frozen, image, position) / 8
    assert estimate > 600
    assert abs(len(body) - estimate) < 0.01 * estimate + 60


def test_gains_of_the_trained_positions_are_those_of_the_network(frozen: Frozen) -> None:
    with torch.no_grad():
        for level, position in enumerate(frozen.model.description.trained):
            gain, _ = frozen.network.gain(torch.tensor([float(level)]))
            torch.testing.assert_close(frozen.model.side.gain[position], gain[0, :, 0, 0])


def test_freezing_is_deterministic(frozen: Frozen, calibration: list[Image]) -> None:
    again = freeze(frozen.network, calibration, steps=123)
    assert again.hash == frozen.model.hash


def test_freezing_leaves_the_network_as_it_was(calibration: list[Image]) -> None:
    torch.manual_seed(5)
    network = CAE(8, LAMBDAS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    freeze(network, calibration, steps=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("design", DESIGNS)
def test_a_fresh_network_whose_latents_all_vanish_freezes_too(design: str, calibration: list[Image]) -> None:
    torch.manual_seed(5)
    codec = NeuralStill("fresh", freeze(DESIGNS[design](), calibration, steps=0))
    for point in codec.points:
        assert codec.decode(codec.encode(calibration[0], point)).shape == calibration[0].shape


def test_channels_that_are_never_used_freeze_too(calibration: list[Image]) -> None:
    torch.manual_seed(5)
    network = CAE(8, LAMBDAS)
    with torch.no_grad():
        wake(network, calibration)
        for module in (network.g_a[0], network.g_a[2], network.g_a[4]):
            assert isinstance(module, nn.Conv2d)
            module.weight[3] = 0
            if module.bias is not None:
                module.bias[3] = 0
    codec = NeuralStill("cae", freeze(network, calibration, steps=0))
    decoded = codec.decode(codec.encode(calibration[0], codec.points[1]))
    assert decoded.std() > 20


def test_an_image_far_from_the_calibration_still_travels(frozen: Frozen) -> None:
    for extreme in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)):
        assert frozen.codec.decode(frozen.codec.encode(extreme, frozen.codec.points[-1])).shape == (64, 64, 3)


def test_a_single_level_freezes_to_a_single_position(calibration: list[Image]) -> None:
    torch.manual_seed(5)
    network = CAE(8, [0.01])
    model = freeze(network, calibration, steps=0)
    assert model.description.lambdas == pytest.approx((0.01,))
    assert model.description.trained == (0,)
    codec = NeuralStill("cae", model)
    assert codec.decode(codec.encode(calibration[0], codec.points[0])).shape == calibration[0].shape


def test_channels_that_are_zero_at_low_rates_do_not_coarsen_high_ones() -> None:
    # Three levels; of eight channels one is loud at all of them, the others wake up at the highest.
    samples = [_Sample(torch.zeros(1), torch.tensor([float(level)]), matters=True) for level in range(3)]
    quiet, loud = [0.0] * 7, [40.0] * 7
    magnitudes = [torch.tensor([50.0, *rest]).double() for rest in (quiet, quiet, loud)]
    reach = _reach(magnitudes, samples, torch.tensor([0.0, 1.0, 2.0]))
    reached = reach.channels * reach.positions
    for level, magnitude in enumerate(magnitudes):
        assert (reached[level] >= magnitude).all()
        assert reached[level, 0] < 10 * magnitude[0]
    assert (reached[2] < 10 * magnitudes[2]).all()


def test_a_latent_reaches_bins_that_no_calibration_image_has() -> None:
    samples = [_Sample(torch.zeros(1), torch.zeros(1), matters=False)]
    magnitudes, least = [torch.tensor([0.0, 7.0]).double()], [torch.tensor([2.0, 2.0])[None, :, None, None]]
    reach = _reach(magnitudes, samples, torch.zeros(1), least)
    assert reach.channels.tolist() == pytest.approx([2.0, 7.0 * 1.05])
