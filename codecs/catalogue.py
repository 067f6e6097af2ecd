"""Every codec by its name on the command line, and the decoder of any payload.

A plain name of a neural codec means its shipped weights, `NAME:FILE` weights of one's own. `cae` and `hyperprior` name
what a network is; `gain`, `scaling`, `mae` and `conditional` how it reaches several rates, whichever it is; `slimcae`
and `slimhyperprior` one that has several widths, of which `slimcae/96` and `slimcae/96:FILE` take one out. Behind a
`+` stands the file of an adapter, as in `cae+dusk.safetensors`. Clips have codecs of their own, `slimvc` and
`slimvc/96` among them, whose file goes with that of a `slimcae`.

Not here: the codecs themselves.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from roadbits.codecs.adaptation.danice import Adapter, AdapterError, adapted_codec
from roadbits.codecs.bitstream import BitstreamError, CodecId, unpack
from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image
from roadbits.codecs.legacy import passthrough
from roadbits.codecs.legacy.clips import CLIP_CODECS
from roadbits.codecs.legacy.hevc import HEVC_INTRA
from roadbits.codecs.legacy.stills import AVIF, JPEG, JPEG2000, WEBP
from roadbits.codecs.neural.model_file import FrozenModel, ModelFileError
from roadbits.codecs.neural.slim_clip import SlimClip
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill, named_weights
from roadbits.codecs.neural.temporal_model import TemporalModel

LEGACY_CODECS: tuple[Codec, ...] = (JPEG, JPEG2000, WEBP, AVIF, HEVC_INTRA)
NEURAL_NAMES = ("cae", "hyperprior", "scaling", "mae", "conditional", "gain", "slimcae", "slimhyperprior")
WEIGHTS = Path(__file__).parent / "weights"
_SLIM_NAMES = {"cae": "slimcae", "hyperprior": "slimhyperprior"}
_LEGACY_IDS = dict(
    zip((CodecId.JPEG, CodecId.JPEG2000, CodecId.WEBP, CodecId.AVIF, CodecId.HEVC_INTRA), LEGACY_CODECS, strict=True)
)

CLIP_IDS = {CodecId.SLIMVC, CodecId.PASSTHROUGH, *(codec.codec_id for codec in CLIP_CODECS)}
SLIMVC = "slimvc"

NeuralCodec = NeuralStill | SlimStill


def shipped_names() -> tuple[str, ...]:
    """Return the names of the neural codecs whose weights come with the program."""
    return tuple(name for name in NEURAL_NAMES if _shipped_weights(name).is_file())


def _shipped_weights(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


def still_codecs() -> tuple[Codec, ...]:
    """Return every codec that needs no file of one's own."""
    return *LEGACY_CODECS, *map(codec_named, shipped_names())


def codec_named(name: str) -> Codec:
    """Return a codec by its name.

    `NAME:FILE` is a neural one with weights of one's own, `NAME/WIDTH` one width; `+FILE` behind either an adapter.

    Raises:
        ValueError: if there is none of that name, lists those there are; or if the weights cannot be used.
    """
    for codec in LEGACY_CODECS:
        if codec.name == name:
            return codec
    unadapted, plus, adapter = name.rpartition("+")
    if plus and adapter.endswith(".safetensors") and not Path(name.partition(":")[2]).is_file():
        return _with_adapter(name, unadapted, Path(adapter))
    of_file, colon, file = name.partition(":")
    kind, slash, width = of_file.partition("/")
    takes_width = kind in _SLIM_NAMES.values() and width.isascii() and width.isdecimal()
    if kind not in NEURAL_NAMES or bool(colon) != bool(file) or (slash and not takes_width):
        ready = (*(codec.name for codec in LEGACY_CODECS), *shipped_names())
        raise ValueError(
            f"no codec {name!r}: choose from {', '.join(ready)}, "
            f"or NAME:FILE for weights of your own, of {', '.join(NEURAL_NAMES)}, "
            "or NAME/WIDTH for one width of a codec of several, or any of these with +FILE.safetensors for an adapter"
        )
    path = Path(file) if file else _shipped_weights(kind)
    if not file and not path.is_file():
        raise ValueError(f"codec {name} has no shipped weights: train some with roadbits train, and name {name}:FILE")
    try:
        stat = path.stat()
        return _neural(name, kind, int(width) if width else None, path, stat.st_mtime_ns, stat.st_size)
    except (ModelFileError, OSError, ValueError) as error:
        raise ValueError(f"codec {name}: {error}") from error


