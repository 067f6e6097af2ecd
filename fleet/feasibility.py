"""Whether the devices of a scenario can run its codecs, and what that takes, by group and arm.

A point that is merely too slow is legal: its frames are dropped while the encoder is busy. A device that cannot hold a
point that it is told to use, or that cannot encode even the codec's cheapest point in time, makes a scenario
meaningless and is refused.

Not here: bytes and links (`forecast`), the devices' arithmetic (`devices`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import AnyCodec, OperatingPoint
from roadbits.fleet.devices import Ladder, ladder_of
from roadbits.fleet.fittings import with_any_adapter
from roadbits.fleet.policies import policy_of
from roadbits.fleet.rules import Rule
from roadbits.fleet.scenario import Device, Group, Scenario
from roadbits.fleet.sources import frame_size
from roadbits.fleet.vehicle import Arm, ways_of


class DeviceError(Exception):
    """A device that cannot run a codec; the message says what it lacks, in numbers."""


@dataclass(frozen=True, eq=False)
class Load:
    """What one arm asks of the vehicles of one group.

    Attributes:
        group: the vehicles.
        arm: codec and operating point or policy.
        ladder: the points it may use: one, or all that its policy may choose.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        interval_s: between the frames that it encodes.
    """

    group: Group
    arm: Arm
    ladder: Ladder
    height: int
    width: int
    interval_s: float


def loads(scenario: Scenario) -> Iterator[Load]:
    """Yield what each arm asks of each group, after checking that it can be had.

    Raises:
        DeviceError: if a device cannot run an arm.
        DataError: if the size of frames has to be read and cannot be.
    """
    fleet, cameras = scenario.fleet, scenario.cameras
    ways = [(arm, way, heaviest_codec(scenario, arm)) for arm, way in ways_of(scenario).items()]
    first = 0
    for group in fleet.everyone:
        height, width = frame_size(cameras, scenario.seed, first, fleet.num_vehicles)
        first += group.vehicles
        for arm, (rule, every, _), codec in ways:
            interval_s = every * cameras.interval_s
            whole = ladder_of(group.device, codec, height, width)
            _check_speed(group, arm, whole, interval_s)
            points = _points(rule, whole, group.device, interval_s, fleet.deadline_s)
            ladder = ladder_of(group.device, codec, height, width, points)
            _check_memory(group, arm, ladder if points else whole)
            yield Load(group, arm, ladder, height, width, interval_s)


def heaviest_codec(scenario: Scenario, arm: Arm) -> AnyCodec:
    """Return of the codecs that an arm's vehicles run the one that takes most: with an adapter, if there are some."""
    if scenario.adaptation is None or arm.sharing is None:
        return still_or_clip_codec_named(arm.source)
    return with_any_adapter(arm.source, scenario.adaptation.with_residuals)


def check_devices(scenario: Scenario) -> None:
    """Refuse a scenario that a device cannot run.

    Raises:
        DeviceError: with the numbers.
        DataError: if the size of frames has to be read and cannot be.
    """
    for _ in loads(scenario):
        pass


def _points(
    rule: Rule, whole: Ladder, device: Device, interval_s: float, deadline_s: float
) -> tuple[OperatingPoint, ...]:
    if isinstance(rule, OperatingPoint):
        return (rule,)
    usable = policy_of(rule, deadline_s).usable(whole, interval_s, device.duty)
    return tuple(whole.points[position] for position in np.flatnonzero(usable))


def _check_speed(group: Group, arm: Arm, ladder: Ladder, interval_s: float) -> None:
    cheapest = int(np.argmin(ladder.seconds))
    allowed_s = interval_s * group.device.duty
    if ladder.seconds[cheapest] > allowed_s:
        raise DeviceError(
            f"group {group.name}: its device needs {ladder.seconds[cheapest]:.3g} s for a frame at even the cheapest "
            f"point of {arm.source}, {ladder.points[cheapest]} ({ladder.macs[cheapest] / 1e9:.3g} GMAC); it has "
            f"{allowed_s:.3g} s (an interval of {interval_s:.3g} s, duty {group.device.duty:.3g}): "
            "raise cameras.interval_s, take smaller frames or a faster device"
        )


def _check_memory(group: Group, arm: Arm, ladder: Ladder) -> None:
    if not ladder.fits.any():
        least = int(np.argmin(ladder.memory_bytes))
        raise DeviceError(
            f"group {group.name}: {arm.key} needs {ladder.memory_bytes[least] / 1e6:.4g} MB for weights and "
            f"activations at {ladder.points[least]}, its device has {group.device.memory_mb} MB: "
            "choose a smaller point, smaller frames or a device with more memory"
        )
