import pytest
import torch
from torch import nn

from roadbits.codecs.training.muon import Muon, orthogonalised


def kernel(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_every_singular_value_of_an_orthogonalised_matrix_is_about_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalised(kernel(*shape).data))
    assert values.min() > 0.3
    assert values.max() < 1.35


def test_a_matrix_stays_on_its_device() -> None:
    """Of `meta`, where nothing is computed, as of any other that is not the processor's."""
    assert orthogonalised(torch.empty(8, 30, device="meta")).device.type == "meta"


def test_orthogonalising_keeps_the_directions() -> None:
    u, _, vt = torch.linalg.svd(kernel(6, 9).data, full_matrices=False)
    stretched = u @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1.5, 1])) @ vt
    inside = u.T @ orthogonalised(stretched) @ vt.T
    off_diagonal = inside - torch.diag(inside.diagonal())
    assert inside.diagonal().min() > 0.3
    assert off_diagonal.abs().max() < 0.1


def test_the_first_step_is_the_orthogonalised_gradient_with_the_size_of_adam_s() -> None:
    weight = kernel(4, 2, 3, 3)
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    Muon([{"params": [weight], "lr": 0.01}]).step()
    # Orthogonalising takes the gradient's scale away: Nesterov's factor of the first step does not matter.
    expected = -0.2 * 18**0.5 * 0.01 * orthogonalised(weight.grad.reshape(4, 18)).reshape(weight.shape)
    moved = weight.detach() - before
    torch.testing.assert_close(moved, expected, rtol=0.05, atol=2e-4)
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.35)


def test_momentum_goes_on_when_the_gradient_ends() -> None:
    weight = kernel(4, 2, 3, 3)
    muon = Muon([{"params": [weight], "lr": 0.01}])
    weight.grad = torch.ones_like(weight)
    muon.step()
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    muon.step()
    torch.testing.assert_close(muon.state[weight]["average"], torch.full_like(weight, 0.05 * 0.95))
    assert (weight < before).all()


def test_a_kernel_without_a_gradient_stays() -> None:
    still, moving = kernel(3, 2, 3, 3), kernel(3, 2, 3, 3)
    before = still.detach().clone()
    moving.grad = torch.ones_like(moving)
    Muon([{"params": [still, moving], "lr": 0.1}]).step()
    assert torch.equal(still, before)
    assert not torch.equal(moving, before)


def test_it_finds_the_minimum_of_a_badly_scaled_bowl() -> None:
    weight = kernel(6, 2, 3, 3)
    scales = torch.logspace(0, 3, 6)[:, None, None, None]
    muon = Muon([{"params": [weight], "lr": 0.05}])
    start = float((scales * weight.detach() ** 2).mean())
    for step in range(300):
        for group in muon.param_groups:
            group["lr"] = 0.05 * (1 - step / 300)
        muon.zero_grad()
        loss = (scales * weight**2).mean()
        loss.backward()
        muon.step()
    assert loss.item() < start / 100
