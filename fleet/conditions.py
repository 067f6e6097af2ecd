"""What is known of how a frame was coded, as restorers are told it.

Not here: how a network takes it (`roadbits.restoration.condition`).
"""

from functools import cache

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.restoration.condition import Condition


def condition_of(codec: str, point: str, bpp: float) -> Condition:
    """Return the condition of a frame that a codec encoded at a point to a rate.

    A point off the codec's ladder, such as one of another knob, stands where its value is nearest.
    """
    places = _places(codec)
    place = places[point] if point in places else _nearest(codec, point)
    return Condition(codec, place / max(1, len(places) - 1), bpp)


@cache
def _places(codec: str) -> dict[str, int]:
    """Return each operating point's position on its codec's ladder."""
    return {str(point): position for position, point in enumerate(still_or_clip_codec_named(codec).all_points)}


@cache
def _nearest(codec: str, point: str) -> int:
    (_, value), *_ = OperatingPoint.parse(point).settings
    values = [OperatingPoint.parse(each).settings[0][1] for each in _places(codec)]
    return min(range(len(values)), key=lambda k: abs(values[k] - value))
