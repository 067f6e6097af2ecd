"""The words of a still codec's training: one validated, typed tree of plain data.

Not here: those of clip codecs (`clip_config`), reading files (`file`), running a training (`run`).
"""

import os
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural import cae, hyperprior
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.modulation import Method
from roadbits.codecs.neural.slim_layers import GdnRecipe
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_network import check_fits, check_widths
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.lambda_schedule import LambdaSchedule
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.parts import Count, Positive, Seconds, Seed, Share

_SMALLEST_RISE = 1.05
_UNTRAINED_STARTS = ("random", "dct")

TrainingName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Channels = Annotated[int, Field(ge=1, le=1024)]
Factor = Annotated[float, Field(ge=1, le=64)]
Side = Annotated[int, Field(ge=64, le=4096)]


def absolute(path: str, info: ValidationInfo) -> str:
    """Return a path with `~` and `$VARIABLE` replaced, taken from the folder of the file that names it."""
    folder: Path = (info.context or {}).get("folder", Path())
    expanded = Path(os.path.expandvars(path)).expanduser()
    return os.path.normpath((folder / expanded).absolute())


def with_absolute_file(codec: str, info: ValidationInfo) -> str:
    """Return a codec's name as on the command line, the file behind its colon as `absolute` has it."""
    name, colon, file = codec.partition(":")
    return name + colon + (absolute(file, info) if file else "")


def _check_rise(lambdas: Sequence[float]) -> None:
    """Refuse operating points that would bear one name: a payload's lambda has four digits."""
    for low, high in pairwise(lambdas):
        if high < _SMALLEST_RISE * low:
            raise ValueError(f"must rise by a factor of at least {_SMALLEST_RISE}: {high} follows {low}")


FolderPath = Annotated[str, Field(min_length=1), AfterValidator(absolute)]


class TrainingPart(BaseModel):
    """A part of a training: unknown keys, wrong types and infinite numbers are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _OverCae(TrainingPart):
    """What codecs of the CAE's transforms have in common."""

    @property
    def stride(self) -> int:
        """Return what the side of a crop must be a multiple of."""
        return cae.STRIDE


class _OverHyperprior(TrainingPart):
    """What hyperpriors have in common.

    Attributes:
        layers: of each transform.
        means: predict means beside scales.
    """

    layers: Literal[3, 4] = 3
    means: bool = True

    @property
    def stride(self) -> int:
        """Return what the side of a crop must be a multiple of."""
        return hyperprior.STRIDE


class CaeCodec(_OverCae):
    """The compressive autoencoder.

    Attributes:
        method: how one model reaches several rates.
        channels: N, of every layer.
        latent_channels: M, of the latent; N if left out.
    """

    kind: Literal["cae"]
    method: Method = "gain"
    channels: Channels
    latent_channels: Channels | None = None


class HyperpriorCodec(_OverHyperprior):
    """The scale or mean-scale hyperprior.

    Attributes:
        method: how one model reaches several rates.
        channels: N, of the inner layers and of z.
        latent_channels: M, of y.
    """

    kind: Literal["hyperprior"]
    method: Method = "gain"
    channels: Channels
    latent_channels: Channels


class _SlimCodec(TrainingPart):
    """What slimmable codecs have in common.

    Attributes:
        widths: N of each, rising.
        lambdas: of each width, a list each; the training's for every width if left out.
        gdn: `switch` for a GDN for each width, `slim` for SlimGDN+.
        per_step: which widths a step runs, `all` or a `sandwich` of three.
        weighting: of losses at different lambdas, `root` or `none`; see `JointWidths`.
    """

    widths: tuple[Channels, ...] = Field(strict=False, min_length=1, max_length=16)
    lambdas: tuple[Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)], ...] = Field((), strict=False)
    gdn: GdnRecipe = "switch"
    per_step: Literal["all", "sandwich"] = "all"
    weighting: Literal["root", "none"] = "root"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        latents: tuple[int, ...] | None = getattr(self, "latent_channels", None)
        lists = {"lambdas": self.lambdas or None, "latent_channels": latents}
        check_widths(self.widths, **{name: values for name, values in lists.items() if values is not None})
        if latents is not None:
            check_fits("latent_channels", latents)
        for lambdas in self.lambdas:
            _check_rise(lambdas)
        return self


class SlimCaeCodec(_SlimCodec, _OverCae):
    """SlimCAE.

    Attributes:
        latent_channels: M of each width; N if left out.
    """

    kind: Literal["slimcae"]
    latent_channels: tuple[Channels, ...] | None = Field(None, strict=False)


