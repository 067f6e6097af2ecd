from typing import Any

import pytest

from roadbits.codecs.catalogue import codec_named
from roadbits.fleet.adaptation_words import Adaptation
from roadbits.fleet.camera_words import StreetCameras
from roadbits.fleet.feasibility import DeviceError, check_devices, loads
from roadbits.fleet.fittings import with_any_adapter
from roadbits.fleet.rules import Budget, CodecChoice, Link
from roadbits.fleet.scenario import ConstantUplink, Device, Fleet, Group, Scenario

CAE = codec_named("cae")
COST = CAE.complexity(CAE.points[0], 240, 320)
GMAC, MEGABYTES = COST.encode_macs / 1e9, COST.encode_memory_bytes / 1e6
UPLINK = ConstantUplink(kind="constant", rate_mbps=1.0)


def device(**changes: Any) -> Device:
    words = {"encode_watts": 5, "radio_joules_per_mbit": 1, "gmac_per_s": 9, "joules_per_gmac": 1, "memory_mb": 99}
    return Device(encode_mpx_per_s={"jpeg": 30.0}, **(words | changes))


def scenario(*groups: Device, **codec: Any) -> Scenario:
    return Scenario(
        name="f",
        cameras=StreetCameras(
            kind="street", height=240, width=320, frames_per_vehicle=2, test_frames=1, interval_s=0.5
        ),
        fleet=Fleet(
            groups=tuple(Group(name=f"g{k}", vehicles=2, uplink=UPLINK, device=each) for k, each in enumerate(groups))
        ),
        codecs=(CodecChoice(**({"name": "cae", "policies": (Link(kind="link"), Budget(kind="budget"))} | codec)),),
    )


def test_what_each_arm_asks_of_each_group_is_told() -> None:
    found = list(loads(scenario(device(), device(gmac_per_s=4.5))))
    assert [(load.group.name, load.arm.key) for load in found] == [
        (group, arm) for group in ("g0", "g1") for arm in ("cae:link", "cae:budget")
    ]
    assert [load.ladder.points for load in found] == [CAE.fine_points] * 4
    assert found[2].ladder.seconds[0] == pytest.approx(2 * found[0].ladder.seconds[0]) == pytest.approx(GMAC / 4.5)


def test_a_device_that_is_too_slow_for_the_cheapest_point_is_refused_with_the_numbers() -> None:
    check_devices(scenario(device(gmac_per_s=GMAC / 0.4)))
    with pytest.raises(DeviceError) as caught:
        check_devices(scenario(device(), device(gmac_per_s=GMAC / 0.4, duty=0.5)))
    text = str(caught.value)
    assert text.startswith("group g1: its device needs 0.4 s for a frame at even the cheapest point of cae, lambda=")
    assert f"({GMAC:.3g} GMAC); it has 0.25 s (an interval of 0.5 s, duty 0.5)" in text


def test_the_memory_of_an_adapter_is_asked_for_where_vehicles_come_by_one() -> None:
    words = scenario(device(memory_mb=MEGABYTES), points=("lambda=0.0067",), policies=())
    check_devices(words)
    adapting = words.model_copy(update={"adaptation": Adaptation(codec="cae", point="lambda=0.0067")})
    more = with_any_adapter("cae", with_residuals=True).complexity(CAE.points[0], 240, 320).encode_memory_bytes / 1e6
    assert more > MEGABYTES
    with pytest.raises(DeviceError, match=rf"group g0: cae\+federated:lambda=0\.0067 needs {more:.4g} MB"):
        check_devices(adapting)


def test_a_device_without_the_memory_is_refused_with_the_numbers() -> None:
    check_devices(scenario(device(memory_mb=MEGABYTES)))
    with pytest.raises(DeviceError, match=rf"group g0: cae:lambda=0\.0067 needs {MEGABYTES:.4g} MB .* has 3\.0 MB"):
        check_devices(scenario(device(memory_mb=3.0), points=("lambda=0.0067",), policies=()))
    with pytest.raises(DeviceError, match=r"group g0: cae:link needs"):
        check_devices(scenario(device(memory_mb=3.0)))


def test_a_codec_without_networks_needs_its_measured_speed_only() -> None:
    slow = Device(encode_mpx_per_s={"jpeg": 0.1}, encode_watts=5, radio_joules_per_mbit=1)
    with pytest.raises(DeviceError, match=r"needs 0\.768 s .* cheapest point of jpeg.* it has 0\.5 s"):
        check_devices(scenario(slow, name="jpeg"))
    check_devices(scenario(slow.model_copy(update={"encode_mpx_per_s": {"jpeg": 1.0}}), name="jpeg"))
