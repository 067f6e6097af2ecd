"""The results of a run and their digest.

The digest covers every measured number and nothing of wall time, so two runs of one scenario agree in it whatever the
number of workers, the backend, or crashes on the way.

Not here: how the numbers come about (`run_results`, `summary`), the page (`report`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter


class ResultsError(Exception):
    """A results file that cannot be read; the message names it."""


@dataclass(frozen=True)
class Timeline:
    """An arm's fleet over virtual time: frames delivered so far, and bytes waiting in all send buffers."""

    time_s: list[float]
    delivered_frames: list[int]
    backlog_bytes: list[int]


@dataclass(frozen=True)
class GroupRow:
    """What one group of an arm's fleet sent; see `UploadRow` for what is not explained here.

    Attributes:
        group: its name.
        vehicles: how many it has.
    """

    group: str
    vehicles: int
    frames: int
    bytes: int
    bpp: float
    delivered: int
    dropped_encoder_busy: int
    dropped_buffer_full: int
    dropped_skipped: int
    encode_gmac: float
    energy_j: float
    latency_mean_s: float
    points_used: dict[str, int]


@dataclass(frozen=True)
class UploadRow:
    """What an arm's fleet sent.

    Attributes:
        frames: captured.
        bytes: that travelled: delivered, late, lost and rejected payloads, retransmissions, and adapters.
        bpp: of the payloads that travelled, retransmissions aside.
        psnr_db: mean over delivered frames; 0 if there are none.
        ms_ssim: mean over delivered frames; 0 if there are none.
        delivered: frames that arrived in time and whole.
        late: arrived after the deadline.
        lost: vanished on the way.
        rejected: refused by the collector or undecodable.
        dropped: never sent: the encoder was busy, the send buffer full, or the policy skipped it.
        backlog: still waiting when the links closed.
        duplicates: uploads that arrived more than once, each of which counts once.
        vehicle_hours: of driving.
        encode_gmac: multiply-accumulates of all encodings, in billions.
        encode_s: device seconds per encoded frame, mean.
        latency_p50_s: capture to arrival, median over delivered frames.
        latency_p95_s: the same, 95th percentile.
        energy_j: of encoding, sending and adapting.
        policy: `fixed`, or the kind of the policy that chose the points.
        dropped_encoder_busy: of those dropped.
        dropped_buffer_full: of those dropped.
        dropped_skipped: of those dropped: they would have come too late, or no energy was left.
        gmac_per_delivered_frame: of all encodings, trials and frames that never arrived included; 0 if none arrived.
        joules_per_delivered_frame: of encoding, sending and adapting, likewise.
        latency_mean_s: capture to arrival, mean over delivered frames.
        encode_memory_bytes: what a device must hold to encode its frames, networks and activations, at the most
            demanding of the points used.
        points_used: frames encoded at each point, by rising rate.
        groups: the same by group, where the fleet has any.
        adapter_bytes: of those bytes, up and down, for adapters and what it takes to learn them.
        every: of so many captured frames one was to be sent.
        clip_frames: of each payload; 0 for stills.
    """

    codec: str
    point: str
    frames: int
    bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float
    delivered: int
    late: int
    lost: int
    rejected: int
    dropped: int
    backlog: int
    duplicates: int
    vehicle_hours: float
    encode_gmac: float
    encode_s: float
    latency_p50_s: float
    latency_p95_s: float
    energy_j: float
    timeline: Timeline
    policy: str
    dropped_encoder_busy: int
    dropped_buffer_full: int
    dropped_skipped: int
    gmac_per_delivered_frame: float
    joules_per_delivered_frame: float
    latency_mean_s: float
    encode_memory_bytes: int
    points_used: dict[str, int]
    groups: list[GroupRow]
    adapter_bytes: int = 0
    every: int = 1
    clip_frames: int = 0


