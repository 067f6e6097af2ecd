"""What a scenario will cost, from a few real frames: bytes on the links before anything is run.

Not here: the run itself; the forecast takes the first frames of the first vehicle and says so.
"""

import itertools
from collections.abc import Iterator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.collection import drive_lengths
from roadbits.fleet.links import trace_for
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import check_disjoint, test_sources, train_source
from roadbits.fleet.vehicle import arms_of

_FRAMES = 3


def forecast(scenario: Scenario) -> Iterator[str]:
    """Yield lines on frames, links and expected bytes.

    Raises:
        DataError: if the data cannot be read as declared, or test frames would train.
        UplinkError: if the uplink is unusable.
    """
    fleet, cameras = scenario.fleet, scenario.cameras
    check_disjoint(cameras)
    lengths = drive_lengths(scenario)
    tests = sum(len(source) for source in test_sources(cameras, scenario.seed))
    yield f"frames    {sum(lengths)} of {fleet.vehicles} vehicles, {tests} to test on"
    links = [trace_for(fleet, scenario.seed, vehicle).mean_mbps for vehicle in range(min(20, fleet.vehicles))]
    yield f"uplink    {sum(links) / len(links):.2f} Mbit/s per vehicle on average"
    frames = list(itertools.islice(iter(train_source(cameras, scenario.seed, 0, fleet.vehicles)), _FRAMES))
    for arm in arms_of(scenario):
        codec, point = codec_named(arm.codec), OperatingPoint.parse(arm.point)
        mean = sum(len(codec.encode(frame.image, point)) for frame in frames) / len(frames)
        rate_mbps = 8 * mean / 1e6 / cameras.interval_s
        yield (
            f"bytes     {arm.key:<24} {mean / 1e3:8.1f} kB a frame, {mean * sum(lengths) / 1e6:8.2f} MB in all, "
            f"{rate_mbps:.3f} Mbit/s per vehicle (first {len(frames)} frames)"
        )
