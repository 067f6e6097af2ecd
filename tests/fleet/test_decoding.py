from collections.abc import Iterator

import numpy as np
import pytest
import torch

from roadbits.codecs.bitstream import CodecId, Container, pack
from roadbits.codecs.catalogue import LEGACY_CODECS
from roadbits.codecs.codec import Codec, OperatingPoint
from roadbits.codecs.legacy.stills import JPEG
from roadbits.codecs.metrics import ms_ssim, psnr
from roadbits.fleet.decoding import OnBoard, Uploaded, compress_on_board, decode_uploaded
from roadbits.fleet.vehicle import Arm

POINT = OperatingPoint.of(quality=40)
ARM = Arm("jpeg", str(POINT))
IMAGES = [
    np.kron(np.random.default_rng(k).integers(0, 256, (5 + k, 7, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    for k in range(3)
]


@pytest.fixture(autouse=True)
def keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_payloads_become_images_with_their_distortion() -> None:
    payloads = [JPEG.encode(image, POINT) for image in IMAGES]
    decoded = decode_uploaded(Uploaded(ARM, payloads, IMAGES))
    assert len(decoded) == 3
    for frame, payload, image in zip(decoded, payloads, IMAGES, strict=True):
        expected = JPEG.decode(payload)
        np.testing.assert_array_equal(frame.image, expected)
        assert frame.psnr_db == psnr(expected, image) > 10
        assert frame.ms_ssim == ms_ssim(expected, image) > 0.5
        assert (frame.payload_bytes, frame.reason) == (len(payload), "")


def test_a_payload_that_does_not_decode_gives_its_reason_and_the_others_stay() -> None:
    good = JPEG.encode(IMAGES[0], POINT)
    height, width = IMAGES[1].shape[:2]
    bodiless = pack(Container(CodecId.JPEG, height, width, (40,), b"no jpeg at all"))
    decoded = decode_uploaded(Uploaded(ARM, [bodiless, good[:-3], good], [IMAGES[1], IMAGES[0], IMAGES[0]]))
    assert [frame.image is None for frame in decoded] == [True, True, False]
    assert decoded[0].reason.startswith("jpeg body does not decode: ")
    assert "its header promises" in decoded[1].reason
    assert [(frame.psnr_db, frame.ms_ssim) for frame in decoded[:2]] == [(0.0, 0.0)] * 2
    assert [frame.payload_bytes for frame in decoded] == [len(bodiless), len(good) - 3, len(good)]


def test_one_original_is_needed_per_payload() -> None:
    with pytest.raises(ValueError, match="zip"):
        decode_uploaded(Uploaded(ARM, [JPEG.encode(IMAGES[0], POINT)], IMAGES))


@pytest.mark.parametrize("codec", LEGACY_CODECS, ids=lambda codec: codec.name)
def test_what_is_compressed_on_board_is_what_the_codec_makes_of_it(codec: Codec) -> None:
    point = codec.points[3]
    frames = compress_on_board(OnBoard(Arm(codec.name, str(point)), IMAGES, [point] * len(IMAGES)))
    for frame, image in zip(frames, IMAGES, strict=True):
        payload = codec.encode(image, point)
        np.testing.assert_array_equal(frame.image, codec.decode(payload))
        assert frame.payload_bytes == len(payload)


def test_sums_are_taken_in_one_thread() -> None:
    torch.set_num_threads(2)
    assert decode_uploaded(Uploaded(ARM, [], [])) == []
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert compress_on_board(OnBoard(Arm("jpeg", "quality=9"), [], [])) == []
    assert torch.get_num_threads() == 1
