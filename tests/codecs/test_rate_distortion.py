from collections.abc import Callable

import numpy as np
import pytest

from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.legacy.stills import JPEG, WEBP
from roadbits.codecs.metrics import flicker, ms_ssim, psnr
from roadbits.codecs.rate_distortion import RdPoint, bd_rates, measure, measure_all, without_rates

Maker = Callable[..., Image]
POINT = OperatingPoint.of(quality=50)


def point(codec: str, bits: float, quality: float) -> RdPoint:
    return RdPoint(codec, "quality=1", 1, bits, quality, 0.9, 0.0, 0.0)


def test_a_point_has_all_bits_over_all_pixels_and_mean_qualities(textured: Maker) -> None:
    images = [textured(20, 30), textured(40, 50, 1), textured(64, 48, 2)]
    payloads = [JPEG.encode(image, POINT) for image in images]
    pairs = [(JPEG.decode(payload), image) for payload, image in zip(payloads, images, strict=True)]
    measured = measure(JPEG, POINT, iter(images))
    assert (measured.codec, measured.point, measured.images) == ("jpeg", "quality=50", 3)
    assert measured.bpp == pytest.approx(8 * sum(map(len, payloads)) / (20 * 30 + 40 * 50 + 64 * 48))
    assert measured.psnr_db == pytest.approx(np.mean([psnr(*pair) for pair in pairs]))
    assert measured.ms_ssim == pytest.approx(np.mean([ms_ssim(*pair) for pair in pairs]))
    assert measured.encode_s > 0
    assert measured.decode_s > 0


def test_clips_have_a_course_over_time_and_flicker(textured: Maker) -> None:
    clips = [np.stack([textured(64, 96, 10 * c + k) for k in range(3 + c)]) for c in range(2)]
    measured = measure(JPEG, POINT, iter(clips))
    decoded = [np.stack([JPEG.decode(JPEG.encode(image, POINT)) for image in clip]) for clip in clips]
    assert measured.images == 7
    assert measured.flicker == pytest.approx(np.mean([flicker(*pair) for pair in zip(decoded, clips, strict=True)]))
    assert len(measured.psnr_over_time) == len(measured.ms_ssim_over_time) == 4
    first = [psnr(ours[0], theirs[0]) for ours, theirs in zip(decoded, clips, strict=True)]
    assert measured.psnr_over_time[0] == pytest.approx(np.mean(first))
    assert measured.psnr_over_time[3] == pytest.approx(psnr(decoded[1][3], clips[1][3]))
    assert measure(JPEG, POINT, [clips[0][0]]).flicker is None


def test_a_distance_of_one_s_own_is_averaged_beside_them(textured: Maker) -> None:
    images = [textured(20, 30), textured(40, 50, 1)]
    measured = measure(JPEG, POINT, images, lambda image, original: float(len(original)))
    assert measured.distance == 30
    assert measure(JPEG, POINT, images).distance is None


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images to measure"):
        measure(JPEG, POINT, [])


def test_every_codec_is_measured_at_every_point_in_order(textured: Maker) -> None:
    image = textured(16, 16)
    readings = []
    seen: list[RdPoint] = []

    def images() -> list[Image]:
        readings.append(1)
        return [image]

    measured = measure_all([WEBP, JPEG], images, seen.append)
    assert [(each.codec, each.point) for each in measured] == [
        (codec.name, str(each)) for codec in (WEBP, JPEG) for each in codec.points
    ]
    assert seen == measured
    assert len(readings) == len(WEBP.points) + len(JPEG.points)


def test_bd_rates_compare_each_codec_with_each_other_one() -> None:
    points = [point("a", 1, 30), point("b", 2, 30), point("a", 3, 35), point("b", 6, 35), point("lone", 1, 30)]
    rates = bd_rates(points)
    assert list(rates) == ["a vs b", "b vs a"]
    assert rates["a vs b"].percent == pytest.approx(-50)
    assert rates["b vs a"].percent == pytest.approx(100)


def test_bd_rates_of_one_codec_are_none_at_all() -> None:
    assert bd_rates([point("a", 1, 30), point("a", 2, 31)]) == {}
    assert bd_rates([]) == {}


def test_bd_rates_can_be_taken_between_two_rates() -> None:
    # Half the rate up to 29 dB, twice the rate at 32.
    a = [point("a", bits, quality) for bits, quality in ((0.1, 20), (0.2, 23), (0.4, 26), (0.8, 29), (6.4, 32))]
    b = [point("b", bits, quality) for bits, quality in ((0.2, 20), (0.4, 23), (0.8, 26), (1.6, 29), (3.2, 32))]
    far = [point("far", 20, 40), point("far", 30, 41)]
    rates = bd_rates([*a, *b, *far], (0.1, 1.0))
    assert without_rates([*a, *b, *far], (0.1, 1.0)) == ["far"]
    assert list(rates) == ["a vs b", "b vs a"]
    assert rates["a vs b"].percent == pytest.approx(-50, abs=2)
    whole = bd_rates([*a, *b])["a vs b"].percent
    assert whole is not None
    assert whole > -45
