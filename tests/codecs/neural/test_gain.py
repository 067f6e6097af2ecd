from itertools import pairwise

import pytest
import torch

from roadbits.codecs.neural.gain import Gain

LAMBDAS = (0.001, 0.004, 0.02, 0.1)


def test_gains_start_as_powers_of_lambda_and_their_inverses() -> None:
    gain, inverse = Gain(3, LAMBDAS)(torch.arange(4.0))
    assert gain.shape == inverse.shape == (4, 3, 1, 1)
    torch.testing.assert_close(gain * inverse, torch.ones(4, 3, 1, 1))
    ratios = gain[1:, 0, 0, 0] / gain[:-1, 0, 0, 0]
    expected = [(high / low) ** 0.3 for low, high in pairwise(LAMBDAS)]
    assert ratios.tolist() == pytest.approx(expected, rel=1e-5)
    assert gain[:, 0].log().mean().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_between_two_levels_gains_are_interpolated_geometrically(level: int, share: float) -> None:
    table = Gain(5, LAMBDAS)
    with torch.no_grad():
        table.log_gain.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    (low, _), (high, _), (between, _) = (table(torch.tensor([at])) for at in (level, level + 1.0, level + share))
    torch.testing.assert_close(between, low ** (1 - share) * high**share)


def test_whole_levels_give_their_own_vectors() -> None:
    table = Gain(2, LAMBDAS)
    with torch.no_grad():
        table.log_gain.copy_(torch.arange(8.0).reshape(4, 2))
        table.log_inverse.copy_(-torch.arange(8.0).reshape(4, 2) / 2)
    gain, inverse = table(torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(gain[:, :, 0, 0].log(), torch.tensor([[6.0, 7.0], [0.0, 1.0]]))
    torch.testing.assert_close(inverse[:, :, 0, 0].log(), torch.tensor([[-3.0, -3.5], [0.0, -0.5]]))


def test_a_single_level_is_enough() -> None:
    gain, inverse = Gain(3, [0.01])(torch.zeros(2))
    assert torch.equal(gain, torch.ones(2, 3, 1, 1))
    assert torch.equal(inverse, torch.ones(2, 3, 1, 1))


def test_only_the_levels_used_learn() -> None:
    table = Gain(2, LAMBDAS)
    gain, inverse = table(torch.tensor([1.0, 2.5]))
    (gain.sum() + inverse.sum()).backward()
    for parameter in (table.log_gain, table.log_inverse):
        assert parameter.grad is not None
        assert (parameter.grad != 0).any(dim=1).tolist() == [False, True, True, True]
