from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from roadbits.codecs.layers import GDN, GatheredUp, down, lower_bound, rooted, unrooted, up

direction = pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])


def random_gdn(channels: int, inverse: bool, seed: int = 0) -> GDN:
    """Return a GDN in float64 whose channels all depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    gdn = GDN(channels, inverse).double()
    with torch.no_grad():
        gdn.sqrt_beta.uniform_(0.5, 1.5, generator=generator)
        gdn.sqrt_gamma.uniform_(0.1, 0.9, generator=generator)
    return gdn


def random_values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@direction
def test_gdn_equals_its_formula(inverse: bool) -> None:
    gdn, x = random_gdn(4, inverse), random_values(2, 4, 3, 5)
    beta, gamma = gdn.sqrt_beta.detach() ** 2, gdn.sqrt_gamma.detach() ** 2
    expected = torch.empty_like(x)
    for i in range(4):
        norm = torch.sqrt(beta[i] + sum(gamma[i, j] * x[:, j] ** 2 for j in range(4)))
        expected[:, i] = x[:, i] * norm if inverse else x[:, i] / norm
    torch.testing.assert_close(gdn(x), expected, rtol=1e-9, atol=1e-9)


@direction
def test_the_gradient_of_gdn_is_that_of_finite_differences(inverse: bool) -> None:
    gdn = random_gdn(3, inverse)
    names = ("sqrt_beta", "sqrt_gamma")
    parameters = [getattr(gdn, name).detach().requires_grad_() for name in names]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = functional_call(gdn, dict(zip(names, values, strict=True)), x)
        return output

    x = random_values(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters))
    assert torch.autograd.gradcheck(run, (x.detach()[:, :, :1].transpose(2, 3).requires_grad_(), *parameters))


@direction
def test_gdn_starts_as_a_mild_division(inverse: bool) -> None:
    x = random_values(1, 6, 4, 4).float()
    norm = torch.sqrt(1 + 0.1 * x**2)
    torch.testing.assert_close(GDN(6, inverse)(x), x * norm if inverse else x / norm)


@direction
def test_memory_formats_do_not_change_gdn(inverse: bool) -> None:
    gdn, x = random_gdn(4, inverse), random_values(2, 4, 3, 5)
    torch.testing.assert_close(gdn(x.contiguous(memory_format=torch.channels_last)), gdn(x), rtol=0, atol=0)


@direction
def test_gdn_stays_finite_where_its_parameters_leave_their_range(inverse: bool) -> None:
    gdn = GDN(3, inverse)
    with torch.no_grad():
        gdn.sqrt_beta.fill_(-5.0)
        gdn.sqrt_gamma.fill_(-5.0)
    assert gdn.beta().min() > 0
    assert gdn.gamma().min() >= -1e-12
    assert torch.isfinite(gdn(torch.zeros(1, 3, 2, 2))).all()
    assert torch.isfinite(gdn(random_values(1, 3, 2, 2).float())).all()


def test_parameters_below_their_range_can_come_back() -> None:
    gdn = GDN(3)
    with torch.no_grad():
        gdn.sqrt_gamma.fill_(-0.5)
    x = torch.full((1, 3, 2, 2), 2.0)
    (-gdn(x).sum()).backward()
    assert gdn.sqrt_gamma.grad is not None
    assert (gdn.sqrt_gamma.grad == 0).all()
    gdn.zero_grad()
    gdn(x).sum().backward()
    assert (gdn.sqrt_gamma.grad < 0).all()


def test_the_lower_bound_bounds() -> None:
    x = torch.tensor([-1.0, 0.5, 1.0, 3.0])
    assert lower_bound(x, 1.0).tolist() == [1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("value", "gradient", "passes"),
    [(2.0, 1.0, True), (2.0, -1.0, True), (1.0, 1.0, True), (0.5, 1.0, False), (0.5, -1.0, True), (-9.0, -3.0, True)],
)
def test_below_the_bound_only_a_gradient_that_leads_up_passes(value: float, gradient: float, passes: bool) -> None:
    x = torch.tensor([value], requires_grad=True)
    lower_bound(x, 1.0).backward(torch.tensor([gradient]))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.item() == (gradient if passes else 0.0)


@pytest.mark.parametrize(("kernel", "stride"), [(9, 4), (5, 2), (3, 1)])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 64), (68, 12)])
def test_down_divides_and_up_multiplies_the_sides(kernel: int, stride: int, height: int, width: int) -> None:
    x = torch.zeros(2, 3, height, width)
    assert down(3, 7, kernel, stride)(x).shape == (2, 7, height // stride, width // stride)
    assert up(3, 7, kernel, stride)(x).shape == (2, 7, height * stride, width * stride)


@pytest.mark.parametrize("build", [down, up])
def test_a_layer_sees_a_pixel_where_it_is(build: Callable[..., torch.nn.Module]) -> None:
    layer = build(1, 1, 5, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[0, 0, 2, 2] = 1.0  # type: ignore[operator]
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    if build is down:
        assert torch.equal(layer(x), x[:, :, ::2, ::2])
    else:
        assert torch.equal(layer(x)[:, :, ::2, ::2], x)
        assert layer(x).sum() == x.sum()


def test_a_bias_can_be_left_out() -> None:
    assert down(3, 4, 5, 2, bias=False).bias is None
    assert down(3, 4, 5, 2).bias is not None


@pytest.mark.parametrize(("kernel", "stride"), [(9, 4), (5, 2)])
def test_a_gathered_transposed_convolution_equals_the_plain_one(kernel: int, stride: int) -> None:
    layer = up(6, 3, kernel, stride).double()
    assert isinstance(layer, GatheredUp)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    plain = nn.ConvTranspose2d.forward(layer, x)
    assert layer(x).shape == plain.shape == (2, 3, 5 * stride, 7 * stride)
    assert torch.allclose(layer(x), plain, atol=1e-12)


def test_a_transposed_convolution_to_many_channels_is_a_plain_one() -> None:
    assert type(up(6, 8, 5, 2)) is nn.ConvTranspose2d


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.1, 3.0])
def test_a_number_held_as_a_root_comes_back(value: float) -> None:
    held = torch.tensor([value], dtype=torch.float64)
    assert unrooted(rooted(held)).item() == pytest.approx(value, abs=1e-15)
    assert unrooted(rooted(held), least=0.01).item() == pytest.approx(max(value, 0.01), abs=1e-15)
