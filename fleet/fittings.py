"""What a vehicle has on board beside its source codec: adapters for domains, each from some time on.

An adapter is handed round as the update that travels; whoever codes with it builds it from that.

Not here: how adapters come about (`codec_adaptation`), coding (`vehicle`, `decoding`).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from roadbits.codecs.adaptation.danice import adapted_codec
from roadbits.codecs.adaptation.update import packed, unadapted, unpacked
from roadbits.codecs.bitstream import unpack
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Codec
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill


@dataclass(frozen=True)
class Version:
    """A codec as it came out of an adaptation.

    Attributes:
        source: name of the source codec.
        update: of an adapter on it; empty without.
        model: file of a model that replaces it; empty without.
    """

    source: str
    update: bytes = b""
    model: bytes = b""

    @property
    def num_bytes(self) -> int:
        """What of it travels to those who have the source."""
        return len(self.update) + len(self.model)

    def codec(self) -> NeuralStill:
        """Return the codec, from memory if it was asked for lately."""
        return _codec_of(self)


def with_any_adapter(source: str, with_residuals: bool) -> NeuralStill:
    """Return a codec with an adapter that changes nothing: what it takes to run is the same with any."""
    codec = codec_named(source)
    assert isinstance(codec, NeuralStill)
    return Version(source, packed(unadapted(codec.model, with_residuals))).codec()


@lru_cache(maxsize=64)
def _codec_of(version: Version) -> NeuralStill:
    codec = codec_named(version.source)
    assert isinstance(codec, NeuralStill)
    if version.model:
        return NeuralStill(version.source, model_from(version.model))
    if version.update:
        return adapted_codec(codec, unpacked(codec.model, version.update).freeze())
    return codec


@dataclass(frozen=True)
class Equipped:
    """A vehicle has an adapter for a domain on board from some time on.

    Attributes:
        vehicle: its number.
        domain: for whose frames.
        from_us: since when, in virtual microseconds.
        known_us: since when the server has it and can decode with it.
        update: from which it builds the adapter.
    """

    vehicle: int
    domain: str
    from_us: int
    known_us: int
    update: bytes


@dataclass(frozen=True)
class Fitting:
    """What one vehicle has on board, and when its link carried that.

    Attributes:
        equipped: adapters.
        taken_us: beginning and end of times in which the link carried adapters and nothing else.
    """

    equipped: tuple[Equipped, ...] = ()
    taken_us: tuple[tuple[int, int], ...] = ()

    def update_for(self, domain: str, at_us: int) -> bytes:
        """Return the update of the adapter for a frame; empty if it is the source codec's."""
        found = [each for each in self.equipped if each.domain == domain and each.from_us <= at_us]
        return max(found, key=lambda each: each.from_us).update if found else b""


Fittings = Mapping[str, Mapping[int, Fitting]]
"""By way of sharing and vehicle."""


class KnownAdapter(NamedTuple):
    """An adapter on board of some vehicle, and since when the server has it, in virtual microseconds."""

    version: Version
    known_us: int


def known_adapters(source: str, fittings: Fittings) -> dict[bytes, KnownAdapter]:
    """Return every adapter on board of any vehicle, on a source codec, by the hash that its payloads carry."""
    known_us: dict[bytes, int] = {}
    for vehicles in fittings.values():
        for fitting in vehicles.values():
            for each in fitting.equipped:
                known_us[each.update] = min(each.known_us, known_us.get(each.update, each.known_us))
    adapters = [KnownAdapter(Version(source, update), known_us[update]) for update in sorted(known_us)]
    return {adapter.version.codec().adapter_hash: adapter for adapter in adapters}


def maker_of(payload: bytes, codecs: Sequence[NeuralStill], otherwise: Codec) -> Codec:
    """Return which of some codecs made a payload, or the other, which says what is missing if it did not either.

    Raises:
        BitstreamError: if the payload is none.
    """
    if not codecs:
        return otherwise
    container = unpack(payload)
    return next((codec for codec in codecs if codec.accepts(container)), otherwise)


def file_of(model: FrozenModel) -> bytes:
    """Return the bytes of a model's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return path.read_bytes()


def model_from(data: bytes) -> FrozenModel:
    """Return the model of a file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        return FrozenModel.load(path)
