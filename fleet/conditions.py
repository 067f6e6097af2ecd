"""What is known of how a frame was coded, as restorers are told it.

Not here: how a network takes it (`roadbits.restoration.condition`).
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.restoration.condition import Condition

_WRONG_RATE = 8.0
"""By how much a rate is wrong where it has to be and there is no other to take."""


def condition_of(codec: str, point: str, bpp: float) -> Condition:
    """Return the condition of a frame that a codec encoded at a point to a rate."""
    return Condition(codec, position_of(codec, point), bpp)


def as_told(truth: Condition, how: Literal["told", "untold", "wrong"], known: Sequence[Condition]) -> Condition:
    """Return what a restorer is told of a frame.

    Args:
        truth: of the frame.
        how: the truth, nothing of the codec, or something wrong.
        known: one for each codec and point that the restorer learned, with its mean rate: wrong is the one of these
            whose rate is farthest off; eight times the rate and the other end of the ladder where there is no other.
    """
    match how:
        case "told":
            return truth
        case "untold":
            return Condition("", truth.position, truth.bpp)
        case "wrong":
            farthest = max(known, key=lambda each: abs(math.log(each.bpp / truth.bpp)), default=truth)
            if (farthest.codec, farthest.position) != (truth.codec, truth.position):
                return farthest
            return Condition(truth.codec, 1 - truth.position, _WRONG_RATE * truth.bpp)


@cache
def position_of(codec: str, point: str) -> float:
    """Return where a point stands among all of its codec's, by rate, in 0..1.

    A point between theirs stands where the nearest one does: the ratios of all knobs count, or, for a knob that none of
    them has, the difference of the bare values.
    """
    places = _places(codec)
    if point in places:
        return places[point] / max(1, len(places) - 1)
    wanted = OperatingPoint.parse(point).settings
    known = [OperatingPoint.parse(each).settings for each in places]
    if {knob for knob, _ in wanted} == {knob for knob, _ in known[0]}:
        offers = [dict(each) for each in known]
        distances = [sum(_apart(value, offer[knob]) for knob, value in wanted) for offer in offers]
    else:
        distances = [abs(wanted[0][1] - each[0][1]) for each in known]
    return distances.index(min(distances)) / max(1, len(places) - 1)


def _apart(a: float, b: float) -> float:
    return abs(math.log(a / b)) if min(a, b) > 0 else abs(a - b)


@cache
def _places(codec: str) -> dict[str, int]:
    """Return each operating point's place on its codec's ladder."""
    return {str(point): place for place, point in enumerate(still_or_clip_codec_named(codec).all_points)}
