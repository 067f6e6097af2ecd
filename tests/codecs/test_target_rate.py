import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from roadbits.codecs.catalogue import LEGACY_CODECS
from roadbits.codecs.codec import Codec, Complexity, Image, OperatingPoint
from roadbits.codecs.metrics import bpp
from roadbits.codecs.target_rate import encode_at

IMAGE = np.zeros((8, 10, 3), np.uint8)


class SizedCodec:
    """A codec whose payload at point k has a given size; remembers which points were tried."""

    name = "sized"

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.points = self.fine_points = self.all_points = tuple(OperatingPoint.of(k=k) for k in range(len(sizes)))
        self.tried: list[int] = []

    def check(self, point: OperatingPoint) -> None:
        raise AssertionError("unused")

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        self.tried.append(int(point["k"]))
        return bytes(self.sizes[self.tried[-1]])

    def decode(self, payload: bytes) -> Image:
        raise AssertionError("unused")

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        raise AssertionError("unused")


def chosen(sizes: Sequence[int], target_bytes: float) -> int:
    """Return the size chosen for a target given in bytes of the 80-pixel image."""
    encoded = encode_at(SizedCodec(sizes), IMAGE, target_bytes / 10)
    assert len(encoded.payload) == sizes[int(encoded.point["k"])]
    return len(encoded.payload)


@pytest.mark.parametrize(
    ("target", "expected"), [(10, 10), (14, 10), (16, 20), (20, 20), (31, 40), (29, 20), (80, 80), (61, 80), (59, 40)]
)
def test_the_nearest_rate_is_chosen(target: float, expected: int) -> None:
    assert chosen([10, 20, 40, 80], target) == expected


def test_a_target_out_of_reach_gives_the_nearest_end() -> None:
    assert chosen([10, 20, 40, 80], 0.001) == 10
    assert chosen([10, 20, 40, 80], 1e9) == 80


def test_of_two_equally_near_rates_the_lower_is_chosen() -> None:
    assert chosen([10, 20, 40, 80], 30) == 20


@pytest.mark.parametrize("number", [1, 2, 3, 100, 399])
def test_every_rate_is_found_in_few_encodings(number: int) -> None:
    sizes = range(10, 10 + number)
    for size in sizes:
        codec = SizedCodec(sizes)
        assert len(encode_at(codec, IMAGE, size / 10).payload) == size
        assert len(codec.tried) <= 1 + math.log2(number)
        assert len(set(codec.tried)) == len(codec.tried)


def test_where_rates_do_not_quite_rise_the_nearest_of_those_tried_is_kept() -> None:
    codec = SizedCodec([10, 20, 19, 21, 40, 39, 80])
    encoded = encode_at(codec, IMAGE, 2.05)
    distances = [abs(codec.sizes[k] - 20.5) for k in codec.tried]
    assert abs(len(encoded.payload) - 20.5) == min(distances)


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf, -math.inf])
def test_a_target_that_is_not_positive_and_finite_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        encode_at(SizedCodec([10]), IMAGE, target)


@pytest.mark.parametrize("codec", LEGACY_CODECS, ids=lambda codec: codec.name)
def test_a_real_codec_comes_near(codec: Codec, textured: Callable[..., Image]) -> None:
    image = textured(96, 128)
    encoded = encode_at(codec, image, 1.5)
    assert encoded.payload == codec.encode(image, encoded.point)
    assert bpp(len(encoded.payload), 96, 128) == pytest.approx(1.5, rel=0.1)
