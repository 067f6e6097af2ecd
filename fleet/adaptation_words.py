"""The words of adaptation: which codec adapts, when, on how many frames, and how vehicles share what they learned.

Not here: what the words do (`codec_adaptation`, `adaptation_comparison`, `sharing`), the rest of a scenario
(`scenario`).
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.parts import Count, NotNegative, Part, Positive, Seconds, Seed, Share, distinct

Sharing = Literal["federated", "local", "central"]
"""Whose frames an adapter learns: of all vehicles by federated rounds, of one, or of all in one place."""
SHARINGS: tuple[Sharing, ...] = ("federated", "local", "central")
Method = Literal["cawf", "density", "finetune", "encoder", "decoder", "replay", "joint", "scratch"]
"""What moves: a residual adapter with its density, the density alone, all weights, one side's; both transforms while
the decoder goes on to learn the source's own latents, all on frames of both domains, all from shuffled weights."""


class StrategyWords(Part):
    """One of Flower's strategies.

    Attributes:
        kind: `fedavg`, `fedprox`, `fedadam`, `trimmed-mean` or `median`.
        proximal: of FedProx, pull towards the round's adapter.
        server_rate: of FedAdam, the server's step.
        tau: of FedAdam, its bound on how far small steps are stretched.
        trimmed: of the trimmed mean, share cut at each end.
    """

    kind: Literal["fedavg", "fedprox", "fedadam", "trimmed-mean", "median"] = "fedavg"
    proximal: NotNegative = 0.01
    server_rate: Positive = 0.003
    tau: Positive = 1e-3
    trimmed: Annotated[float, Field(ge=0, lt=0.5)] = 0.2

    @property
    def pull(self) -> float:
        """Towards the round's adapter, in training."""
        return self.proximal if self.kind == "fedprox" else 0.0


class Drift(Part):
    """When a vehicle holds that its codec no longer fits: see `roadbits.fleet.drift`.

    Attributes:
        baseline_frames: that it takes at least to know what is usual.
        threshold: how large the sum of surprises must get, in standard deviations.
        slack: of each frame's surprise that counts as usual, likewise.
    """

    baseline_frames: Annotated[int, Field(ge=2)] = 8
    threshold: Positive = 3.0
    slack: NotNegative = 0.5


class Adaptation(Part):
    """Vehicles that adapt their codec to new domains, and share what they learned.

    Attributes:
        codec: the source codec, a neural one of one width; its arms get a twin for each way of sharing.
        sharing: ways to share, each an arm of its own beside the codec's own.
        methods: of adaptation, compared on the pooled frames of all vehicles; the fleet uses the first.
        point: at which a vehicle watches its rate and quality.
        points: at which rate and distortion are measured, before and after; the trained ones if left out.
        measured_frames: of each domain at most, evenly spaced, on which they are measured.
        frames: of the new domain that a vehicle keeps and trains on.
        drift: when a vehicle holds that its codec no longer fits.
        rounds: of federated training.
        steps: of each vehicle in each round; alone or in one place, adapters train for rounds x steps.
        quorum: updates that a round needs, and vehicles that a domain needs to begin.
        vehicles_per_round: that are asked at most, drawn anew for each round; all if left out.
        round_s: a round waits no longer than that for its vehicles.
        strategy: what is made of the updates.
        seeds: of training, each an adaptation of its own; the fleet uses the first one's.
        batch_size: crops a step.
        crop: side of a crop, in pixels.
        learning_rate: of residuals.
        tuning_rate: of the source's own weights, where a method moves those.
        density_rate: of the density.
        idle_share: of the time in which a vehicle does not encode, how much may go to training.
        server_gmac_per_s: what the server computes; needed where adapters are trained there.
        threads: of torch, on which the result depends.
    """

    codec: str
    sharing: Annotated[tuple[Sharing, ...], AfterValidator(distinct)] = Field(("federated",), strict=False)
    methods: Annotated[tuple[Method, ...], AfterValidator(distinct)] = Field(("cawf",), strict=False, min_length=1)
    point: str
    points: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field((), strict=False)
    measured_frames: Count = 12
    frames: Count = 4
    drift: Drift = Drift()
    rounds: Count = 4
    steps: Count = 40
    quorum: Count = 2
    vehicles_per_round: Count | None = None
    round_s: Seconds = 600.0
    strategy: StrategyWords = StrategyWords()
    seeds: Annotated[tuple[Seed, ...], AfterValidator(distinct)] = Field((0,), strict=False, min_length=1)
    batch_size: Count = 4
    crop: Annotated[int, Field(ge=64, le=1024, multiple_of=64)] = 192
    learning_rate: Positive = 1e-3
    tuning_rate: Positive = 3e-5
    density_rate: Positive = 1e-2
    idle_share: Annotated[Share, Field(gt=0)] = 0.5
    server_gmac_per_s: Positive | None = None
    threads: Count = 1

    @property
    def all_steps(self) -> int:
        """Of the whole training of an adapter."""
        return self.rounds * self.steps

    @property
    def with_residuals(self) -> bool:
        """Whether the fleet's adapters have residuals, or are a density alone."""
        return has_residuals(self.methods[0])

    @property
    def watched_at(self) -> OperatingPoint:
        """The point at which vehicles watch."""
        return OperatingPoint.parse(self.point)

    def measured_at(self, trained: tuple[OperatingPoint, ...]) -> tuple[OperatingPoint, ...]:
        """Return the points at which rate and distortion are measured, from the lowest rate up."""
        return tuple(map(OperatingPoint.parse, self.points)) or trained


def has_residuals(method: Method) -> bool:
    """Return whether a method's adapter has residuals beside its density."""
    return method == "cawf"