@dataclass(frozen=True)
class DownstreamRow:
    """One setup, measured with one seed.

    Attributes:
        bpp: of the arm's uploads; OO and OC repeat for each arm, so that every arm has all its setups.
        miou: mean over the classes that occur, 0..1.
        per_class_iou: of the classes that occur.
        absent: classes that no test label holds, left out of the mean.
        restorer: which restorer made the training frames; null without one.
        train_frames: that trained the segmenter.
        test_frames: that it was measured on.
        test_bpp: of the test frames, where they were compressed on board; else null.
    """

    codec: str
    point: str
    setup: str
    seed: int
    bpp: float
    miou: float
    per_class_iou: dict[str, float]
    absent: list[str]
    restorer: str | None
    train_frames: int
    test_frames: int
    test_bpp: float | None


@dataclass(frozen=True)
class RestorationRow:
    """What was done to an arm's uploads before a segmenter trained on them, and what it was worth on original frames.

    Attributes:
        treatment: `none`, a restorer, or a remedy that needs none: `augmentation`, `references`.
        bpp: of the arm's uploads.
        psnr_db: of the training frames after it, mean; null for a remedy, which leaves them as they are.
        ms_ssim: likewise.
        feature_distance: likewise, as ImageNet's EfficientNet-Lite0 sees them: see `fleet.restoring.seen_distance`.
        miou: on original test frames, mean over seeds: of CO for `none`, of RO for a restorer.
        miou_low: 90 % interval over seeds and test frames, see `downstream.bootstrap`.
        miou_high: see `miou_low`.
        miou_by_seed: of each seed.
        gain: over `none`, with its interval over the same test frames.
        gain_low: see `gain`.
        gain_high: see `gain`.
        gap_closed: (miou - CO) / (OO - CO); null where there is no gap, OO above CO in 95 % of the resamples.
        gap_low: see `gap_closed`.
        gap_high: see `gap_closed`.
        reference_frames: given to learn from, those included that are held out to stop by; 0 for what needs none.
        taken_for: of the pixels of each class, the share that was taken for each class, over all seeds; without classes
            that no label holds.
        steps: that the restorer's own phase took; null for what was not trained in this run. Fewer than the scenario's
            where held-out references no longer got better.
        best_step: after how many of those the weights were that restored, likewise.
    """

    codec: str
    point: str
    treatment: str
    bpp: float
    psnr_db: float | None
    ms_ssim: float | None
    feature_distance: float | None
    miou: float
    miou_low: float
    miou_high: float
    miou_by_seed: dict[str, float]
    gain: float
    gain_low: float
    gain_high: float
    gap_closed: float | None
    gap_low: float | None
    gap_high: float | None
    reference_frames: int
    taken_for: dict[str, dict[str, float]]
    steps: int | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class AdaptationRow:
    """What an adaptation to a domain came to.

    Attributes:
        method: `cawf` for a residual adapter, `density` for that of the entropy model alone, or what was fine-tuned.
        sharing: `federated`, `local` or `central`; `pooled` for a comparison of methods on all vehicles' frames.
        domain: adapted to.
        seed: of the training.
        bd_rate_target: against the source codec on the domain's own frames, in percent; mean over local adapters.
        bd_rate_source: on the frames of the domain that the source codec served before.
        bd_rate_on: on every domain's frames, with all that was learned up to this one: a row of the forgetting matrix.
        old_payloads_bit_exact: share of the source's payloads that still decode bit for bit.
        old_payloads_change_db: by how much the PSNR of those payloads changes where the codec that came of it decodes
            them; null if it cannot.
        adapter_bytes: that travel to hand the result out once.
        rounds: that changed it.
        traffic_bytes: up and down, of all vehicles.
        frames: learned from.
        vehicles: whose frames those are.
        equipped: vehicles that had it in the end.
        first_equipped_s: when the first of them had it, in virtual seconds; null if none ever did.
        watch_gmac: a domain's share of watching for drift, in billions of multiply-accumulates, all vehicles.
        train_gmac: of training on board, likewise.
        saved_bytes_per_frame: at `adaptation.point`, by the BD-rate.
        break_even_frames: of the fleet, until what is saved has paid for the traffic; null if nothing is.
        parameters_percent: of the source's weights that the adaptation adds or changes.
    """

    method: str
    sharing: str
    domain: str
    seed: int
    bd_rate_target: float
    bd_rate_source: float
    bd_rate_on: dict[str, float]
    old_payloads_bit_exact: float
    old_payloads_change_db: float | None
    adapter_bytes: int
    rounds: int
    traffic_bytes: int
    frames: int
    vehicles: int
    equipped: int
    first_equipped_s: float | None
    watch_gmac: float
    train_gmac: float
    saved_bytes_per_frame: float
    break_even_frames: float | None
    parameters_percent: float


