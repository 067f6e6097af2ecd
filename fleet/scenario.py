"""The words of a scenario: one validated, typed tree of plain data that knows nothing of how it is run.

Not here: how an arm finds its operating points (`rules`), reading a scenario from a file (`scenario_file`), opening
what it names (`sources`, `links`), running it (`run`).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from roadbits.codecs.adaptation.enhancement import is_adaptable
from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint, is_clip_codec
from roadbits.codecs.neural.still import NeuralStill
from roadbits.fleet.adaptation_words import Adaptation
from roadbits.fleet.camera_words import (
    Cameras,
    DataSetCameras,
    FilePath,
    FolderCameras,
    FolderReference,
    StreetCameras,
    VideoCameras,
    why_one_domain,
)
from roadbits.fleet.parts import Count, NotNegative, Part, Positive, Seconds, Seed, Share, Wait, distinct
from roadbits.fleet.restoration_words import Restoration
from roadbits.fleet.rules import CodecChoice, Way
from roadbits.fleet.uplink import MAX_RATE_MBPS

_PRETRAINED_ENCODER = "tu-tf_efficientnet_lite0"
Setup = Literal["OO", "CO", "RO", "CC", "OC", "RC"]
"""Training x test frames."""

Mbps = Annotated[float, Field(gt=0, le=MAX_RATE_MBPS)]


def _rising(outage: tuple[float, float]) -> tuple[float, float]:
    if outage[0] >= outage[1]:
        raise ValueError(f"must begin before it ends, got {outage[0]} to {outage[1]} s")
    return outage


Outage = Annotated[tuple[Wait, Wait], Field(strict=False), AfterValidator(_rising)]


class ConstantUplink(Part):
    """A link of one rate."""

    kind: Literal["constant"]
    rate_mbps: Mbps


class TraceFileUplink(Part):
    """A measured trace, mahimahi or `seconds,Mbit/s` by its suffix.

    Attributes:
        path: of the file.
        offset_s: where in it every vehicle begins, 0 for its beginning; beyond its end it repeats. Left out, each
            begins at a place of its own, drawn by the run's seed.
    """

    kind: Literal["trace"]
    path: FilePath
    offset_s: Wait | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an offset that is not given, so that what runs collected before there were any keeps its key."""
        words: dict[str, Any] = serialise(self)
        return {name: value for name, value in words.items() if name != "offset_s" or value is not None}


class TwoStateUplink(Part):
    """A generated trace per vehicle: see `roadbits.fleet.traces.TwoState`. The defaults are like LTE while driving."""

    kind: Literal["two-state"]
    median_mbps: Mbps = 1.6
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.7
    memory: Share = 0.8
    mean_coverage_s: Seconds = 40.0
    mean_outage_s: Wait = 1.5


Uplink = Annotated[ConstantUplink | TraceFileUplink | TwoStateUplink, Field(discriminator="kind")]


class Device(Part):
    """What a vehicle's computer can do. There are no defaults: a guessed physical quantity would be a wrong result.

    Attributes:
        encode_mpx_per_s: megapixels per second of each codec in use that has no networks, and of any other that was
            measured on the device.
        encode_watts: power while encoding with one of those.
        radio_joules_per_mbit: energy to send.
        gmac_per_s: billions of multiply-accumulates per second of any other codec's networks.
        joules_per_gmac: energy of those.
        memory_mb: for weights and activations, in 10^6 bytes.
        duty: share of the time that may go to encoding: after one second of it the device rests 1 / duty - 1 seconds.
    """

    encode_mpx_per_s: dict[str, Positive] = Field({})
    encode_watts: NotNegative
    radio_joules_per_mbit: NotNegative
    gmac_per_s: Positive | None = None
    joules_per_gmac: NotNegative | None = None
    memory_mb: Positive | None = None
    duty: Annotated[float, Field(gt=0, le=1)] = 1.0


class Faults(Part):
    """What goes wrong on the way, drawn per upload.

    Attributes:
        loss_probability: an upload travels but does not arrive.
        corrupt_probability: it arrives with a flipped bit.
        duplicate_probability: it is sent twice, and loads the link twice; both copies share one fate.
        outages_s: beginning and end of outages that hit every link, in seconds.
    """

    loss_probability: Share = 0.0
    corrupt_probability: Share = 0.0
    duplicate_probability: Share = 0.0
    outages_s: tuple[Outage, ...] = Field((), strict=False)


