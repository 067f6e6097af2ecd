import hashlib
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from roadbits.codecs.bitstream import BitstreamError, CodecId, pack, unpack
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.legacy.stills import JPEG
from roadbits.codecs.metrics import bpp
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.symbol_tables import TOTAL, Symbols, SymbolTables
from roadbits.codecs.target_rate import encode_at

Maker = Callable[..., Image]
Tiny = Callable[..., FrozenModel]
Chosen = NDArray[np.integer]

CONTAINER_MUTATIONS = 10_000
BODY_MUTATIONS = 400
FRAME_BYTES = 27
"""The frame of a neural payload, its one point value included."""
SHAPES = ((16, 16), (17, 33), (31, 16), (64, 64), (100, 75))

# Payloads that have left vehicles are decoded by these bytes: a change here is a break of the format.
GOLDEN_BODY = {
    "cae": (
        "8336f5401b98ab7818b502004348a589628b4077f9d6011a885edefa5a4ff414087b74d4f9f18b0315b9e33f2f9a1e3197b5"
        "a3962b30c53ef0170000"
    ),
    "mean-scale": (
        "41895a27686ac5d3ada9b602085cf3021e1b30e7d44410502b93366146c485b2aa5c2eaec96148e1269e71f8015d423c3824"
        "a7eb64039da4a4bcdfd5b8f4e296b351a5c76a15f8ba2e22f9842247cb29be9b86861c000000"
    ),
    "scale-only": (
        "7be04c5788ac8881f258a9591c108d905fb08fe78ddc8a98e374c23f41a4ccdc6b3f77fd746b9589eb84b5986fc2071f0045"
        "dcfa03b3ce8604993e25b7188e21e066664527eab4df6ffeff5c4dc0b52b2e439d24bf3d5500"
    ),
    "scale-context": (
        "7949821cdf0c0ca44ed3cceec4305a2fe63c278a3d734b1b0a9c2aef920aa9f444454d85139be8896ebef9d07452164918a3"
        "bba72eab068daaa5d316f97b81a0c0f86915e9172a3ad8addc54dbd0feed7d3c7fb93df29e00"
    ),
    "mean-context": (
        "b20c8a8b927c848ad07489f240639369102953fc2729544fbf0f7eec27ac7f3a9ae290f9f29b87333f6a7366e96b8e95e8b8"
        "8b07616376e53d9c6953bcd8035626a9ff2ac237e6194351c8d505000000"
    ),
}
GOLDEN_IMAGE = {
    "cae": "f77ef51a21da68eacbeca03adcaf134ac05447cc482817fe9c2c699f988ea314",
    "mean-scale": "4062bf2db7ce9260d13b8a72527d589762adcc32511a25d8524109fdf67ee2d9",
    "scale-only": "a75b1994f2d6b774e120c7e0129fd78bcd6e5516fce289d368c04098fb09592c",
    "scale-context": "4062bf2db7ce9260d13b8a72527d589762adcc32511a25d8524109fdf67ee2d9",
    "mean-context": "f77ef51a21da68eacbeca03adcaf134ac05447cc482817fe9c2c699f988ea314",
}


@pytest.fixture(scope="module")
def codec(model: FrozenModel) -> NeuralStill:
    """Return a codec with a small model of every design in turn."""
    return NeuralStill(model.description.architecture, model)


def images(height: int, width: int, textured: Maker) -> dict[str, Image]:
    generator = np.random.default_rng(5)
    return {
        "textured": textured(height, width),
        "black": np.zeros((height, width, 3), np.uint8),
        "white": np.full((height, width, 3), 255, np.uint8),
        "noise": generator.integers(0, 256, (height, width, 3), np.uint8),
        "saturated": 255 * generator.integers(0, 2, (height, width, 3), np.uint8),
    }


def chequered(height: int, width: int) -> Image:
    """Return an image of whole-number arithmetic alone."""
    y, x, channel = np.mgrid[:height, :width, :3]
    image: Image = ((x * x * 3 + y * 5 + (x * y) % 97 + channel * 40) % 256).astype(np.uint8)
    return image


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Return bytes with one to four flips, cuts, insertions, swaps and overwritten bytes."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at, other = generator.randrange(len(out) or 1), generator.randrange(len(out) or 1)
        match generator.choice(("cut", "insert") if not out else ("flip", "cut", "insert", "swap", "set")):
            case "flip":
                out[at] ^= 1 << generator.randrange(8)
            case "cut":
                del out[at : at + generator.choice((1, 2, 4, 8)) if generator.random() < 0.5 else None]
            case "insert":
                out[at:at] = generator.randbytes(generator.choice((1, 2, 4, 8)))
            case "swap":
                out[at], out[other] = out[other], out[at]
            case "set":
                out[at] = generator.choice((0, 255))
    return bytes(out)


