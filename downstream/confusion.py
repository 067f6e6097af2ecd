"""Mean intersection over union from an integer confusion matrix.

Source: the definition of PASCAL VOC (Everingham 2010), IoU = TP / (TP + FP + FN), each summed over all pixels of the
test set before dividing. A class that occurs in no label has no IoU and is left out of the mean, so that the mean is
over the same classes whatever was predicted; wrongly predicting it still costs the class it was taken for.

Not here: per-image means, boundary metrics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of labelled pixels.

    Attributes:
        counts: int64 (K, K); row: class of the label, column: predicted class.
    """

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> "Confusion":
        """Return the counts of no pixel at all."""
        return cls(np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def of(cls, label: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int) -> "Confusion":
        """Count one frame.

        Args:
            label: uint8 (H, W); ids of `num_classes` and above are ignored.
            predicted: uint8 (H, W), ids below `num_classes`.
            num_classes: K.

        Raises:
            ValueError: if the shapes differ or a prediction names no class.
        """
        if label.shape != predicted.shape:
            raise ValueError(f"label is {label.shape}, prediction {predicted.shape}: expected the same shape")
        if predicted.size and int(predicted.max()) >= num_classes:
            raise ValueError(f"prediction holds id {int(predicted.max())}, expected ids below {num_classes}")
        counted = label < num_classes
        pairs = label[counted].astype(np.int64) * num_classes + predicted[counted]
        return cls(np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes))

    def __add__(self, other: "Confusion") -> "Confusion":
        """Return the counts of both."""
        return Confusion(self.counts + other.counts)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Bool (K,): the classes that occur in a label, which do not depend on the segmenter."""
        occurs: NDArray[np.bool_] = self.counts.sum(1) > 0
        return occurs

    def iou(self) -> NDArray[np.float64]:
        """Return the IoU of each class, float64 (K,) in 0..1; NaN for a class that no label holds."""
        hits = np.diagonal(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        ratio: NDArray[np.float64] = np.divide(hits, union, out=np.full(len(hits), np.nan), where=self.present)
        return ratio

    def miou(self) -> float:
        """Return the mean IoU of the classes that occur in a label.

        Raises:
            ValueError: if no labelled pixel was counted.
        """
        if not self.counts.any():
            raise ValueError("no labelled pixel was counted: mIoU is undefined; are the test frames labelled?")
        return float(np.nanmean(self.iou()))
