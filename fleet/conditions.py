"""What is known of how a frame was coded, as restorers are told it.

Not here: how a network takes it (`roadbits.restoration.condition`).
"""

import math
from functools import cache

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.restoration.condition import Condition


def condition_of(codec: str, point: str, bpp: float) -> Condition:
    """Return the condition of a frame that a codec encoded at a point to a rate."""
    return Condition(codec, position_of(codec, point), bpp)


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
