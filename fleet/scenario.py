"""Scenarios: one YAML file, validated into one typed tree; every fault is reported at once with its line.

The tree is plain data and knows nothing of how it is run. A list where a single value is expected is a sweep and
expands into one scenario per combination.

Not here: reading YAML (`yaml_file`), opening what a scenario names (`sources`, `links`), running it (`run`).
"""

import difflib
import itertools
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.cameras.street import DOMAINS
from roadbits.fleet.yaml_file import NUMBER, Fault, KeyPath, YamlFile, YamlFileError, dotted, parse_scalar, read_yaml

T = TypeVar("T")
Setup = Literal["OO", "CO", "CC", "OC"]
"""Training x test frames, as far as they can be measured without a restorer."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _expanded(path: str) -> str:
    """Return a path with `~` and `$VARIABLE` replaced; ROADBITS_DATA falls back to `../shared/data`."""
    data = os.environ.get("ROADBITS_DATA") or str(Path("..") / "shared" / "data")
    text = path.replace("${ROADBITS_DATA}", data).replace("$ROADBITS_DATA", data)
    return str(Path(os.path.expandvars(text)).expanduser())


def _domain(name: str) -> str:
    if name not in DOMAINS:
        raise ValueError(f"no domain {name!r}: choose from {', '.join(DOMAINS)}")
    return name


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """Return the values; one that stands twice would be measured, and counted, twice."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} more than once")
    return values


def _rising(outage: tuple[float, float]) -> tuple[float, float]:
    if outage[0] >= outage[1]:
        raise ValueError(f"must begin before it ends, got {outage[0]} to {outage[1]} s")
    return outage


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]
Domain = Annotated[str, AfterValidator(_domain)]
Outage = Annotated[tuple[NotNegative, NotNegative], Field(strict=False), AfterValidator(_rising)]


