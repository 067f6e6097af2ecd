import numpy as np
import pytest

from roadbits.fleet.training.validation import middle


@pytest.mark.parametrize(
    ("height", "width", "side", "rows", "columns"),
    [(9, 5, 3, (3, 6), (1, 4)), (4, 10, 6, (0, 4), (2, 8)), (4, 5, 8, (0, 4), (0, 5))],
)
def test_an_image_is_cut_to_its_middle(
    height: int, width: int, side: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    assert np.array_equal(middle(image, side), image[slice(*rows), slice(*columns)])


def test_the_middle_of_a_read_only_cache_can_be_written_to() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image.flags.writeable = False
    assert middle(image, 8).flags.writeable
