import numpy as np
import pytest
import torch
from torchvision.ops import deform_conv2d

from roadbits.restoration.condition import Condition
from roadbits.restoration.dcngan import ClipRestorer, ClipRestorerSpec, deformable, restore_clip, triplet

SPEC = ClipRestorerSpec(("hevc-lowdelay",), channels=4, blocks=2)


def test_sampled_grids_give_torchvision_s_deformable_convolution_and_its_gradients() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.rand(2, 9, 24, 16), torch.randn(5, 9, 3, 3), torch.randn(5)
    offsets, masks = 3 * torch.randn(2, 54, 24, 16), torch.rand(2, 27, 24, 16)
    gradients = []
    for convolve in (
        deformable,
        lambda x, offsets, masks, weight, bias: deform_conv2d(x, offsets, weight, bias, padding=(1, 1), mask=masks),
    ):
        leaves = [each.clone().requires_grad_() for each in (x, offsets, masks, weight, bias)]
        result = convolve(*leaves)
        (result**2).sum().backward()
        gradients.append([result, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_freshly_built_it_returns_the_middle_frame() -> None:
    x = torch.rand(2, 9, 32, 40)
    assert torch.equal(ClipRestorer(SPEC)(x, torch.rand(2, 4)), x[:, 3:6])


def test_a_network_of_one_s_own_seed_learns_from_all_three_frames() -> None:
    """The frame that is wanted is the one before: only by looking aside can it come near."""
    torch.manual_seed(1)
    network = ClipRestorer(SPEC)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        x, told = torch.rand(4, 9, 16, 16), torch.zeros(4, 4)
        loss = torch.mean((network(x, told) - x[:, :3]) ** 2)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("rows", [slice(0, SPEC.channels), slice(SPEC.channels, None)], ids=["last", "blocks"])
def test_each_gate_makes_a_difference_once_it_is_trained(rows: slice) -> None:
    torch.manual_seed(2)
    network = ClipRestorer(SPEC)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("gates"):
                parameter.add_(0.05 * torch.randn_like(parameter))
        network.gates.weight[rows] = 0.5
    x = torch.rand(1, 9, 16, 16)
    coarse, fine = (network(x, torch.tensor([[1.0, 1.0, position, 0.0]])) for position in (-1.0, 1.0))
    assert not torch.equal(coarse, fine)


def test_a_clip_s_ends_stand_for_what_is_missing() -> None:
    clip = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((3, 8, 8, 3), np.uint8)
    frames = [triplet(clip, at).reshape(3, 3, 8, 8)[:, 0, 0, 0].tolist() for at in range(3)]
    assert frames == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


@pytest.mark.parametrize("size", [(16, 16), (17, 33)])
def test_clips_of_any_size_are_restored_frame_by_frame(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (4, *size, 3)).astype(np.uint8)
    conditions = [Condition("hevc-lowdelay", 0.5, 0.2)] * 4
    restored = restore_clip(ClipRestorer(SPEC).eval(), clip, conditions)
    np.testing.assert_array_equal(restored, clip)
