"""When a vehicle holds that its codec no longer fits: a change-point test on what its frames take and give.

Of each frame the vehicle knows the payload's bits per pixel and, having decoded it again, the PSNR. All frames of the
domain for which the codec was made tell what is usual. Elsewhere each frame's surprise, in standard deviations, is
summed up, less a slack, for rates and qualities that are higher and that are lower than usual, never below zero; where
a sum grows beyond a threshold, the codec no longer fits (CUSUM; Page 1954), since the frame where that sum left zero.

A domain can be darker and cheaper as well as richer and dearer: both directions count, for an entropy model that was
made for something else wastes bits on either.

Not here: which frames are kept for training (`adapting`).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.adaptation_words import Drift

_LEAST_SPREAD = np.array([0.1, 0.5])
"""Of the logarithm of bpp and of PSNR in dB: consecutive frames are too alike to tell how much a drive varies."""

Float64 = NDArray[np.float64]


@dataclass
class Watch:
    """The test on one drive.

    Attributes:
        words: of the test.
    """

    words: Drift
    _usual: list[Float64] = field(default_factory=list)
    _sums: Float64 = field(default_factory=lambda: np.zeros(4))
    _began: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, np.int64))

    def learn(self, bpp: float, psnr_db: float) -> None:
        """Take a frame for which the codec was made: its payload's rate, its reconstruction's quality."""
        self._usual.append(np.array([np.log(bpp), psnr_db]))

    def see(self, frame: int, bpp: float, psnr_db: float) -> int | None:
        """Take any other frame; return the frame since which the codec does not fit, if this one shows that.

        Args:
            frame: its position in the drive, rising.
            bpp: of its payload.
            psnr_db: of its reconstruction.
        """
        if len(self._usual) < self.words.baseline_frames:
            return None
        usual = np.array(self._usual)
        surprise = (np.array([np.log(bpp), psnr_db]) - usual.mean(0)) / np.maximum(usual.std(0, ddof=1), _LEAST_SPREAD)
        self._began[self._sums == 0] = frame
        self._sums = np.maximum(0, self._sums + np.concatenate((surprise, -surprise)) - self.words.slack)
        highest = int(np.argmax(self._sums))
        return int(self._began[highest]) if self._sums[highest] > self.words.threshold else None

    def begin_anew(self) -> None:
        """Forget all surprises so far, and not what is usual."""
        self._sums = np.zeros(4)
