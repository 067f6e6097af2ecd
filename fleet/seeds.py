"""One seed for everything: independent random streams by purpose and place.

A stream depends on nothing but the scenario's seed, its purpose and the numbers that name the place where it is used,
so that work may be done anywhere, in any order, and again.

Not here: the generated street world, which derives its own streams from the same seed.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. Numbers are never reused, so that old results stay repeatable."""

    LINK = 1
    FAULTS = 2
    SHARING = 3


def generator_for(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """Return the stream of a purpose at a place, for example of one vehicle."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), *place]))