class _Part(BaseModel):
    """A part of a scenario: unknown keys, wrong types and infinite numbers are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StreetCameras(_Part):
    """The generated street world.

    Attributes:
        domains: a vehicle's frames are divided over these in consecutive runs.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        frames_per_vehicle: captured by each vehicle.
        interval_s: between frames.
        test_frames: per test vehicle.
        test_vehicles: drive streets of their own.
        test_domains: of the test frames; those of training if left out.
    """

    kind: Literal["street"]
    domains: tuple[Domain, ...] = Field(("day",), strict=False, min_length=1)
    height: int = Field(360, ge=64, le=4096)
    width: int = Field(480, ge=64, le=4096)
    frames_per_vehicle: Count
    interval_s: Positive = 1.0
    test_frames: Count
    test_vehicles: Count = 4
    test_domains: tuple[Domain, ...] | None = Field(None, strict=False)


class DataSetCameras(_Part):
    """Labelled frames on disk in a published layout, divided over the vehicles in contiguous blocks.

    Attributes:
        path: the data set's folder; `$ROADBITS_DATA` stands for that variable or `../shared/data`.
        interval_s: between frames of a vehicle.
        train: name of the split that the fleet drives through.
        test: name of the split that is measured on.
        size: height and width to resize to; the stored size if left out.
        max_frames: take at most that many frames of a split, evenly spaced.
    """

    kind: Literal["camvid", "cityscapes", "kitti", "bdd100k"]
    path: FilePath
    interval_s: Positive = 1.0
    train: str = "train"
    test: str = "val"
    size: tuple[Count, Count] | None = Field(None, strict=False)
    max_frames: Count | None = None


class FolderCameras(_Part):
    """Any folders of images, with or without folders of masks.

    Attributes:
        images: the fleet's frames.
        masks: index PNGs of the same relative names; without them nothing can be trained.
        test_images: frames to measure on.
        test_masks: their masks.
        classes: label set of the masks.
        interval_s: between frames of a vehicle.
    """

    kind: Literal["folder"]
    images: FilePath
    masks: FilePath | None = None
    test_images: FilePath | None = None
    test_masks: FilePath | None = None
    classes: Literal["camvid11", "cityscapes19"] = "camvid11"
    interval_s: Positive = 1.0


class VideoCameras(_Part):
    """Video files, one drive each; vehicle v drives through file v modulo their number.

    Attributes:
        paths: the files.
        interval_s: between frames taken.
        max_frames: per file.
    """

    kind: Literal["video"]
    paths: tuple[FilePath, ...] = Field(strict=False, min_length=1)
    interval_s: Positive = 1.0
    max_frames: Count | None = None


Cameras = Annotated[StreetCameras | DataSetCameras | FolderCameras | VideoCameras, Field(discriminator="kind")]


class ConstantUplink(_Part):
    """A link of one rate."""

    kind: Literal["constant"]
    rate_mbps: Positive


class TraceFileUplink(_Part):
    """A measured trace, mahimahi or `seconds,Mbit/s` by its suffix; each vehicle enters it at its own offset."""

    kind: Literal["trace"]
    path: FilePath


class TwoStateUplink(_Part):
    """A generated trace per vehicle: see `roadbits.fleet.traces.TwoState`. The defaults are like LTE while driving."""

    kind: Literal["two-state"]
    median_mbps: Positive = 1.6
    sigma: NotNegative = 0.7
    memory: Share = 0.8
    mean_coverage_s: Positive = 40.0
    mean_outage_s: NotNegative = 1.5


Uplink = Annotated[ConstantUplink | TraceFileUplink | TwoStateUplink, Field(discriminator="kind")]


class Device(_Part):
    """What a vehicle's computer can do. There are no defaults: a guessed physical quantity would be a wrong result.

    Attributes:
        encode_mpx_per_s: megapixels per second of each legacy codec in use.
        encode_watts: power while encoding.
        radio_joules_per_mbit: energy to send.
    """

    encode_mpx_per_s: dict[str, Positive]
    encode_watts: NotNegative
    radio_joules_per_mbit: NotNegative


class Faults(_Part):
    """What goes wrong on the way, drawn per upload.

    Attributes:
        loss_probability: an upload travels but does not arrive.
        corrupt_probability: it arrives with a flipped bit.
        duplicate_probability: it is sent twice.
        outages_s: beginning and end of outages that hit every link, in seconds.
    """

    loss_probability: Share = 0.0
    corrupt_probability: Share = 0.0
    duplicate_probability: Share = 0.0
    outages_s: tuple[Outage, ...] = Field((), strict=False)


class Fleet(_Part):
    """The vehicles and their links.

    Attributes:
        vehicles: how many.
        max_backlog_bytes: a frame that would overfill a vehicle's send buffer is dropped.
        deadline_s: an upload that arrives later than this after its capture is late and trains nothing.
        drain_s: how long the links stay open after the last capture.
    """

    vehicles: Count
    uplink: Uplink
    device: Device
    max_backlog_bytes: Count = 2_000_000
    deadline_s: Positive = 60.0
    drain_s: NotNegative = 30.0
    faults: Faults = Faults()


def _point(text: str) -> str:
    return str(OperatingPoint.parse(text))


def _codec_name(name: str) -> str:
    return codec_named(name).name


class CodecChoice(_Part):
    """One codec at some of its operating points, each of which is a fleet of its own.

    Attributes:
        name: a codec's name.
        points: operating points, for example `quality=30`; the codec's ladder if left out.
    """

    name: Annotated[str, AfterValidator(_codec_name)]
    points: Annotated[tuple[Annotated[str, AfterValidator(_point)], ...], AfterValidator(_distinct)] = Field(
        (), strict=False
    )

    @model_validator(mode="after")
    def _points_exist(self) -> Self:
        codec = codec_named(self.name)
        for point in self.points:
            codec.check(OperatingPoint.parse(point))
        return self

    @property
    def chosen(self) -> tuple[OperatingPoint, ...]:
        """The operating points, the ladder's if none are named."""
        return tuple(map(OperatingPoint.parse, self.points)) or codec_named(self.name).points


