import numpy as np
import PIL.Image
import PIL.ImageFilter

from roadbits.restoration.unsharp import UNTOUCHED, Unsharp, tuned

IMAGE = np.kron(np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


def test_no_amount_leaves_an_image_as_it_is() -> None:
    np.testing.assert_array_equal(UNTOUCHED.restore(IMAGE), IMAGE)


def test_edges_are_raised() -> None:
    assert Unsharp(1.0, 100).restore(IMAGE).astype(float).std() > IMAGE.astype(float).std()


def test_the_mask_nearest_to_the_original_is_chosen() -> None:
    blurred = np.array(PIL.Image.fromarray(IMAGE).filter(PIL.ImageFilter.GaussianBlur(1)))

    def distance(mask: Unsharp) -> float:
        return float(np.abs(mask.restore(blurred).astype(float) - IMAGE).mean())

    best = tuned(distance)
    assert best.percent > 0
    assert distance(best) < distance(UNTOUCHED)
    assert tuned(lambda mask: float(np.abs(mask.restore(IMAGE).astype(float) - IMAGE).mean())) == UNTOUCHED