class SlimHyperpriorCodec(_SlimCodec, _OverHyperprior):
    """A hyperprior of several widths.

    Attributes:
        latent_channels: M of each width.
    """

    kind: Literal["slimhyperprior"]
    latent_channels: tuple[Channels, ...] = Field(strict=False)


class LambdaScheduleWords(TrainingPart):
    """The lambda schedule of SlimCAE: see `codecs.training.lambda_schedule`. It begins with the training's one lambda.

    Attributes:
        first_steps: before the first round.
        round_steps: of each round.
        factor: of lambda, from round to round.
        max_rounds: of each pair of widths.
    """

    first_steps: Count
    round_steps: Count
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.8
    max_rounds: Count = 7

    def schedule(self, start: float, num_widths: int) -> LambdaSchedule:
        """Return the rules for widths that begin with a lambda."""
        return LambdaSchedule(start, num_widths, self.first_steps, self.round_steps, self.factor, self.max_rounds)


class MaskDecayWords(TrainingPart):
    """A small encoder for the decoder of `start_from`: see `codecs.training.mask_decay`.

    Attributes:
        channels: of each inner layer of g_a that are left.
        steps: until the others are gone.
    """

    channels: Channels
    steps: Count


class FolderImages(TrainingPart):
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


class StreetImages(TrainingPart):
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


class WeightedImages(TrainingPart):
    """A source of crops.

    Attributes:
        weight: its share of the crops, relative to the others'.
        decimated: share of its crops that are every second pixel of a part of twice the size; see `CropSampler`.
        images: where they are cut from.
    """

    weight: Positive
    decimated: Share = 0.0
    images: Images


class Validation(TrainingPart):
    """What is measured on real bytes while a training runs.

    Attributes:
        every: steps.
        side: images are cut to their middle of at most that many pixels a side.
        images: none of them should be trained on.
    """

    every: Count = 2000
    side: Side = 256
    images: tuple[Images, ...] = Field(strict=False, min_length=1)


