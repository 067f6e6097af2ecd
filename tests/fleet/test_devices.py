import numpy as np
import pytest

from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.legacy.stills import JPEG
from roadbits.fleet.devices import is_charged_by_macs, ladder_of, radio_joules
from roadbits.fleet.scenario import Device
from tests.fleet.slim_codec import SlimCodec

SLIM = SlimCodec()
H, W = 100, 200
DEVICE = Device(
    encode_mpx_per_s={"jpeg": 4.0},
    encode_watts=5,
    radio_joules_per_mbit=2,
    gmac_per_s=0.5,
    joules_per_gmac=3,
    memory_mb=9.0,
)


def test_networks_cost_what_their_multiply_accumulates_do() -> None:
    ladder = ladder_of(DEVICE, SLIM, H, W)
    gmac = np.array([192**2, 96**2, 48**2] * 5) * H * W / 1e9
    assert ladder.points == SLIM.fine_points
    np.testing.assert_allclose(ladder.macs / 1e9, gmac)
    np.testing.assert_allclose(ladder.seconds, gmac / 0.5)
    np.testing.assert_allclose(ladder.joules, 3 * gmac)


def test_a_point_fits_whose_weights_and_activations_the_memory_holds() -> None:
    ladder = ladder_of(DEVICE, SLIM, H, W)
    # 4 bytes x width x 20000 pixels + 4000 bytes: 15.4, 7.7 and 3.8 MB.
    assert ladder.memory_bytes[:3].tolist() == [15_364_000, 7_684_000, 3_844_000]
    assert ladder.fits.tolist() == [False, True, True] * 5


def test_a_codec_without_networks_costs_its_measured_speed_at_every_point() -> None:
    ladder = ladder_of(DEVICE, JPEG, H, W)
    np.testing.assert_allclose(ladder.seconds, 0.02 / 4)
    np.testing.assert_allclose(ladder.joules, 5 * 0.02 / 4)
    assert ladder.fits.all()
    assert not ladder.macs.any()


def test_a_measured_speed_of_networks_goes_before_their_multiply_accumulates() -> None:
    device = DEVICE.model_copy(update={"encode_mpx_per_s": {"slim": 2.0}})
    assert not is_charged_by_macs(device, SLIM)
    np.testing.assert_allclose(ladder_of(device, SLIM, H, W).seconds, 0.01)


def test_some_points_may_be_asked_for() -> None:
    point = OperatingPoint.of(width=96, step=8)
    assert ladder_of(DEVICE, SLIM, H, W, (point,)).macs.tolist() == [96**2 * H * W]


@pytest.mark.parametrize("quantity", ["gmac_per_s", "joules_per_gmac"])
def test_what_a_device_does_not_say_is_an_error(quantity: str) -> None:
    with pytest.raises(ValueError, match=rf"the device says nothing of slim: give fleet\.device\.{quantity}"):
        ladder_of(DEVICE.model_copy(update={quantity: None}), SLIM, H, W)


def test_a_codec_without_a_speed_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"nothing of jpeg: give fleet\.device\.encode_mpx_per_s\.jpeg"):
        ladder_of(DEVICE.model_copy(update={"encode_mpx_per_s": {}}), JPEG, H, W)


def test_sending_costs_by_the_megabit() -> None:
    assert radio_joules(DEVICE, 250_000) == 4.0
