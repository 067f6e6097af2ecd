"""Every still codec by its name on the command line, and the decoder of any payload.

Not here: the codecs themselves.
"""

from typing import assert_never

from roadbits.codecs.bitstream import CodecId, unpack
from roadbits.codecs.codec import Codec, Image
from roadbits.codecs.legacy.hevc import HEVC_INTRA
from roadbits.codecs.legacy.stills import AVIF, JPEG, JPEG2000, WEBP

STILL_CODECS: tuple[Codec, ...] = (JPEG, JPEG2000, WEBP, AVIF, HEVC_INTRA)


def codec_named(name: str) -> Codec:
    """Return a codec by its name.

    Raises:
        ValueError: if there is none of that name; lists those there are.
    """
    for codec in STILL_CODECS:
        if codec.name == name:
            return codec
    raise ValueError(f"no codec {name!r}: choose from {', '.join(codec.name for codec in STILL_CODECS)}")


def codec_of(payload: bytes) -> Codec:
    """Return the codec that can decode a payload.

    Raises:
        BitstreamError: if the payload is damaged or of an unknown codec.
    """
    match unpack(payload).codec_id:
        case CodecId.JPEG:
            return JPEG
        case CodecId.JPEG2000:
            return JPEG2000
        case CodecId.WEBP:
            return WEBP
        case CodecId.AVIF:
            return AVIF
        case CodecId.HEVC_INTRA:
            return HEVC_INTRA
        case unknown:
            assert_never(unknown)


def decode(payload: bytes) -> Image:
    """Return the image uint8 (H, W, 3) of any codec's payload.

    Raises:
        BitstreamError: if the payload is damaged or of an unknown codec.
    """
    return codec_of(payload).decode(payload)
