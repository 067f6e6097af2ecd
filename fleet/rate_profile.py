"""A vehicle's own picture of a codec: rate and quality over its points, measured on the first frame of a drive.

A few points are tried, the others interpolated: along the ladder, between points of equal multiply-accumulates (of one
width), the logarithm of the rate and the PSNR are taken to be linear. Later frames move all rates by a common factor,
which is followed by feedback (`policies`).

Trials cost what encoding costs, and decoding where quality is asked for. They are made on the middle quarter of the
frame, which costs a quarter; but on the whole frame where the codec has no networks, whose payloads hold tables of one
length for any size.

Not here: what is done with the picture (`policies`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.codec import Codec, Image
from roadbits.codecs.metrics import bpp, psnr
from roadbits.fleet.devices import Ladder

_TRIALS = 8
_MOST_PER_WIDTH, _FEWEST_PER_WIDTH = 5, 2
_SMALLEST_CROP = 64

Float64 = NDArray[np.float64]


class Trial(NamedTuple):
    """One point, tried on the first frame.

    Attributes:
        position: of the point on the ladder.
        log_bpp: natural logarithm of its rate.
        psnr_db: its quality; 0 where that was not asked for.
    """

    position: int
    log_bpp: float
    psnr_db: float


@dataclass(frozen=True, eq=False)
class Profile:
    """Rate and quality at every point of a ladder; NaN at points like which none was tried.

    Attributes:
        log_bpp: float64 (n,).
        psnr_db: float64 (n,).
    """

    log_bpp: Float64
    psnr_db: Float64


def trial_positions(ladder: Ladder, usable: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return which points to try: evenly spaced within every width that has usable ones, `usable` being bool (n,)."""
    widths = _widths(ladder, usable)
    count = max(_FEWEST_PER_WIDTH, min(_MOST_PER_WIDTH, _TRIALS // max(1, len(widths))))
    chosen = {int(k) for width in widths for k in width[np.linspace(0, len(width) - 1, count).round().astype(int)]}
    return tuple(sorted(chosen))


def _widths(ladder: Ladder, usable: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the positions of usable points by equal multiply-accumulates."""
    return [np.flatnonzero(usable & (ladder.macs == macs)) for macs in np.unique(ladder.macs[usable])]


def trial_crop(codec: Codec, image: Image) -> Image:
    """Return the part of a frame (H, W, 3) that trials are made on."""
    height, width = image.shape[:2]
    if not codec.model_hash or min(height, width) < 2 * _SMALLEST_CROP:
        return image
    top, left = height // 4, width // 4
    return np.ascontiguousarray(image[top : top + height // 2, left : left + width // 2])


def tried(codec: Codec, image: Image, ladder: Ladder, positions: Sequence[int], with_quality: bool) -> list[Trial]:
    """Encode an image (H, W, 3) at several points of a ladder, and decode it again where quality is asked for."""
    height, width = image.shape[:2]
    trials = []
    for position in positions:
        payload = codec.encode(image, ladder.points[position])
        quality = psnr(codec.decode(payload), image) if with_quality else 0.0
        trials.append(Trial(position, math.log(bpp(len(payload), height, width)), quality))
    return trials


def profile_of(ladder: Ladder, trials: Sequence[Trial]) -> Profile:
    """Return rate and quality at every point, from those tried; beyond the outermost of a width, as at that one."""
    log_bpp, psnr_db = (np.full(len(ladder.points), np.nan) for _ in range(2))
    for macs in {int(ladder.macs[trial.position]) for trial in trials}:
        alike = np.flatnonzero(ladder.macs == macs)
        known = [trial for trial in trials if ladder.macs[trial.position] == macs]
        steps = np.arange(len(alike))
        at = np.searchsorted(alike, [trial.position for trial in known])
        log_bpp[alike] = np.interp(steps, at, [trial.log_bpp for trial in known])
        psnr_db[alike] = np.interp(steps, at, [trial.psnr_db for trial in known])
    return Profile(log_bpp, psnr_db)