class Group(Part):
    """Vehicles that are alike.

    Attributes:
        name: for tables.
        vehicles: how many.
        uplink: of each.
        device: of each.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")]
    vehicles: Count
    uplink: Uplink
    device: Device


class Fleet(Part):
    """The vehicles and their links: all alike, or in groups.

    Attributes:
        vehicles: how many, all alike.
        uplink: of each.
        device: of each.
        groups: instead of those three; vehicles are numbered through the groups in order.
        max_backlog_bytes: a frame that would overfill a vehicle's send buffer is dropped.
        deadline_s: an upload that arrives later than this after its capture is late and trains nothing.
        drain_s: how long the links stay open after the last capture.
    """

    vehicles: Count | None = None
    uplink: Uplink | None = None
    device: Device | None = None
    groups: tuple[Group, ...] = Field((), strict=False)
    max_backlog_bytes: Count = 2_000_000
    deadline_s: Seconds = 60.0
    drain_s: Wait = 30.0
    faults: Faults = Faults()

    @model_validator(mode="after")
    def _is_alike_or_grouped(self) -> Self:
        alike = {"vehicles": self.vehicles, "uplink": self.uplink, "device": self.device}
        given = [name for name, value in alike.items() if value is not None]
        if self.groups and given:
            raise ValueError(f"gives groups and also {', '.join(given)}: each group has its own, leave those out")
        if not self.groups and len(given) < len(alike):
            missing = [name for name in alike if name not in given]
            raise ValueError(f"lacks {', '.join(missing)}: give vehicles, uplink and device, or groups of them")
        distinct(tuple(group.name for group in self.groups))
        return self

    @property
    def everyone(self) -> tuple[Group, ...]:
        """All groups; vehicles that are all alike are one."""
        if self.groups:
            return self.groups
        assert self.vehicles is not None
        assert self.uplink is not None
        assert self.device is not None
        return (Group(name="all", vehicles=self.vehicles, uplink=self.uplink, device=self.device),)

    @property
    def num_vehicles(self) -> int:
        """How many vehicles there are."""
        return sum(group.vehicles for group in self.everyone)

    def group_of(self, vehicle: int) -> Group:
        """Return the group of a vehicle's number.

        Raises:
            ValueError: if there is no such vehicle.
        """
        last = 0
        for group in self.everyone:
            last += group.vehicles
            if 0 <= vehicle < last:
                return group
        raise ValueError(f"no vehicle {vehicle}: the fleet has {last}, numbered from 0")


class Downstream(Part):
    """The segmenter that the server trains: see `roadbits.downstream`.

    Attributes:
        steps: of each training.
        seeds: of weights and crops; every training is done once for each.
        setups: that are measured; RO and RC need `restoration`.
        architecture: a name of segmentation-models-pytorch, for example `FPN` or `DeepLabV3Plus`.
        encoder: an encoder's name there.
        pretrained: start the encoder from ImageNet weights, which are installed for the default encoder alone.
        options: further keyword arguments of the architecture; the default's are FPN's, another may need `{}`.
        batch_size: crops a step.
        crop: height and width of a crop, in pixels; what a smaller frame leaves empty is ignored.
        learning_rate: peak rate of the decoder.
        encoder_rate: the encoder's rate, as a multiple of that.
        weight_decay: of AdamW.
        class_balance: exponent of the inverse class frequency that weighs the loss; 0 is plain cross-entropy.
        threads: of torch, on which the result depends.
    """

    steps: Count
    seeds: Annotated[tuple[Seed, ...], AfterValidator(distinct)] = Field((0,), strict=False, min_length=1)
    setups: Annotated[tuple[Setup, ...], AfterValidator(distinct)] = Field(
        ("OO", "CO", "CC", "OC"), strict=False, min_length=1
    )
    architecture: str = "FPN"
    encoder: str = _PRETRAINED_ENCODER
    pretrained: bool = True
    options: dict[str, int | float | str | bool] = Field(
        {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64}
    )
    batch_size: Count = 8
    crop: tuple[Count, Count] = Field((224, 288), strict=False)
    learning_rate: Positive = 2e-3
    encoder_rate: Positive = 0.5
    weight_decay: NotNegative = 1e-2
    class_balance: NotNegative = 0.25
    threads: Count = 1

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.pretrained and self.encoder != _PRETRAINED_ENCODER:
            raise ValueError(
                f"encoder {self.encoder!r} has no installed ImageNet weights, only {_PRETRAINED_ENCODER!r} has: "
                "set pretrained to false or choose that encoder"
            )
        return self


def _missing_speeds(device: Device, names: list[str]) -> str:
    """Return which physical quantities the codecs need that a device does not say; empty if it says all."""
    unknown = [still_or_clip_codec_named(name) for name in sorted(set(names) - set(device.encode_mpx_per_s))]
    networks = [codec.name for codec in unknown if codec.model_hash]
    needed = ("gmac_per_s", "joules_per_gmac", "memory_mb")
    unsaid = [quantity for quantity in needed if getattr(device, quantity) is None] if networks else []
    missing = [f"encode_mpx_per_s of {codec.name}" for codec in unknown if not codec.model_hash]
    missing += [f"{quantity} for {', '.join(networks)}" for quantity in unsaid]
    return "; ".join(missing)


class Scenario(Part):
    """A whole run.

    Attributes:
        name: of the run, also its folder's.
        question: what the run answers, in a sentence.
        seed: of everything but the segmenters, which have `downstream.seeds`.
        codecs: each (codec, operating point or policy) is measured on a fleet of its own.
        adaptation: of a codec to domains that vehicles come into.
        restoration: of the uploads, by what reference frames teach, which `cameras` sets apart, or by a file for clips.
        downstream: left out, the run ends with rates and distortions.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}$")
    question: str = ""
    seed: Seed = 0
    cameras: Cameras
    fleet: Fleet
    codecs: tuple[CodecChoice, ...] = Field(strict=False, min_length=1)
    adaptation: Adaptation | None = None
    restoration: Restoration | None = None
    downstream: Downstream | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [choice.name for choice in self.codecs]
        arms = [f"{choice.name}:{way}" for choice in self.codecs for way in choice.ways]
        if twice := sorted({arm for arm in arms if arms.count(arm) > 1}):
            raise ValueError(f"codecs names {twice[0]} twice: leave one out")
        for group in self.fleet.everyone:
            where = f"device of fleet group {group.name!r}" if self.fleet.groups else "fleet.device"
            if missing := _missing_speeds(group.device, names):
                raise ValueError(f"{where} lacks {missing}: how fast the vehicle encodes must be given")
        if self.downstream and isinstance(self.cameras, VideoCameras):
            raise ValueError("downstream needs labelled frames, and videos have none: leave downstream out")
        unlabelled = isinstance(self.cameras, FolderCameras) and not (
            self.cameras.masks and self.cameras.test_images and self.cameras.test_masks
        )
        if self.downstream and unlabelled:
            raise ValueError(
                "downstream needs labelled frames to train and to test on: give cameras.masks, cameras.test_images "
                "and cameras.test_masks, or leave downstream out"
            )
        self._check_adaptation()
        self._check_restoration()
        return self

    def _check_adaptation(self) -> None:
        """Refuse the adaptation of a codec that nobody uses or that cannot adapt, to nothing, or on weak devices."""
        words = self.adaptation
        if words is None:
            return
        names = [choice.name for choice in self.codecs]
        if words.codec not in names:
            raise ValueError(f"adaptation.codec is {words.codec!r}: choose from those in use, {', '.join(names)}")
        codec = still_or_clip_codec_named(words.codec)
        if not isinstance(codec, NeuralStill) or codec.adapter_hash:
            raise ValueError(
                f"adaptation.codec is {words.codec!r}: choose a neural codec of one width and without an adapter, such "
                "as cae"
            )
        if not is_adaptable(codec.model):
            raise ValueError(
                f"adaptation.codec is {words.codec!r}, of method {codec.model.description.method}, with a density for "
                "each rate: choose one with gains, such as cae"
            )
        for point in (words.point, *words.points):
            codec.check(OperatingPoint.parse(point))
        if words.methods[0] not in ("cawf", "density") and words.sharing:
            raise ValueError(
                f"adaptation.methods begins with {words.methods[0]}: the fleet adapts by the first, cawf or density"
            )
        most = min(self.fleet.num_vehicles, words.vehicles_per_round or self.fleet.num_vehicles)
        if set(words.sharing) - {"local"} and words.quorum > most:
            raise ValueError(
                f"adaptation.quorum is {words.quorum}, and no more than {most} vehicles take part in a round: no "
                "adapter would ever come of it"
            )
        if "central" in words.sharing and words.server_gmac_per_s is None:
            raise ValueError("adaptation.sharing names central: say how fast the server is with server_gmac_per_s")
        for group in self.fleet.everyone:
            if group.device.gmac_per_s is None and set(words.sharing) - {"central"}:
                raise ValueError(f"fleet group {group.name!r}: its device trains adapters: give its gmac_per_s")
            if group.device.joules_per_gmac is None:
                raise ValueError(
                    f"fleet group {group.name!r}: its device decodes what it watches and may train: give its "
                    "joules_per_gmac"
                )
        if why := why_one_domain(self.cameras):
            raise ValueError(f"adaptation needs vehicles that come into a new domain, and {why}")
        if isinstance(self.cameras, FolderCameras) and not (self.cameras.test_images or self.cameras.reference):
            raise ValueError(
                "adaptation is measured on frames that nothing was trained on: give cameras.test_images or "
                "cameras.reference"
            )

    def _check_restoration(self) -> None:
        """Refuse restorers and arms that do not fit each other, restoration that is not measured, and the other way."""
        setups = [setup for setup in (self.downstream.setups if self.downstream else ()) if setup.startswith("R")]
        words = self.restoration
        if words is None:
            if setups:
                raise ValueError(f"downstream.setups names {', '.join(setups)}: add restoration, or leave them out")
            return
        if self.downstream is not None and not setups:
            raise ValueError("restoration is never measured: add RO or RC to downstream.setups")
        if self.downstream is None and "task" in words.restorers:
            raise ValueError(
                "restoration.restorers names task, which learns what a segmenter sees: give downstream, or leave it out"
            )
        known = {f"{name}:{way}": choice.name for choice, name, way in self.ways}
        if unknown := [arm for arm in words.arms if arm not in known]:
            raise ValueError(f"restoration.arms names {unknown[0]!r}: choose from {', '.join(known)}")
        chosen = words.arms or tuple(known)
        clips = _codecs_of_clips(self.codecs)
        for sends_clips, needed in ((True, "dcngan, which restores clips"), (False, "one for stills, such as gan")):
            kinds = words.restorers_for(sends_clips)
            arms = [arm for arm in chosen if (known[arm] in clips) == sends_clips]
            if arms and not kinds:
                raise ValueError(
                    f"restoration.restorers has none for {arms[0]}: add {needed}, or name other arms in "
                    "restoration.arms"
                )
            if kinds and not arms:
                raise ValueError(
                    f"restoration.restorers names {kinds[0]}, which restores {'clips' if sends_clips else 'stills'}, "
                    "and no arm to restore sends such: leave it out"
                )
        if ("dcngan" in words.restorers) != (words.dcngan is not None):
            raise ValueError("restoration.dcngan names the file of restorer dcngan: give both or none")
        _check_trained_on(words, {known[arm] for arm in chosen} - clips)
        self._check_references(words)

    @property
    def ways(self) -> list[tuple[CodecChoice, str, Way]]:
        """Every way to send frames: its codec, the name of that with how it comes by adapters, if so, and the way."""
        adapted = {self.adaptation.codec: self.adaptation.sharing} if self.adaptation else {}
        return [
            (choice, name, way)
            for choice in self.codecs
            for name in (choice.name, *(f"{choice.name}+{each}" for each in adapted.get(choice.name, ())))
            for way in choice.ways
        ]

    def _check_references(self, words: Restoration) -> None:
        """Refuse restoration that learns from reference frames which there are not, or not such."""
        reference = getattr(self.cameras, "reference", None)
        if words.learns and reference is None:
            raise ValueError(
                "restoration learns from reference frames and nothing else: set some apart with cameras.reference"
            )
        if "references" in words.remedies and isinstance(reference, FolderReference) and reference.masks is None:
            raise ValueError(
                "restoration.remedies names references, which segmenters train on, and no reference frame is labelled: "
                "give cameras.reference.masks, or leave it out"
            )
        size = _frame_size(self.cameras)
        if words.trained_kinds and size is not None and min(size) < words.crop:
            raise ValueError(
                f"restoration.crop is {words.crop}, and frames are {size[0]} x {size[1]}: lower restoration.crop"
            )


