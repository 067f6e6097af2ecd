"""Every still codec by its name on the command line, and the decoder of any payload.

A plain name of a neural codec means its shipped weights, `NAME:FILE` weights of one's own.

Not here: the codecs themselves.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from roadbits.codecs.bitstream import BitstreamError, CodecId, unpack
from roadbits.codecs.codec import Codec, Image
from roadbits.codecs.legacy.hevc import HEVC_INTRA
from roadbits.codecs.legacy.stills import AVIF, JPEG, JPEG2000, WEBP
from roadbits.codecs.neural.model_file import FrozenModel, ModelFileError
from roadbits.codecs.neural.still import NeuralStill

LEGACY_CODECS: tuple[Codec, ...] = (JPEG, JPEG2000, WEBP, AVIF, HEVC_INTRA)
NEURAL_NAMES: tuple[str, ...] = ("cae", "hyperprior")
WEIGHTS = Path(__file__).parent / "weights"
_LEGACY_IDS = dict(
    zip((CodecId.JPEG, CodecId.JPEG2000, CodecId.WEBP, CodecId.AVIF, CodecId.HEVC_INTRA), LEGACY_CODECS, strict=True)
)


def still_codecs() -> tuple[Codec, ...]:
    """Return every codec that needs no file of one's own."""
    return *LEGACY_CODECS, *map(codec_named, NEURAL_NAMES)


def codec_named(name: str) -> Codec:
    """Return a codec by its name, or by `NAME:FILE` a neural one with weights of one's own.

    Raises:
        ValueError: if there is none of that name, lists those there are; or if the weights cannot be used.
    """
    for codec in LEGACY_CODECS:
        if codec.name == name:
            return codec
    kind, colon, file = name.partition(":")
    if kind not in NEURAL_NAMES or bool(colon) != bool(file):
        legacy = (codec.name for codec in LEGACY_CODECS)
        raise ValueError(
            f"no codec {name!r}: choose from {', '.join((*legacy, *NEURAL_NAMES))}, "
            f"or {' or '.join(f'{neural}:FILE' for neural in NEURAL_NAMES)} for weights of your own"
        )
    path = Path(file) if file else WEIGHTS / f"{kind}.safetensors"
    try:
        stat = path.stat()
        codec = _neural(name, path, stat.st_mtime_ns, stat.st_size)
    except (ModelFileError, OSError) as error:
        raise ValueError(f"codec {name}: {error}") from error
    if codec.model.description.architecture != kind:
        raise ValueError(f"codec {name}: the weights in {path} are of {codec.model.description.architecture}")
    return codec


@functools.lru_cache(maxsize=32)
def _neural(name: str, path: Path, modified_ns: int, size: int) -> NeuralStill:
    """Return a neural codec; the last two arguments tell a changed file from the one in the cache."""
    return NeuralStill(name, FrozenModel.load(path))


def codec_of(payload: bytes, further: Sequence[Codec] = ()) -> Codec:
    """Return the codec that can decode a payload.

    Args:
        payload: what a codec's `encode` gave.
        further: codecs with weights of one's own, beside the shipped ones.

    Raises:
        BitstreamError: if the payload is damaged, of an unknown codec, or needs weights that are not there.
    """
    container = unpack(payload)
    if container.codec_id in _LEGACY_IDS:
        return _LEGACY_IDS[container.codec_id]
    kind = container.codec_id.name.lower()
    known = [codec for codec in (*further, *_shipped(kind)) if isinstance(codec, NeuralStill)]
    for codec in known:
        if codec.accepts(container):
            return codec
    here = ", ".join(f"{codec.name} {codec.model.hash.hex()}" for codec in known) or "none"
    raise BitstreamError(
        f"payload needs the {kind} model {container.model_hash.hex()}, known here: {here}; "
        f"name its weights as {kind}:FILE"
    )


def _shipped(kind: str) -> tuple[Codec, ...]:
    """Return the neural codec of that name with its shipped weights, if there are any."""
    return (codec_named(kind),) if (WEIGHTS / f"{kind}.safetensors").is_file() else ()


def decode(payload: bytes, further: Sequence[Codec] = ()) -> Image:
    """Return the image uint8 (H, W, 3) of any codec's payload; arguments and errors are those of `codec_of`."""
    return codec_of(payload, further).decode(payload)