def clip_codecs() -> tuple[ClipCodec, ...]:
    """Return every codec of clips that needs no file of one's own."""
    return *CLIP_CODECS, *([_slimvc(SLIMVC, _shipped_weights(SLIMVC))] if _shipped_weights(SLIMVC).is_file() else [])


def _slimvc(name: str, path: Path, width: int | None = None) -> SlimClip:
    """Return SlimVC with the temporal model in a file, all of it or one width.

    Raises:
        ValueError: if it cannot be used, or its still codec is not to be found.
    """
    try:
        stat = path.stat()
        return _cached_slimvc(name, path, width, stat.st_mtime_ns, stat.st_size)
    except (ModelFileError, OSError, ValueError) as error:
        raise ValueError(f"codec {name}: {error}") from error


@functools.lru_cache(maxsize=8)
def _cached_slimvc(name: str, path: Path, width: int | None, modified_ns: int, size: int) -> SlimClip:
    """Return SlimVC; the last two arguments tell a changed file from the one in the cache."""
    model = TemporalModel.load(path)
    kind, colon, file = model.description.still.partition(":")
    beside = path.parent / Path(file).name
    still = codec_named(f"{kind}:{beside}" if colon and not Path(file).is_file() else kind + colon + file)
    if not isinstance(still, SlimStill):
        raise ModelFileError(f"{path} says that it belongs to {kind}, which has one width only")
    # Frames of a clip are told by those before: contexts, which tell a still from itself, stay out.
    return SlimClip(name, SlimStill(still.name, still.model.without_contexts()), model, width)


def still_or_clip_codec_named(name: str) -> Codec | ClipCodec:
    """Return a codec of stills or clips by its name.

    Raises:
        ValueError: as `codec_named` does.
    """
    for codec in CLIP_CODECS:
        if codec.name == name:
            return codec
    of_file, colon, file = name.partition(":")
    kind, slash, width = of_file.partition("/")
    takes_width = not slash or (width.isascii() and width.isdecimal())
    if kind == SLIMVC and takes_width and bool(colon) == bool(file):
        return _slimvc(name, Path(file) if file else _shipped_weights(SLIMVC), int(width) if width else None)
    try:
        return codec_named(name)
    except ValueError as error:
        clips = ", ".join((*(codec.name for codec in CLIP_CODECS), SLIMVC))
        raise ValueError(f"{error}; of clips: {clips}" if "choose from" in str(error) else str(error)) from error


def _with_adapter(name: str, unadapted: str, path: Path) -> NeuralStill:
    """Return a codec with the adapter in a file.

    Raises:
        ValueError: if either cannot be used, or they do not belong together.
    """
    codec = codec_named(unadapted)
    if not isinstance(codec, NeuralStill):
        raise ValueError(f"codec {name}: an adapter belongs to a neural codec of one width, such as cae or slimcae/96")
    try:
        stat = path.stat()
        return _adapted(name, codec, path, stat.st_mtime_ns, stat.st_size)
    except (AdapterError, ModelFileError, OSError) as error:
        raise ValueError(f"codec {name}: {error}") from error


@functools.lru_cache(maxsize=32)
def _adapted(name: str, codec: NeuralStill, path: Path, modified_ns: int, size: int) -> NeuralStill:
    """Return a codec with an adapter; the last two arguments tell a changed file from the one in the cache."""
    return adapted_codec(codec, Adapter.load(path), name)


@functools.lru_cache(maxsize=32)
def _neural(name: str, kind: str, width: int | None, path: Path, modified_ns: int, size: int) -> NeuralCodec:
    """Return a neural codec; the last two arguments tell a changed file from the one in the cache.

    Raises:
        ModelFileError: if the file cannot be used, or holds another kind of codec.
        ValueError: if it has no such width.
    """
    model = _model(path, modified_ns, size)
    if isinstance(model, SlimModel):
        slim = _SLIM_NAMES[model.models[0].description.architecture]
        if kind != slim:
            raise ModelFileError(f"the weights in {path} are of {slim}")
        return SlimStill(name, model) if width is None else NeuralStill(name, model.of_width(width))
    described = model.description
    if kind not in (described.architecture, described.method):
        raise ModelFileError(f"the weights in {path} are of {described.architecture}, method {described.method}")
    return NeuralStill(name, model)


