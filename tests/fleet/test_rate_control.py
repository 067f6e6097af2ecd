"""Policies over drives: on real frames of the generated street, and with a codec of several widths."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Codec, Image, OperatingPoint
from roadbits.fleet.cameras.street import StreetSource
from roadbits.fleet.devices import ladder_of, radio_joules
from roadbits.fleet.fittings import with_any_adapter
from roadbits.fleet.policies import Account, Budget, Link, Policy, Situation, TargetBpp
from roadbits.fleet.rate_control import ControlState, Encoding, FixedPoint, RateControl
from roadbits.fleet.scenario import Device
from tests.fleet.slim_codec import SlimCodec

SLIM = SlimCodec()
DEVICE = Device(
    encode_mpx_per_s={"jpeg": 4.0, "cae": 2.0},
    encode_watts=5,
    radio_joules_per_mbit=2,
    gmac_per_s=1,
    joules_per_gmac=3,
    memory_mb=64.0,
)
WIDE = Situation(now_s=0.0, age_s=0.0, interval_s=1.0, backlog_bytes=0, room_bytes=10**9, bits_per_s=1e8)
HEIGHT, WIDTH = 128, 160


@pytest.fixture(scope="module")
def drive() -> list[Image]:
    """Return sixty frames of a street, thirty by day and thirty in rain."""
    source = StreetSource(
        seed=3,
        split="train",
        vehicle=0,
        domains=("day", "rain"),
        num_frames=60,
        interval_s=1.0,
        height=HEIGHT,
        width=WIDTH,
    )
    return [frame.image for frame in source]


def control(codec: Codec, policy: Policy, state: ControlState | None = None, device: Device = DEVICE) -> RateControl:
    return RateControl(codec, device, policy, state or ControlState())


def rate(encoding: Encoding) -> float:
    assert encoding.payload is not None
    return 8 * len(encoding.payload) / (HEIGHT * WIDTH)


@pytest.mark.parametrize(("name", "target"), [("jpeg", 0.7), ("jpeg", 1.5), ("cae", 0.4)])
def test_a_drive_holds_its_target_though_its_domain_changes(name: str, target: float, drive: list[Image]) -> None:
    vehicle = control(codec_named(name), TargetBpp(target))
    rates = [rate(vehicle.encode(image, WIDE)) for image in drive]
    assert np.mean(rates) == pytest.approx(target, rel=0.03)
    assert np.mean(rates[30:]) == pytest.approx(target, rel=0.06)


@pytest.mark.parametrize(("target", "end"), [(0.001, 0), (20.0, -1)])
def test_a_target_beyond_the_ladder_ends_at_its_end(target: float, end: int, drive: list[Image]) -> None:
    vehicle = control(codec_named("jpeg"), TargetBpp(target))
    points = [vehicle.encode(image, WIDE).point for image in drive[:6]]
    assert points[-1] == codec_named("jpeg").fine_points[end]


@pytest.mark.parametrize("policy", [TargetBpp(1.0), Link(10.0, math.inf), Budget(10.0, math.inf, math.inf)])
def test_a_drive_may_be_cut_anywhere_and_its_state_stored(policy: Policy, drive: list[Image]) -> None:
    whole = control(SLIM, policy)
    uncut = [whole.encode(image, WIDE) for image in drive[:8]]
    first = control(SLIM, policy)
    before = [first.encode(image, WIDE) for image in drive[:3]]
    stored = ControlState.of(json.loads(json.dumps(asdict(first.state))))
    assert stored == first.state
    second = control(SLIM, policy, stored)
    assert before + [second.encode(image, WIDE) for image in drive[3:8]] == uncut


def test_the_first_frame_pays_for_its_trials(drive: list[Image]) -> None:
    vehicle = control(SLIM, Link(10.0, math.inf))
    first, second = (vehicle.encode(drive[0], WIDE) for _ in range(2))
    assert first.payload == second.payload
    ladder, crop = ladder_of(DEVICE, SLIM, HEIGHT, WIDTH), ladder_of(DEVICE, SLIM, HEIGHT // 2, WIDTH // 2)
    trials = [trial.position for trial in vehicle.state.trials]
    assert trials == [0, 3, 6, 9, 12]  # of the widest alone
    chosen = ladder.points.index(second.point) if second.point else -1
    assert (second.seconds, second.macs) == (ladder.seconds[chosen], ladder.macs[chosen])
    assert first.macs == second.macs + crop.macs[trials].sum()
    assert first.seconds == pytest.approx(second.seconds + crop.seconds[trials].sum())


@pytest.mark.parametrize("policy", [Link(10.0, math.inf), TargetBpp(4.0)])
def test_a_frame_of_a_size_that_leaves_another_width_is_tried_too(policy: Policy, drive: list[Image]) -> None:
    """A frame of 128 x 160 leaves time for the width of 192, one of four times the pixels for that of 96 alone."""
    small, large = drive[0], np.kron(drive[1], np.ones((2, 2, 1), np.uint8))
    vehicle = control(SLIM, policy)
    vehicle.encode(small, WIDE)
    bias = vehicle.state.log_bias
    first, second = (vehicle.encode(large, WIDE) for _ in range(2))
    ladder, crop = ladder_of(DEVICE, SLIM, 2 * HEIGHT, 2 * WIDTH), ladder_of(DEVICE, SLIM, HEIGHT, WIDTH)
    earlier, trials = vehicle.state.trials[:5], vehicle.state.trials[5:]
    later = [trial.position for trial in trials]
    assert ([trial.position for trial in earlier], later) == ([0, 3, 6, 9, 12], [1, 4, 7, 10, 13])
    assert first.point is not None
    assert first.point["width"] == 96
    chosen = ladder.points.index(first.point)
    assert first.macs == ladder.macs[chosen] + crop.macs[later].sum()
    assert first.seconds == pytest.approx(ladder.seconds[chosen] + crop.seconds[later].sum())
    assert second.point is not None
    assert second.macs == ladder.macs[ladder.points.index(second.point)], "tried once"
    top, left = HEIGHT // 2, WIDTH // 2
    part = np.ascontiguousarray(large[top : top + HEIGHT, left : left + WIDTH])
    tried = [math.log(8 * len(SLIM.encode(part, ladder.points[at])) / (HEIGHT * WIDTH)) for at in later]
    assert [trial.log_bpp + bias for trial in trials] == pytest.approx(tried)
    again = vehicle.encode(small, WIDE)
    assert again.point is not None
    assert again.point["width"] == 192
    assert len(vehicle.state.trials) == 10


def test_frames_of_two_sizes_are_charged_for_what_each_costs(drive: list[Image]) -> None:
    vehicle = control(SLIM, Budget(10.0, math.inf, math.inf), device=DEVICE.model_copy(update={"gmac_per_s": 10.0}))
    sizes = [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH), (HEIGHT, WIDTH // 2), (HEIGHT, WIDTH), (HEIGHT // 2, WIDTH)]
    vehicle.encode(drive[0], WIDE)  # which tries points, too
    for height, width in sizes:
        encoding = vehicle.encode(np.ascontiguousarray(drive[1][:height, :width]), WIDE)
        assert encoding.point is not None
        assert encoding.macs == SLIM.complexity(encoding.point, height, width).encode_macs


def test_trials_that_measure_quality_pay_for_decoding_and_energy_is_booked(drive: list[Image]) -> None:
    vehicle = control(SLIM, Budget(10.0, math.inf, math.inf))
    first = vehicle.encode(drive[0], WIDE)
    assert first.payload is not None
    ladder, crop = ladder_of(DEVICE, SLIM, HEIGHT, WIDTH), ladder_of(DEVICE, SLIM, HEIGHT // 2, WIDTH // 2)
    trials = [trial.position for trial in vehicle.state.trials]
    chosen = ladder.points.index(first.point) if first.point else -1
    assert first.macs == ladder.macs[chosen] + 2 * crop.macs[trials].sum()
    assert vehicle.state.account.joules == pytest.approx(
        first.macs / 1e9 * 3 + radio_joules(DEVICE, len(first.payload))
    )


def test_a_budget_never_chooses_a_width_that_is_too_slow_and_gives_more_time_takes_the_wide_one(
    drive: list[Image],
) -> None:
    narrow = replace(WIDE, bits_per_s=60_000.0)
    seen = {}
    for gmac_per_s in (0.1, 10.0):
        device = DEVICE.model_copy(update={"gmac_per_s": gmac_per_s})
        vehicle = control(SLIM, Budget(10.0, math.inf, math.inf), device=device)
        points = [vehicle.encode(image, narrow).point for image in drive[:5]]
        seen[gmac_per_s] = {point["width"] for point in points if point}
    # A frame of 20480 pixels takes .75, .19 and .05 GMAC: of a device of .1 GMAC/s only 48 is in time.
    assert seen[0.1] == {48.0}
    assert seen[10.0] == {192.0}


def test_what_is_skipped_costs_nothing_after_the_trials(drive: list[Image]) -> None:
    choked = replace(WIDE, bits_per_s=100.0, backlog_bytes=10**6)
    vehicle = control(SLIM, Link(10.0, math.inf))
    first, second = (vehicle.encode(drive[0], choked) for _ in range(2))
    assert (first.payload, first.point, first.macs > 0) == (None, None, True)
    assert second == Encoding(None, None, 0.0, 0)


def test_a_fixed_point_encodes_every_frame_alike_and_remembers_nothing(drive: list[Image]) -> None:
    point = OperatingPoint.of(width=96, step=8)
    vehicle = FixedPoint(SLIM, DEVICE, point)
    encoding = vehicle.encode(drive[0], WIDE)
    macs = 96**2 * HEIGHT * WIDTH
    assert encoding == Encoding(SLIM.encode(drive[0], point), point, pytest.approx(macs / 1e9), macs)
    assert vehicle.state == ControlState()
    assert vehicle.state.account == Account()


@pytest.mark.parametrize("policy", [TargetBpp(0.4), Link(3.0, np.inf), Budget(3.0, np.inf, np.inf)])
def test_a_frame_that_the_device_cannot_hold_is_skipped(policy: Policy, drive: list[Image]) -> None:
    small = DEVICE.model_copy(update={"memory_mb": 0.5})
    assert control(codec_named("cae"), policy, device=small).encode(drive[0], WIDE) == Encoding(None, None, 0.0, 0)


def test_an_adapter_is_charged_for_from_the_frame_on_that_it_codes(drive: list[Image]) -> None:
    vehicle = control(codec_named("cae"), Link(3.0, np.inf))
    vehicle.encode(drive[0], WIDE)  # which tries points, too
    before = vehicle.encode(drive[1], WIDE)
    vehicle.codec = with_any_adapter("cae", with_residuals=True)
    after = vehicle.encode(drive[2], WIDE)
    assert after.point is not None
    assert before.macs == codec_named("cae").complexity(after.point, HEIGHT, WIDTH).encode_macs
    assert after.macs == vehicle.codec.complexity(after.point, HEIGHT, WIDTH).encode_macs > before.macs
