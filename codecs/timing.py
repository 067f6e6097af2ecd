"""Where a codec's seconds go: transform, entropy coding and container.

A codec marks its sections with `section`; nothing is measured unless a `Stopwatch` is running in this thread.

Not here: throughput of a whole fleet.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image, OperatingPoint

SECTIONS = ("transform", "entropy", "container")
_STOPWATCH: ContextVar["Counter[str] | None"] = ContextVar("stopwatch", default=None)
_WITHIN: ContextVar[str | None] = ContextVar("section", default=None)


@contextmanager
def section(name: str) -> Iterator[None]:
    """Count the time inside towards a section of the running stopwatch, if there is one, and not to one around it."""
    stopwatch = _STOPWATCH.get()
    if stopwatch is None:
        yield
        return
    outer = _WITHIN.get()
    token, start = _WITHIN.set(name), time.perf_counter_ns()
    try:
        yield
    finally:
        spent = time.perf_counter_ns() - start
        _WITHIN.reset(token)
        stopwatch[name] += spent
        if outer is not None:
            stopwatch[outer] -= spent


@contextmanager
def stopwatch() -> Iterator["Counter[str]"]:
    """Run a stopwatch; gives nanoseconds by section."""
    counter: Counter[str] = Counter()
    token = _STOPWATCH.set(counter)
    try:
        yield counter
    finally:
        _STOPWATCH.reset(token)


@dataclass(frozen=True)
class Timing:
    """Seconds per megapixel, that of all frames of a clip, of one codec at one point, on one number of threads.

    Attributes:
        codec: its name.
        point: the operating point.
        threads: of the tensor library; legacy codecs keep to one.
        encode_s: in all, per megapixel.
        decode_s: in all, per megapixel.
        encode_sections_s: by section, per megapixel; empty for a codec that marks none.
        decode_sections_s: likewise.
    """

    codec: str
    point: str
    threads: int
    encode_s: float
    decode_s: float
    encode_sections_s: dict[str, float]
    decode_sections_s: dict[str, float]


def time_codec(codec: Codec | ClipCodec, point: OperatingPoint, images: Sequence[Image | Clip], threads: int) -> Timing:
    """Encode and decode every image, or every clip for a codec of clips, after a first, uncounted one.

    Raises:
        ValueError: if there are no images, or the codec cannot take one.
    """
    if not images:
        raise ValueError("no images to time: expected at least one")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codec.decode(codec.encode(images[0], point))
        start = time.perf_counter()
        with stopwatch() as encoding:
            payloads = [codec.encode(image, point) for image in images]
        encoded = time.perf_counter()
        with stopwatch() as decoding:
            for payload in payloads:
                codec.decode(payload)
        decoded = time.perf_counter()
    finally:
        torch.set_num_threads(before)
    megapixels = sum(image[..., 0].size for image in images) / 1e6
    return Timing(
        codec.name,
        str(point),
        threads,
        (encoded - start) / megapixels,
        (decoded - encoded) / megapixels,
        {name: spent / 1e9 / megapixels for name, spent in encoding.items()},
        {name: spent / 1e9 / megapixels for name, spent in decoding.items()},
    )
