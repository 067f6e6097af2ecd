"""The setups: which frames train a segmenter and which test it.

First letter: training frames; second: test frames. O original, C compressed (decoded), R restored. Source: Katakol et
al., "Distributed Learning and Inference with Compressed Images", TIP 2021. OO is ideal, CO the plain practice of a
fleet, CC compression on board too, OC a model from elsewhere that meets compressed input, RO dataset restoration, RC
completes the grid.

Not here: training and measuring.
"""

from enum import StrEnum


class Frames(StrEnum):
    """What a set of frames has been through."""

    ORIGINAL = "O"
    COMPRESSED = "C"
    RESTORED = "R"


class Setup(StrEnum):
    """Training frames x test frames."""

    OO = "OO"
    CO = "CO"
    CC = "CC"
    OC = "OC"
    RO = "RO"
    RC = "RC"

    @property
    def training(self) -> Frames:
        """The frames that train."""
        return Frames(self.value[0])

    @property
    def test(self) -> Frames:
        """The frames that test."""
        return Frames(self.value[1])
