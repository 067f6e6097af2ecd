"""What a scenario comes to: its stages, the key of each, and what they cost.

A key names exactly what a stage depends on, so that a changed scenario redoes only what the change touches.

Not here: doing it (`run`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from roadbits.codecs.catalogue import codec_named, still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint, is_clip_codec
from roadbits.codecs.neural.still import NeuralStill
from roadbits.downstream.setups import Frames, Setup
from roadbits.fleet.adaptation_words import Adaptation
from roadbits.fleet.adapting import Lessons, Tuning
from roadbits.fleet.fittings import Version
from roadbits.fleet.restoration_words import Remedy, Restoration, RestorerKind
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.stages import stage_key
from roadbits.fleet.vehicle import Arm, arms_of, ways_of

_FORMAT = 6
"""Raised when a stage's files or meaning change, so that old ones are not taken for new."""
_COLLECTION_FORMAT = 6
"""Likewise, of the collection alone."""
_FEW = 5
"""Points of a policy's ladder that restorers learn."""
SHOWN_FRAMES = 3
"""Test frames whose predictions are kept for the report."""


@dataclass(frozen=True)
class TrainingJob:
    """A segmenter to train with one seed.

    Attributes:
        arm: whose uploads it trains on; None for the originals.
        seed: of its weights and crops.
        restorer: that restored them before, if any.
        remedy: what was done instead of restoring, if anything.
    """

    arm: Arm | None
    seed: int
    restorer: RestorerKind | None = None
    remedy: Remedy | None = None

    @property
    def frames_name(self) -> str:
        """What it trains on, for people: `originals` or the arm's key, and what was done to its frames."""
        name = self.arm.key if self.arm else "originals"
        return f"{name}, {self.restorer or self.remedy}" if self.restorer or self.remedy else name


@dataclass(frozen=True)
class MeasuringJob:
    """A segmenter to measure: on original test frames (no arm) or on those that an arm compressed on board."""

    training: TrainingJob
    arm: Arm | None


