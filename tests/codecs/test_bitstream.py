import hashlib
import struct
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.codecs.bitstream import (
    HASH_BYTES,
    MAX_BODY_BYTES,
    MAX_PIXELS,
    BitstreamError,
    CodecId,
    Container,
    expect,
    pack,
    unpack,
)
from roadbits.codecs.catalogue import decode

PLAIN = Container(CodecId.JPEG, 3, 258, (30,), b"ab")
FULL = Container(CodecId.AVIF, 48, 64, (1, 65535, 0), b"the body", b"modelX", b"adaptY")

hashes = st.just(b"") | st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
containers = st.builds(
    Container,
    st.sampled_from(CodecId),
    st.integers(1, 8192),
    st.integers(1, 8192),
    st.lists(st.integers(0, 65535), max_size=7).map(tuple),
    st.binary(max_size=200),
    hashes,
    hashes,
)


def sealed(message: bytes) -> bytes:
    """Return a message with the digest that belongs to it."""
    return message + hashlib.blake2b(message, digest_size=6).digest()


def with_bytes(payload: bytes, at: int, new: bytes) -> bytes:
    """Return a payload with some header bytes replaced and a digest that fits."""
    message = payload[:-6]
    return sealed(message[:at] + new + message[at + len(new) :])


@given(containers)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_every_field_survives_the_round_trip(container: Container) -> None:
    assert unpack(pack(container)) == container


def test_the_header_bytes_of_a_legacy_payload_are_these() -> None:
    header = b"RB" + bytes([1, 1, 1]) + b"\x03\x00" + b"\x02\x01" + b"\x1e\x00" + b"\x02\x00\x00\x00"
    assert pack(PLAIN) == header + b"ab" + bytes.fromhex("28261f9050fe")
    assert len(pack(PLAIN)) == 21 + 2


def test_the_header_bytes_of_an_adapted_payload_are_these() -> None:
    fixed = b"RB" + bytes([1, 4, 3 + 8 + 16]) + b"\x30\x00" + b"\x40\x00"
    values = b"\x01\x00" + b"\xff\xff" + b"\x00\x00"
    message = fixed + values + b"modelX" + b"adaptY" + b"\x08\x00\x00\x00" + b"the body"
    assert pack(FULL) == message + bytes.fromhex("4762097cb26b")


@pytest.mark.parametrize("model", [b"", b"modelX"])
@pytest.mark.parametrize("adapter", [b"", b"adaptY"])
def test_an_absent_hash_costs_no_byte(model: bytes, adapter: bytes) -> None:
    payload = pack(replace(FULL, model_hash=model, adapter_hash=adapter))
    assert len(payload) == len(pack(FULL)) - (12 - len(model) - len(adapter))


@pytest.mark.parametrize("container", [PLAIN, FULL])
def test_truncated_payload_is_refused_at_every_length(container: Container) -> None:
    payload = pack(container)
    for length in range(len(payload)):
        with pytest.raises(BitstreamError, match="truncated"):
            unpack(payload[:length])


@pytest.mark.parametrize("container", [PLAIN, FULL])
def test_appended_byte_is_refused(container: Container) -> None:
    for byte in range(256):
        with pytest.raises(BitstreamError, match="appended"):
            unpack(pack(container) + bytes([byte]))


@pytest.mark.parametrize("container", [PLAIN, FULL])
def test_a_flipped_bit_anywhere_is_refused(container: Container) -> None:
    payload = pack(container)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged))


@given(st.binary(max_size=120))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_foreign_bytes_are_refused(junk: bytes) -> None:
    for payload in (junk, b"RB\x01" + junk):
        with pytest.raises(BitstreamError):
            unpack(payload)


def test_foreign_magic_is_named() -> None:
    with pytest.raises(BitstreamError, match=r"begins with b'PK', expected b'RB'"):
        unpack(with_bytes(pack(PLAIN), 0, b"PK"))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(BitstreamError, match=f"version {version}, this program reads 1"):
        unpack(with_bytes(pack(PLAIN), 2, bytes([version])))


@pytest.mark.parametrize("number", [0, max(CodecId) + 1, 255])
def test_unknown_codec_id_is_refused(number: int) -> None:
    with pytest.raises(BitstreamError, match=f"codec id {number}, known are"):
        unpack(with_bytes(pack(PLAIN), 3, bytes([number])))


@pytest.mark.parametrize("flag", [32, 64, 128])
def test_unknown_flags_are_refused(flag: int) -> None:
    with pytest.raises(BitstreamError, match="unknown flags"):
        unpack(with_bytes(pack(PLAIN), 4, bytes([1 | flag])))


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, 0), (0, 0), (8193, 8192), (65535, 65535)])
def test_impossible_sizes_are_refused(height: int, width: int) -> None:
    with pytest.raises(BitstreamError, match=f"claims {height} x {width} pixels"):
        unpack(with_bytes(pack(PLAIN), 5, struct.pack("<HH", height, width)))


def test_huge_claims_are_refused_before_anything_is_allocated() -> None:
    huge_image = with_bytes(pack(PLAIN), 5, struct.pack("<HH", 65535, 65535))
    huge_body = with_bytes(pack(PLAIN), 11, struct.pack("<I", 2**32 - 1))
    tracemalloc.start()
    try:
        for payload in (huge_image, huge_body):
            with pytest.raises(BitstreamError):
                decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_body_length_that_does_not_fit_is_refused() -> None:
    for length, fault in ((1, "appended"), (3, "truncated")):
        with pytest.raises(BitstreamError, match=f"header promises {21 + length}: .*{fault}"):
            unpack(with_bytes(pack(PLAIN), 11, struct.pack("<I", length)))


def test_expect_refuses_another_codec_and_another_number_of_values() -> None:
    assert expect(pack(PLAIN), CodecId.JPEG, 1) == PLAIN
    with pytest.raises(BitstreamError, match="payload is of JPEG, expected WEBP"):
        expect(pack(PLAIN), CodecId.WEBP, 1)
    with pytest.raises(BitstreamError, match="has 1 point values, wants 2"):
        expect(pack(PLAIN), CodecId.JPEG, 2)


@pytest.mark.parametrize("size", [1, HASH_BYTES - 1, HASH_BYTES + 1, 32])
def test_pack_refuses_a_hash_of_another_length(size: int) -> None:
    for wrong in (replace(PLAIN, model_hash=bytes(size)), replace(PLAIN, adapter_hash=bytes(size))):
        with pytest.raises(ValueError, match=f"a hash of {HASH_BYTES} bytes, got {size}"):
            pack(wrong)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, -1), (-3, 5), (65535, 65535), (1, 65536)])
def test_pack_refuses_sizes_that_unpack_would_refuse(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=r"pixels|does not fit"):
        pack(replace(PLAIN, height=height, width=width))


@pytest.mark.parametrize("point", [(65536,), (-1,), tuple(range(8))])
def test_pack_refuses_a_point_that_does_not_fit(point: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"point values|does not fit"):
        pack(replace(PLAIN, point=point))


def test_pack_refuses_a_body_above_the_limit() -> None:
    with pytest.raises(ValueError, match=f"{MAX_BODY_BYTES} bytes"):
        pack(replace(PLAIN, body=bytes(MAX_BODY_BYTES + 1)))


def test_the_largest_image_travels() -> None:
    largest = replace(PLAIN, height=8192, width=MAX_PIXELS // 8192)
    assert unpack(pack(largest)) == largest
