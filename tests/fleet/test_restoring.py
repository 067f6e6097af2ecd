"""Which reference frames a restorer learns from, and which only tell when to stop."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from roadbits.fleet import restoring
from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.restoring import RestorerJob, train_restorer
from roadbits.restoration.condition import Condition
from roadbits.restoration.network import RestorerSpec
from roadbits.restoration.training import PairCrops, Pairs, Recipe


def pairs(count: int) -> Pairs:
    """Return frames that are all of one value each: their position, in both images."""
    images = [np.full((32, 40, 3), k, np.uint8) for k in range(count)]
    return Pairs(images, images, [Condition("jpeg", 0.0, 1 + k) for k in range(count)])


def positions(some: Pairs) -> list[int]:
    """Return the positions of pairs, which images and conditions must agree in."""
    found = [int(image[0, 0, 0]) for image in some.originals]
    assert found == [int(image[0, 0, 0]) for image in some.degraded] == [round(c.bpp) - 1 for c in some.conditions]
    return found


@pytest.mark.parametrize(("count", "held_out"), [(8, [4]), (11, [4]), (16, [4, 12]), (64, list(range(4, 64, 8)))])
def test_of_eight_and_more_reference_frames_one_in_eight_is_held_out(count: int, held_out: list[int]) -> None:
    assert positions(restoring._split(pairs(count), True)) == held_out
    assert positions(restoring._split(pairs(count), False)) == [k for k in range(count) if k not in held_out]


@pytest.mark.parametrize("count", [1, 7])
def test_fewer_reference_frames_all_train_and_all_validate(count: int) -> None:
    for is_held_out in (True, False):
        assert positions(restoring._split(pairs(count), is_held_out)) == list(range(count))


def test_a_training_sees_no_reference_frame_that_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    learned, validated = list[int](), list[int]()

    class Watched(PairCrops):
        def __init__(self, some: Sequence[Pairs], *others: object) -> None:
            learned.extend(k for each in some for k in positions(each))
            super().__init__(some, *others)  # type: ignore[arg-type]

    def validate(job: RestorerJob, weights: bytes, some: Sequence[Pairs]) -> tuple[float, float]:
        validated.extend(k for each in some for k in positions(each))
        return 20.0, 0.5

    monkeypatch.setattr(restoring, "PairCrops", Watched)
    monkeypatch.setattr(restoring, "_validate", validate)
    spec, recipe = RestorerSpec(("jpeg",), 8, (1, 1, 1)), Recipe("pixels", 2, 1, 32)
    shared = LocalBackend().share([pairs(16), pairs(8)])
    threads = torch.get_num_threads()
    state = train_restorer(RestorerJob(spec, recipe, shared, 1, None, None, None, 1), lambda step, loss: None)
    torch.set_num_threads(threads)
    assert (state.psnr_db, state.distance) == (20.0, 0.5)
    assert validated == [4, 12, 4]
    assert learned == [k for count, held in ((16, {4, 12}), (8, {4})) for k in range(count) if k not in held]
