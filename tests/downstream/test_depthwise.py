import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from roadbits.downstream.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, speed_up_depthwise

CHANNELS = 12
BFLOAT16_ERROR = 0.02

geometries = pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 1, 2), (5, 2, 2)]
)
sizes = pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (8, 9)])


def plain(kernel: int, stride: int, dilation: int, same: bool) -> nn.Conv2d:
    torch.manual_seed(3)
    shape = {"stride": stride, "dilation": dilation, "groups": CHANNELS, "bias": False}
    if same:
        return Conv2dSame(CHANNELS, CHANNELS, kernel, **shape)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=dilation * (kernel // 2), **shape)


def stand_in(convolution: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution's own weights under a stand-in."""
    model = nn.Sequential(convolution)
    speed_up_depthwise(model)
    return model[0]


def passed(convolution: nn.Conv2d, height: int, width: int, autocast: bool) -> list[torch.Tensor]:
    """Return the output and the gradients of input and weight for one seeded input and output gradient."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, CHANNELS, height, width, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = convolution(x)
    wanted = torch.randn(out.shape, generator=generator)
    convolution.weight.grad = None
    (out.float() * wanted).sum().backward()
    assert x.grad is not None
    assert convolution.weight.grad is not None
    return [out.detach().float(), x.grad, convolution.weight.grad]


@geometries
@sizes
@pytest.mark.parametrize("same", [False, True], ids=["padded", "same"])
def test_output_and_gradients_are_those_of_the_plain_convolution(
    kernel: int, stride: int, dilation: int, height: int, width: int, same: bool
) -> None:
    expected = passed(plain(kernel, stride, dilation, same), height, width, autocast=False)
    fast = stand_in(plain(kernel, stride, dilation, same))
    assert type(fast) is (DepthwiseConv2dSame if same else DepthwiseConv2d)
    for got, want in zip(passed(fast, height, width, autocast=True), expected, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert (got - want).norm() < BFLOAT16_ERROR * want.norm()
        assert (got - want).abs().max() < BFLOAT16_ERROR * want.abs().max()


@geometries
def test_without_autocast_nothing_changes(kernel: int, stride: int, dilation: int) -> None:
    expected = passed(plain(kernel, stride, dilation, False), 16, 24, autocast=False)
    got = passed(stand_in(plain(kernel, stride, dilation, False)), 16, 24, autocast=False)
    assert all(torch.equal(one, two) for one, two in zip(got, expected, strict=True))


def test_the_output_is_bfloat16_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert stand_in(plain(3, 2, 1, True))(torch.ones(1, CHANNELS, 9, 9)).dtype == torch.bfloat16


def test_an_input_that_needs_no_gradient_still_trains_the_weight() -> None:
    convolution = stand_in(plain(5, 2, 1, False))
    with torch.autocast("cpu", torch.bfloat16):
        convolution(torch.ones(1, CHANNELS, 9, 9)).float().sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.dtype == torch.float32


def test_a_frozen_weight_gets_no_gradient_and_lets_the_input_s_through() -> None:
    trained, frozen = (stand_in(plain(5, 2, 1, same=True)) for _ in range(2))
    frozen.weight.requires_grad_(False)
    gradients = []
    for convolution in (trained, frozen):
        x = torch.randn(2, CHANNELS, 16, 24, generator=torch.Generator().manual_seed(5)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            convolution(x).float().square().sum().backward()
        gradients.append(x.grad)
    assert trained.weight.grad is not None
    assert frozen.weight.grad is None
    assert torch.equal(*gradients)


def test_only_depthwise_convolutions_without_bias_are_replaced_and_weights_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        Conv2dSame(8, 8, 3, stride=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, bias=True),
        nn.Conv2d(8, 8, 3, groups=4, bias=False),
        nn.Conv2d(8, 16, 3, groups=8, bias=False),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, bias=False, padding="same"),
        nn.Conv2d(1, 1, 3, groups=1, bias=False),
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speed_up_depthwise(model)
    assert [type(layer) for layer in model[:2]] == [DepthwiseConv2d, DepthwiseConv2dSame]
    assert all(type(layer) is nn.Conv2d for layer in model[2:])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
