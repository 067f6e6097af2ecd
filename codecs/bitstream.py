"""The container: the outer frame of every payload that leaves a vehicle.

Layout, little endian; its length is the rate::

    magic 'RB' | version u8 | codec id u8 | flags u8 | height u16 | width u16 | point values u16 x n
    | model hash 6 B (flag) | adapter hash 6 B (flag) | body length u32 | body | digest 6 B

`flags` holds the number n of point values (bits 0-2), whether a model hash (bit 3) and an adapter hash (bit 4) follow.
The digest is BLAKE2b over everything before it, cut to 48 bits: any damage passes with probability 2^-48, against
2^-32 of a CRC-32C, and the standard library computes it at a gigabyte a second. A legacy still pays 21 bytes for its
frame, a neural one 27, an adapted one 33.

Not here: what the body means, which is each codec's own affair.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

MAGIC = b"RB"
VERSION = 1
HASH_BYTES = 6
DIGEST_BYTES = 6
MAX_PIXELS = 64 * 1024 * 1024
"""No payload may claim more pixels: decoding allocates a few bytes per pixel."""
MAX_BODY_BYTES = 64 * 1024 * 1024
_FIXED = struct.Struct("<2sBBBHH")
_LENGTH = struct.Struct("<I")
_MAX_VALUES = 7
_HAS_MODEL, _HAS_ADAPTER = 8, 16


class BitstreamError(Exception):
    """A payload that cannot be decoded: damaged, truncated, foreign, oversized, or of an unknown codec or model."""


class CodecId(IntEnum):
    """What wrote a payload. Numbers are never reused or changed."""

    JPEG = 1
    JPEG2000 = 2
    WEBP = 3
    AVIF = 4
    HEVC_INTRA = 5
    CAE = 6
    HYPERPRIOR = 7
    MPEG2 = 8
    H264 = 9
    HEVC = 10
    AV1 = 11
    SLIMVC = 12
    PASSTHROUGH = 13


@dataclass(frozen=True)
class Container:
    """The parts of a payload.

    Attributes:
        codec_id: what wrote the body.
        height: of the image, in pixels.
        width: of the image, in pixels.
        point: the operating point as the codec numbers it, each value in 0..65535.
        body: the codec's own bytes.
        model_hash: of the exact weights and tables needed, `HASH_BYTES` long; empty for a legacy codec.
        adapter_hash: of the adapter on top of the model, `HASH_BYTES` long; empty without one.
    """

    codec_id: CodecId
    height: int
    width: int
    point: tuple[int, ...]
    body: bytes
    model_hash: bytes = b""
    adapter_hash: bytes = b""


def pack(container: Container) -> bytes:
    """Return the payload.

    Raises:
        ValueError: if a part does not fit its field.
    """
    if len(container.point) > _MAX_VALUES or len(container.body) > MAX_BODY_BYTES:
        raise ValueError(
            f"expected at most {_MAX_VALUES} point values and {MAX_BODY_BYTES} bytes, "
            f"got {len(container.point)} and {len(container.body)}"
        )
    if min(container.height, container.width) < 1 or container.height * container.width > MAX_PIXELS:
        raise ValueError(f"expected 1 to {MAX_PIXELS} pixels, got {container.height} x {container.width}")
    flags = len(container.point)
    for flag, digest in ((_HAS_MODEL, container.model_hash), (_HAS_ADAPTER, container.adapter_hash)):
        if len(digest) not in (0, HASH_BYTES):
            raise ValueError(f"expected a hash of {HASH_BYTES} bytes, got {len(digest)}")
        flags |= flag if digest else 0
    try:
        header = _FIXED.pack(MAGIC, VERSION, container.codec_id, flags, container.height, container.width)
        values = struct.pack(f"<{len(container.point)}H", *container.point)
    except struct.error as error:
        raise ValueError(f"a header field does not fit: {error}") from error
    message = b"".join(
        (
            header,
            values,
            container.model_hash,
            container.adapter_hash,
            _LENGTH.pack(len(container.body)),
            container.body,
        )
    )
    return message + _digest(message)


def unpack(payload: bytes) -> Container:
    """Take a payload apart and check it; nothing is allocated on the word of its header.

    Raises:
        BitstreamError: says what was expected and what came.
    """
    if len(payload) < _FIXED.size + _LENGTH.size + DIGEST_BYTES:
        raise BitstreamError(f"payload is {len(payload)} bytes, shorter than any header: truncated?")
    magic, version, codec_id, flags, height, width = _FIXED.unpack_from(payload)
    if magic != MAGIC:
        raise BitstreamError(f"payload begins with {magic!r}, expected {MAGIC!r}: not a roadbits payload")
    if version != VERSION:
        raise BitstreamError(f"payload has format version {version}, this program reads {VERSION}")
    num_values = flags & 7
    hashes = [HASH_BYTES if flags & flag else 0 for flag in (_HAS_MODEL, _HAS_ADAPTER)]
    body_at = _FIXED.size + 2 * num_values + sum(hashes) + _LENGTH.size
    if len(payload) < body_at + DIGEST_BYTES:
        raise BitstreamError(f"payload is {len(payload)} bytes, its header alone needs {body_at}: truncated?")
    (body_bytes,) = _LENGTH.unpack_from(payload, body_at - _LENGTH.size)
    promised = body_at + body_bytes + DIGEST_BYTES
    if len(payload) != promised:
        fault = "truncated?" if len(payload) < promised else "something was appended?"
        raise BitstreamError(f"payload is {len(payload)} bytes, its header promises {promised}: {fault}")
    if _digest(payload[:-DIGEST_BYTES]) != payload[-DIGEST_BYTES:]:
        raise BitstreamError("payload does not match its own digest: damaged on the way?")
    if flags >= 2 * _HAS_ADAPTER:
        raise BitstreamError(f"payload has unknown flags {flags:#x}: written by a newer version?")
    if height == 0 or width == 0 or height * width > MAX_PIXELS:
        raise BitstreamError(f"payload claims {height} x {width} pixels, expected 1 to {MAX_PIXELS} in all")
    try:
        codec = CodecId(codec_id)
    except ValueError:
        raise BitstreamError(f"payload names codec id {codec_id}, known are {[int(k) for k in CodecId]}") from None
    values_at = _FIXED.size
    model_at = values_at + 2 * num_values
    adapter_at = model_at + hashes[0]
    return Container(
        codec,
        height,
        width,
        struct.unpack_from(f"<{num_values}H", payload, values_at),
        payload[body_at:-DIGEST_BYTES],
        payload[model_at:adapter_at],
        payload[adapter_at : adapter_at + hashes[1]],
    )


def expect(payload: bytes, codec_id: CodecId, num_values: int) -> Container:
    """Unpack a payload that one codec is to decode.

    Raises:
        BitstreamError: if it is damaged or another codec's.
    """
    container = unpack(payload)
    if container.codec_id != codec_id:
        raise BitstreamError(f"payload is of {container.codec_id.name}, expected {codec_id.name}")
    if len(container.point) != num_values:
        raise BitstreamError(f"payload of {codec_id.name} has {len(container.point)} point values, wants {num_values}")
    return container


def _digest(message: bytes) -> bytes:
    return hashlib.blake2b(message, digest_size=DIGEST_BYTES).digest()


def clip_from(images: Iterator[NDArray[np.uint8]], frames: int) -> NDArray[np.uint8]:
    """Return so many decoded images (H, W, 3) as a clip; nothing is allocated on the word of a header alone.

    Raises:
        BitstreamError: if there is not as much memory, and what decoding raises.
    """
    first = next(images)
    try:
        clip = np.empty((frames, *first.shape), np.uint8)
    except MemoryError as error:
        raise BitstreamError(f"a clip of {frames} frames takes more memory than there is") from error
    clip[0] = first
    for index, image in enumerate(images, 1):
        clip[index] = image
    return clip