class StillCodecTraining(TrainingPart):
    """The training of a neural still codec; see `Schedule` for what is not told here.

    Attributes:
        name: also of the default folder, `trainings/NAME`.
        kind: of the training.
        codec: the network.
        lambda_schedule: finds a lambda for each width of a slimmable codec, from one for all.
        mask_decay: trains nothing but a smaller encoder for the codec of `start_from`.
        lambdas: of the rate levels, rising.
        checkpoint_every: steps.
        busiest_of: crops are drawn that many at a time, and the one with the strongest gradients is taken.
        start: first weights: `random`, those of a DCT for transforms of three layers, see `dct_start`, or a codec's
            with networks of the same sizes: a shipped one, one width of it such as `slimcae/96`, or `NAME:FILE`. A
            SlimCAE begins from a SlimCAE of its widths.
        start_from: a checkpoint of the same network to take first weights from; only weights, no moments. Bottleneck
            scaling needs one, of a training of the same codec for its highest lambda alone.
        data: sources of crops.
        validation: on real bytes.
    """

    name: TrainingName
    kind: Literal["still-codec"]
    codec: Annotated[CaeCodec | HyperpriorCodec | SlimCaeCodec | SlimHyperpriorCodec, Field(discriminator="kind")]
    lambda_schedule: LambdaScheduleWords | None = None
    mask_decay: MaskDecayWords | None = None
    lambdas: tuple[Positive, ...] = Field(strict=False, min_length=1, max_length=64)
    steps: Count
    batch_size: Count = 4
    crop: Side = Field(192, validate_default=True)
    learning_rate: Positive = 1e-3
    entropy_learning_rate: Positive = 3e-3
    hyper_learning_rate: Positive | None = None
    cooldown: Share = 0.3
    clip: Positive = 1.0
    seed: Seed = 0
    checkpoint_every: Count = 500
    busiest_of: Annotated[int, Field(ge=1, le=64)] = 1
    start: Annotated[str, AfterValidator(with_absolute_file)] = "random"
    start_from: FolderPath | None = None
    data: tuple[WeightedImages, ...] = Field(strict=False, min_length=1)
    validation: Validation

    @field_validator("lambdas")
    @classmethod
    def _rise(cls, lambdas: tuple[float, ...]) -> tuple[float, ...]:
        _check_rise(lambdas)
        return lambdas

    @field_validator("crop")
    @classmethod
    def _divides(cls, crop: int, info: ValidationInfo) -> int:
        codec = info.data.get("codec")
        if codec and crop % codec.stride:
            raise ValueError(f"must be a multiple of {codec.stride} for {codec.kind}, got {crop}")
        return crop

    @model_validator(mode="after")
    def _begins(self) -> Self:
        if getattr(self.codec, "method", None) == "scaling" and not self.start_from:
            raise ValueError("method scaling tunes a codec that is trained already: give its checkpoint as start_from")
        if self.mask_decay:
            self._check_mask_decay(self.mask_decay)
        if self.start == "dct" and getattr(self.codec, "layers", 3) != 3:
            raise ValueError("start dct needs transforms of three layers: give layers 3, or start random")
        if self.start != "random" and self.start_from:
            raise ValueError("first weights come from start or start_from: give one of them")
        self.start_model()
        if self.lambda_schedule:
            self._check_schedule(self.lambda_schedule)
        return self

    @property
    def starts_trained(self) -> bool:
        """Whether the first weights are a trained codec's, whole."""
        return (self.start_from is not None or self.start not in _UNTRAINED_STARTS) and not self.mask_decay

    def start_model(self) -> FrozenModel | SlimModel | None:
        """Return the codec to begin from, if there is one.

        Raises:
            ValueError: if it has no networks or an adapter, or cannot be what this training's codec begins from.
        """
        if self.start in _UNTRAINED_STARTS:
            return None
        codec = codec_named(self.start)
        if isinstance(self.codec, SlimCaeCodec) and isinstance(codec, SlimStill):
            if codec.model.widths == self.codec.widths:
                return codec.model
            raise ValueError(f"{self.start} has widths {', '.join(map(str, codec.model.widths))}: give the same")
        if isinstance(self.codec, _SlimCodec) or not isinstance(codec, NeuralStill) or codec.adapter_hash:
            raise ValueError(
                f"a {self.codec.kind} cannot start from {self.start}: a cae or hyperprior can from a neural codec of "
                "one width without an adapter, such as cae or slimcae/96, and a slimcae from a slimcae"
            )
        return codec.model

    def _check_mask_decay(self, words: MaskDecayWords) -> None:
        codec = self.codec
        if not isinstance(codec, CaeCodec | HyperpriorCodec) or codec.method != "gain":
            raise ValueError(f"mask_decay needs a cae or hyperprior of method gain, got {codec.kind}")
        if not self.start_from:
            raise ValueError("mask_decay shrinks the encoder of a trained codec: give its checkpoint as start_from")
        if words.channels >= codec.channels or words.steps >= self.steps:
            raise ValueError(
                f"mask_decay needs fewer channels than the codec's {codec.channels} and fewer steps than {self.steps}, "
                f"got {words.channels} and {words.steps}"
            )

    def _check_schedule(self, rules: LambdaScheduleWords) -> None:
        codec = self.codec
        if not isinstance(codec, _SlimCodec) or len(codec.widths) < 2 or len(self.lambdas) > 1 or codec.lambdas:
            raise ValueError("lambda_schedule needs a slimmable codec of several widths that begin with one lambda")
        most, fall = rules.schedule(self.lambdas[0], len(codec.widths)).most_steps, self.schedule.fall_begins
        if most > fall:
            raise ValueError(
                f"lambda_schedule may take {most} steps, the learning rate falls from step {fall} of {self.steps}: "
                "give more steps, or a shorter cooldown"
            )

    @property
    def train_on(self) -> list[Images]:
        """Where crops come from."""
        return [source.images for source in self.data]

    @property
    def validate_on(self) -> tuple[Images, ...]:
        """What is measured."""
        return self.validation.images

    @property
    def lambdas_by_width(self) -> tuple[tuple[float, ...], ...]:
        """The lambdas of each width of a slimmable codec, narrowest first."""
        assert isinstance(self.codec, _SlimCodec)
        return self.codec.lambdas or (self.lambdas,) * len(self.codec.widths)

    @property
    def schedule(self) -> Schedule:
        """Return how to train, in the words of the training loop."""
        slim = isinstance(self.codec, _SlimCodec)
        return Schedule(
            tuple(chain.from_iterable(self.lambdas_by_width)) if slim else self.lambdas,
            self.steps,
            self.batch_size,
            self.crop,
            self.learning_rate,
            self.entropy_learning_rate,
            self.cooldown,
            self.clip,
            self.seed,
            self.hyper_learning_rate,
        )
