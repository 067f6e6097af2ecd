import itertools
import subprocess
import sys

import numpy as np
import pytest

from roadbits.fleet.seeds import Purpose, generator_for

GOLDEN = ["594", "516", "214", "208", "524", "200"]


def test_a_place_has_one_stream() -> None:
    first, second = (generator_for(7, Purpose.FAULTS, 1, 2, 3).integers(2**62, size=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_seeds_purposes_and_places_have_streams_of_their_own() -> None:
    drawn = [
        tuple(generator_for(seed, purpose, *place).integers(2**62, size=2))
        for seed, purpose in itertools.product((0, 1, 2**32 - 1), Purpose)
        for place in itertools.product((0, 1, 5000), repeat=3)
    ]
    assert len(set(drawn)) == len(drawn) == 3 * 3 * 27


def test_streams_are_the_same_in_every_process_and_release() -> None:
    program = (
        "from roadbits.fleet.seeds import Purpose, generator_for;"
        "print(*generator_for(7, Purpose.LINK, 3).integers(1000, size=6))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/tmp")
    assert other.stdout.split() == [str(k) for k in generator_for(7, Purpose.LINK, 3).integers(1000, size=6)]
    assert other.stdout.split() == GOLDEN


def test_the_numbers_of_purposes_never_change() -> None:
    assert {purpose.name: int(purpose) for purpose in Purpose} == {"LINK": 1, "FAULTS": 2, "SHARING": 3}


def test_a_negative_place_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        generator_for(7, Purpose.LINK, -1)
