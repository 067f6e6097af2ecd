"""Numbers as the report writes them.

Not here: HTML (`markup`).
"""

from collections.abc import Mapping

from roadbits.fleet.report.measured import Spread

NONE = "–"
"""Stands for a number that does not exist."""


def number(value: float | None, digits: int) -> str:
    """Return a number with thin groups of thousands and a true minus sign."""
    if value is None:
        return NONE
    text = f"{value:,.{digits}f}"
    zero = f"{0:.{digits}f}"
    return zero if text == f"-{zero}" else text.replace(",", "\u202f").replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """Return a number that always bears its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text != number(0, digits) else text


def percent(share: float | None) -> str:
    """Return a share 0..1 in percent, without the sign for it."""
    return number(None if share is None else 100 * share, 1)


def points(difference: float | None) -> str:
    """Return a difference of shares in points of percent, with its sign."""
    return signed(None if difference is None else 100 * difference, 1)


def spread(miou: Spread | None) -> str:
    """Return mean and half range in percent; the mean alone of a single seed."""
    if miou is None:
        return NONE
    if len(miou.by_seed) == 1:
        return percent(miou.mean)
    return f"{percent(miou.mean)} ± {percent(miou.half_range)}"


def quality(value: float, digits: int, delivered: int) -> str:
    """Return a distortion, which does not exist where no frame was delivered."""
    return number(value if delivered else None, digits)


def median_point(points_used: Mapping[str, int]) -> str:
    """Return the point at which the median frame was encoded, of counts by rising rate."""
    passed, half = 0, sum(points_used.values()) / 2
    for point, count in points_used.items():
        passed += count
        if passed >= half:
            return point
    return NONE


def share(part: int, whole: int) -> str:
    """Return a part of a whole as `part/whole`."""
    return f"{part}/{whole}"
