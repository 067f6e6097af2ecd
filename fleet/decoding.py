"""What the server makes of payloads: decoded frames, and how far they are from the originals.

Not here: receiving payloads (`collector`), restoring frames (`roadbits.restoration`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.catalogue import codec_named, still_or_clip_codec_named
from roadbits.codecs.codec import ClipCodec, Codec, Image, OperatingPoint, clip_of, is_clip_codec
from roadbits.codecs.metrics import ms_ssim, psnr
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.fittings import Version, maker_of
from roadbits.fleet.vehicle import Arm

BATCH_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded frame.

    Attributes:
        image: uint8 (H, W, 3); None if the payload proved undecodable.
        psnr_db: against the original.
        ms_ssim: against the original.
        payload_bytes: of its payload; its share of a clip's.
        reason: why it is undecodable, else empty.
    """

    image: Image | None
    psnr_db: float = 0.0
    ms_ssim: float = 0.0
    payload_bytes: float = 0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Uploaded:
    """Payloads of one arm that arrived, and their originals.

    Attributes:
        arm: codec and operating point.
        payloads: as they came.
        originals: of their frames, uint8 (H, W, 3), one after the other.
        adapted: codecs with the adapters that the payloads name, as far as the server has them.
        clip_frames: of each payload, where they are clips; else empty.
    """

    arm: Arm
    payloads: list[bytes]
    originals: list[Image]
    adapted: Sequence[Version] = ()
    clip_frames: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class OnBoard:
    """Originals that an arm's codec is to compress and decompress on board.

    Attributes:
        arm: codec and operating point.
        originals: uint8 (H, W, 3).
        points: of each.
        adapted: the codec of each, where the arm's vehicles adapt theirs; else empty.
        clip_frames: of each clip that they make up, one after the other, for a codec of clips; else empty.
        split: `test` or `reference`: what they are.
    """

    arm: Arm
    originals: list[Image]
    points: list[OperatingPoint]
    adapted: Sequence[Version] = ()
    clip_frames: Sequence[int] = ()
    split: str = "test"


def decode_uploaded(batch: Uploaded) -> list[Decoded]:
    """Decode payloads; one that does not decode gives a `Decoded` without an image."""
    # One thread, so that sums come out the same in every process.
    torch.set_num_threads(1)
    if batch.clip_frames:
        clip_codec = _clip_codec(batch.arm)
        clips = zip(batch.payloads, _cut(batch.originals, batch.clip_frames), strict=True)
        return [frame for payload, originals in clips for frame in _decoded_clip(clip_codec, payload, originals)]
    source, adapted = codec_named(batch.arm.source), [version.codec() for version in batch.adapted]
    return [
        _decoded(maker_of(payload, adapted, source), payload, original)
        for payload, original in zip(batch.payloads, batch.originals, strict=True)
    ]


def compress_on_board(batch: OnBoard) -> list[Decoded]:
    """Encode and decode originals with an arm's codec.

    Raises:
        DataError: if the codec cannot take a frame, for instance for its size.
    """
    torch.set_num_threads(1)
    if batch.clip_frames:
        return _clips_on_board(batch)
    source = codec_named(batch.arm.source)
    codecs: Sequence[Codec] = [version.codec() for version in batch.adapted] or [source] * len(batch.originals)
    try:
        return [
            _decoded(codec, codec.encode(original, point), original)
            for codec, original, point in zip(codecs, batch.originals, batch.points, strict=True)
        ]
    except ValueError as error:
        raise DataError(f"{batch.split} frames with {batch.arm.key}: {error}") from error


def _clips_on_board(batch: OnBoard) -> list[Decoded]:
    codec, point = _clip_codec(batch.arm), batch.points[0]
    try:
        return [
            frame
            for originals in _cut(batch.originals, batch.clip_frames)
            for frame in _decoded_clip(codec, codec.encode(clip_of(originals), point), originals)
        ]
    except ValueError as error:
        raise DataError(f"{batch.split} frames with {batch.arm.key}: {error}") from error


def _clip_codec(arm: Arm) -> ClipCodec:
    codec = still_or_clip_codec_named(arm.source)
    assert is_clip_codec(codec)
    return codec


def _cut(images: Sequence[Image], lengths: Sequence[int]) -> Iterator[list[Image]]:
    """Yield the images of one clip after the other."""
    first = 0
    for length in lengths:
        yield list(images[first : first + length])
        first += length


def _decoded_clip(codec: ClipCodec, payload: bytes, originals: Sequence[Image]) -> list[Decoded]:
    """Return the frames of a clip; all of them without an image if it does not decode to so many."""
    share = len(payload) / len(originals)
    try:
        clip = codec.decode(payload)
    except BitstreamError as error:
        return [Decoded(None, payload_bytes=share, reason=str(error))] * len(originals)
    if len(clip) != len(originals):
        reason = f"the clip has {len(clip)} frames, the vehicle told of {len(originals)}"
        return [Decoded(None, payload_bytes=share, reason=reason)] * len(originals)
    return [
        Decoded(image, psnr(image, original), ms_ssim(image, original), share)
        for image, original in zip(clip, originals, strict=True)
    ]


def _decoded(codec: Codec, payload: bytes, original: Image) -> Decoded:
    try:
        image = codec.decode(payload)
    except BitstreamError as error:
        return Decoded(None, payload_bytes=len(payload), reason=str(error))
    return Decoded(image, psnr(image, original), ms_ssim(image, original), len(payload))
