"""Label sets: CamVid's 11 classes and Cityscapes' 19, their colours, and the mappings of stored ids to class ids.

Sources: the SegNet distribution of CamVid (ids 0..10, 11 void); the Cityscapes label table (34 label ids, of which 19
are evaluated), which KITTI semantics shares and whose train ids BDD100K stores directly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
"""The id of pixels that count neither in training nor in mIoU."""


@dataclass(frozen=True)
class ClassSet:
    """The classes of a label map.

    Attributes:
        name: `camvid11` or `cityscapes19`.
        names: class names; a class id is a position in this tuple.
        colours: an RGB triple (0..255) per class, for pictures.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        """Return the number of classes K."""
        return len(self.names)

    def paint(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the label map uint8 (H, W) as a picture uint8 (H, W, 3); ignored pixels are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table[label]


CAMVID11 = ClassSet(
    "camvid11",
    (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    (
        (128, 180, 230),
        (128, 64, 32),
        (192, 192, 128),
        (110, 80, 120),
        (230, 60, 180),
        (90, 140, 40),
        (240, 200, 40),
        (70, 90, 130),
        (40, 60, 200),
        (220, 40, 60),
        (0, 170, 190),
    ),
)

CITYSCAPES19 = ClassSet(
    "cityscapes19",
    (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic_light",
        "traffic_sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)

CAMVID_IDS: dict[int, int] = {**{k: k for k in range(11)}, 11: IGNORED}
"""Stored id -> class id of the SegNet form of CamVid; any other stored id is a fault."""

_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_IDS: dict[int, int] = {
    stored: (_EVALUATED.index(stored) if stored in _EVALUATED else IGNORED) for stored in range(34)
}
"""Cityscapes and KITTI label id 0..33 -> train id 0..18."""

TRAIN_IDS: dict[int, int] = {**{k: k for k in range(19)}, IGNORED: IGNORED}
"""BDD100K stores train ids, 255 for ignored."""