@dataclass(frozen=True)
class SharingNote:
    """What happened in virtual time around one domain's adapters, in one way of sharing; seed the first.

    Attributes:
        sharing: which.
        domain: which.
        noticed_s: vehicles that noticed the domain, and when, in seconds.
        missed: vehicles that came into it and noticed nothing.
        rounds: of federated training: see `adapter_exchange.RoundNote`.
        equipped_s: when each vehicle had an adapter.
    """

    sharing: str
    domain: str
    noticed_s: dict[str, float]
    missed: list[int]
    rounds: list[dict[str, Any]]
    equipped_s: dict[str, float]


@dataclass(frozen=True)
class AdaptationCurve:
    """Rate and distortion of one codec on one domain's frames, before or after an adaptation; seed the first.

    Attributes:
        codec: `source`, or how it was adapted.
        domain: whose frames.
        bpp: of real payloads, mean, from the lowest point up.
        psnr_db: mean.
    """

    codec: str
    domain: str
    bpp: list[float]
    psnr_db: list[float]


class AdaptationResults(NamedTuple):
    """What an adaptation adds to a run's results.

    Attributes:
        rows: how good each is.
        curves: of rate and distortion.
        notes: what happened around the adapters.
        told: what a person should know of the comparison.
    """

    rows: list[AdaptationRow]
    curves: list[AdaptationCurve]
    notes: list[SharingNote]
    told: list[str]


@dataclass(frozen=True)
class Results:
    """Everything a run found out."""

    scenario: str
    seed: int
    uploads: list[UploadRow]
    downstream: list[DownstreamRow]
    adaptation: list[AdaptationRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)
    question: str = ""
    restoration: list[RestorationRow] = field(default_factory=list)
    adapter_sharing: list[SharingNote] = field(default_factory=list)
    adaptation_curves: list[AdaptationCurve] = field(default_factory=list)

    @property
    def lost_quorum(self) -> bool:
        """Whether vehicles noticed what to share in federated rounds, and no round ever had its quorum."""
        federated = [note for note in self.adapter_sharing if note.sharing == "federated"]
        return bool(federated) and not any(each["has_quorum"] for note in federated for each in note.rounds)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of every measured number."""
        measured = {
            "uploads": [asdict(row) for row in self.uploads],
            "downstream": [asdict(row) for row in self.downstream],
            "adaptation": [asdict(row) for row in self.adaptation],
            "restoration": [asdict(row) for row in self.restoration],
            "notes": self.notes,
        }
        if self.adapter_sharing:  # left out where there is none, so that older digests stay comparable
            measured["adapter_sharing"] = [asdict(note) for note in self.adapter_sharing]
            measured["adaptation_curves"] = [asdict(curve) for curve in self.adaptation_curves]
        text = json.dumps(measured, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of `results.json`."""
        head = {
            "roadbits": version("roadbits"),
            "scenario": self.scenario,
            "question": self.question,
            "seed": self.seed,
            "digest": self.digest,
        }
        rows = {name: value for name, value in asdict(self).items() if name not in head}
        return json.dumps(head | rows, indent=1, allow_nan=False) + "\n"


def read_results(run_folder: Path) -> Results:
    """Return the results in a run's folder.

    Raises:
        ResultsError: if there are none or they are not of this format.
    """
    path = run_folder / "results.json"
    try:
        return TypeAdapter(Results).validate_json(path.read_text(), strict=True)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error}; has the run finished?") from error
    except ValueError as error:
        raise ResultsError(f"{path}: is no results file of this version: {error}") from error
