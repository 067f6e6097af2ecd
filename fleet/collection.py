"""The collection: every vehicle drives, segment by segment, and the collector stores what arrives.

Progress is committed with the uploads, so a collection that was killed goes on with the segment it was at.

Not here: what a vehicle does (`vehicle`), the checks (`collector`).
"""

from collections.abc import Sequence

from roadbits.fleet.backend import Backend
from roadbits.fleet.collector import Collector, states_from
from roadbits.fleet.fittings import Fitting, Fittings, known_adapters
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.rules import SEGMENT_FRAMES
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import train_source
from roadbits.fleet.store import Store
from roadbits.fleet.vehicle import ArmState, Segment, drive


class OtherCollectionError(Exception):
    """The store holds uploads that another scenario collected."""


def is_collected(plan: Plan, store: Store) -> bool:
    """Return whether the store holds all of a plan's collection.

    Raises:
        OtherCollectionError: if it holds anything of another one.
    """
    key = plan.collect_key()
    if store.about("collection") not in (None, key):
        raise OtherCollectionError(
            "uploads.sqlite holds uploads of another collection (cameras, fleet, codecs or seed differ): "
            "choose another --out, and --reuse this one's folder for what stays the same"
        )
    return store.about("complete") == key


def drive_lengths(scenario: Scenario) -> list[int]:
    """Return the number of frames of each vehicle's drive.

    Raises:
        DataError: if the data cannot be read as declared.
    """
    vehicles = scenario.fleet.num_vehicles
    return [len(train_source(scenario.cameras, scenario.seed, vehicle, vehicles)) for vehicle in range(vehicles)]


def collect(
    plan: Plan, lengths: Sequence[int], store: Store, backend: Backend, display: Display, fittings: Fittings
) -> None:
    """Let the fleet drive until everything is stored, one segment of every vehicle at a time.

    Args:
        plan: what to collect.
        lengths: frames of each vehicle's drive.
        store: takes the uploads.
        backend: computes the segments.
        display: shows the progress.
        fittings: adapters that vehicles have on board.

    Raises:
        DataError: if a frame cannot be read.
        UplinkError: if an uplink is unusable.
        StoreError: if the store cannot be written.
    """
    scenario, key = plan.scenario, plan.collect_key()
    store.keep("collection", key)
    vehicles = range(scenario.fleet.num_vehicles)
    at = {vehicle: (0, (ArmState(),) * len(plan.arms)) for vehicle in vehicles}
    at |= {v: (frame, states_from(text)) for v, (frame, text) in store.progress().items()}
    collector = Collector(store, scenario.fleet.deadline_s, _adapters_here_us(scenario, fittings))
    with display.bar("collect", sum(lengths)) as bar:
        bar.set(sum(frame for frame, _ in at.values()))
        for first in range(0, max(lengths), SEGMENT_FRAMES):
            wave = [v for v in vehicles if at[v][0] == first and first < lengths[v]]
            segments = [Segment(scenario, v, first, at[v][1], _on_board(fittings, v)) for v in wave]
            for vehicle, (uploads, states) in zip(wave, backend.map(drive, segments), strict=True):
                after = min(first + SEGMENT_FRAMES, lengths[vehicle])
                collector.receive(uploads, vehicle, after, states)
                at[vehicle] = (after, states)
                bar.advance(after - first)
    store.keep("complete", key)


def _adapters_here_us(scenario: Scenario, fittings: Fittings) -> dict[bytes, int]:
    words = scenario.adaptation
    adapters = known_adapters(words.codec, fittings) if words else {}
    return {adapter: known.known_us for adapter, known in adapters.items()}


def _on_board(fittings: Fittings, vehicle: int) -> dict[str, Fitting]:
    """Return what one vehicle has on board, by way of sharing."""
    return {sharing: by_vehicle[vehicle] for sharing, by_vehicle in fittings.items()}