@functools.lru_cache(maxsize=32)
def _model(path: Path, modified_ns: int, size: int) -> FrozenModel | SlimModel:
    """Return what a file holds, read once for all names of its widths."""
    return load_model(path)


def codec_of(payload: bytes, further: Sequence[Codec] = (), adapters: Collection[bytes] = ()) -> Codec:
    """Return the codec that can decode a payload.

    Args:
        payload: what a codec's `encode` gave.
        further: codecs with weights of one's own, beside the shipped ones.
        adapters: hashes of adapters that are at hand; of a payload that needs one, its source codec is returned.

    Raises:
        BitstreamError: if the payload is damaged, of an unknown codec, or needs weights that are not there.
    """
    container = unpack(payload)
    if container.codec_id in _LEGACY_IDS:
        return _LEGACY_IDS[container.codec_id]
    if container.codec_id in CLIP_IDS:
        raise BitstreamError(f"payload is a clip of {container.codec_id.name.lower()}, expected a still")
    kind = container.codec_id.name.lower()
    plain, known = replace(container, adapter_hash=b""), []
    for codec in _neural_codecs(kind, further):
        if codec.accepts(container) or (container.adapter_hash in adapters and codec.accepts(plain)):
            return codec
        known.append(codec)
    if any(codec.accepts(plain) for codec in known):
        raise BitstreamError(
            f"payload needs the adapter {container.adapter_hash.hex()} on the {kind} model "
            f"{container.model_hash.hex()}: it can be decoded once that adapter is here"
        )
    here = ", ".join(f"{codec.name} {codec.model_hash.hex()}" for codec in known) or "none"
    raise BitstreamError(
        f"payload needs the {kind} model {container.model_hash.hex()}, known here: {here}; "
        f"name its weights as {named_weights(kind)}"
    )


def _neural_codecs(kind: str, further: Sequence[Codec]) -> Iterator[NeuralCodec]:
    """Yield neural codecs, shipped ones of a payload's kind before those whose weights need not be read for it."""
    yield from (codec for codec in further if isinstance(codec, NeuralCodec))
    for name in sorted(shipped_names(), key=lambda name: not name.endswith(kind)):
        codec = codec_named(name)
        assert isinstance(codec, NeuralCodec)
        yield codec


def decode(payload: bytes, further: Sequence[Codec] = ()) -> Image:
    """Return the image uint8 (H, W, 3) of any codec's payload; arguments and errors are those of `codec_of`."""
    return codec_of(payload, further).decode(payload)


def is_clip(payload: bytes) -> bool:
    """Return whether a payload is a clip's.

    Raises:
        BitstreamError: if it is no payload at all.
    """
    return unpack(payload).codec_id in CLIP_IDS


def clip_codec_of(payload: bytes, further: Sequence[ClipCodec] = ()) -> ClipCodec:
    """Return the codec that can decode a clip's payload.

    Args:
        payload: what a codec's `encode` gave.
        further: codecs with weights of one's own, beside the shipped ones.

    Raises:
        BitstreamError: if the payload is damaged, of a still, or needs weights that are not there.
    """
    container = unpack(payload)
    if container.codec_id not in CLIP_IDS or container.codec_id == CodecId.PASSTHROUGH:
        raise BitstreamError(f"payload is of {container.codec_id.name.lower()}, expected an encoded clip")
    if container.codec_id != CodecId.SLIMVC:
        return next(codec for codec in CLIP_CODECS if codec.codec_id == container.codec_id)
    known = [codec for codec in (*further, *clip_codecs()) if isinstance(codec, SlimClip)]
    here = ", ".join(f"{codec.name} {codec.model_hash.hex()}" for codec in known) or "none"
    for codec in known:
        if codec.accepts(container):
            return codec
    raise BitstreamError(
        f"payload needs the slimcae model {container.model_hash.hex()} and the temporal model "
        f"{container.adapter_hash.hex()}, known here: {here}; name its weights as slimvc:FILE"
    )


def decode_clip(payload: bytes, further: Sequence[ClipCodec] = ()) -> Clip:
    """Return the clip uint8 (T, H, W, 3) of a payload; arguments and errors are those of `clip_codec_of`."""
    if unpack(payload).codec_id == CodecId.PASSTHROUGH:
        return passthrough.decoded(payload)
    return clip_codec_of(payload, further).decode(payload)
