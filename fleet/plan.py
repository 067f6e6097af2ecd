"""What a scenario comes to: its stages, the key of each, and what they cost.

A key names exactly what a stage depends on, so that a changed scenario redoes only what the change touches.

Not here: doing it (`run`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.downstream.setups import Frames, Setup
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.stages import stage_key
from roadbits.fleet.vehicle import Arm, arms_of, rules_of

_FORMAT = 2
"""Raised when a stage's files or meaning change, so that old ones are not taken for new."""
_COLLECTION_FORMAT = 3
"""Likewise, of the collection alone."""
SHOWN_FRAMES = 3
"""Test frames whose predictions are kept for the report."""


@dataclass(frozen=True)
class TrainingJob:
    """A segmenter to train: on originals (no arm) or on an arm's decoded uploads, with one seed."""

    arm: Arm | None
    seed: int

    @property
    def frames_name(self) -> str:
        """What it trains on, for people: `originals` or the arm's key."""
        return self.arm.key if self.arm else "originals"


@dataclass(frozen=True)
class MeasuringJob:
    """A segmenter to measure: on original test frames (no arm) or on those that an arm compressed on board."""

    training: TrainingJob
    arm: Arm | None


@dataclass(frozen=True)
class Plan:
    """The stages of one scenario."""

    scenario: Scenario

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every (codec, operating point or policy)."""
        return arms_of(self.scenario)

    def fixed_point(self, arm: Arm) -> OperatingPoint | None:
        """Return the point at which an arm encodes every frame; None if a policy chooses."""
        rule = rules_of(self.scenario)[arm]
        return rule if isinstance(rule, OperatingPoint) else None

    @property
    def setups(self) -> tuple[Setup, ...]:
        """The setups to measure."""
        return tuple(map(Setup, self.scenario.downstream.setups)) if self.scenario.downstream else ()

    def collect_key(self) -> str:
        """Return the key of the collection."""
        words = self.scenario.model_dump(mode="json", include={"cameras", "fleet", "codecs", "seed"})
        return stage_key("collect", format=_COLLECTION_FORMAT, weights=[_weights(arm) for arm in self.arms], **words)

    def originals_key(self, split: str) -> str:
        """Return the key of a split's originals."""
        words = self.scenario.model_dump(mode="json", include={"cameras", "seed"})
        vehicles = self.scenario.fleet.num_vehicles if split == "train" else 0
        return stage_key("originals", format=_FORMAT, split=split, vehicles=vehicles, **words)

    def decode_key(self, arm: Arm) -> str:
        """Return the key of an arm's decoded uploads."""
        return stage_key("decode", format=_FORMAT, arm=arm.key, collect=self.collect_key())

    def on_board_key(self, arm: Arm) -> str:
        """Return the key of the test frames that an arm compressed on board; a policy's points are its drives'."""
        words = {"arm": arm.key, "weights": _weights(arm), "originals": self.originals_key("test")}
        if self.fixed_point(arm) is None:
            words["collect"] = self.collect_key()
        return stage_key("on-board", format=_FORMAT, **words)

    def train_key(self, job: TrainingJob) -> str:
        """Return the key of a trained segmenter."""
        assert self.scenario.downstream is not None
        words = self.scenario.downstream.model_dump(mode="json", exclude={"seeds", "setups"})
        frames = self.decode_key(job.arm) if job.arm else self.originals_key("train")
        return stage_key("train", format=_FORMAT, frames=frames, seed=job.seed, **words)

    def measure_key(self, job: MeasuringJob) -> str:
        """Return the key of a measurement."""
        frames = self.on_board_key(job.arm) if job.arm else self.originals_key("test")
        return stage_key("measure", format=_FORMAT, frames=frames, segmenter=self.train_key(job.training))

    def job_of(self, setup: Setup, arm: Arm, seed: int) -> MeasuringJob:
        """Return what measures a setup of an arm with one seed."""
        training = TrainingJob(None if setup.training is Frames.ORIGINAL else arm, seed)
        return MeasuringJob(training, None if setup.test is Frames.ORIGINAL else arm)

    def measuring_jobs(self) -> list[MeasuringJob]:
        """Return every measurement, each once."""
        words = self.scenario.downstream
        seeds = words.seeds if words else ()
        jobs = (self.job_of(setup, arm, seed) for seed in seeds for arm in self.arms for setup in self.setups)
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
        if words is None:
            yield "downstream: none; the run ends with rates and distortions"
            return
        trainings = self.training_jobs()
        yield (
            f"train     {len(trainings)} segmenters x {words.steps} steps of {words.batch_size} crops "
            f"{words.crop[0]}x{words.crop[1]}, {words.architecture} on {words.encoder}"
        )
        yield f"measure   {len(self.measuring_jobs())} combinations: {' '.join(self.setups)}, seeds {list(words.seeds)}"


def _weights(arm: Arm) -> str:
    """Return which weights an arm's codec uses, so that new ones under an old name are not taken for those."""
    return codec_named(arm.codec).model_hash.hex()


def shown_positions(frames: int) -> tuple[int, ...]:
    """Return which test frames the report shows: a few, evenly spaced."""
    return tuple(dict.fromkeys(frames * (2 * k + 1) // (2 * SHOWN_FRAMES) for k in range(SHOWN_FRAMES) if frames))
