"""Slimmable still codecs: one file of weights, a network of several widths, each a codec of its own.

A point names a width, and a lambda where a width has several. A payload is that of the width's own codec (`still`) and
names its model, so it decodes with the slimmable codec and with that width alone.

Not here: a single network's codec (`still`), the file (`slim_model`).
"""

from dataclasses import dataclass
from functools import cached_property

from roadbits.codecs.bitstream import BitstreamError, Container, unpack
from roadbits.codecs.codec import Complexity, Image, OperatingPoint
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.still import NeuralStill

_WIDTH = "width"


@dataclass(frozen=True, eq=False)
class SlimStill:
    """A still codec of several widths.

    Attributes:
        name: on the command line; with a file of one's own, the file follows a colon.
        model: the weights and tables of all widths.
    """

    name: str
    model: SlimModel

    @cached_property
    def codecs(self) -> dict[int, NeuralStill]:
        """The codec of each width, from the narrowest."""
        return {
            width: NeuralStill(self.name, model)
            for width, model in zip(self.model.widths, self.model.models, strict=True)
        }

    @property
    def model_hash(self) -> bytes:
        """Return the hash of all widths' weights and tables; a payload names that of its own width's."""
        return self.model.hash

    @cached_property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """Every point of every width, width after width, each from the lowest rate up."""
        return tuple(point for width in self.codecs for point in self.fine_points_of(width))

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """The widest width's points, which give the best quality; the widths themselves where each has one point."""
        if all(len(codec.fine_points) == 1 for codec in self.codecs.values()):
            return self.all_points
        return self.fine_points_of(max(self.codecs))

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The trained points of the widest width, and of every other the one as far up as its width is."""
        *narrow, widest = self.codecs
        chosen = []
        for rank, width in enumerate(narrow):
            trained = self.codecs[width].points
            chosen.append(self._outer(width, trained[rank * (len(trained) - 1) // len(narrow)]))
        return (*chosen, *self.points_of(widest))

    def points_of(self, width: int) -> tuple[OperatingPoint, ...]:
        """Return the trained points of a width, from the lowest rate up."""
        return tuple(self._outer(width, point) for point in self.codecs[width].points)

    def fine_points_of(self, width: int) -> tuple[OperatingPoint, ...]:
        """Return every point of a width, from the lowest rate up."""
        return tuple(self._outer(width, point) for point in self.codecs[width].fine_points)

    def _outer(self, width: int, inner: OperatingPoint) -> OperatingPoint:
        """Return the point of a width's codec with the width in front; alone if it is the only one."""
        alone = len(self.codecs[width].fine_points) == 1
        return OperatingPoint.of(**{_WIDTH: float(width)}, **({} if alone else dict(inner.settings)))

    def of_point(self, point: OperatingPoint) -> tuple[NeuralStill, OperatingPoint]:
        """Return the codec of a point's width, and the point without it.

        Raises:
            ValueError: if there is no such width or point.
        """
        settings = dict(point.settings)
        widths = ", ".join(map(str, self.codecs))
        if _WIDTH not in settings:
            raise ValueError(f"codec {self.name} has no point {point}: name a width from {widths}")
        width = settings.pop(_WIDTH)
        if width not in self.codecs:
            raise ValueError(f"codec {self.name}: width {width:g} was not trained; choose from {widths}")
        codec = self.codecs[int(width)]
        inner = OperatingPoint.of(**settings) if settings else codec.fine_points[0]
        if not settings and len(codec.fine_points) > 1:
            raise ValueError(f"codec {self.name}: width {width:g} has several rates: name one, as in {self.points[0]}")
        codec.check(inner)
        return codec, inner

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if `point` names no trained width, or no lambda within its range."""
        self.of_point(point)

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        """Return the payload of an image; see `Codec.encode`."""
        codec, inner = self.of_point(point)
        return codec.encode(image, inner)

    def accepts(self, container: Container) -> bool:
        """Return whether a payload was made with one of these very models."""
        return any(codec.accepts(container) for codec in self.codecs.values())

    def decode(self, payload: bytes) -> Image:
        """Return the image of a payload; see `Codec.decode`."""
        container = unpack(payload)
        for codec in self.codecs.values():
            if codec.accepts(container):
                return codec.decode(payload)
        here = ", ".join(f"{width} {codec.model.hash.hex()}" for width, codec in self.codecs.items())
        raise BitstreamError(
            f"payload needs the {container.codec_id.name.lower()} model {container.model_hash.hex()}, "
            f"{self.name} has for its widths {here}"
        )

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return the cost of one image with a point's width alone; see `Codec.complexity`."""
        codec, inner = self.of_point(point)
        return codec.complexity(inner, height, width)