class Downstream(_Part):
    """The segmenter that the server trains: see `roadbits.downstream`."""

    steps: Count
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_distinct)] = Field((0,), strict=False, min_length=1)
    setups: Annotated[tuple[Setup, ...], AfterValidator(_distinct)] = Field(
        ("OO", "CO", "CC", "OC"), strict=False, min_length=1
    )
    architecture: str = "FPN"
    encoder: str = "tu-tf_efficientnet_lite0"
    pretrained: bool = True
    options: dict[str, int | float | str | bool] = {
        "decoder_pyramid_channels": 128,
        "decoder_segmentation_channels": 64,
    }
    batch_size: Count = 8
    crop: tuple[Count, Count] = Field((224, 288), strict=False)
    learning_rate: Positive = 2e-3
    encoder_rate: Positive = 0.5
    weight_decay: NotNegative = 1e-2
    class_balance: NotNegative = 0.25
    threads: Count = 1


class Scenario(_Part):
    """A whole run.

    Attributes:
        name: of the run, also its folder's.
        question: what the run answers, in a sentence.
        seed: of everything but the segmenters, which have `downstream.seeds`.
        codecs: each (codec, operating point) is measured on a fleet of its own.
        downstream: left out, the run ends with rates and distortions.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}$")
    question: str = ""
    seed: Seed = 0
    cameras: Cameras
    fleet: Fleet
    codecs: tuple[CodecChoice, ...] = Field(strict=False, min_length=1)
    downstream: Downstream | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [choice.name for choice in self.codecs]
        if len(set(names)) < len(names):
            raise ValueError(f"codecs names one codec twice: {', '.join(names)}; give all its points in one entry")
        unknown = sorted(set(names) - set(self.fleet.device.encode_mpx_per_s))
        if unknown:
            raise ValueError(
                f"fleet.device.encode_mpx_per_s says nothing of {', '.join(unknown)}: "
                "how fast the vehicle encodes must be given"
            )
        unlabelled = isinstance(self.cameras, VideoCameras) or (
            isinstance(self.cameras, FolderCameras)
            and not (self.cameras.masks and self.cameras.test_images and self.cameras.test_masks)
        )
        if self.downstream and unlabelled:
            raise ValueError(
                "downstream needs labelled frames to train and to test on: give cameras.masks, cameras.test_images "
                "and cameras.test_masks, or leave downstream out"
            )
        return self


def load_scenario(path: Path, settings: tuple[str, ...] = ()) -> list[Scenario]:
    """Read, override and validate a scenario file; a sweep gives several.

    Args:
        path: the YAML file.
        settings: overrides of the form `dotted.key=value`, the value in YAML.

    Raises:
        YamlFileError: with all faults of the file.
    """
    file = read_yaml(path)
    if not isinstance(file.values, dict):
        raise YamlFileError(path, [Fault(1, (), "expected keys such as name, cameras, fleet, codecs")])
    for setting in settings:
        _override(file, setting)
    axes = _sweep_axes(Scenario, file.values, ())
    scenarios, names, faults = [], [], dict.fromkeys(file.faults)
    for choice in itertools.product(*axes.values()):
        values = file.values
        for key, value in zip(axes, choice, strict=True):
            values = _with(values, key, value)
        try:
            scenario = Scenario.model_validate(values)
        except pydantic.ValidationError as error:
            faults |= dict.fromkeys(_faults(file, values, error))
        else:
            scenarios.append(scenario)
            label = ",".join(f"{dotted(key)}={value}" for key, value in zip(axes, choice, strict=True))
            names.append(_safe(f"{scenario.name}-{label}" if label else scenario.name))
    if faults:
        raise YamlFileError(path, [*faults])
    if len(set(names)) < len(names):
        names = [f"{name[:94]}-{number}" for number, name in enumerate(names, 1)]
    return [each.model_copy(update={"name": name}) for each, name in zip(scenarios, names, strict=True)]


def _safe(label: str) -> str:
    """Return a name for a folder; two labels may become one name."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "._=,+-") else "-" for char in label)[:100]


def _faults(file: YamlFile, values: Any, error: pydantic.ValidationError) -> Iterator[Fault]:
    """Yield pydantic's findings, but not that a tuple is too short whose entries it has refused itself."""
    for detail in error.errors(include_url=False):
        if not (detail["type"] == "too_short" and detail["input"]):
            yield _fault(file, values, detail)


