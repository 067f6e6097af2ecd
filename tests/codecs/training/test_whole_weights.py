import pytest
import torch

from roadbits.codecs.integer import LARGEST_ACTIVATION, LARGEST_SUM, ExactLayer, ExactTransform, Shape, largest_sums
from roadbits.codecs.neural.model_file import LayerWords
from roadbits.codecs.training.whole_weights import WholeWeights, whole_weights


def wide(channels: int) -> WholeWeights:
    """Return the whole weights of a convolution of so many channels, in several groups."""
    weight = torch.randn(8, channels, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return whole_weights(weight, Shape("down", 2, "steps", LARGEST_ACTIVATION, 1))


@pytest.mark.parametrize(("num_inputs", "widest", "groups"), [(48, 96, 1), (96, 192, 2), (67, 134, 2), (131, 262, 4)])
def test_a_narrow_width_takes_the_fewest_groups_that_keep_sums_exact(num_inputs: int, widest: int, groups: int) -> None:
    """Equal ones, where a width has divisors; a prime width above 64 has none that a layer could have."""
    whole = wide(widest)
    narrow = whole.narrowed(num_inputs, 8)
    assert torch.equal(narrow.weight, whole.weight[:, :num_inputs])
    assert narrow.shape.groups == groups
    assert largest_sums(narrow.weight, narrow.shape).max() * LARGEST_ACTIVATION <= LARGEST_SUM
    numbers = (1 / narrow.scale).float(), torch.zeros(8), torch.ones(())
    transform = ExactTransform((ExactLayer(narrow.shape, narrow.stored, *numbers),))
    (words,) = LayerWords.of(transform)
    assert words.groups == groups
    x = torch.randint(-511, 512, (1, num_inputs, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    order = torch.randperm(-(-num_inputs // groups))
    shuffled = torch.cat((order, torch.arange(len(order), num_inputs)))
    again = ExactTransform((ExactLayer(narrow.shape, narrow.stored[:, shuffled], *numbers),))
    assert torch.equal(transform(x), again(x[:, shuffled]))


def test_a_width_that_no_groups_keep_exact_is_refused() -> None:
    most = LARGEST_SUM // LARGEST_ACTIVATION
    weight = torch.full((1, 65, 1, 1), float(most), dtype=torch.float64)
    whole = WholeWeights(weight, torch.ones(1), Shape("down", 1, "steps", LARGEST_ACTIVATION, 65))
    with pytest.raises(ValueError, match="65 channels cannot be divided into at most 64 groups whose sums are exact"):
        whole.narrowed(65, 1)
