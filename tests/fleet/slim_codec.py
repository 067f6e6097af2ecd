"""A test double of a codec with widths: the narrower, the cheaper to run, and the more bytes for one quality."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from roadbits.codecs.codec import Complexity, Image, OperatingPoint

WIDTHS, STEPS = (192, 96, 48), (64, 32, 16, 8, 4)
_HEAD = ">BHHI"


@dataclass(frozen=True)
class SlimCodec:
    """Quantises pixels by `step` and squeezes them; narrow widths pad what comes out."""

    name: str = "slim"
    model_hash: bytes = b"slim"

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        return tuple(OperatingPoint.of(width=width, step=step) for step in STEPS for width in WIDTHS)

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        return self.fine_points

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        return self.fine_points[:: len(WIDTHS)]

    def check(self, point: OperatingPoint) -> None:
        if point not in self.fine_points:
            raise ValueError(f"slim has no point {point}")

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        step = int(point["step"])
        body = zlib.compress((image // step).tobytes())
        return struct.pack(_HEAD, step, *image.shape[:2], len(body)) + body * int(192 // point["width"])

    def decode(self, payload: bytes) -> Image:
        step, height, width, length = struct.unpack_from(_HEAD, payload)
        at = struct.calcsize(_HEAD)
        values = np.frombuffer(zlib.decompress(payload[at : at + length]), np.uint8).astype(int)
        return np.minimum(values * step + step // 2, 255).astype(np.uint8).reshape(height, width, 3)

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        macs = int(point["width"]) ** 2 * height * width
        return Complexity(macs, macs, 1000, 4000, 4 * int(point["width"]) * height * width)
