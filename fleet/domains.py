"""The domains of a scenario's frames, known before any is read, and what an adaptation needs of them.

Not here: how a vehicle notices a domain (`drift`), what an adaptation was worth in one (`adaptation_comparison`).
"""

from typing import assert_never

from roadbits.fleet import camera_words as words
from roadbits.fleet.cameras.frame import DataError, FrameSource
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import reference_sources, test_sources


def domains_of(source: FrameSource) -> list[str]:
    """Return the domain of each frame of a source."""
    return [source.domain(index) for index in range(len(source))]


def check_measured(scenario: Scenario) -> None:
    """Refuse an adaptation to domains of which no frame is there to measure on.

    Only of domains that the scenario names; others are known once vehicles have noticed them.

    Raises:
        DataError: if there is such a domain, or the data cannot be read as declared.
    """
    cameras = scenario.cameras
    if scenario.adaptation is None or isinstance(cameras, words.VideoCameras):
        return
    sources = (*test_sources(cameras, scenario.seed), *reference_sources(cameras, scenario.seed))
    there = {domain for source in sources for domain in domains_of(source)}
    for domain in cameras.domains:
        if domain not in there:
            raise unmeasured(cameras, domain)


def unmeasured(cameras: words.Cameras, domain: str) -> DataError:
    """Return the error of a domain of which no frame is there to measure on, with what to do."""
    match cameras:
        case words.StreetCameras():
            advice = "name it in cameras.test_domains, with test_frames for each, or in cameras.reference.domains"
        case words.FolderCameras():
            advice = f"put some into a subfolder {domain} of cameras.test_images, or of cameras.reference.images"
        case words.DataSetCameras():
            advice = "choose a split that has some in cameras.test, or set some apart with cameras.reference"
        case words.VideoCameras():
            advice = "videos have no test frames: extract their frames into folders, and read those with kind folder"
        case unknown:
            assert_never(unknown)
    return DataError(
        f"adaptation: no test or reference frame is of the domain {domain!r}: nothing to measure on; {advice}"
    )