@dataclass(frozen=True)
class Plan:
    """The stages of one scenario.

    Attributes:
        scenario: whose they are.
        clip_restorer: file of its restorer of clips; empty without one.
    """

    scenario: Scenario
    clip_restorer: bytes = b""

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every (codec, operating point or policy)."""
        return arms_of(self.scenario)

    def fixed_point(self, arm: Arm) -> OperatingPoint | None:
        """Return the point at which an arm encodes every frame; None if a policy chooses."""
        rule = ways_of(self.scenario)[arm].rule
        return rule if isinstance(rule, OperatingPoint) else None

    @property
    def setups(self) -> tuple[Setup, ...]:
        """The setups to measure."""
        return tuple(map(Setup, self.scenario.downstream.setups)) if self.scenario.downstream else ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The segmenters' seeds."""
        return self.scenario.downstream.seeds if self.scenario.downstream else ()

    def collect_key(self) -> str:
        """Return the key of the collection."""
        words = self.scenario.model_dump(mode="json", include={"cameras", "fleet", "codecs", "seed"})
        if self.scenario.adaptation:
            words["adaptation"] = self._adaptation_words()
        return stage_key("collect", format=_COLLECTION_FORMAT, weights=[_weights(arm) for arm in self.arms], **words)

    def drive_key(self, arm: Arm) -> str:
        """Return the key of an arm's part of the collection, to which other codecs and points do not matter."""
        words = self.scenario.model_dump(mode="json", include={"cameras", "fleet", "seed"})
        for group in (words["fleet"], *words["fleet"]["groups"]):
            if group["device"]:
                speeds = group["device"]["encode_mpx_per_s"]
                group["device"]["encode_mpx_per_s"] = {name: speeds[name] for name in speeds if name == arm.source}
        if any(words["fleet"]["faults"].values()):  # each arm has luck of its own, by its place among them
            words["place"] = self.arms.index(arm)
        if arm.sharing:
            words["adaptation"] = self._adaptation_words()
        return stage_key("drive", format=_COLLECTION_FORMAT, arm=arm.key, weights=_weights(arm), **words)

    def _adaptation_words(self) -> dict[str, Any]:
        """Return what of the adaptation the fleet's drives depend on."""
        measured_only = {"points", "measured_frames", "tuning_rate"}
        words = self._adaptation.model_dump(mode="json", exclude=measured_only)
        return words | {"methods": self._adaptation.methods[:1], "seeds": self._adaptation.seeds[:1]}

    @property
    def _adaptation(self) -> Adaptation:
        assert self.scenario.adaptation is not None
        return self.scenario.adaptation

    def _fleet_frames(self) -> dict[str, Any]:
        """Return what the frames that the fleet sees depend on."""
        return {"originals": self.originals_key("train"), "weights": _weights(Arm(self._adaptation.codec, ""))}

    def watch_key(self) -> str:
        """Return the key of what the vehicles notice."""
        words = self._adaptation.model_dump(mode="json", include={"codec", "point", "frames", "drift"})
        sized = "central" in self._adaptation.sharing
        return stage_key("watch", format=_FORMAT, sized=sized, **self._fleet_frames(), **words)

    def _recipe(self) -> dict[str, Any]:
        include = {"codec", "batch_size", "crop", "learning_rate", "tuning_rate", "density_rate", "threads"}
        words = self._adaptation.model_dump(mode="json", include=include)
        proximal, steps = self._adaptation.strategy.pull, self._adaptation.all_steps
        return {**self._fleet_frames(), **words, "proximal": proximal, "total_steps": steps}

    def lessons_key(self, job: Lessons) -> str:
        """Return the key of some steps of an adapter's training."""
        words = {"lessons": job.lessons, "start": _hash(job.start), "first": job.first_step, "steps": job.steps}
        own = {"seed": job.seed, "with_residuals": job.with_residuals}
        return stage_key("lessons", format=_FORMAT, **self._recipe(), **words, **own)

    def tuned_key(self, job: Tuning) -> str:
        """Return the key of a codec that is fine-tuned."""
        words = {"lessons": job.lessons, "replayed": job.replayed, "start": _hash(job.start), "method": job.method}
        return stage_key("tuned", format=_FORMAT, **self._recipe(), **words, seed=job.seed)

    def adapted_curve_key(self, version: Version, domain: str) -> str:
        """Return the key of a codec's rate and distortion on a domain's frames."""
        words = self._adaptation.model_dump(mode="json", include={"codec", "points", "measured_frames"})
        known = {"update": _hash(version.update), "model": _hash(version.model), "domain": domain}
        test, reference = self.originals_key("test"), self.originals_key("reference")
        weights = _weights(Arm(self._adaptation.codec, ""))
        return stage_key("curve", format=_FORMAT, test=test, reference=reference, weights=weights, **known, **words)

    def originals_key(self, split: str) -> str:
        """Return the key of a split's originals."""
        words = self.scenario.model_dump(mode="json", include={"cameras", "seed"})
        vehicles = self.scenario.fleet.num_vehicles if split == "train" else 0
        return stage_key("originals", format=_FORMAT, split=split, vehicles=vehicles, **words)

    def decode_key(self, arm: Arm) -> str:
        """Return the key of an arm's decoded uploads."""
        return stage_key("decode", format=_FORMAT, arm=arm.key, drive=self.drive_key(arm))

    def on_board_key(self, arm: Arm) -> str:
        """Return the key of the test frames that an arm compressed on board; a policy's points are its drives'."""
        words = {"arm": arm.key, "weights": _weights(arm), "originals": self.originals_key("test")}
        if self.fixed_point(arm) is None or arm.sharing:
            words["drive"] = self.drive_key(arm)
        return stage_key("on-board", format=_FORMAT, **words)

    def train_key(self, job: TrainingJob) -> str:
        """Return the key of a trained segmenter."""
        assert self.scenario.downstream is not None
        words = self.scenario.downstream.model_dump(mode="json", exclude={"seeds", "setups"})
        frames = self.decode_key(job.arm) if job.arm else self.originals_key("train")
        if job.arm and job.restorer:
            frames = self.restore_key(job.arm, job.restorer)
        if job.remedy:
            words["remedy"] = [job.remedy]
        if job.remedy == "references":
            words["remedy"] += [self.originals_key("reference"), self._restoration.reference_frames]
        return stage_key("train", format=_FORMAT, frames=frames, seed=job.seed, **words)

    @property
    def _restoration(self) -> Restoration:
        assert self.scenario.restoration is not None
        return self.scenario.restoration

    @property
    def restored_stills(self) -> list[Arm]:
        """The arms whose stills are restored, after learning from the reference frames."""
        return [arm for arm in self.arms if set(self.restorers_of(arm)) - {"dcngan"}]

    def learned(self) -> list[Arm]:
        """Return the codecs and fixed points that restorers learn: of the arms to restore, and those named besides.

        A policy's arm stands for a few points of its ladder.
        """
        words, arms = self._restoration, list[Arm]()
        if not words.only_trained_on:
            for arm in self.restored_stills:
                fixed = self.fixed_point(arm)
                points = (fixed,) if fixed else _few(codec_named(arm.source).points)
                arms += [Arm(arm.source, str(point)) for point in points]
        arms += [Arm(choice.name, str(way.rule)) for choice in words.trained_on for way in choice.ways]
        return list(dict.fromkeys(arms))

    def pairs_key(self, learned: Arm) -> str:
        """Return the key of what one codec makes of the reference frames at one point."""
        words = {"arm": learned.key, "weights": _weights(learned), "originals": self.originals_key("reference")}
        return stage_key("pairs", format=_FORMAT, **words)

    def restorer_key(self, kind: RestorerKind | None, step: int | None = None, teacher: str = "") -> str:
        """Return the key of a restorer: of the phase common to all without a kind; at some step, while it trains."""
        include = {"reference_frames", "channels", "blocks", "first_steps", "batch_size", "crop", "learning_rate"}
        include |= {"seed", "threads", *(["steps"] if kind else [])}
        words = self._restoration.model_dump(mode="json", include=include)
        pairs = [self.pairs_key(learned) for learned in self.learned()]
        return stage_key("restorer", format=_FORMAT, pairs=pairs, kind=kind, step=step, teacher=teacher, **words)

    def tuning_key(self, learned: Arm) -> str:
        """Return the key of a filter, tuned on what one codec makes of the reference frames at one point."""
        return stage_key(
            "tune", format=_FORMAT, pairs=self.pairs_key(learned), frames=self._restoration.reference_frames
        )

    def teacher_job(self) -> TrainingJob:
        """Return the segmenter that restorers of kind `task` are to please: of the first stills they restore."""
        words = self.scenario.downstream
        return TrainingJob(self.restored_stills[0], words.seeds[0] if words else 0)

    def restore_key(self, arm: Arm, kind: RestorerKind | None) -> str:
        """Return the key of an arm's restored uploads; without a restorer they are only measured."""
        restorer: list[str] = []
        if kind == "unsharp":
            restorer = [*(self.tuning_key(learned) for learned in self.learned()), self._restoration.condition]
        elif kind == "dcngan":
            restorer = [self._clip_restorer_hash, self._restoration.condition]
        elif kind:
            restorer = [self.final_key(kind), self._restoration.condition]
        return stage_key("restore", format=_FORMAT, decoded=self.decode_key(arm), restorer=restorer)

    @cached_property
    def _clip_restorer_hash(self) -> str:
        return _hash(self.clip_restorer)

    def final_key(self, kind: RestorerKind) -> str:
        """Return the key of a restorer that is done."""
        return self.restorer_key(kind, None, self.train_key(self.teacher_job()) if kind == "task" else "")

    def measure_key(self, job: MeasuringJob) -> str:
        """Return the key of a measurement."""
        frames = self.on_board_key(job.arm) if job.arm else self.originals_key("test")
        return stage_key("measure", format=_FORMAT, frames=frames, segmenter=self.train_key(job.training))

    def jobs_of(self, setup: Setup, arm: Arm, seed: int) -> list[MeasuringJob]:
        """Return what measures a setup of an arm with one seed: of a restored one a job for each restorer."""
        tested = None if setup.test is Frames.ORIGINAL else arm
        match setup.training:
            case Frames.ORIGINAL:
                return [MeasuringJob(TrainingJob(None, seed), tested)]
            case Frames.COMPRESSED:
                return [MeasuringJob(TrainingJob(arm, seed), tested)]
            case Frames.RESTORED:
                return [MeasuringJob(TrainingJob(arm, seed, kind), tested) for kind in self.restorers_of(arm)]

    def comparison_jobs(self, arm: Arm, seed: int) -> list[MeasuringJob]:
        """Return what restoration of an arm is compared with, on originals: OO, CO and the remedies."""
        words = self.scenario.restoration
        if words is None or not self.restorers_of(arm):
            return []
        remedies = [TrainingJob(arm, seed, None, remedy) for remedy in words.remedies]
        restored = [TrainingJob(arm, seed, kind) for kind in self.restorers_of(arm)]
        trainings = [TrainingJob(None, seed), TrainingJob(arm, seed), *remedies, *restored]
        return [MeasuringJob(training, None) for training in trainings]

    def restorers_of(self, arm: Arm) -> tuple[RestorerKind, ...]:
        """Return which restorers an arm's uploads go through."""
        words = self.scenario.restoration
        if words is None or (words.arms and arm.key not in words.arms):
            return ()
        return words.restorers_for(is_clip_codec(still_or_clip_codec_named(arm.source)))

    def measuring_jobs(self) -> list[MeasuringJob]:
        """Return every measurement, each once."""
        jobs: list[MeasuringJob] = []
        for seed in self.seeds:
            for arm in self.arms:
                for setup in self.setups:
                    jobs += self.jobs_of(setup, arm, seed)
                jobs += self.comparison_jobs(arm, seed)
        return list(dict.fromkeys(jobs))

    def training_jobs(self) -> list[TrainingJob]:
        """Return every training, each once."""
        return list(dict.fromkeys(job.training for job in self.measuring_jobs()))

    def tested_arms(self) -> list[Arm]:
        """Return the arms whose codec compresses test frames on board."""
        return list(dict.fromkeys(job.arm for job in self.measuring_jobs() if job.arm))

    def describe(self) -> Iterator[str]:
        """Yield a line for each kind of stage, as `roadbits check` prints them."""
        fleet, words = self.scenario.fleet, self.scenario.downstream
        arms = ", ".join(arm.key for arm in self.arms)
        yield f"collect   {fleet.num_vehicles} vehicles x {len(self.arms)} arms: {arms}"
        if (adaptation := self.scenario.adaptation) is not None:
            yield (
                f"adapt     {adaptation.codec} by {', '.join(adaptation.methods)}; "
                f"shared: {', '.join(adaptation.sharing) or 'not at all'}; {adaptation.frames} frames and "
                f"{adaptation.all_steps} steps a vehicle and domain, seeds {list(adaptation.seeds)}"
            )
        if (restoration := self.scenario.restoration) is not None:
            told = (
                f"restore   {sum(bool(self.restorers_of(arm)) for arm in self.arms)} arms by "
                f"{', '.join(restoration.restorers)}"
            )
            if restoration.trained_kinds:
                told += (
                    f"; {len(restoration.trained_kinds)} networks learn {len(self.learned())} points in "
                    f"{restoration.first_steps} + {restoration.steps} steps of {restoration.batch_size} crops "
                    f"{restoration.crop}x{restoration.crop}"
                )
            yield told
        if words is None:
            yield "downstream: none; the run ends with rates and distortions"
            return
        trainings = self.training_jobs()
        yield (
            f"train     {len(trainings)} segmenters x {words.steps} steps of {words.batch_size} crops "
            f"{words.crop[0]}x{words.crop[1]}, {words.architecture} on {words.encoder}"
        )
        yield f"measure   {len(self.measuring_jobs())} combinations: {' '.join(self.setups)}, seeds {list(words.seeds)}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _weights(arm: Arm) -> str:
    """Return which weights and adapter an arm's codec has, so that new ones by an old name are not taken for those."""
    codec = still_or_clip_codec_named(arm.source)
    adapter = codec.adapter_hash if isinstance(codec, NeuralStill) else b""
    return (codec.model_hash + adapter).hex()


def _few(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return a few points of a ladder, its ends among them."""
    places = {round(k * (len(points) - 1) / (_FEW - 1)) for k in range(_FEW)}
    return [points[place] for place in sorted(places)]


def shown_positions(frames: int) -> tuple[int, ...]:
    """Return which test frames the report shows: a few, evenly spaced."""
    return tuple(dict.fromkeys(frames * (2 * k + 1) // (2 * SHOWN_FRAMES) for k in range(SHOWN_FRAMES) if frames))
