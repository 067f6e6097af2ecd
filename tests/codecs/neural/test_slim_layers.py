from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from roadbits.codecs.layers import GDN, down, up
from roadbits.codecs.neural.slim_layers import SlimGDN, SlimKernel, SlimModules, Switch, first_channels


def counted(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def test_the_first_channels_of_a_kernel_are_its_corner() -> None:
    kernel = counted(6, 4, 5, 5)
    assert torch.equal(first_channels(kernel, torch.Size((3, 2, 5, 5))), kernel[:3, :2])
    assert torch.equal(first_channels(torch.arange(6.0), torch.Size((4,))), torch.arange(4.0))
    assert torch.equal(first_channels(kernel, kernel.shape), kernel)


def test_the_first_channels_of_two_blocks_come_from_each() -> None:
    assert first_channels(torch.arange(12.0), torch.Size((4,)), 2).tolist() == [0, 1, 6, 7]
    kernel = counted(6, 4, 1, 1)
    assert torch.equal(first_channels(kernel, torch.Size((4, 2, 1, 1)), 2), kernel[[0, 1, 3, 4], :2])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_cut_kernel_has_a_plain_layer_s_memory_format(memory_format: torch.memory_format) -> None:
    kernel = counted(6, 4, 5, 5).contiguous(memory_format=memory_format)
    assert first_channels(kernel, torch.Size((6, 2, 5, 5))).is_contiguous()
    assert first_channels(kernel, kernel.shape).is_contiguous()


@pytest.mark.parametrize("shape", [(7, 4, 5, 5), (6, 5, 5, 5), (6, 4, 5)])
def test_what_does_not_fit_into_a_kernel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot cut \(.*\) out of \(6, 4, 5, 5\): widths must rise in every layer"):
        first_channels(counted(6, 4, 5, 5), torch.Size(shape))


def test_a_slim_convolution_is_cut_in_outputs_and_inputs() -> None:
    wide = down(8, 6, 5, 2)
    kernel = SlimKernel([down(4, 2, 5, 2), wide])
    assert {name: tensor.shape for name, tensor in kernel.at(0).items()} == {"weight": (2, 4, 5, 5), "bias": (2,)}
    assert torch.equal(kernel.at(0)["weight"], wide.weight[:2, :4])
    assert torch.equal(kernel.at(1)["bias"], cast(Tensor, wide.bias))


def test_a_slim_transposed_convolution_is_cut_in_inputs_and_outputs() -> None:
    wide = up(8, 10, 5, 2)
    narrow = SlimKernel([up(4, 9, 5, 2), wide]).at(0)
    assert torch.equal(narrow["weight"], wide.weight[:4, :9])
    assert torch.equal(narrow["bias"], cast(Tensor, wide.bias)[:9])


def test_the_side_of_the_image_stays_whole() -> None:
    assert SlimKernel([down(3, 4, 9, 4), down(3, 8, 9, 4)]).at(0)["weight"].shape == (4, 3, 9, 9)
    assert SlimKernel([up(4, 3, 9, 4), up(8, 3, 9, 4)]).at(0)["weight"].shape == (4, 3, 9, 9)


def test_a_kernel_without_a_bias_has_none_at_any_width() -> None:
    assert list(SlimKernel([down(3, 4, 5, 2, bias=False), down(3, 8, 5, 2, bias=False)]).at(0)) == ["weight"]


def test_a_narrow_width_teaches_its_own_corner_of_a_kernel() -> None:
    kernel = SlimKernel([down(4, 2, 5, 2), down(8, 6, 5, 2)])
    kernel.at(0)["weight"].sum().backward()  # type: ignore[no-untyped-call]
    gradient = kernel.get_parameter("weight").grad
    assert gradient is not None
    assert (gradient[:2, :4] == 1).all()
    assert gradient.sum() == 2 * 4 * 25


def test_switched_modules_are_each_width_s_own() -> None:
    plains = [GDN(4), GDN(8)]
    switch = Switch(plains)
    assert switch.at(0)["sqrt_gamma"] is plains[0].sqrt_gamma
    assert switch.at(1)["sqrt_beta"] is plains[1].sqrt_beta


def random_slim_gdn(inverse: bool = False) -> SlimGDN:
    generator = torch.Generator().manual_seed(0)
    gdn = SlimGDN([GDN(2, inverse), GDN(4, inverse)]).double()
    with torch.no_grad():
        for parameter in gdn.parameters():
            parameter.uniform_(0.3, 0.9, generator=generator)
    return gdn


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("index", "channels"), [(0, 2), (1, 4)])
def test_slim_gdn_equals_its_formula(inverse: bool, index: int, channels: int) -> None:
    gdn = random_slim_gdn(inverse)
    x = torch.randn(2, channels, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = functional_call(GDN(channels, inverse), gdn.at(index), x)

    held = {name: parameter.detach() ** 2 for name, parameter in gdn.named_parameters()}
    for i in range(channels):
        norm = held["shared.sqrt_beta"][i] * held["beta_scale"][index] + held["beta_shift"][index]
        for j in range(channels):
            gamma = held["shared.sqrt_gamma"][i, j] * held["gamma_scale"][index] + held["gamma_shift"][index]
            norm = norm + gamma * x[:, j] ** 2
        expected = x[:, i] * torch.sqrt(norm) if inverse else x[:, i] / torch.sqrt(norm)
        torch.testing.assert_close(got[:, i], expected, rtol=1e-8, atol=1e-8)


def test_slim_gdn_starts_as_the_corner_of_one_gdn() -> None:
    plain = GDN(2)
    for name, tensor in SlimGDN([GDN(2), GDN(4)]).at(0).items():
        torch.testing.assert_close(tensor, plain.get_parameter(name), rtol=1e-5, atol=1e-5)


def test_slim_gdn_costs_four_numbers_for_each_width_beside_one_gdn() -> None:
    gdn = SlimGDN([GDN(width) for width in (48, 72, 96, 144, 192)])
    assert sum(parameter.numel() for parameter in gdn.parameters()) == 192 * 192 + 192 + 4 * 5


def test_slim_gdn_stays_finite_where_its_numbers_leave_their_range() -> None:
    gdn = SlimGDN([GDN(2), GDN(4)])
    with torch.no_grad():
        for parameter in gdn.parameters():
            parameter.fill_(-5.0)
    x = torch.randn(1, 2, 3, 3)
    assert torch.isfinite(functional_call(GDN(2), gdn.at(0), x)).all()


def test_every_number_of_slim_gdn_learns() -> None:
    gdn = random_slim_gdn()
    for index, channels in enumerate((2, 4)):
        functional_call(GDN(channels), gdn.at(index), torch.ones(1, channels, 2, 2).double()).sum().backward()
    for name, parameter in gdn.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


def test_modules_are_made_slim_by_what_they_are_and_keep_their_names() -> None:
    plains = [nn.Sequential(down(3, n, 5, 2), GDN(n), nn.ReLU(), nn.Sequential(down(n, n, 3, 1))) for n in (2, 4)]
    kinds = {"switch": Switch, "slim": SlimGDN}
    for gdn in ("switch", "slim"):
        slim = SlimModules(plains, gdn)  # type: ignore[arg-type]
        assert [type(part) for part in slim.children()] == [SlimKernel, kinds[gdn], Switch, SlimModules]
        for index, plain in enumerate(plains):
            shapes = {name: tensor.shape for name, tensor in slim.at(index).items()}
            assert shapes == {name: tensor.shape for name, tensor in plain.named_parameters()}
