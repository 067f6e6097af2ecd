import pytest
import torch

from roadbits.restoration.critics import FeatureCritic
from roadbits.restoration.losses import deceiving, feature_distance, judging, likeness


def test_feature_distances_are_relative_to_each_level() -> None:
    original = [torch.tensor([[1.0, 3.0]]), torch.tensor([[100.0, 300.0]])]
    restored = [torch.tensor([[2.0, 3.0]]), torch.tensor([[100.0, 100.0]])]
    # 0.5 of a mean size of 2, and 100 of 200.
    assert feature_distance(restored, original).item() == pytest.approx((0.25 + 0.5) / 2)
    assert feature_distance(original, original).item() == 0


def test_least_squares_losses_are_those_computed_by_hand() -> None:
    of_restored, of_originals = [torch.tensor([0.5, 0.1])], [torch.tensor([0.8, 1.0])]
    assert deceiving(of_restored).item() == pytest.approx((0.25 + 0.81) / 2)
    assert judging(of_restored, of_originals).item() == pytest.approx(((0.25 + 0.01) / 2 + 0.04 / 2) / 2)


@pytest.mark.parametrize(("exponent", "expected"), [(1, 0.3), (2, 0.1)])
def test_likeness_is_the_mean_of_a_power(exponent: int, expected: float) -> None:
    assert likeness(torch.tensor([0.2, 0.6]), torch.tensor([0.4, 0.2]), exponent).item() == pytest.approx(expected)


def test_a_critic_learns_to_tell_two_kinds_of_features_apart() -> None:
    torch.manual_seed(0)
    critic = FeatureCritic([4, 6], hidden=8)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2)

    def features(shift: float) -> list[torch.Tensor]:
        return [torch.randn(8, channels, 5, 5) + shift for channels in (4, 6)]

    for _ in range(60):
        loss = judging(critic(features(-1)), critic(features(1)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    critic.eval()
    restored, originals = critic(features(-1)), critic(features(1))
    assert all(ours.mean() < 0.3 and theirs.mean() > 0.7 for ours, theirs in zip(restored, originals, strict=True))
