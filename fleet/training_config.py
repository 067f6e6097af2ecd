"""The words of a training: one validated, typed tree of plain data, read from YAML with all its faults at once.

`kind` says what is trained, so that restorers and segmenters can have trees of their own beside this one.

Not here: reading YAML itself (`yaml_file`), running a training (`training_run`).
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from roadbits.codecs.neural import cae, hyperprior
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.model_faults import model_faults
from roadbits.fleet.parts import Count, Positive, Seconds, Seed, Share
from roadbits.fleet.yaml_file import Fault, YamlFileError, dump_yaml, read_yaml

_SMALLEST_RISE = 1.05

Channels = Annotated[int, Field(ge=1, le=1024)]
Factor = Annotated[float, Field(ge=1, le=64)]
Side = Annotated[int, Field(ge=64, le=4096)]


def _absolute(path: str, info: ValidationInfo) -> str:
    """Return a path with `~` and `$VARIABLE` replaced, taken from the folder of the file that names it."""
    folder: Path = (info.context or {}).get("folder", Path())
    expanded = Path(os.path.expandvars(path)).expanduser()
    return os.path.normpath((folder / expanded).absolute())


FolderPath = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]


class _Part(BaseModel):
    """A part of a training: unknown keys, wrong types and infinite numbers are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CaeCodec(_Part):
    """The compressive autoencoder.

    Attributes:
        channels: N, of every layer.
        latent_channels: M, of the latent; N if left out.
    """

    kind: Literal["cae"]
    channels: Channels
    latent_channels: Channels | None = None

    @property
    def stride(self) -> int:
        """Return what the side of a crop must be a multiple of."""
        return cae.STRIDE


class HyperpriorCodec(_Part):
    """The scale or mean-scale hyperprior.

    Attributes:
        channels: N, of the inner layers and of z.
        latent_channels: M, of y.
        layers: of each transform.
        means: predict means beside scales.
    """

    kind: Literal["hyperprior"]
    channels: Channels
    latent_channels: Channels
    layers: Literal[3, 4] = 3
    means: bool = True

    @property
    def stride(self) -> int:
        """Return what the side of a crop must be a multiple of."""
        return hyperprior.STRIDE


class FolderImages(_Part):
    """The images below a folder, in the order of their paths.

    Attributes:
        path: of the folder; a relative one is taken from the folder of the YAML file.
        factors: each image is stored divided by each of these.
        min_side: without those whose shorter side is then smaller.
    """

    kind: Literal["folder"]
    path: FolderPath
    factors: tuple[Factor, ...] = Field((1.0,), strict=False, min_length=1)
    min_side: Side = 256


class StreetImages(_Part):
    """Frames of the generated street world, split `train`: drive after drive, each in one domain and of one size.

    Attributes:
        seed: of the world.
        drives: how many; drive v has domain and size v, counted round.
        first_drive: the lowest v.
        frames: of each drive.
        interval_s: between them.
        sizes: height and width, in pixels.
    """

    kind: Literal["street"]
    seed: Seed
    drives: Count
    first_drive: int = Field(0, ge=0)
    frames: Count
    interval_s: Seconds
    sizes: tuple[Annotated[tuple[Side, Side], Field(strict=False)], ...] = Field(strict=False, min_length=1)


Images = Annotated[FolderImages | StreetImages, Field(discriminator="kind")]


class WeightedImages(_Part):
    """A source of crops.

    Attributes:
        weight: its share of the crops, relative to the others'.
        images: where they are cut from.
    """

    weight: Positive
    images: Images


class Validation(_Part):
    """What is measured on real bytes while a training runs.

    Attributes:
        every: steps.
        side: images are cut to their middle of at most that many pixels a side.
        images: none of them should be trained on.
    """

    every: Count = 2000
    side: Side = 256
    images: tuple[Images, ...] = Field(strict=False, min_length=1)


class StillCodecTraining(_Part):
    """The training of a neural still codec; see `Schedule` for what is not told here.

    Attributes:
        name: also of the default folder, `trainings/NAME`.
        kind: of the training.
        codec: the network.
        checkpoint_every: steps.
        busiest_of: crops are drawn that many at a time, and the one with the strongest gradients is taken.
        start_from: a checkpoint of the same network to take first weights from; only weights, no moments.
        data: sources of crops.
        validation: on real bytes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    kind: Literal["still-codec"]
    codec: Annotated[CaeCodec | HyperpriorCodec, Field(discriminator="kind")]
    lambdas: tuple[Positive, ...] = Field(strict=False, min_length=1, max_length=64)
    steps: Count
    batch_size: Count = 4
    crop: Side = Field(192, validate_default=True)
    learning_rate: Positive = 1e-3
    entropy_learning_rate: Positive = 3e-3
    cooldown: Share = 0.3
    clip: Positive = 1.0
    seed: Seed = 0
    checkpoint_every: Count = 500
    busiest_of: Annotated[int, Field(ge=1, le=64)] = 1
    start_from: FolderPath | None = None
    data: tuple[WeightedImages, ...] = Field(strict=False, min_length=1)
    validation: Validation

    @field_validator("lambdas")
    @classmethod
    def _rise(cls, lambdas: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse operating points that would bear one name: a payload's lambda has four digits."""
        for low, high in pairwise(lambdas):
            if high < _SMALLEST_RISE * low:
                raise ValueError(f"must rise by a factor of at least {_SMALLEST_RISE}: {high} follows {low}")
        return lambdas

    @field_validator("crop")
    @classmethod
    def _divides(cls, crop: int, info: ValidationInfo) -> int:
        codec = info.data.get("codec")
        if codec and crop % codec.stride:
            raise ValueError(f"must be a multiple of {codec.stride} for {codec.kind}, got {crop}")
        return crop

    @property
    def schedule(self) -> Schedule:
        """Return how to train, in the words of the training loop."""
        return Schedule(
            self.lambdas,
            self.steps,
            self.batch_size,
            self.crop,
            self.learning_rate,
            self.entropy_learning_rate,
            self.cooldown,
            self.clip,
            self.seed,
        )


def load_training(path: Path) -> StillCodecTraining:
    """Read and validate a training's file.

    Raises:
        YamlFileError: with all faults of the file.
    """
    file = read_yaml(path)
    if not isinstance(file.values, dict):
        raise YamlFileError(path, [Fault(1, (), "expected keys such as name, kind, codec, lambdas, steps, data")])
    faults = list(file.faults)
    try:
        training = StillCodecTraining.model_validate(file.values, context={"folder": path.parent})
    except pydantic.ValidationError as error:
        faults += model_faults(StillCodecTraining, "training", file, file.values, error)
    if faults:
        raise YamlFileError(path, faults)
    return training


def dump_training(training: StillCodecTraining) -> str:
    """Return the resolved training as YAML that `load_training` reads back."""
    return dump_yaml(training.model_dump(mode="json"))
