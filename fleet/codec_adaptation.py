"""The adaptation of one run: what vehicles notice, and the adapters that come of it.

What was watched and trained is kept as stages, each under what it depends on; what happens when follows from that and
is worked out anew.

Not here: what a job computes (`adapting`), when what happens (`adapter_exchange`), how good the adapters are
(`adaptation_comparison`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.fleet.adaptation_words import Adaptation, Sharing
from roadbits.fleet.adapter_exchange import AdapterLinks, Exchange, Exchanges
from roadbits.fleet.adapting import (
    Drive,
    Lessons,
    Notice,
    Watched,
    train_adapter,
    watch,
)
from roadbits.fleet.backend import Backend
from roadbits.fleet.domains import domains_of
from roadbits.fleet.fittings import Fitting, Fittings, Version, known_adapters
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.sources import train_source
from roadbits.fleet.stages import Stages
from roadbits.fleet.summary import Spent
from roadbits.fleet.uplink import US_PER_S


class CodecAdaptation:
    """The adaptation of one run.

    Attributes:
        exchanges: of adapters, by seed, way of sharing and domain, once prepared.
        notes: what a person should know of it.
    """

    def __init__(self, plan: Plan, stages: Stages, backend: Backend, display: Display) -> None:
        """Take what to do, where its output goes, and who computes it."""
        assert plan.scenario.adaptation is not None
        self._plan, self._stages, self._backend, self._display = plan, stages, backend, display
        self._words: Adaptation = plan.scenario.adaptation
        self._links: dict[Sharing, AdapterLinks] = {}
        self.exchanges: dict[tuple[int, Sharing, str], Exchange] = {}
        self._all_fittings: Fittings = {}
        self.notes: list[str] = []

    def prepare(self) -> Fittings:
        """Let vehicles notice, train and share, and return what each then has on board, by way of sharing.

        Raises:
            DataError: if a frame cannot be read, or is too small to train on.
            DeviceError: if a device cannot train.
            BackendError: if the backend cannot work.
        """
        if not self.domains:
            self.notes.append(f"nothing was adapted: {self._why_unnoticed()}")
        for sharing in self._words.sharing:
            for seed in self._words.seeds:
                links = AdapterLinks(self._plan.scenario)
                if seed == self._words.seeds[0]:
                    self._links[sharing] = links
                exchanges = Exchanges(self._plan.scenario, seed, links, self.train)
                for domain in self.domains:
                    self.exchanges[seed, sharing, domain] = exchanges.by(sharing, domain, self.notices(domain))
        self._all_fittings = {sharing: self._fittings(sharing) for sharing in self._words.sharing}
        for sharing in self._words.sharing:
            self._note_the_late(sharing)
        return self._all_fittings

    def _why_unnoticed(self) -> str:
        """Return why no vehicle noticed a new domain, as far as that can be told."""
        entered = [vehicle for vehicle, watched in enumerate(self.watched) if watched.domains]
        if not entered:
            return "each vehicle's drive is in one domain"
        scenario, least = self._plan.scenario, self._words.drift.baseline_frames
        drives = (
            domains_of(train_source(scenario.cameras, scenario.seed, vehicle, scenario.fleet.num_vehicles))
            for vehicle in entered
        )
        short = sum(drive.count(drive[0]) < least for drive in drives)
        told = f"{len(entered)} of {len(self.watched)} vehicles came into a new domain and none noticed; "
        if short:
            return told + (
                f"{short} saw too little of their first domain to know what is usual, fewer frames than the {least} of "
                "adaptation.drift.baseline_frames"
            )
        return told + "the codec may serve it as well, or adaptation.drift.threshold is too high to tell"

    def _note_the_late(self, sharing: Sharing) -> None:
        """Tell of vehicles that come by an adapter when their drive is over: nothing is coded with it."""
        scenario, seed = self._plan.scenario, self._words.seeds[0]
        total = scenario.fleet.num_vehicles
        for domain in self.domains:
            equipped = self.exchanges[seed, sharing, domain].equipped
            drives = (train_source(scenario.cameras, scenario.seed, each.vehicle, total) for each in equipped)
            late = sum(
                each.from_us > drive.last_time_s * US_PER_S for each, drive in zip(equipped, drives, strict=True)
            )
            if late:
                self.notes.append(
                    f"{sharing}: {late} of {len(equipped)} vehicles have their adapter for {domain} only after their "
                    "last frame, and code none with it: drive longer, or train fewer steps in fewer rounds"
                )

    def _fittings(self, sharing: Sharing) -> Mapping[int, Fitting]:
        seed, links = self._words.seeds[0], self._links[sharing]
        return {
            vehicle: Fitting(
                tuple(
                    each
                    for domain in self.domains
                    for each in self.exchanges[seed, sharing, domain].equipped
                    if each.vehicle == vehicle
                ),
                links.taken(vehicle),
            )
            for vehicle in range(self._plan.scenario.fleet.num_vehicles)
        }

    @cached_property
    def watched(self) -> list[Watched]:
        """What each vehicle noticed."""
        key, vehicles = self._plan.watch_key(), range(self._plan.scenario.fleet.num_vehicles)
        if not self._stages.is_done(key):
            drives = [Drive(self._plan.scenario, vehicle) for vehicle in vehicles]
            found = []
            with self._stages.writing(key) as folder, self._display.bar("watch", len(drives)) as bar:
                for watched in self._backend.map(watch, drives):
                    found.append(watched)
                    bar.advance()
                (folder / "watched.json").write_text(json.dumps([asdict(watched) for watched in found]))
        return [_watched_from(entry) for entry in json.loads((self._stages.folder(key) / "watched.json").read_text())]

    @cached_property
    def home(self) -> str:
        """The domain that the source codec serves: in which most drives begin."""
        homes = [watched.home for watched in self.watched]
        return max(dict.fromkeys(homes), key=homes.count)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Domains that any vehicle noticed, in the order in which the first of them did."""
        notices = sorted((notice for watched in self.watched for notice in watched.notices), key=_by_time)
        return tuple(dict.fromkeys(notice.domain for notice in notices))

    def notices(self, domain: str) -> list[Notice]:
        """Return what vehicles noticed of a domain."""
        return [notice for watched in self.watched for notice in watched.notices if notice.domain == domain]

    def train(self, name: str, jobs: Sequence[Lessons]) -> list[bytes | str]:
        """Return the update that came of each job, or why none did; what was computed before is not again."""
        keys = [self._plan.lessons_key(job) for job in jobs]
        todo = [(key, job) for key, job in zip(keys, jobs, strict=True) if not self._stages.is_done(key)]
        with self._display.bar(f"adapt: {name}", len(todo)) as bar:
            for (key, _), (update, reason) in zip(
                todo, self._backend.map(_trained, [job for _, job in todo]), strict=True
            ):
                with self._stages.writing(key) as folder:
                    (folder / "update.bin").write_bytes(update)
                    (folder / "reason.txt").write_text(reason)
                bar.advance()
        return [self._outcome(key) for key in keys]

    def _outcome(self, key: str) -> bytes | str:
        reason = (self._stages.folder(key) / "reason.txt").read_text()
        return reason or (self._stages.folder(key) / "update.bin").read_bytes()

    def versions(self) -> dict[bytes, Version]:
        """Return every adapter that a vehicle has on board, by the hash that payloads carry."""
        adapters = known_adapters(self._words.codec, self._all_fittings)
        return {adapter: known.version for adapter, known in adapters.items()}

    def version_for(self, sharing: Sharing, domain: str, luck: int) -> Version:
        """Return the codec that vehicles have for a domain in the end; of several adapters the one that luck has it."""
        exchange = self.exchanges.get((self._words.seeds[0], sharing, domain))
        updates = sorted({each.update for each in exchange.equipped}) if exchange else []
        return Version(self._words.codec, updates[luck % len(updates)] if updates else b"")

    def spent(self, sharing: Sharing) -> list[Spent]:
        """Return what adapting took of each vehicle of an arm's fleet: of its link, and of its computer."""
        seed = self._words.seeds[0]
        exchanges = [found for (of, by, _), found in self.exchanges.items() if (of, by) == (seed, sharing)]
        return [
            Spent(
                sum(found.sent_bytes[vehicle] for found in exchanges),
                watched.macs + sum(found.trained_macs[vehicle] for found in exchanges),
            )
            for vehicle, watched in enumerate(self.watched)
        ]


def _trained(job: Lessons) -> tuple[bytes, str]:
    """Return a training's update, or why there is none."""
    try:
        return train_adapter(job), ""
    except AdapterError as error:
        return b"", str(error)


def _watched_from(entry: Mapping[str, Any]) -> Watched:
    notices = tuple(Notice(**{**notice, "frames": tuple(notice["frames"])}) for notice in entry["notices"])
    return Watched(entry["home"], tuple(entry["usual"]), notices, tuple(entry["domains"]), entry["macs"])


def _by_time(notice: Notice) -> tuple[int, int]:
    return notice.noticed_us, notice.vehicle
