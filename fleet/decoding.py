"""What the server makes of payloads: decoded frames, and how far they are from the originals.

Not here: receiving payloads (`collector`), restoring frames (`roadbits.restoration`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Codec, Image, OperatingPoint
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
        payload_bytes: of its payload.
        reason: why it is undecodable, else empty.
    """

    image: Image | None
    psnr_db: float = 0.0
    ms_ssim: float = 0.0
    payload_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Uploaded:
    """Payloads of one arm that arrived, and their originals.

    Attributes:
        arm: codec and operating point.
        payloads: as they came.
        originals: of each, uint8 (H, W, 3).
        adapted: codecs with the adapters that the payloads name, as far as the server has them.
    """

    arm: Arm
    payloads: list[bytes]
    originals: list[Image]
    adapted: Sequence[Version] = ()


@dataclass(frozen=True, eq=False)
class OnBoard:
    """Originals that an arm's codec is to compress and decompress on board.

    Attributes:
        arm: codec and operating point.
        originals: uint8 (H, W, 3).
        points: of each.
        adapted: the codec of each, where the arm's vehicles adapt theirs; else empty.
    """

    arm: Arm
    originals: list[Image]
    points: list[OperatingPoint]
    adapted: Sequence[Version] = ()


def decode_uploaded(batch: Uploaded) -> list[Decoded]:
    """Decode payloads; one that does not decode gives a `Decoded` without an image."""
    # One thread, so that sums come out the same in every process.
    torch.set_num_threads(1)
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
    source = codec_named(batch.arm.source)
    codecs: Sequence[Codec] = [version.codec() for version in batch.adapted] or [source] * len(batch.originals)
    try:
        return [
            _decoded(codec, codec.encode(original, point), original)
            for codec, original, point in zip(codecs, batch.originals, batch.points, strict=True)
        ]
    except ValueError as error:
        raise DataError(f"test frames with {batch.arm.key}: {error}") from error


def _decoded(codec: Codec, payload: bytes, original: Image) -> Decoded:
    try:
        image = codec.decode(payload)
    except BitstreamError as error:
        return Decoded(None, payload_bytes=len(payload), reason=str(error))
    return Decoded(image, psnr(image, original), ms_ssim(image, original), len(payload))
