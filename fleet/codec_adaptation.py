"""The adaptation of one run: what vehicles notice, the adapters that come of it, and how good they are.

Trainings and measurements are kept as stages, each under what it depends on; what happens when follows from them and is
worked out anew.

Not here: what a job computes (`adapting`), when what happens (`adapter_exchange`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.codecs.adaptation.enhancement import num_weights
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.metrics import RateQuality, bd_rate
from roadbits.fleet.adaptation_words import Adaptation, Method, Sharing, has_residuals
from roadbits.fleet.adapter_exchange import AdapterLinks, Exchange, Exchanges
from roadbits.fleet.adapting import (
    Drive,
    Lesson,
    Lessons,
    Measuring,
    Notice,
    OldPayloads,
    StillDecodable,
    Tuning,
    Watched,
    measure_version,
    moved_weights,
    source_codec,
    still_decodable,
    train_adapter,
    tune_codec,
    watch,
)
from roadbits.fleet.archive import Archive
from roadbits.fleet.backend import Backend, Shared
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.fittings import Fitting, Fittings, Version, known_adapters
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.results import AdaptationCurve, AdaptationResults, AdaptationRow, SharingNote
from roadbits.fleet.sources import train_source
from roadbits.fleet.stages import Stages
from roadbits.fleet.summary import Spent
from roadbits.fleet.uplink import US_PER_S


class CodecAdaptation:
    """The adaptation of one run."""

    def __init__(self, plan: Plan, stages: Stages, backend: Backend, display: Display) -> None:
        """Take what to do, where its output goes, and who computes it."""
        assert plan.scenario.adaptation is not None
        self._plan, self._stages, self._backend, self._display = plan, stages, backend, display
        self._words: Adaptation = plan.scenario.adaptation
        self._links: dict[Sharing, AdapterLinks] = {}
        self._exchanges: dict[tuple[int, Sharing, str], Exchange] = {}
        self._tuned: dict[tuple[int, Method, str], Version] = {}
        self._all_fittings: Fittings = {}
        self._frames: dict[str, Shared[list[Image]]] = {}
        self._outcomes: list[Outcome] = []
        self._curves: dict[tuple[Version, str], RateQuality] = {}
        self._old_payloads: dict[Version, StillDecodable] = {}
        self.notes: list[str] = []

    def prepare(self) -> Fittings:
        """Let vehicles notice, train and share, and return what each then has on board, by way of sharing.

        Raises:
            DataError: if a frame cannot be read, or is too small to train on.
            DeviceError: if a device cannot train.
            BackendError: if the backend cannot work.
        """
        for sharing in self._words.sharing:
            for seed in self._words.seeds:
                links = AdapterLinks(self._plan.scenario)
                if seed == self._words.seeds[0]:
                    self._links[sharing] = links
                exchanges = Exchanges(self._plan.scenario, seed, links, self._train)
                for domain in self.domains:
                    self._exchanges[seed, sharing, domain] = exchanges.by(sharing, domain, self._notices(domain))
        self._all_fittings = {sharing: self._fittings(sharing) for sharing in self._words.sharing}
        for sharing in self._words.sharing:
            self._note_the_late(sharing)
        return self._all_fittings

    def _note_the_late(self, sharing: Sharing) -> None:
        """Tell of vehicles that come by an adapter when their drive is over: nothing is coded with it."""
        scenario, seed = self._plan.scenario, self._words.seeds[0]
        total = scenario.fleet.num_vehicles
        for domain in self.domains:
            equipped = self._exchanges[seed, sharing, domain].equipped
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
                    for each in self._exchanges[seed, sharing, domain].equipped
                    if each.vehicle == vehicle
                ),
                links.taken(vehicle),
            )
            for vehicle in range(self._plan.scenario.fleet.num_vehicles)
        }

    @cached_property
    def _watched(self) -> list[Watched]:
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
        homes = [watched.home for watched in self._watched]
        return max(dict.fromkeys(homes), key=homes.count)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Domains that any vehicle noticed, in the order in which the first of them did."""
        notices = sorted((notice for watched in self._watched for notice in watched.notices), key=_by_time)
        return tuple(dict.fromkeys(notice.domain for notice in notices))

    def _notices(self, domain: str) -> list[Notice]:
        return [notice for watched in self._watched for notice in watched.notices if notice.domain == domain]

    def _train(self, name: str, jobs: Sequence[Lessons]) -> list[bytes | str]:
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

    def compare(self, test: Archive, references: Archive | None) -> None:
        """Train what adapters are compared with, and measure everything on frames that nothing was trained on.

        Args:
            test: the test frames.
            references: the reference frames, for domains that no test frame is of.

        Raises:
            DataError: if there is no frame of a domain to measure on.
        """
        self._frames = {
            domain: self._backend.share(frames) for domain, frames in self._frames_by_domain(test, references).items()
        }
        pooled = [method for method in self._words.methods if method not in ("cawf", "density")]
        chains = [(seed, method) for seed in self._words.seeds for method in pooled]
        with self._display.bar("tune", len(chains) * len(self.domains)) as bar:
            for at, domain in enumerate(self.domains):
                before = self.domains[at - 1] if at else ""
                jobs = [self._tuning(seed, method, domain, before) for seed, method in chains]
                for (seed, method), version in zip(chains, self._tune(jobs, bar.advance), strict=True):
                    self._tuned[seed, method, domain] = version
        self._outcomes = [*self._shared_outcomes(), *self._pooled_outcomes()]
        everywhere = (self.home, *self.domains)
        pairs = [(self._source, domain) for domain in everywhere]
        for outcome in self._outcomes:
            pairs += [(version, domain) for version in outcome.versions for domain in outcome.serves(everywhere)]
        self._curves = self._measured(list(dict.fromkeys(pairs)))
        self._old_payloads = self._still_decodable(
            [version for outcome in self._outcomes for version in outcome.versions]
        )

    def _frames_by_domain(self, test: Archive, references: Archive | None) -> dict[str, list[Image]]:
        found = {}
        for domain in (self.home, *self.domains):
            for archive in (test, references):
                places = [k for k, note in enumerate(archive.notes) if note.domain == domain] if archive else []
                if archive and places:
                    count = min(len(places), self._words.measured_frames)
                    found[domain] = [np.array(archive.images[places[len(places) * k // count]]) for k in range(count)]
                    break
            else:
                raise DataError(
                    f"adaptation: no test or reference frame is of the domain {domain!r}: nothing to measure on; set "
                    "cameras.test_domains, or set some frames apart with cameras.reference"
                )
        return found

    def _tuning(self, seed: int, method: Method, domain: str, before: str) -> Tuning:
        lessons = tuple(notice.lesson for notice in self._notices(domain))
        # As much of the domain that the source served as of the new one.
        replayed = tuple(
            Lesson(lesson.vehicle, self._watched[lesson.vehicle].usual[: len(lesson.frames)]) for lesson in lessons
        )
        start = self._tuned[seed, method, before].model if before else b""
        return Tuning(self._plan.scenario, method, lessons, replayed, start, seed)

    def _tune(self, jobs: Sequence[Tuning], advance: Any) -> list[Version]:
        keys = [self._plan.tuned_key(job) for job in jobs]
        todo = [(key, job) for key, job in zip(keys, jobs, strict=True) if not self._stages.is_done(key)]
        for _ in range(len(keys) - len(todo)):
            advance()
        for (key, _), model in zip(todo, self._backend.map(tune_codec, [job for _, job in todo]), strict=True):
            with self._stages.writing(key) as folder:
                (folder / "model.safetensors").write_bytes(model)
            advance()
        models = [(self._stages.folder(key) / "model.safetensors").read_bytes() for key in keys]
        return [Version(self._words.codec, model=model) for model in models]

    def versions(self) -> dict[bytes, Version]:
        """Return every adapter that a vehicle has on board, by the hash that payloads carry."""
        adapters = known_adapters(self._words.codec, self._all_fittings)
        return {adapter: known.version for adapter, known in adapters.items()}

    def version_for(self, sharing: Sharing, domain: str, luck: int) -> Version:
        """Return the codec that vehicles have for a domain in the end; of several adapters the one that luck has it."""
        exchange = self._exchanges.get((self._words.seeds[0], sharing, domain))
        updates = sorted({each.update for each in exchange.equipped}) if exchange else []
        return Version(self._words.codec, updates[luck % len(updates)] if updates else b"")

    def spent(self, sharing: Sharing) -> list[Spent]:
        """Return what adapting took of each vehicle of an arm's fleet: of its link, and of its computer."""
        seed = self._words.seeds[0]
        exchanges = [found for (of, by, _), found in self._exchanges.items() if (of, by) == (seed, sharing)]
        return [
            Spent(
                sum(found.sent_bytes[vehicle] for found in exchanges),
                watched.macs + sum(found.trained_macs[vehicle] for found in exchanges),
            )
            for vehicle, watched in enumerate(self._watched)
        ]

    def results(self) -> AdaptationResults:
        """Return how good every adaptation is, with its curves, and what happened around the adapters."""
        rows = [self._row(outcome) for outcome in self._outcomes]
        return AdaptationResults([row for row in rows if row], self._shown_curves(), self._sharing_notes())

    @property
    def _source(self) -> Version:
        return Version(self._words.codec)

    def _shared_outcomes(self) -> list["Outcome"]:
        return [
            Outcome(
                self._words.methods[0],
                sharing,
                domain,
                seed,
                tuple(dict.fromkeys(Version(self._words.codec, each.update) for each in exchange.equipped)),
                tuple(exchange.lessons),
                exchange,
            )
            for (seed, sharing, domain), exchange in self._exchanges.items()
        ]

    def _pooled_outcomes(self) -> list["Outcome"]:
        """Return the methods, where there are several to compare, each on the frames of all vehicles."""
        if len(self._words.methods) < 2 and self._words.sharing:
            return []
        found = []
        for seed in self._words.seeds:
            for method in self._words.methods:
                for domain in self.domains:
                    lessons = tuple(notice.lesson for notice in self._notices(domain))
                    version = self._tuned.get((seed, method, domain)) or self._pooled_adapter(
                        seed, method, domain, lessons
                    )
                    versions = (version,) if version else ()
                    found.append(Outcome(method, "pooled", domain, seed, versions, lessons, None))
        return found

    def _pooled_adapter(self, seed: int, method: Method, domain: str, lessons: tuple[Lesson, ...]) -> Version | None:
        job = Lessons(self._plan.scenario, lessons, b"", 0, self._words.all_steps, seed, has_residuals(method))
        (update,) = self._train(f"{method}, {domain}", [job])
        if isinstance(update, str):
            self.notes.append(f"adaptation by {method} to {domain} failed: {update}")
            return None
        return Version(self._words.codec, update)

    def _measured(self, pairs: Sequence[tuple[Version, str]]) -> dict[tuple[Version, str], RateQuality]:
        """Return the curve of each codec on the frames of a domain."""
        points = self._words.measured_at(source_codec(self._words).points)
        keys = {pair: self._plan.adapted_curve_key(*pair) for pair in pairs}
        todo = [pair for pair in pairs if not self._stages.is_done(keys[pair])]
        jobs = (Measuring(version, self._frames[domain], point) for version, domain in todo for point in points)
        results = self._backend.map(measure_version, jobs)
        with self._display.bar("rate and distortion", len(todo) * len(points)) as bar:
            for pair in todo:
                curve = []
                for _ in points:
                    curve.append(next(results))
                    bar.advance()
                with self._stages.writing(keys[pair]) as folder:
                    (folder / "curve.json").write_text(json.dumps(curve))
        curves = {}
        for pair, key in keys.items():
            values = json.loads((self._stages.folder(key) / "curve.json").read_text())
            curves[pair] = RateQuality([rate for rate, _ in values], [quality for _, quality in values])
        return curves

    def _still_decodable(self, versions: Sequence[Version]) -> dict[Version, StillDecodable]:
        """Return what became of the source's payloads beside or after each version."""
        distinct = list(dict.fromkeys(versions))
        if not distinct:
            return {}
        with self._display.bar("old payloads", 1) as bar:
            job = OldPayloads(tuple(distinct), self._frames[self.home], self._words.watched_at)
            (found,) = self._backend.map(still_decodable, [job])
            bar.advance()
        return dict(zip(distinct, found, strict=True))

    def _row(self, outcome: "Outcome") -> AdaptationRow | None:
        changes = {domain: self._change(outcome, domain) for domain in (self.home, *self.domains)}
        bd_rate_on = {domain: change for domain, change in changes.items() if change is not None}
        if outcome.domain not in bd_rate_on or self.home not in bd_rate_on:
            self.notes.append(
                f"adaptation by {outcome.method}, {outcome.sharing}, to {outcome.domain}: the curves before and after "
                "share too little quality to be compared"
            )
            return None
        exchange, target = outcome.exchange, bd_rate_on[outcome.domain]
        old_payloads = [self._old_payloads[version] for version in outcome.versions]
        changes_db = [each.change_db for each in old_payloads]
        saved = self._saved_bytes(outcome.domain, target)
        traffic = exchange.traffic_bytes if exchange else 0
        return AdaptationRow(
            method=outcome.method,
            sharing=outcome.sharing,
            domain=outcome.domain,
            seed=outcome.seed,
            bd_rate_target=target,
            bd_rate_source=bd_rate_on[self.home],
            bd_rate_on=bd_rate_on,
            old_payloads_bit_exact=float(np.mean([each.exact for each in old_payloads] or [1.0])),
            old_payloads_change_db=None if None in changes_db else float(np.mean([*changes_db] or [0.0])),
            adapter_bytes=max((version.num_bytes for version in outcome.versions), default=0),
            rounds=sum(note.has_quorum for note in exchange.rounds) if exchange else 0,
            traffic_bytes=traffic,
            frames=sum(len(lesson.frames) for lesson in outcome.lessons),
            vehicles=len(outcome.lessons),
            equipped=len(exchange.equipped) if exchange else 0,
            first_equipped_s=_first_s(exchange) if exchange else None,
            watch_gmac=sum(watched.macs for watched in self._watched) / 1e9 / len(self.domains),
            train_gmac=(exchange.train_macs if exchange else 0) / 1e9,
            saved_bytes_per_frame=saved,
            break_even_frames=traffic / saved if saved > 0 and exchange else None,
            parameters_percent=100 * self._moved(outcome),
        )

    def _change(self, outcome: "Outcome", domain: str) -> float | None:
        """Return the BD-rate on a domain's frames with all that an adaptation has learned when it knows its own."""
        source = self._curves[self._source, domain]
        if outcome.replaces:
            return bd_rate(self._curves[outcome.versions[0], domain], source).percent
        adapters: Sequence[Version] = ()
        if domain in self.domains[: self.domains.index(outcome.domain) + 1]:
            adapters = next(
                each for each in self._outcomes if each.kind == outcome.kind and each.domain == domain
            ).versions
        # Where there is none, the source codec serves it still.
        changes = [bd_rate(self._curves[version, domain], source).percent for version in adapters or [self._source]]
        known = [change for change in changes if change is not None]
        return float(np.mean(known)) if len(known) == len(changes) else None

    def _saved_bytes(self, domain: str, change: float) -> float:
        """Return what the adaptation saves of a frame's payload at the point at which vehicles watch."""
        points = self._words.measured_at(source_codec(self._words).points)
        rates = self._curves[self._source, domain].rates
        watched = _lambda(self._words.watched_at)
        nearest = min(range(len(points)), key=lambda k: abs(np.log(_lambda(points[k]) / watched)))
        pixels = float(np.mean([image.shape[0] * image.shape[1] for image in self._frames[domain].get()]))
        return -change / 100 * rates[nearest] * pixels / 8

    def _moved(self, outcome: "Outcome") -> float:
        """Return how many numbers an adaptation adds or changes, as a share of the source's weights."""
        source = source_codec(self._words).model
        return moved_weights(source, outcome.method) / num_weights(source)

    def _shown_curves(self) -> list[AdaptationCurve]:
        curves = [
            AdaptationCurve(
                "source",
                domain,
                list(self._curves[self._source, domain].rates),
                list(self._curves[self._source, domain].qualities),
            )
            for domain in (self.home, *self.domains)
        ]
        for outcome in self._outcomes:
            if outcome.seed != self._words.seeds[0] or not outcome.versions:
                continue
            for domain in dict.fromkeys((outcome.domain, *([self.home] if outcome.replaces else []))):
                curve = self._curves[outcome.versions[0], domain]
                after = f" after {outcome.domain}" if domain != outcome.domain else ""
                name = f"{outcome.method}, {outcome.sharing}{after}"
                curves.append(AdaptationCurve(name, domain, list(curve.rates), list(curve.qualities)))
        return curves

    def _sharing_notes(self) -> list[SharingNote]:
        seed = self._words.seeds[0]
        return [
            SharingNote(
                sharing,
                domain,
                {str(notice.vehicle): notice.noticed_us / US_PER_S for notice in self._notices(domain)},
                self._missed(domain),
                [asdict(note) for note in exchange.rounds],
                {str(each.vehicle): each.from_us / US_PER_S for each in exchange.equipped},
            )
            for (of, sharing, domain), exchange in self._exchanges.items()
            if of == seed
        ]

    def _missed(self, domain: str) -> list[int]:
        """Return which vehicles came into a domain and noticed nothing."""
        noticed = {notice.vehicle for notice in self._notices(domain)}
        return [v for v, watched in enumerate(self._watched) if domain in watched.domains and v not in noticed]


class Outcome(NamedTuple):
    """What came of one adaptation.

    Attributes:
        method: of adaptation.
        sharing: `federated`, `local`, `central` or `pooled`.
        domain: adapted to.
        seed: of training.
        versions: of the codec; several where each vehicle has its own, none where nothing came of it.
        lessons: learned from.
        exchange: in which it was shared, if any.
    """

    method: Method
    sharing: str
    domain: str
    seed: int
    versions: tuple[Version, ...]
    lessons: tuple[Lesson, ...]
    exchange: Exchange | None

    @property
    def kind(self) -> tuple[str, str, int]:
        """All of it but the domain."""
        return self.method, self.sharing, self.seed

    @property
    def replaces(self) -> bool:
        """Whether it replaces the source codec instead of standing beside it."""
        return any(version.model for version in self.versions)

    def serves(self, domains: Iterable[str]) -> list[str]:
        """Return the domains on whose frames it is used, of all that there are."""
        return list(domains) if self.replaces else [self.domain]


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


def _first_s(exchange: Exchange) -> float | None:
    return min((each.from_us / US_PER_S for each in exchange.equipped), default=None)


def _lambda(point: OperatingPoint) -> float:
    return dict(point.settings)["lambda"]