def _check_trained_on(words: Restoration, restored: set[str]) -> None:
    """Refuse codecs and points that cannot be learned, or that leave out a codec of the stills to restore."""
    for k, choice in enumerate(words.trained_on):
        if choice.policies:
            raise ValueError(
                f"restoration.trained_on[{k}].policies: restorers learn from points, not policies: name points"
            )
    if words.only_trained_on and not words.trained_on:
        raise ValueError("restoration.only_trained_on needs codecs and points in restoration.trained_on")
    if of_clips := sorted(_codecs_of_clips(words.trained_on)):
        raise ValueError(f"restoration.trained_on names {of_clips[0]}: restorers of stills learn no codec of clips")
    if words.trained_on and not words.restorers_for(sends_clips=False):
        raise ValueError("restoration.trained_on is for restorers of stills, and there is none: leave it out")
    learned = {choice.name for choice in words.trained_on} | (set() if words.only_trained_on else restored)
    missing = sorted(restored - learned)
    if missing and words.untrained_codec == "refuse":
        raise ValueError(
            f"restoration is not trained on {', '.join(missing)}: add it to restoration.trained_on, or set "
            "restoration.untrained_codec to warn"
        )


def _frame_size(cameras: Cameras) -> tuple[int, int] | None:
    """Return the height and width of all frames; None where the scenario does not say it."""
    match cameras:
        case StreetCameras():
            return cameras.height, cameras.width
        case DataSetCameras() | FolderCameras():
            return cameras.size
        case VideoCameras():
            return None


def _codecs_of_clips(choices: Sequence[CodecChoice]) -> set[str]:
    return {choice.name for choice in choices if is_clip_codec(still_or_clip_codec_named(choice.name))}
