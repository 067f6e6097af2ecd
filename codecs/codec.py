"""The seams of every codec: images or clips in, payloads out, and the operating points in between.

An image is a uint8 (H, W, 3) RGB array, a clip uint8 (T, H, W, 3); a payload is a self-contained `bytes` object whose
length is the rate (`bitstream`). One interface serves JPEG and neural codecs alike.

Not here: the choice of a codec by name (`catalogue`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""


@dataclass(frozen=True, order=True)
class OperatingPoint:
    """One choice of a codec's knobs, for example `quality=30` or `width=96`.

    Attributes:
        settings: knob names and values, in the codec's own order.
    """

    settings: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, **settings: float) -> Self:
        """Return the point with these settings."""
        return cls(tuple(settings.items()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `knob=value[,knob=value ...]`.

        Raises:
            ValueError: if the text has another form or a value is not a finite number.
        """
        settings = {}
        for part in text.split(","):
            knob, equals, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not (knob.strip() and equals and math.isfinite(value)) or knob.strip() in settings:
                raise ValueError(f"operating point {text!r} is not of the form knob=value[,knob=value]")
            settings[knob.strip()] = value
        return cls(tuple(settings.items()))

    def __getitem__(self, knob: str) -> float:
        """Return the value of one knob."""
        return dict(self.settings)[knob]

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ",".join(f"{knob}={float(value)!r}".removesuffix(".0") for knob, value in self.settings)


@dataclass(frozen=True)
class Complexity:
    """What one pass of a codec's networks costs; all zero for a legacy codec, which has none.

    Attributes:
        encode_macs: multiply-accumulates to encode one image.
        decode_macs: multiply-accumulates to decode it.
        parameters: number of weights of both transforms and the entropy model.
        weight_bytes: bytes of those weights as shipped.
        peak_activation_bytes: the most that the transforms' float32 values take at once while one image is encoded,
            the image itself, weights and a convolution's own scratch space aside.
    """

    encode_macs: int
    decode_macs: int
    parameters: int
    weight_bytes: int
    peak_activation_bytes: int

    @property
    def encode_memory_bytes(self) -> int:
        """What a device must hold to encode one image: weights and activations."""
        return self.weight_bytes + self.peak_activation_bytes


Clip = NDArray[np.uint8]
"""Consecutive frames of one camera, RGB, (T, H, W, 3)."""
MAX_CLIP_PIXELS = 512 * 1024 * 1024
"""No clip may have more, all frames together: decoded it takes three bytes each."""


class AnyCodec(Protocol):
    """What codecs of stills and of clips share: a name, operating points and what those cost."""

    @property
    def name(self) -> str:
        """The name on the command line, for example `jpeg` or `h264`."""
        ...

    @property
    def model_hash(self) -> bytes:
        """Which weights and tables it uses; empty for a legacy codec, which has none."""
        ...

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """A dozen or fewer points worth measuring, from the lowest rate up."""
        ...

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """Every point that a search for a target rate may choose, from the lowest rate up."""
        ...

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """Every point there is: the fine points, and those that give less quality for less computation."""
        ...

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError, naming the choices, if this codec has no such point."""
        ...

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return the cost of one image of that size, or of one frame of a clip that is no key frame."""
        ...


class Codec(AnyCodec, Protocol):
    """A still codec: stateless after construction, safe to share between threads."""

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        """Return the payload of an image.

        Raises:
            ValueError: if the image is no uint8 (H, W, 3) array of a supported size, or the point is not the codec's.
        """
        ...

    def decode(self, payload: bytes) -> Image:
        """Return the image of a payload.

        Raises:
            BitstreamError: if the payload is damaged, foreign, oversized or another codec's.
        """
        ...


def check_image(image: Image, largest_side: int = 65535) -> tuple[int, int]:
    """Return the height and width of an image that a codec can take.

    Raises:
        ValueError: if it is no uint8 (H, W, 3) array with sides of 1 to `largest_side` pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"expected an image of uint8 (H, W, 3), got {got}")
    height, width = image.shape[:2]
    if not (1 <= height <= largest_side and 1 <= width <= largest_side):
        raise ValueError(f"expected sides of 1 to {largest_side} pixels, got {height} x {width}")
    return height, width


class ClipCodec(AnyCodec, Protocol):
    """A codec of clips, uint8 (T, H, W, 3): stateless after construction, one payload for the whole clip."""

    @property
    def gop_frames(self) -> int:
        """From one key frame to the next at most, in frames."""
        ...

    def encode(self, clip: Clip, point: OperatingPoint, /) -> bytes:
        """Return the payload of a clip.

        Raises:
            ValueError: if the clip is no uint8 (T, H, W, 3) array of a supported size, or the point is not the codec's.
        """
        ...

    def decode(self, payload: bytes) -> Clip:
        """Return the clip of a payload.

        Raises:
            BitstreamError: if the payload is damaged, foreign, oversized or another codec's.
        """
        ...


def is_clip_codec(codec: Codec | ClipCodec) -> TypeGuard[ClipCodec]:
    """Return whether a codec takes clips."""
    return hasattr(codec, "gop_frames")


def is_still_codec(codec: Codec | ClipCodec) -> TypeGuard[Codec]:
    """Return whether a codec takes single images."""
    return not is_clip_codec(codec)


def clip_of(images: Sequence[Image]) -> Clip:
    """Return images (H, W, 3), at least one, as a clip (T, H, W, 3).

    Raises:
        ValueError: if they differ in size.
    """
    height, width = images[0].shape[:2]
    for image in images:
        if image.shape[:2] != (height, width):
            sizes = f"{height} x {width} and {image.shape[0]} x {image.shape[1]}"
            raise ValueError(f"a clip's frames must be of one size, got {sizes} pixels")
    return np.stack(images)


def check_clip(clip: Clip) -> tuple[int, int, int]:
    """Return the number of frames, the height and the width of a clip that a codec can take.

    Raises:
        ValueError: if it is no uint8 (T, H, W, 3) array of 1 to 65,535 frames, or has too many pixels.
    """
    if not isinstance(clip, np.ndarray) or clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
        got = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
        raise ValueError(f"expected a clip of uint8 (T, H, W, 3), got {got}")
    frames, height, width = clip.shape[:3]
    if not 1 <= frames <= 65535:
        raise ValueError(f"expected a clip of 1 to 65535 frames, got {frames}")
    check_image(clip[0])
    if clip[..., 0].size > MAX_CLIP_PIXELS:
        raise ValueError(f"expected at most {MAX_CLIP_PIXELS} pixels in all frames, got {frames} x {height} x {width}")
    return frames, height, width
