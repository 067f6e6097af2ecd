import io
import random
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from roadbits.codecs.bitstream import BitstreamError, Container, pack, unpack
from roadbits.codecs.catalogue import LEGACY_CODECS, codec_named, codec_of, decode
from roadbits.codecs.codec import Codec, Complexity, Image, OperatingPoint
from roadbits.codecs.legacy.hevc import HEVC_INTRA
from roadbits.codecs.legacy.stills import AVIF, JPEG, JPEG2000, WEBP
from roadbits.codecs.metrics import psnr

Maker = Callable[..., Image]
CONTAINER_MUTATIONS = 10_000
BODY_MUTATIONS = 600

every_codec = pytest.mark.parametrize("codec", LEGACY_CODECS, ids=lambda codec: codec.name)


def images(height: int, width: int, textured: Maker) -> dict[str, Image]:
    generator = np.random.default_rng(5)
    return {
        "textured": textured(height, width),
        "constant": np.full((height, width, 3), 77, np.uint8),
        "noise": generator.integers(0, 256, (height, width, 3), np.uint8),
        "saturated": 255 * generator.integers(0, 2, (height, width, 3), np.uint8),
    }


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Return bytes with one to four flips, cuts, insertions, swaps and overwritten bytes."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at, other = generator.randrange(len(out) or 1), generator.randrange(len(out) or 1)
        match generator.choice(("cut", "insert") if not out else ("flip", "cut", "insert", "swap", "set")):
            case "flip":
                out[at] ^= 1 << generator.randrange(8)
            case "cut":
                del out[at : at + generator.randint(1, 8) if generator.random() < 0.5 else None]
            case "insert":
                out[at:at] = generator.randbytes(generator.randint(1, 8))
            case "swap":
                out[at], out[other] = out[other], out[at]
            case "set":
                out[at] = generator.choice((0, 255))
    return bytes(out)


def resealed(container: Container, body: bytes) -> bytes:
    """Return a payload whose container is sound around a body that may not be."""
    return pack(replace(container, body=body))