def _fault(file: YamlFile, values: Any, detail: Any) -> Fault:
    """Return pydantic's finding as a fault at its line; what is no key, such as a union's tag, leaves the path."""
    path: list[str | int] = []
    at = values
    for part in detail["loc"]:
        if _holds(at, part):
            path.append(part)
            at = at[part]
    message = str(detail["msg"]).removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            message = "is no key of a scenario" + _did_you_mean(tuple(path))
        case "missing":
            path.append(detail["loc"][-1])
            message = "is missing"
        case "union_tag_not_found":
            path.append("kind")
            message = "is missing"
        case "union_tag_invalid":
            path.append("kind")
            message = f"must be one of {detail['ctx']['expected_tags']}, got {detail['ctx']['tag']!r}"
        case kind if kind != "value_error":
            message = message[0].lower() + message[1:]
            if not isinstance(detail["input"], dict | list):
                message += f", got {detail['input']!r}"
    key = tuple(path)
    known = next(key[:n] for n in range(len(key), -1, -1) if key[:n] in file.lines or n == 0)
    return Fault(file.lines.get(known, 1), key, message)


def _holds(values: Any, part: str | int) -> bool:
    if isinstance(values, dict):
        return part in values
    return isinstance(values, list) and isinstance(part, int) and part < len(values)


def _did_you_mean(key: KeyPath) -> str:
    known = {name for part in _all_parts(Scenario) for name in part.model_fields}
    close = difflib.get_close_matches(str(key[-1]), known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _all_parts(part: type[BaseModel]) -> list[type[BaseModel]]:
    found = [part]
    for field in part.model_fields.values():
        for child in _models_in(field.annotation):
            found += _all_parts(child)
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, through unions, optionals and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _override(file: YamlFile, setting: str) -> None:
    """Apply one `dotted.key=value`; a fault is noted like those of the file."""
    key, equals, text = setting.partition("=")
    if not (equals and key.strip()):
        file.faults.append(Fault(0, (), f"{setting!r} is not of the form key=value"))
        return
    path: KeyPath = tuple(
        int(part) if part.isdecimal() else part for part in key.replace("[", ".").replace("]", "").split(".")
    )
    try:
        file.values = _with(file.values, path, parse_scalar(text))
        file.lines = {known: line for known, line in file.lines.items() if known[: len(path)] != path}
        for depth in range(1, len(path) + 1):
            file.lines.setdefault(path[:depth], 0)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        file.faults.append(Fault(0, path, f"cannot be set: {error}"))


def _with(values: Any, path: KeyPath, value: Any) -> Any:
    """Return a copy of nested dicts and lists with one value replaced."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(values, list):
        if not isinstance(first, int) or first >= len(values):
            raise ValueError(f"a list of {len(values)} has no entry {first!r}")
        return [_with(child, rest, value) if k == first else child for k, child in enumerate(values)]
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{first!r} lies below a value, {values!r}")
    return {**(values or {}), str(first): _with((values or {}).get(str(first)), rest, value)}


def _sweep_axes(part: type[BaseModel], values: Any, path: KeyPath) -> dict[KeyPath, list[Any]]:
    """Return the places that hold a list where a single value is expected, with those values."""
    axes: dict[KeyPath, list[Any]] = {}
    for name, field in part.model_fields.items():
        value = values.get(name) if isinstance(values, dict) else None
        here = (*path, name)
        models = _models_in(field.annotation)
        if isinstance(value, list) and value and not _takes_list(field.annotation):
            axes[here] = value
        elif isinstance(value, dict) and models and not _takes_list(field.annotation):
            kind = value.get("kind")
            for model in models:
                tag = model.model_fields.get("kind")
                if tag is None or kind in typing.get_args(tag.annotation):
                    axes |= _sweep_axes(model, value, here)
    return axes


def _takes_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, Annotated):
        return any(_takes_list(argument) for argument in typing.get_args(annotation))
    return origin in (tuple, list)


def dump_scenario(scenario: Scenario) -> str:
    """Return the resolved scenario as YAML that `load_scenario` reads back."""
    return yaml.dump(scenario.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Quotes text such as `1e-4`, which `read_yaml` takes for a number though PyYAML does not."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, None)
