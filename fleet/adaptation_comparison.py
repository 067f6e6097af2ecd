"""What an adaptation was worth: adapters and what they are compared with, on frames that nothing was trained on.

Not here: how vehicles come by their adapters (`codec_adaptation`), what a job computes (`adapting`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from roadbits.codecs.adaptation.enhancement import num_weights
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.metrics import RateQuality, bd_rate
from roadbits.fleet.adaptation_words import Adaptation, Method, has_residuals
from roadbits.fleet.adapter_exchange import Exchange
from roadbits.fleet.adapting import (
    Lesson,
    Lessons,
    Measuring,
    OldPayloads,
    StillDecodable,
    Tuning,
    measure_version,
    moved_weights,
    source_codec,
    still_decodable,
    tune_codec,
)
from roadbits.fleet.archive import Archive
from roadbits.fleet.backend import Backend, Shared
from roadbits.fleet.codec_adaptation import CodecAdaptation
from roadbits.fleet.domains import unmeasured
from roadbits.fleet.fittings import Version
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.results import AdaptationCurve, AdaptationResults, AdaptationRow, SharingNote
from roadbits.fleet.stages import Stages
from roadbits.fleet.uplink import US_PER_S


class AdaptationComparison:
    """The comparison of one run's adapters with other methods, and with the source codec."""

    def __init__(
        self, plan: Plan, stages: Stages, backend: Backend, display: Display, adaptation: CodecAdaptation
    ) -> None:
        """Take what to do, where its output goes, who computes it, and the prepared adaptation."""
        assert plan.scenario.adaptation is not None
        self._plan, self._stages, self._backend, self._display = plan, stages, backend, display
        self._words: Adaptation = plan.scenario.adaptation
        self._adaptation = adaptation
        self._told: list[str] = []
        self._tuned: dict[tuple[int, Method, str], Version] = {}
        self._frames: dict[str, Shared[list[Image]]] = {}
        self._outcomes: list[Outcome] = []
        self._curves: dict[tuple[Version, str], RateQuality] = {}
        self._old_payloads: dict[Version, StillDecodable] = {}

    def compared(self, test: Archive, references: Archive | None) -> AdaptationResults:
        """Train what adapters are compared with, and measure everything on frames that nothing was trained on.

        Args:
            test: the test frames.
            references: the reference frames, for domains that no test frame is of.

        Returns:
            How good every adaptation is, with its curves, and what happened around the adapters.

        Raises:
            DataError: if there is no frame of a domain to measure on.
        """
        if not self._domains:
            return AdaptationResults([], [], [], [])
        self._frames = {
            domain: self._backend.share(frames) for domain, frames in self._frames_by_domain(test, references).items()
        }
        pooled = [method for method in self._words.methods if method not in ("cawf", "density")]
        chains = [(seed, method) for seed in self._words.seeds for method in pooled]
        with self._display.bar("tune", len(chains) * len(self._domains)) as bar:
            for at, domain in enumerate(self._domains):
                before = self._domains[at - 1] if at else ""
                jobs = [self._tuning(seed, method, domain, before) for seed, method in chains]
                for (seed, method), version in zip(chains, self._tune(jobs, bar.advance), strict=True):
                    self._tuned[seed, method, domain] = version
        self._outcomes = [*self._shared_outcomes(), *self._pooled_outcomes()]
        everywhere = (self._home, *self._domains)
        pairs = [(self._source, domain) for domain in everywhere]
        for outcome in self._outcomes:
            pairs += [(version, domain) for version in outcome.versions for domain in outcome.serves(everywhere)]
        self._curves = self._measured(list(dict.fromkeys(pairs)))
        self._old_payloads = self._still_decodable(
            [version for outcome in self._outcomes for version in outcome.versions]
        )
        rows = [self._row(outcome) for outcome in self._outcomes]
        return AdaptationResults([row for row in rows if row], self._shown_curves(), self._sharing_notes(), self._told)

    def _frames_by_domain(self, test: Archive, references: Archive | None) -> dict[str, list[Image]]:
        found = {}
        for domain in (self._home, *self._domains):
            for archive in (test, references):
                places = [k for k, note in enumerate(archive.notes) if note.domain == domain] if archive else []
                if archive and places:
                    count = min(len(places), self._words.measured_frames)
                    found[domain] = [np.array(archive.images[places[len(places) * k // count]]) for k in range(count)]
                    break
            else:
                raise unmeasured(self._plan.scenario.cameras, domain)
        return found

    def _tuning(self, seed: int, method: Method, domain: str, before: str) -> Tuning:
        lessons = tuple(notice.lesson for notice in self._adaptation.notices(domain))
        # As much of the domain that the source served as of the new one.
        replayed = tuple(
            Lesson(lesson.vehicle, self._adaptation.watched[lesson.vehicle].usual[: len(lesson.frames)])
            for lesson in lessons
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

    @property
    def _home(self) -> str:
        return self._adaptation.home

    @property
    def _domains(self) -> tuple[str, ...]:
        return self._adaptation.domains

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
            for (seed, sharing, domain), exchange in self._adaptation.exchanges.items()
        ]

    def _pooled_outcomes(self) -> list["Outcome"]:
        """Return the methods, where there are several to compare, each on the frames of all vehicles."""
        if len(self._words.methods) < 2 and self._words.sharing:
            return []
        found = []
        for seed in self._words.seeds:
            for method in self._words.methods:
                for domain in self._domains:
                    lessons = tuple(notice.lesson for notice in self._adaptation.notices(domain))
                    version = self._tuned.get((seed, method, domain)) or self._pooled_adapter(
                        seed, method, domain, lessons
                    )
                    versions = (version,) if version else ()
                    found.append(Outcome(method, "pooled", domain, seed, versions, lessons, None))
        return found

    def _pooled_adapter(self, seed: int, method: Method, domain: str, lessons: tuple[Lesson, ...]) -> Version | None:
        job = Lessons(self._plan.scenario, lessons, b"", 0, self._words.all_steps, seed, has_residuals(method))
        (update,) = self._adaptation.train(f"{method}, {domain}", [job])
        if isinstance(update, str):
            self._told.append(f"adaptation by {method} to {domain} failed: {update}")
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
            job = OldPayloads(tuple(distinct), self._frames[self._home], self._words.watched_at)
            (found,) = self._backend.map(still_decodable, [job])
            bar.advance()
        return dict(zip(distinct, found, strict=True))

    def _row(self, outcome: "Outcome") -> AdaptationRow | None:
        changes = {domain: self._change(outcome, domain) for domain in (self._home, *self._domains)}
        bd_rate_on = {domain: change for domain, change in changes.items() if change is not None}
        if outcome.domain not in bd_rate_on or self._home not in bd_rate_on:
            self._told.append(
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
            bd_rate_source=bd_rate_on[self._home],
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
            watch_gmac=sum(watched.macs for watched in self._adaptation.watched) / 1e9 / len(self._domains),
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
        if domain in self._domains[: self._domains.index(outcome.domain) + 1]:
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
            for domain in (self._home, *self._domains)
        ]
        for outcome in self._outcomes:
            if outcome.seed != self._words.seeds[0] or not outcome.versions:
                continue
            for domain in dict.fromkeys((outcome.domain, *([self._home] if outcome.replaces else []))):
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
                {str(notice.vehicle): notice.noticed_us / US_PER_S for notice in self._adaptation.notices(domain)},
                self._missed(domain),
                [asdict(note) for note in exchange.rounds],
                {str(each.vehicle): each.from_us / US_PER_S for each in exchange.equipped},
            )
            for (of, sharing, domain), exchange in self._adaptation.exchanges.items()
            if of == seed
        ]

    def _missed(self, domain: str) -> list[int]:
        """Return which vehicles came into a domain and noticed nothing."""
        noticed = {notice.vehicle for notice in self._adaptation.notices(domain)}
        return [
            v for v, watched in enumerate(self._adaptation.watched) if domain in watched.domains and v not in noticed
        ]


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


def _first_s(exchange: Exchange) -> float | None:
    return min((each.from_us / US_PER_S for each in exchange.equipped), default=None)


def _lambda(point: OperatingPoint) -> float:
    return dict(point.settings)["lambda"]
