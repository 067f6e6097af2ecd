"""What vehicles and server tell each other of an adapter: everyone builds the same one from it, and nothing else."""

import copy
import zlib

import numpy as np
import pytest
import torch

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.codecs.adaptation.enhancement import Residuals
from roadbits.codecs.adaptation.update import packed, set_vector, unadapted, unpacked, vector_of
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.still import NeuralStill

CAE, HYPERPRIOR = codec_named("cae"), codec_named("hyperprior")
assert isinstance(CAE, NeuralStill)
assert isinstance(HYPERPRIOR, NeuralStill)
SOURCE, OTHER = CAE.model, HYPERPRIOR.model


def moved(seed: int = 0, with_residuals: bool = True) -> Residuals:
    """Return an enhancement whose every parameter has moved a little."""
    enhancement = unadapted(SOURCE, with_residuals)
    rng = np.random.default_rng(seed)
    set_vector(enhancement, rng.normal(0, 0.02, len(vector_of(enhancement))).astype(np.float32))
    return enhancement


def test_an_update_comes_out_nearly_as_it_went_in() -> None:
    before, after = vector_of(moved()), vector_of(unpacked(SOURCE, packed(moved())))
    assert before.shape == after.shape
    assert np.abs(before - after).max() < 0.1 / 127
    assert np.abs(before - after).max() > 0


def test_an_update_that_travelled_once_travels_again_unchanged() -> None:
    data = packed(moved())
    assert packed(unpacked(SOURCE, data)) == data


def test_an_update_is_half_as_long_as_sixteen_bits_would_be() -> None:
    assert len(packed(moved())) < 1.1 * len(vector_of(moved()))


def test_both_ends_build_the_same_adapter_without_its_tables() -> None:
    data = packed(moved())
    here, there = unpacked(SOURCE, data).freeze("dusk"), unpacked(SOURCE, data).freeze("dusk")
    assert here.hash == there.hash
    assert len(data) < here.num_bytes / 2


def test_a_density_alone_takes_six_bytes_a_channel() -> None:
    enhancement = moved(with_residuals=False)
    assert not enhancement.places
    data = packed(enhancement)
    assert len(data) == 15 + 6 * enhancement.density.channels
    assert np.abs(vector_of(unpacked(SOURCE, data)) - vector_of(enhancement)).max() < 1e-4


def test_what_was_never_trained_is_the_source() -> None:
    assert not vector_of(unpacked(SOURCE, packed(unadapted(SOURCE)))).any()


def test_every_damaged_byte_is_refused() -> None:
    data = packed(moved(with_residuals=False))
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(AdapterError):
            unpacked(SOURCE, bytes(damaged))


def test_every_truncated_update_is_refused() -> None:
    data = packed(moved(with_residuals=False))
    for length in range(0, len(data), 13):
        with pytest.raises(AdapterError):
            unpacked(SOURCE, data[:length])


def sealed(head_and_body: bytes) -> bytes:
    return head_and_body + zlib.crc32(head_and_body).to_bytes(4, "little")


def test_an_update_of_another_size_is_refused() -> None:
    data = packed(moved(with_residuals=False))
    with pytest.raises(AdapterError, match=f"has {len(data) + 2} bytes, expected {len(data)}"):
        unpacked(SOURCE, sealed(data[:-4] + bytes(2)))


def test_an_update_of_another_source_is_refused_by_name() -> None:
    with pytest.raises(AdapterError, match=f"{SOURCE.hash.hex()}, the source is {OTHER.hash.hex()}"):
        unpacked(OTHER, packed(moved()))


def test_a_number_that_is_not_finite_is_refused() -> None:
    data = bytearray(packed(moved(with_residuals=False)))
    data[11:13] = np.float16(np.nan).tobytes()
    with pytest.raises(AdapterError, match="not finite"):
        unpacked(SOURCE, sealed(bytes(data[:-4])))


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e8])
def test_a_number_that_cannot_travel_is_refused(number: float) -> None:
    enhancement = moved()
    with torch.no_grad():
        next(enhancement.parameters())[0] = number
    with pytest.raises(AdapterError, match="not finite"):
        packed(enhancement)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"has shape \(5,\)"):
        set_vector(moved(), np.zeros(5, np.float32))


def test_a_machine_whose_exponential_is_off_by_a_digit_builds_the_same_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    data, exp = [packed(moved(seed)) for seed in range(3)], torch.exp
    here = [unpacked(SOURCE, each).freeze("dusk").hash for each in data]
    monkeypatch.setattr(torch, "exp", lambda x: torch.nextafter(exp(x), torch.full_like(x, torch.inf)))
    assert [unpacked(SOURCE, each).freeze("dusk").hash for each in data] == here


@pytest.mark.parametrize("method", ["mae", "conditional"])
def test_a_codec_with_a_density_for_each_rate_is_refused(method: str) -> None:
    source = copy.copy(SOURCE)
    object.__setattr__(source, "description", SOURCE.description.model_copy(update={"method": method}))
    with pytest.raises(AdapterError, match="adapt a codec with gains"):
        unadapted(source)