def record_pushes(patch: pytest.MonkeyPatch) -> list[tuple[SymbolTables, Symbols, Chosen]]:
    """Return a list that every call of `SymbolTables.push` adds its arguments to."""
    calls, push = [], SymbolTables.push

    def recorded(tables: SymbolTables, coder: Any, values: Symbols, chosen: Chosen) -> None:
        calls.append((tables, values.copy(), chosen))
        push(tables, coder, values, chosen)

    patch.setattr(SymbolTables, "push", recorded)
    return calls


def record_pops(patch: pytest.MonkeyPatch) -> list[Symbols]:
    """Return a list that every call of `SymbolTables.pop` adds its result to."""
    results, pop = [], SymbolTables.pop

    def recorded(tables: SymbolTables, coder: Any, chosen: Chosen) -> Symbols:
        results.append(pop(tables, coder, chosen))
        return results[-1]

    patch.setattr(SymbolTables, "pop", recorded)
    return results


@contextmanager
def little_memory_and_time(limit_mb: int, limit_s: float) -> Iterator[None]:
    """Check that the process's peak of resident memory hardly rises and that no long time passes."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * limit_mb
    assert time.process_time() - started < limit_s


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_decoded_image_has_the_size_of_the_original(
    codec: NeuralStill, height: int, width: int, textured: Maker
) -> None:
    for image in images(height, width, textured).values():
        for point in (codec.fine_points[0], codec.fine_points[1], codec.fine_points[-1]):
            decoded = codec.decode(codec.encode(image, point))
            assert decoded.shape == (height, width, 3)
            assert decoded.dtype == np.uint8
            assert decoded.flags.c_contiguous
            assert decoded.flags.writeable


def test_every_latent_value_survives(codec: NeuralStill, textured: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed, popped = record_pushes(monkeypatch), record_pops(monkeypatch)
    for image in images(33, 70, textured).values():
        for point in codec.fine_points:
            pushed.clear()
            popped.clear()
            codec.decode(codec.encode(image, point))
            stages = len(codec.model.context.stages) if codec.model.context else 1
            assert len(pushed) == len(popped) == stages + (codec.model.hyper is not None)
            for (_, values, _), theirs in zip(pushed, reversed(popped), strict=True):
                assert np.array_equal(values, theirs)


def test_images_are_told_apart(codec: NeuralStill, textured: Maker) -> None:
    point = codec.fine_points[-1]
    decoded = [codec.decode(codec.encode(image, point)) for image in images(64, 64, textured).values()]
    assert len({image.tobytes() for image in decoded}) == len(decoded)


def test_the_same_image_gives_the_same_bytes(codec: NeuralStill, textured: Maker) -> None:
    for image in images(48, 40, textured).values():
        for point in codec.points:
            assert codec.encode(image, point) == codec.encode(image.copy(), point)


def test_memory_layout_makes_no_difference(codec: NeuralStill, textured: Maker) -> None:
    image = textured(64, 48)
    for view in (image[:, ::-1], image.transpose(1, 0, 2), image[5:40, 3:30], np.asfortranarray(image)):
        assert codec.encode(view, codec.points[1]) == codec.encode(np.ascontiguousarray(view), codec.points[1])


def test_the_image_is_left_as_it_was(codec: NeuralStill, textured: Maker) -> None:
    image = textured(64, 64)
    image.flags.writeable = False
    codec.encode(image, codec.points[0])
    assert np.array_equal(image, textured(64, 64))


def test_what_lies_beyond_the_edge_is_the_edge_repeated(codec: NeuralStill, textured: Maker) -> None:
    image = textured(40, 50)
    padded = np.pad(image, ((0, -40 % codec.stride), (0, -50 % codec.stride), (0, 0)), mode="edge")
    small, large = (unpack(codec.encode(each, codec.points[0])) for each in (image, padded))
    assert small.body == large.body
    whole = codec.decode(codec.encode(padded, codec.points[0]))
    assert np.array_equal(codec.decode(codec.encode(image, codec.points[0])), whole[:40, :50])


@pytest.mark.parametrize("design", ["cae", "mean-scale", "scale-only", "scale-context", "mean-context"])
def test_the_payload_and_the_decoded_image_of_this_image_are_these(design: str, tiny: Tiny) -> None:
    codec = NeuralStill(design, tiny(design))
    payload = codec.encode(chequered(35, 51), codec.fine_points[3])
    assert unpack(payload).body.hex() == GOLDEN_BODY[design]
    assert hashlib.sha256(codec.decode(payload).tobytes()).hexdigest() == GOLDEN_IMAGE[design]


def test_a_payload_names_codec_model_size_and_position(codec: NeuralStill, textured: Maker) -> None:
    container = unpack(codec.encode(textured(17, 33), codec.fine_points[3]))
    assert container.codec_id == (CodecId.HYPERPRIOR if codec.model.hyper else CodecId.CAE)
    assert (container.height, container.width) == (17, 33)
    assert container.point == (3,)
    assert container.model_hash == codec.model.hash == codec.model_hash
    assert container.adapter_hash == b""


def test_a_payload_is_its_frame_and_its_body(codec: NeuralStill, textured: Maker) -> None:
    payload = codec.encode(textured(64, 64), codec.points[0])
    assert len(payload) == FRAME_BYTES + len(unpack(payload).body)


def ideal_bits(tables: SymbolTables, values: Symbols, chosen: Chosen) -> float:
    """Return the sum of -log2 of the frequencies, and what an escape may cost beside."""
    offsets = values.astype(np.int64) - tables.lowest[chosen]
    escapes = tables.lengths[chosen] - 1
    outside = (offsets < 0) | (offsets >= escapes)
    starts = np.append(0, np.cumsum(tables.lengths))
    frequencies = tables.frequencies[starts[chosen] + np.where(outside, escapes, offsets)]
    return float(-np.log2(frequencies / TOTAL).sum() + 30 * outside.sum())


def test_a_body_is_little_longer_than_its_tables_promise(
    codec: NeuralStill, textured: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = record_pushes(monkeypatch)
    for seed in range(3):
        pushed.clear()
        body = unpack(codec.encode(textured(128, 160, seed), codec.fine_points[2])).body
        assert 8 * len(body) <= 1.01 * sum(ideal_bits(*parts) for parts in pushed) + 8 * 8


def test_the_rate_rises_along_the_points(codec: NeuralStill, textured: Maker) -> None:
    sizes = [len(codec.encode(textured(128, 128), point)) for point in codec.fine_points]
    assert sizes == sorted(set(sizes))


def test_the_points_are_the_trained_positions(codec: NeuralStill) -> None:
    assert [str(point) for point in codec.fine_points] == [f"lambda=0.0{n}" for n in ("01", "02", "04", "08", "16")]
    assert codec.points == codec.fine_points[::2]
    for point in codec.fine_points:
        codec.check(point)


@pytest.mark.parametrize(
    ("lmbda", "position"),
    [
        (0.001, 0),
        (0.0014, 0),
        (0.00142, 1),
        (0.0028, 1),
        (0.0029, 2),
        (0.00565, 2),
        (0.00566, 3),
        (0.0114, 4),
        (0.016, 4),
    ],
)
def test_a_lambda_in_between_takes_the_position_nearest_in_ratio(
    codec: NeuralStill, lmbda: float, position: int, textured: Maker
) -> None:
    point = OperatingPoint.of(**{"lambda": lmbda})
    codec.check(point)
    assert codec.encode(textured(16, 16), point) == codec.encode(textured(16, 16), codec.fine_points[position])


def test_a_rounded_end_of_the_range_is_within_it(tiny: Tiny, textured: Maker) -> None:
    model = tiny()
    lambdas = (0.00123456, 0.002, 0.004, 0.008, 0.0165432)
    description = model.description.model_copy(update={"lambdas": lambdas})
    codec = NeuralStill("cae", replace(model, description=description))
    assert [str(codec.fine_points[k]) for k in (0, -1)] == ["lambda=0.001235", "lambda=0.01654"]
    for point in codec.fine_points:
        codec.encode(textured(16, 16), OperatingPoint.parse(str(point)))


@pytest.mark.parametrize(
    "point",
    [
        OperatingPoint.of(**{"lambda": 0.00099}),
        OperatingPoint.of(**{"lambda": 0.0161}),
        OperatingPoint.of(**{"lambda": 0.0}),
        OperatingPoint.of(**{"lambda": -0.002}),
        OperatingPoint.of(quality=30),
        OperatingPoint.of(**{"lambda": 0.002, "width": 96}),
        OperatingPoint(()),
    ],
    ids=str,
)
def test_a_wrong_point_is_refused_with_the_choices(codec: NeuralStill, point: OperatingPoint, textured: Maker) -> None:
    message = rf"codec {codec.name} has no point {point}: choose lambda from 0\.001 to 0\.016"
    with pytest.raises(ValueError, match=message):
        codec.check(point)
    with pytest.raises(ValueError, match=message):
        codec.encode(textured(16, 16), point)
    with pytest.raises(ValueError, match=message):
        codec.complexity(point, 64, 64)


@pytest.mark.parametrize(("height", "width"), [(15, 16), (16, 15), (1, 1), (3, 1000)])
def test_an_image_below_sixteen_pixels_is_refused(codec: NeuralStill, height: int, width: int) -> None:
    message = f"sides of at least 16 and at most 16777216 pixels in all, got {height} x {width}"
    with pytest.raises(ValueError, match=message):
        codec.encode(np.zeros((height, width, 3), np.uint8), codec.points[0])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.int8),
        np.zeros((16, 16), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
    ids=["float", "int8", "grey", "alpha", "planar", "no row", "list"],
)
def test_what_is_no_image_is_refused(codec: NeuralStill, wrong: Image) -> None:
    with pytest.raises(ValueError, match="expected"):
        codec.encode(wrong, codec.points[0])


@pytest.mark.parametrize("design", ["cae", "mean-scale"])
def test_a_payload_of_another_model_says_which_is_needed_and_which_was_given(
    design: str, tiny: Tiny, textured: Maker
) -> None:
    ours, theirs = (NeuralStill("mine", tiny(design, seed=seed)) for seed in (0, 1))
    kind = ours.model.description.architecture
    payload = ours.encode(textured(16, 16), ours.points[0])
    needed, given = ours.model.hash.hex(), theirs.model.hash.hex()
    with pytest.raises(
        BitstreamError,
        match=f"needs the model {needed}, mine has {given}: give its weights as {kind}:FILE, or as slim{kind}:FILE",
    ):
        theirs.decode(payload)
    assert ours.accepts(unpack(payload))
    assert not theirs.accepts(unpack(payload))


def test_a_payload_of_another_codec_is_refused(codec: NeuralStill, tiny: Tiny, textured: Maker) -> None:
    other = NeuralStill("other", tiny("mean-scale" if codec.codec_id == CodecId.CAE else "cae"))
    for payload in (JPEG.encode(textured(16, 16), JPEG.points[0]), other.encode(textured(16, 16), other.points[0])):
        with pytest.raises(BitstreamError, match=r"payload is of \w+, expected \w+"):
            codec.decode(payload)


def test_a_scale_only_payload_does_not_pass_for_a_mean_scale_one(tiny: Tiny, textured: Maker) -> None:
    plain, full = NeuralStill("hyperprior", tiny("scale-only")), NeuralStill("hyperprior", tiny("mean-scale"))
    with pytest.raises(BitstreamError, match="needs the model"):
        full.decode(plain.encode(textured(16, 16), plain.points[0]))


def test_a_position_beyond_the_model_is_refused(codec: NeuralStill, textured: Maker) -> None:
    container = unpack(codec.encode(textured(16, 16), codec.points[0]))
    for position in (5, 65535):
        with pytest.raises(BitstreamError, match=f"position {position}, the model has 5"):
            codec.decode(pack(replace(container, point=(position,))))
    for point in ((), (1, 2)):
        with pytest.raises(BitstreamError, match=f"has {len(point)} point values, wants 1"):
            codec.decode(pack(replace(container, point=point)))


@pytest.mark.parametrize(("height", "width"), [(15, 16), (16, 1), (1, 1)])
def test_a_claim_of_a_size_too_small_is_refused(codec: NeuralStill, height: int, width: int, textured: Maker) -> None:
    container = unpack(codec.encode(textured(16, 16), codec.points[0]))
    with pytest.raises(BitstreamError, match=f"claims {height} x {width} pixels, .* sides of at least 16"):
        codec.decode(pack(replace(container, height=height, width=width)))


def test_truncated_payload_is_refused_at_every_fiftieth(codec: NeuralStill, textured: Maker) -> None:
    payload = codec.encode(textured(100, 75), codec.points[-1])
    for fiftieth in range(50):
        with pytest.raises(BitstreamError, match="truncated"):
            codec.decode(payload[: len(payload) * fiftieth // 50])


def test_mutated_payloads_decode_or_are_refused(codec: NeuralStill, textured: Maker) -> None:
    generator = random.Random(f"payload {codec.codec_id}")
    payloads = [codec.encode(textured(17, 33), codec.points[k]) for k in (0, -1)]
    for number in range(CONTAINER_MUTATIONS):
        try:
            decoded = codec.decode(mutated(payloads[number % 2], generator))
        except BitstreamError:
            continue
        assert decoded.shape == (17, 33, 3)


def test_damaged_bodies_in_sound_containers_decode_or_are_refused(codec: NeuralStill, textured: Maker) -> None:
    generator = random.Random(f"body {codec.codec_id}")
    containers = [unpack(codec.encode(textured(17, 33), codec.points[k])) for k in (0, 1, -1)]
    refused = 0
    with little_memory_and_time(limit_mb=256, limit_s=60):
        for number in range(BODY_MUTATIONS):
            container = containers[number % 3]
            try:
                decoded = codec.decode(pack(replace(container, body=mutated(container.body, generator))))
            except BitstreamError:
                refused += 1
                continue
            assert decoded.shape == (17, 33, 3)
            assert decoded.dtype == np.uint8
    assert refused > BODY_MUTATIONS // 3


def test_truncated_bodies_are_refused_or_decode(codec: NeuralStill, textured: Maker) -> None:
    container = unpack(codec.encode(textured(17, 33), codec.points[0]))
    for length in range(len(container.body)):
        try:
            decoded = codec.decode(pack(replace(container, body=container.body[:length])))
        except BitstreamError:
            continue
        assert decoded.shape == (17, 33, 3)


def test_a_body_far_too_long_is_refused_soon(codec: NeuralStill, textured: Maker) -> None:
    container = unpack(codec.encode(textured(17, 33), codec.points[0]))
    body = np.random.default_rng(0).bytes(4_000_000)
    with little_memory_and_time(limit_mb=256, limit_s=5), pytest.raises(BitstreamError, match="something left"):
        codec.decode(pack(replace(container, body=body)))


def test_another_size_in_the_header_is_refused_or_decodes_to_it(codec: NeuralStill, textured: Maker) -> None:
    container = unpack(codec.encode(textured(64, 64), codec.points[-1]))
    refused = 0
    for height, width in ((16, 16), (64, 65), (65, 64), (128, 128), (600, 400), (1000, 16)):
        try:
            decoded = codec.decode(pack(replace(container, height=height, width=width)))
        except BitstreamError:
            refused += 1
            continue
        assert decoded.shape == (height, width, 3)
    assert refused >= 3


@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_rate_that_a_point_gives_is_found_again(codec: NeuralStill, position: int, textured: Maker) -> None:
    image = textured(128, 160)
    payload = codec.encode(image, codec.fine_points[position])
    encoded = encode_at(codec, image, bpp(len(payload), 128, 160))
    assert encoded.point == codec.fine_points[position]
    assert encoded.payload == payload


def test_the_complexity_is_that_of_the_padded_image(codec: NeuralStill) -> None:
    stride = 64 if codec.model.hyper else 16
    cost = codec.complexity(codec.points[0], stride, 2 * stride)
    assert codec.complexity(codec.points[-1], stride, 2 * stride) == cost
    assert codec.complexity(codec.points[0], stride - 1, stride + 1) == cost
    assert codec.complexity(codec.points[0], 2 * stride, 2 * stride).encode_macs == 2 * cost.encode_macs
    assert cost.weight_bytes == codec.model.num_bytes


def test_the_complexity_of_the_small_models_is_as_computed_by_hand(tiny: Tiny) -> None:
    n = 8
    layers_of_both = 81 * 3 * n + 2 * 25 * n * n + 2 * n * n
    per_pixel = (81 * 3 * n + n * n) / 16 + (25 * n * n + n * n) / 64 + 25 * n * n / 256
    cae = NeuralStill("cae", tiny("cae"))
    cost = cae.complexity(cae.points[0], 64, 64)
    assert cost.encode_macs == cost.decode_macs == 64 * 64 * (per_pixel + n * n / 256)
    assert cost.parameters == 2 * (layers_of_both + n * n) + 6 * n + 5 * n + 3
    for design, predicted in (("mean-scale", 2 * n), ("scale-only", n)):
        codec = NeuralStill("hyperprior", tiny(design))
        cost = codec.complexity(codec.points[0], 64, 64)
        h_a = 16 * 9 * n * n + 4 * 25 * n * n + 25 * n * n
        h_s = 25 * n * n + 4 * 25 * n * 12 + 16 * 9 * 12 * predicted
        assert cost.encode_macs == 64 * 64 * per_pixel + h_a + h_s
        assert cost.decode_macs == 64 * 64 * per_pixel + h_s
        hyper = 9 * n * n + 50 * n * n + 25 * n * n + 25 * n * 12 + 9 * 12 * predicted + 4 * n + 12 + predicted
        assert cost.parameters == 2 * layers_of_both + 5 * n + 4 * n + 3 + hyper
