import math

import numpy as np
import pytest

from roadbits.codecs.legacy.stills import JPEG
from roadbits.codecs.metrics import psnr
from roadbits.fleet.devices import Ladder, ladder_of
from roadbits.fleet.rate_profile import Trial, profile_of, trial_crop, trial_positions, tried
from roadbits.fleet.scenario import Device
from tests.fleet.slim_codec import SlimCodec

SLIM = SlimCodec()
DEVICE = Device(
    encode_mpx_per_s={"jpeg": 4.0}, encode_watts=5, radio_joules_per_mbit=2, gmac_per_s=5, joules_per_gmac=3
)
IMAGE = np.random.default_rng(3).integers(0, 256, (160, 200, 3), dtype=np.uint8)
ALL = np.ones(15, np.bool_)


def slim_ladder() -> Ladder:
    return ladder_of(DEVICE, SLIM, 160, 200)


def test_one_width_is_tried_at_five_points_from_end_to_end() -> None:
    ladder = ladder_of(DEVICE, JPEG, 160, 200)
    assert trial_positions(ladder, ladder.fits) == (0, 25, 50, 74, 99)


def test_of_several_widths_each_is_tried_at_both_ends() -> None:
    assert trial_positions(slim_ladder(), ALL) == (0, 1, 2, 12, 13, 14)


def test_only_usable_widths_are_tried() -> None:
    usable = np.array([False, True, True] * 5)
    assert set(trial_positions(slim_ladder(), usable)) <= set(np.flatnonzero(usable))
    assert trial_positions(slim_ladder(), ~ALL) == ()


def test_networks_are_tried_on_the_middle_quarter_and_other_codecs_on_the_whole_frame() -> None:
    np.testing.assert_array_equal(trial_crop(SLIM, IMAGE), IMAGE[40:120, 50:150])
    assert trial_crop(JPEG, IMAGE) is IMAGE
    assert trial_crop(SLIM, IMAGE[:120]).shape == (120, 200, 3)


def test_a_trial_is_a_real_encoding() -> None:
    (trial,) = tried(SLIM, IMAGE, slim_ladder(), [4], with_quality=True)
    payload = SLIM.encode(IMAGE, SLIM.fine_points[4])
    assert trial == Trial(4, math.log(8 * len(payload) / (160 * 200)), psnr(SLIM.decode(payload), IMAGE))
    assert tried(SLIM, IMAGE, slim_ladder(), [4], with_quality=False) == [trial._replace(psnr_db=0.0)]


def test_between_trials_of_one_width_rate_and_quality_are_interpolated() -> None:
    profile = profile_of(slim_ladder(), [Trial(1, -2.0, 20.0), Trial(13, 2.0, 40.0)])
    assert profile.log_bpp[1::3].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert profile.psnr_db[1::3].tolist() == [20.0, 25.0, 30.0, 35.0, 40.0]
    assert np.isnan(profile.log_bpp[0::3]).all()
    assert np.isnan(profile.log_bpp[2::3]).all()


def test_the_profile_of_a_real_codec_predicts_what_was_not_tried() -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    ladder = ladder_of(DEVICE, JPEG, *smooth.shape[:2])
    profile = profile_of(ladder, tried(JPEG, smooth, ladder, trial_positions(ladder, ladder.fits), True))
    for position in (12, 37, 62):
        payload = JPEG.encode(smooth, ladder.points[position])
        assert math.exp(profile.log_bpp[position]) == pytest.approx(8 * len(payload) / (160 * 192), rel=0.25)
        assert profile.psnr_db[position] == pytest.approx(psnr(JPEG.decode(payload), smooth), abs=2.5)
