"""What a scenario will cost, from a few real frames: bytes on the links before anything is run.

Not here: the run itself; the forecast takes the first frames of the first vehicle and says so.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import Image, OperatingPoint, clip_of, is_clip_codec, is_still_codec
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.collection import drive_lengths
from roadbits.fleet.domains import check_measured
from roadbits.fleet.feasibility import Load, loads
from roadbits.fleet.links import trace_for
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import (
    check_disjoint,
    check_references,
    reference_sources,
    test_sources,
    train_source,
)
from roadbits.fleet.vehicle import Arm, ways_of

_FRAMES = 3


def forecast(scenario: Scenario) -> Iterator[str]:
    """Yield lines on frames, links, expected bytes and what is asked of the devices.

    Raises:
        DeviceError: if a device cannot run a codec.
        DataError: if the data cannot be read as declared, holds less than restorers are to learn from, test frames
            would train, or none measures a domain.
        UplinkError: if the uplink is unusable.
    """
    fleet, cameras = scenario.fleet, scenario.cameras
    check_disjoint(cameras)
    check_references(cameras, scenario.seed, scenario.restoration)
    asked = list(loads(scenario))
    lengths = drive_lengths(scenario)
    check_measured(scenario)
    tests = sum(len(source) for source in test_sources(cameras, scenario.seed))
    references = sum(len(source) for source in reference_sources(cameras, scenario.seed))
    learned = f", {references} for reference" if references else ""
    yield f"frames    {sum(lengths)} of {fleet.num_vehicles} vehicles, {tests} to test on{learned}"
    first = 0
    for group in fleet.everyone:
        vehicles = range(first, first + min(20, group.vehicles))
        links = [trace_for(fleet, scenario.seed, vehicle).mean_mbps for vehicle in vehicles]
        of_group = f" of group {group.name}" if fleet.groups else ""
        yield f"uplink    {sum(links) / len(links):.2f} Mbit/s per vehicle{of_group} on average"
        first += group.vehicles
    ways = ways_of(scenario)
    most = max(way.every * way.clip_frames for way in ways.values())
    drive = iter(train_source(cameras, scenario.seed, 0, fleet.num_vehicles))
    frames = list(itertools.islice(drive, max(_FRAMES, most)))

    def tried(arm: Arm) -> list[Image]:
        """Return the frames that an arm's bytes are told by: a few stills, or a clip, which is of one camera."""
        _, every, clip_frames = ways[arm]
        if not clip_frames:
            return [frame.image for frame in frames[:_FRAMES]]
        clip = frames[: every * clip_frames : every]
        return [frame.image for frame in itertools.takewhile(lambda frame: frame.camera == clip[0].camera, clip)]

    @cache
    def mean_bytes(arm: Arm, point: OperatingPoint) -> float:
        codec, images = still_or_clip_codec_named(arm.source), tried(arm)
        try:
            if is_clip_codec(codec):
                return len(codec.encode(clip_of(images), point)) / len(images)
            assert is_still_codec(codec)
            return sum(len(codec.encode(image, point)) for image in images) / len(images)
        except ValueError as error:
            raise DataError(f"{arm.key} cannot code the first frames of vehicle 0: {error}") from error

    for arm, (rule, every, _) in ways.items():
        if isinstance(rule, OperatingPoint):
            mean = mean_bytes(arm, rule)
            rate_mbps, in_all = 8 * mean / 1e6 / cameras.interval_s / every, mean * sum(lengths) / every / 1e6
            yield (
                f"bytes     {arm.key:<32} {mean / 1e3:8.1f} kB a frame, {in_all:8.2f} MB in all, "
                f"{rate_mbps:.3f} Mbit/s per vehicle (first {len(tried(arm))} frames)"
            )
    for load in asked:
        ends = (load.ladder.points[0], load.ladder.points[-1])
        yield _told(load, [mean_bytes(load.arm, point) / 1e3 for point in ends])


def _told(load: Load, kilobytes: Sequence[float]) -> str:
    """Return a line on what an arm asks of a group's device."""
    device, ladder = load.group.device, load.ladder
    memory = "any" if device.memory_mb is None else f"{device.memory_mb:g}"
    return (
        f"device    {load.group.name + ' ' + load.arm.key:<32} {_span(ladder.macs / 1e9)} GMAC, "
        f"{_span(ladder.seconds)} of {load.interval_s * device.duty:.3g} s, {_span(ladder.joules)} J, "
        f"{_span(ladder.memory_bytes / 1e6)} of {memory} MB, {_span(np.array(kilobytes))} kB a frame"
    )


def _span(values: NDArray[Any]) -> str:
    """Return the lowest and the highest of some values, or the one they all are."""
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