@contextmanager
def little_memory(limit_mb: int = 64) -> Iterator[None]:
    """Check that the process's peak of resident memory hardly rises."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * limit_mb


@every_codec
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (1, 1), (64, 48), (1, 50), (50, 2)])
def test_the_decoded_image_has_the_size_of_the_original(codec: Codec, height: int, width: int, textured: Maker) -> None:
    extremes = (codec.points[0], codec.points[-1], codec.fine_points[0], codec.fine_points[-1])
    for image in images(height, width, textured).values():
        for point in extremes:
            decoded = codec.decode(codec.encode(image, point))
            assert (decoded.shape, decoded.dtype) == ((height, width, 3), np.uint8)


@every_codec
def test_the_same_image_gives_the_same_bytes(codec: Codec, textured: Maker) -> None:
    for image in images(64, 48, textured).values():
        for point in codec.points:
            assert codec.encode(image, point) == codec.encode(image.copy(), point)


@every_codec
def test_memory_layout_makes_no_difference(codec: Codec, textured: Maker) -> None:
    image = textured(64, 48)
    for view in (image[:, ::-1], image.transpose(1, 0, 2), image[5:40, 3:30], np.asfortranarray(image)):
        point = codec.points[5]
        assert codec.encode(view, point) == codec.encode(np.ascontiguousarray(view), point)


@every_codec
def test_rate_and_quality_rise_along_the_points(codec: Codec, textured: Maker) -> None:
    image = textured(96, 128)
    payloads = [codec.encode(image, point) for point in codec.points]
    sizes = [len(payload) for payload in payloads]
    assert sizes == sorted(set(sizes))
    assert psnr(codec.decode(payloads[-1]), image) > psnr(codec.decode(payloads[0]), image) + 2


@every_codec
def test_the_points_are_among_the_fine_points(codec: Codec) -> None:
    assert set(codec.points) <= set(codec.fine_points)
    assert len(codec.points) <= 12
    for point in codec.fine_points:
        codec.check(point)


@every_codec
def test_a_smooth_image_comes_back_close_at_the_highest_point(codec: Codec, smooth: Maker) -> None:
    image = smooth(96, 128)
    assert psnr(codec.decode(codec.encode(image, codec.points[-1])), image) > 40


@every_codec
def test_colours_keep_their_channels(codec: Codec) -> None:
    for colour in ((200, 40, 60), (30, 180, 70), (20, 60, 210)):
        image = np.full((32, 48, 3), colour, np.uint8)
        decoded = codec.decode(codec.encode(image, codec.points[-1]))
        assert np.abs(decoded.astype(int) - colour).max() <= 8


@every_codec
def test_the_catalogue_finds_and_decodes(codec: Codec, textured: Maker) -> None:
    payload = codec.encode(textured(17, 33), codec.points[5])
    assert codec_of(payload) is codec
    assert codec_named(codec.name) is codec
    assert np.array_equal(decode(payload), codec.decode(payload))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="no codec 'bpg': choose from jpeg, jpeg2000, webp, avif, hevc-intra"):
        codec_named("bpg")


@pytest.mark.parametrize(
    ("codec", "choices"),
    [
        (JPEG, r"quality=N, N a whole number 1\.\.100"),
        (JPEG2000, r"ratio=N, N a whole number 2\.\.400"),
        (WEBP, r"quality=N, N a whole number 0\.\.100"),
        (AVIF, r"quality=N, N a whole number 0\.\.100"),
        (HEVC_INTRA, r"qp=N, N a whole number 4\.\.51"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_wrong_point_is_refused_with_the_choices(codec: Codec, choices: str, textured: Maker) -> None:
    (knob, value) = codec.points[0].settings[0]
    wrong = (
        OperatingPoint.of(**{knob: 1000}),
        OperatingPoint.of(**{knob: -1}),
        OperatingPoint.of(**{knob: value + 0.5}),
        OperatingPoint.of(width=96),
        OperatingPoint.of(**{knob: value, "width": 96}),
        OperatingPoint(()),
    )
    for point in wrong:
        with pytest.raises(ValueError, match=f"{codec.name} has no point {point}: expected {choices}"):
            codec.check(point)
        with pytest.raises(ValueError, match=choices):
            codec.encode(textured(16, 16), point)


@every_codec
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
        np.zeros((16, 0, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
    ids=["float", "grey", "alpha", "planar", "no row", "no column", "list"],
)
def test_what_is_no_image_is_refused(codec: Codec, wrong: Image) -> None:
    with pytest.raises(ValueError, match="expected"):
        codec.encode(wrong, codec.points[0])


@pytest.mark.parametrize(
    ("codec", "largest"), [(JPEG, 65500), (JPEG2000, 65535), (WEBP, 16383), (AVIF, 32768)], ids=lambda v: str(v)[:20]
)
def test_the_largest_side_travels_and_one_more_pixel_is_refused(codec: Codec, largest: int) -> None:
    image = np.zeros((largest, 1, 3), np.uint8)
    assert codec.decode(codec.encode(image, codec.points[0])).shape == image.shape
    for shape in ((largest + 1, 1, 3), (1, largest + 1, 3)):
        with pytest.raises(ValueError, match=f"sides of 1 to {largest} pixels"):
            codec.encode(np.zeros(shape, np.uint8), codec.points[0])


def test_hevc_refuses_a_strip_that_x265_has_no_level_for() -> None:
    with pytest.raises(ValueError, match="hevc-intra cannot encode 10 x 5000 pixels"):
        HEVC_INTRA.encode(np.zeros((10, 5000, 3), np.uint8), HEVC_INTRA.points[0])


@every_codec
def test_a_payload_of_another_codec_is_refused(codec: Codec, textured: Maker) -> None:
    for other in LEGACY_CODECS:
        if other is not codec:
            payload = other.encode(textured(16, 16), other.points[0])
            with pytest.raises(BitstreamError, match=r"payload is of \w+, expected \w+"):
                codec.decode(payload)


@every_codec
def test_a_body_of_another_codec_is_refused(codec: Codec, textured: Maker) -> None:
    mine = unpack(codec.encode(textured(16, 16), codec.points[0]))
    for other in LEGACY_CODECS:
        if other is not codec:
            body = unpack(other.encode(textured(16, 16), other.points[0])).body
            with pytest.raises(BitstreamError):
                codec.decode(resealed(mine, body))


@every_codec
def test_a_body_of_another_size_than_the_header_says_is_refused(codec: Codec, textured: Maker) -> None:
    container = unpack(codec.encode(textured(64, 48), codec.points[5]))
    for height, width in ((48, 64), (64, 50), (66, 48), (32, 24), (4000, 4000), (8192, 8192)):
        with pytest.raises(BitstreamError):
            codec.decode(pack(replace(container, height=height, width=width)))


@every_codec
def test_an_empty_body_is_refused(codec: Codec, textured: Maker) -> None:
    container = unpack(codec.encode(textured(64, 48), codec.points[5]))
    with pytest.raises(BitstreamError, match="does not decode"):
        codec.decode(resealed(container, b""))


@every_codec
def test_mutated_payloads_decode_or_are_refused(codec: Codec, textured: Maker) -> None:
    generator = random.Random(f"payload {codec.name}")
    payloads = [codec.encode(textured(17, 33), codec.points[k]) for k in (0, 5)]
    for number in range(CONTAINER_MUTATIONS):
        try:
            decoded = decode(mutated(payloads[number % 2], generator))
        except BitstreamError:
            continue
        assert decoded.shape == (17, 33, 3)


@every_codec
def test_damaged_bodies_in_sound_containers_decode_or_are_refused(codec: Codec, textured: Maker) -> None:
    generator = random.Random(f"body {codec.name}")
    containers = [unpack(codec.encode(textured(17, 33), codec.points[k])) for k in (0, 5, -1)]
    refused = 0
    with little_memory(256):
        for number in range(BODY_MUTATIONS):
            container = containers[number % 3]
            try:
                decoded = codec.decode(resealed(container, mutated(container.body, generator)))
            except BitstreamError:
                refused += 1
                continue
            assert (decoded.shape, decoded.dtype) == ((17, 33, 3), np.uint8)
    assert refused > BODY_MUTATIONS // 10


@every_codec
def test_truncated_bodies_decode_or_are_refused(codec: Codec, textured: Maker) -> None:
    container = unpack(codec.encode(textured(17, 33), codec.points[0]))
    for length in range(len(container.body)):
        try:
            decoded = codec.decode(resealed(container, container.body[:length]))
        except BitstreamError:
            continue
        assert decoded.shape == (17, 33, 3)


def replaced(body: bytes, mark: bytes, skip: int, new: bytes) -> bytes:
    """Return a body with the bytes overwritten that lie `skip` after the end of a mark."""
    at = body.index(mark) + len(mark) + skip
    return body[:at] + new + body[at + len(new) :]


@pytest.mark.parametrize(("height", "width"), [(65535, 65535), (30000, 30000), (49, 64), (48, 65535)])
def test_a_jpeg_frame_that_claims_too_much_is_refused(height: int, width: int, textured: Maker) -> None:
    container = unpack(JPEG.encode(textured(48, 64), JPEG.points[0]))
    body = replaced(container.body, b"\xff\xc0", 3, struct.pack(">HH", height, width))
    with little_memory(), pytest.raises(BitstreamError):
        JPEG.decode(resealed(container, body))


@pytest.mark.parametrize("side", [65, 100_000, 2**31 - 1, 2**32 - 1])
def test_a_jpeg2000_size_that_claims_too_much_is_refused(side: int, textured: Maker) -> None:
    container = unpack(JPEG2000.encode(textured(48, 64), JPEG2000.points[0]))
    larger = replaced(container.body, b"\xff\x51", 4, struct.pack(">II", side, side))
    with little_memory(), pytest.raises(BitstreamError):
        JPEG2000.decode(resealed(container, larger))


def test_a_jpeg2000_image_that_lies_far_out_is_refused(textured: Maker) -> None:
    container = unpack(JPEG2000.encode(textured(48, 64), JPEG2000.points[0]))
    far = 2**31 - 1
    body = replaced(container.body, b"\xff\x51", 4, struct.pack(">IIII", far, far, far - 64, far - 48))
    with little_memory(), pytest.raises(BitstreamError):
        JPEG2000.decode(resealed(container, body))


def test_a_webp_frame_that_claims_too_much_is_refused(textured: Maker) -> None:
    container = unpack(WEBP.encode(textured(48, 64), WEBP.points[0]))
    body = replaced(container.body, b"\x9d\x01\x2a", 0, struct.pack("<HH", 16383, 16383))
    with little_memory(), pytest.raises(BitstreamError):
        WEBP.decode(resealed(container, body))


@pytest.mark.parametrize("side", [12_000, 16_384])
def test_a_webp_canvas_that_claims_too_much_is_refused(side: int, textured: Maker) -> None:
    container = unpack(WEBP.encode(textured(48, 64), WEBP.points[0]))
    frame = container.body[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + 2 * (side - 1).to_bytes(3, "little")
    sizes = (63).to_bytes(3, "little") + (47).to_bytes(3, "little") + (10).to_bytes(3, "little")
    still = bytes(6) + sizes + b"\0" + frame
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0) + b"ANMF" + struct.pack("<I", len(still)) + still
    riff = b"WEBP" + canvas + animation
    with little_memory(), pytest.raises(BitstreamError):
        WEBP.decode(resealed(container, b"RIFF" + struct.pack("<I", len(riff)) + riff))


@pytest.mark.parametrize("side", [16_384, 100_000, 2**32 - 1])
def test_an_avif_size_that_claims_too_much_is_refused(side: int, textured: Maker) -> None:
    container = unpack(AVIF.encode(textured(48, 64), AVIF.points[0]))
    body = replaced(container.body, b"ispe", 4, struct.pack(">II", side, side))
    with little_memory(), pytest.raises(BitstreamError):
        AVIF.decode(resealed(container, body))


def exp_golomb(number: int) -> str:
    """Return the ue(v) code of H.265, section 9.2, as text of bits."""
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def read_exp_golomb(bits: str, at: int) -> tuple[int, int]:
    """Return a ue(v) number and the position behind it."""
    zeros = bits.index("1", at) - at
    return int(bits[at + zeros : at + 2 * zeros + 1], 2) - 1, at + 2 * zeros + 1


def with_sps_size(body: bytes, height: int, width: int) -> bytes:
    """Return an Annex B stream whose sequence parameter set claims another picture size.

    The set (H.265, 7.3.2.2): 16 bits of NAL header, 8 of ids, 96 of profile and level, then ue(v) numbers: its id, the
    chroma format, width and height.
    """
    nals = body.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    k = next(k for k, nal in enumerate(nals) if nal and nal[0] >> 1 & 63 == 33)
    bits = "".join(f"{byte:08b}" for byte in nals[k].replace(b"\0\0\3", b"\0\0"))
    _, at = read_exp_golomb(bits, 16 + 8 + 96)
    chroma_format, at = read_exp_golomb(bits, at)
    old_width, behind = read_exp_golomb(bits, at)
    old_height, behind = read_exp_golomb(bits, behind)
    assert (chroma_format, old_height, old_width) == (1, 48, 64)
    bits = bits[:at] + exp_golomb(width) + exp_golomb(height) + bits[behind:]
    bits += "0" * (-len(bits) % 8)
    raw = int(bits, 2).to_bytes(len(bits) // 8, "big")
    nals[k] = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", raw)
    return b"\0\0\0\1".join(nals)


def test_the_rewritten_parameter_set_is_sound(textured: Maker) -> None:
    container = unpack(HEVC_INTRA.encode(textured(48, 64), HEVC_INTRA.points[0]))
    same = resealed(container, with_sps_size(container.body, 48, 64))
    assert np.array_equal(HEVC_INTRA.decode(same), HEVC_INTRA.decode(pack(container)))


@pytest.mark.parametrize(("height", "width"), [(100_000, 100_000), (16_384, 16_384), (4096, 4096), (48, 72)])
def test_a_hevc_parameter_set_that_claims_too_much_is_refused(height: int, width: int, textured: Maker) -> None:
    container = unpack(HEVC_INTRA.encode(textured(48, 64), HEVC_INTRA.points[0]))
    body = with_sps_size(container.body, height, width)
    with little_memory(), pytest.raises(BitstreamError):
        HEVC_INTRA.decode(resealed(container, body))


def test_a_sound_hevc_body_of_a_larger_picture_is_refused_unallocated(textured: Maker) -> None:
    container = unpack(HEVC_INTRA.encode(textured(48, 64), HEVC_INTRA.points[0]))
    larger = unpack(HEVC_INTRA.encode(np.zeros((1024, 1024, 3), np.uint8), HEVC_INTRA.points[0])).body
    with pytest.raises(BitstreamError, match="does not decode"):
        HEVC_INTRA.decode(resealed(container, larger))


@every_codec
def test_a_legacy_codec_has_no_network_to_pay_for(codec: Codec) -> None:
    assert codec.complexity(codec.points[0], 360, 480) == Complexity(0, 0, 0, 0, 0)


def test_a_jpeg_that_repeats_its_scan_is_refused(textured: Maker) -> None:
    """Each repetition would cost another walk over all coefficients."""
    container = unpack(JPEG.encode(textured(64, 96), OperatingPoint.of(quality=50)))
    scan = container.body[container.body.rindex(b"\xff\xda") : -2]
    with pytest.raises(BitstreamError, match="more than one scan"):
        JPEG.decode(resealed(container, container.body[:-2] + 3 * scan + b"\xff\xd9"))


def test_a_progressive_jpeg_is_refused(textured: Maker) -> None:
    container = unpack(JPEG.encode(textured(64, 96), OperatingPoint.of(quality=50)))
    stream = io.BytesIO()
    PIL.Image.fromarray(textured(64, 96)).save(stream, "JPEG", progressive=True)
    with pytest.raises(BitstreamError, match="expected baseline"):
        JPEG.decode(resealed(container, stream.getvalue()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # One resolution, precincts of one pixel each: 1.7 kB of memory for every pixel.
        ("ff52000c00000001010504040000", "ff52000d0100000101000404000000", "a segment 0xff52"),
        ("ff52000c00000001010504040000", "ff52000c00000001012004040000", "a segment 0xff52"),
        ("ff52000c00000001010504040000", "ff52000c0000ffff010504040000", "a segment 0xff52"),
        ("000000600000004000000000", "000000080000000800000000", "a segment 0xff51"),
        ("ff93", "ff5f000912040000000001ff93", "more than one part of a tile"),
    ],
)
def test_a_jpeg2000_that_asks_for_more_than_ours_do_is_refused(
    old: str, new: str, message: str, textured: Maker
) -> None:
    container = unpack(JPEG2000.encode(textured(64, 96), OperatingPoint.of(ratio=20)))
    body = bytes.fromhex(new).join(container.body.rpartition(bytes.fromhex(old))[::2])
    assert body != container.body
    with pytest.raises(BitstreamError, match=message):
        JPEG2000.decode(resealed(container, body))


def test_every_jpeg_and_jpeg2000_of_ours_decodes(textured: Maker) -> None:
    for size in ((1, 1), (7, 300), (65, 64)):
        for codec in (JPEG, JPEG2000):
            for point in (codec.fine_points[0], *codec.points, codec.fine_points[-1]):
                assert codec.decode(codec.encode(textured(*size), point)).shape == (*size, 3)
