"""JPEG, JPEG 2000, WebP and AVIF through Pillow, as a user would set them for a camera.

All are 4:2:0 where the format has chroma subsampling. JPEG: libjpeg-turbo with optimised Huffman tables. JPEG 2000:
OpenJPEG, irreversible wavelet, one quality layer at a compression ratio, colour transform on (Pillow leaves it off,
which costs 3 dB at .3 bpp and 5 dB at .8 on a CamVid frame). WebP: libwebp, method 4. AVIF: libavif, speed
6, one thread, since its bytes may depend on the number of threads.

Not here: HEVC intra (`hevc`), lossless modes, metadata; an image's ICC profile or EXIF does not travel.
"""

import io
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import PIL.Image

from roadbits.codecs.bitstream import BitstreamError, CodecId, Container, expect, pack
from roadbits.codecs.codec import Complexity, Image, OperatingPoint, check_image
from roadbits.codecs.legacy.as_encoded import check_jpeg, check_jpeg2000

_NO_NETWORK = Complexity(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class PillowStill:
    """A codec of Pillow with one integer knob.

    Attributes:
        name: the name on the command line.
        codec_id: its number in the container.
        file_format: Pillow's name of the format.
        knob: the name of the setting.
        values: every value of the knob, from the lowest rate up.
        ladder: the values worth measuring, from the lowest rate up.
        largest_side: what the format or its decoder can take, in pixels.
        options: further settings of the encoder.
    """

    name: str
    codec_id: CodecId
    file_format: str
    knob: str
    values: tuple[int, ...]
    ladder: tuple[int, ...]
    largest_side: int
    options: Mapping[str, int | str | bool]

    @property
    def model_hash(self) -> bytes:
        """Return nothing: it has no weights."""
        return b""

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The ladder's points."""
        return tuple(OperatingPoint.of(**{self.knob: value}) for value in self.ladder)

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """A point for each value of the knob."""
        return tuple(OperatingPoint.of(**{self.knob: value}) for value in self.values)

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """The same: none costs less computation than another of its quality."""
        return self.fine_points

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if the point is not one value of the knob."""
        settings = dict(point.settings)
        if set(settings) != {self.knob} or settings[self.knob] not in self.values:
            low, high = sorted((self.values[0], self.values[-1]))
            raise ValueError(
                f"{self.name} has no point {point}: expected {self.knob}=N, N a whole number {low}..{high}"
            )

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        """Return the payload of an image uint8 (H, W, 3)."""
        height, width = check_image(image, self.largest_side)
        self.check(point)
        value = int(point[self.knob])
        setting = {"quality_layers": [value]} if self.knob == "ratio" else {"quality": value}
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, self.file_format, **self.options, **setting)
        return pack(Container(self.codec_id, height, width, (value,), stream.getvalue()))

    def decode(self, payload: bytes) -> Image:
        """Return the image uint8 (H, W, 3) of a payload.

        Raises:
            BitstreamError: if the payload is damaged or not this codec's.
        """
        container = expect(payload, self.codec_id, 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._decode_body(container)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, OverflowError, MemoryError, KeyError,
                IndexError, TypeError, RuntimeError, PIL.Image.DecompressionBombError) as error:  # fmt: skip
            # Pillow's readers raise whatever their parsers stumble over; the list is what fuzzing met.
            raise BitstreamError(f"{self.name} body does not decode: {error}") from error

    def _decode_body(self, container: Container) -> Image:
        if self.file_format == "JPEG":
            check_jpeg(container.body)
        if self.file_format == "JPEG2000":
            check_jpeg2000(container.body, container.height, container.width)
        with PIL.Image.open(io.BytesIO(container.body), formats=[self.file_format]) as picture:
            if picture.size != (container.width, container.height):
                raise BitstreamError(
                    f"{self.name} body is {picture.size[1]} x {picture.size[0]} pixels, "
                    f"its header says {container.height} x {container.width}"
                )
            return np.asarray(picture.convert("RGB"))

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return zeros: there is no network."""
        return _NO_NETWORK


JPEG = PillowStill(
    "jpeg",
    CodecId.JPEG,
    "JPEG",
    "quality",
    tuple(range(1, 101)),
    (5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    65500,
    {"subsampling": "4:2:0", "optimize": True},
)
JPEG2000 = PillowStill(
    "jpeg2000",
    CodecId.JPEG2000,
    "JPEG2000",
    "ratio",
    tuple(range(400, 1, -1)),
    (240, 160, 120, 80, 60, 40, 30, 20, 15, 10),
    65535,
    {"quality_mode": "rates", "irreversible": True, "mct": 1, "no_jp2": True},
)
WEBP = PillowStill(
    "webp",
    CodecId.WEBP,
    "WEBP",
    "quality",
    tuple(range(101)),
    (1, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    16383,
    {"method": 4},
)
AVIF = PillowStill(
    "avif",
    CodecId.AVIF,
    "AVIF",
    "quality",
    tuple(range(101)),
    (5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    32768,
    {"subsampling": "4:2:0", "speed": 6, "max_threads": 1, "codec": "aom"},
)
