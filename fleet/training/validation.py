"""Validation of a codec in training: the network is frozen, and real payloads of what is held out are measured.

Not here: freezing (`codecs.training.freezing`), when it is done (`run`), clips (`clip`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.rate_distortion import RdPoint, measure
from roadbits.codecs.training.crops import ImageCache
from roadbits.codecs.training.exactness import cost_of_exactness
from roadbits.codecs.training.freezing import freeze, freeze_widths
from roadbits.codecs.training.mask_decay import with_cut_encoder
from roadbits.fleet.training.network import PlainNetwork, SlimNetwork


def middle(image: Image, side: int) -> Image:
    """Return the middle of an image (H, W, 3), at most `side` pixels high and wide."""
    top, left = (max(0, extent - side) // 2 for extent in image.shape[:2])
    return image[top : top + side, left : left + side].copy()


def middles(caches: Sequence[ImageCache], side: int) -> list[Image]:
    """Return the middles of all images of some caches."""
    return [middle(cache.image(index), side) for cache in caches for index in range(len(cache))]


def measure_still(
    codec: NeuralStill | SlimStill, held_out: Sequence[Image], pause: Callable[[], None]
) -> list[RdPoint]:
    """Return a codec's rate and quality at every point, from the lowest; `pause` is called before each image."""

    def images() -> Iterator[Image]:
        for image in held_out:
            pause()
            yield image

    return [measure(codec, point, images()) for point in codec.points]


class Validation(ABC):
    """What a codec in training is validated on.

    Attributes:
        held_out: what to measure rate and quality on.
        noun: what that is.
    """

    held_out: Sequence[Any]
    noun: str

    @abstractmethod
    def frozen(self, step: int) -> Any:
        """Return the exact model of the network as it stands after a step; it has a method `save`."""

    @abstractmethod
    def steps_of(self, path: Path) -> int:
        """Return the step at which a file's model was frozen.

        Raises:
            ModelFileError: if the file is missing, damaged or of another kind.
        """

    @abstractmethod
    def measure(self, model: Any, pause: Callable[[], None]) -> list[RdPoint]:
        """Return a frozen model's rate and quality at every point; `pause` is called now and then."""

    @abstractmethod
    def cost_of_exactness(self, path: Path) -> float | None:
        """Return what freezing a file's model cost, in percent of bytes at equal PSNR; None without a curve."""


@dataclass(frozen=True)
class StillValidation(Validation):
    """What a network of stills is validated on.

    Attributes:
        network: in training; it moves on between validations.
        calibration: images to measure ranges on, from the training data.
        held_out: images to measure rate and quality on.
    """

    noun = "images"

    network: PlainNetwork | SlimNetwork
    calibration: Sequence[Image]
    held_out: Sequence[Image]

    @classmethod
    def of_caches(
        cls,
        network: PlainNetwork | SlimNetwork,
        calibration: Sequence[Image],
        caches: Sequence[ImageCache],
        side: int,
    ) -> "StillValidation":
        """Measure on the middles of all images of some caches."""
        return cls(network, calibration, middles(caches, side))

    def frozen(self, step: int) -> FrozenModel | SlimModel:
        """Return the exact model of the network as it stands after a step."""
        model: FrozenModel | SlimModel
        if isinstance(self.network, PlainNetwork):
            model = freeze(with_cut_encoder(self.network), self.calibration, step)
        else:
            model = freeze_widths(self.network, self.calibration, step)
        self.network.train()
        return model

    def steps_of(self, path: Path) -> int:
        """Return the step at which a file's model was frozen; see `Validation`."""
        model = load_model(path)
        return (model.models[-1] if isinstance(model, SlimModel) else model).description.steps

    def cost_of_exactness(self, path: Path) -> float | None:
        """Return what freezing the widest network cost; see `Validation`."""
        model = load_model(path)
        whole = [
            image[: height // stride * stride, : width // stride * stride]
            for image in self.held_out
            for height, width, stride in [(*image.shape[:2], self.network.stride)]
        ]
        if isinstance(model, SlimModel):
            model = model.models[-1]
        network = with_cut_encoder(self.network) if isinstance(self.network, PlainNetwork) else self._widest()
        several = len(model.description.trained) > 1
        cost = cost_of_exactness(network, model, whole).percent if several else None
        self.network.train()
        return cost

    def _widest(self) -> PlainNetwork:
        assert not isinstance(self.network, PlainNetwork)
        return self.network.standalone(self.network.widths[-1])

    def measure(self, model: FrozenModel | SlimModel, pause: Callable[[], None]) -> list[RdPoint]:
        """Return rate and quality at every point, from the lowest; `pause` is called before each image."""
        codec = SlimStill("slim", model) if isinstance(model, SlimModel) else NeuralStill("still", model)
        return measure_still(codec, self.held_out, pause)
