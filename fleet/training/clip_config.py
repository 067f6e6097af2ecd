"""The words of a clip codec's training: the temporal entropy model of a slimmable still codec that is there already.

Not here: those of still codecs (`still_config`), reading files (`file`).
"""

from itertools import chain
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.cae import STRIDE
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_network import check_fits
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.parts import Count, Positive, Seconds, Seed, Share
from roadbits.fleet.training.still_config import (
    Channels,
    Factor,
    FolderPath,
    Side,
    TrainingName,
    TrainingPart,
    with_absolute_file,
)

Frames = Annotated[int, Field(ge=3, le=1024)]


class SlimVcCodec(TrainingPart):
    """SlimVC.

    Attributes:
        still: the codec of its frames: `slimcae`, or `slimcae:FILE`.
        channels: of the prediction's hidden layers at each of its widths, at no narrow one more than at the widest.
        per_step: which widths a step runs, `all`, a `sandwich` of three, or a single one, to compare it with.
    """

    kind: Literal["slimvc"]
    still: Annotated[str, AfterValidator(with_absolute_file)] = "slimcae"
    channels: tuple[Channels, ...] = Field(strict=False, min_length=1, max_length=16)
    per_step: Literal["all", "sandwich"] | Count = "sandwich"

    def still_model(self) -> SlimModel:
        """Return the model of the still codec, without contexts.

        Raises:
            ValueError: if there is none, or it has one width only.
        """
        codec = codec_named(self.still)
        if not isinstance(codec, SlimStill) or any(model.hyper for model in codec.model.models):
            raise ValueError(f"{self.still} is no slimcae: SlimVC's frames are coded by one, slimcae or slimcae:FILE")
        return codec.model.without_contexts()


class StreetClips(TrainingPart):
    """Clips of the generated street world, split `train`: drive v has domain and size v, counted round.

    The interval is the next one after each round of sizes.

    Attributes:
        seed: of the world.
        drives: how many, a clip of each.
        first_drive: the lowest v.
        frames: of each clip.
        intervals_s: between frames.
        sizes: height and width, in pixels.
    """

    kind: Literal["street"]
    seed: Seed
    drives: Count
    first_drive: int = Field(0, ge=0)
    frames: Frames
    intervals_s: tuple[Seconds, ...] = Field(strict=False, min_length=1)
    sizes: tuple[Annotated[tuple[Side, Side], Field(strict=False)], ...] = Field(strict=False, min_length=1)


class MovingPhotographs(TrainingPart):
    """Clips of a camera that moves over photographs: see `codecs.training.clips`.

    Attributes:
        path: of the folder; a relative one is taken from the folder of the YAML file.
        factors: each photograph is used divided by each of these.
        clips: how many.
        frames: of each.
        side: of a frame, in pixels; photographs that are then smaller are left out.
        seed: of places, motion and noise.
    """

    kind: Literal["moving-photographs"]
    path: FolderPath
    factors: tuple[Factor, ...] = Field((1.0,), strict=False, min_length=1)
    clips: Count
    frames: Frames
    side: Side = 256
    seed: Seed = 0


Clips = Annotated[StreetClips | MovingPhotographs, Field(discriminator="kind")]


class WeightedClips(TrainingPart):
    """A source of clips.

    Attributes:
        weight: its share of the samples, relative to the others'.
        clips: where they are cut from.
    """

    weight: Positive
    clips: Clips


class ClipValidationWords(TrainingPart):
    """What is measured on real bytes while a training runs.

    Attributes:
        every: steps.
        side: frames are cut to their middle of at most that many pixels a side.
        clips: none of them should be trained on.
    """

    every: Count = 2000
    side: Side = 256
    clips: tuple[Clips, ...] = Field(strict=False, min_length=1)


class ClipCodecTraining(TrainingPart):
    """The training of a neural clip codec; see `Schedule` for what is not told here.

    Attributes:
        name: also of the default folder, `trainings/NAME`.
        kind: of the training.
        codec: the network.
        checkpoint_every: steps.
        start_from: a checkpoint of the same network to take first weights from.
        data: sources of samples.
        validation: on real bytes.
    """

    name: TrainingName
    kind: Literal["clip-codec"]
    codec: SlimVcCodec
    steps: Count
    batch_size: Count = 8
    crop: Side = Field(192, multiple_of=STRIDE)
    learning_rate: Positive = 1e-3
    cooldown: Share = 0.5
    clip: Positive = 1.0
    seed: Seed = 0
    checkpoint_every: Count = 500
    start_from: FolderPath | None = None
    data: tuple[WeightedClips, ...] = Field(strict=False, min_length=1)
    validation: ClipValidationWords

    @model_validator(mode="after")
    def _fits(self) -> Self:
        widths = self.codec.still_model().widths
        if len(self.codec.channels) != len(widths):
            raise ValueError(
                f"codec.channels must have a number for each width of {self.codec.still}, {', '.join(map(str, widths))}"
            )
        check_fits("codec.channels", self.codec.channels)
        if isinstance(self.codec.per_step, int) and self.codec.per_step not in widths:
            raise ValueError(f"codec.per_step is no width of {self.codec.still}: {', '.join(map(str, widths))}")
        return self

    @property
    def train_on(self) -> list[Clips]:
        """Where samples come from."""
        return [source.clips for source in self.data]

    @property
    def validate_on(self) -> tuple[Clips, ...]:
        """What is measured."""
        return self.validation.clips

    @property
    def schedule(self) -> Schedule:
        """Return how to train, in the words of the training loop."""
        models = self.codec.still_model().models
        lambdas = [[model.description.lambdas[at] for at in model.description.trained] for model in models]
        return Schedule(
            lambdas=tuple(chain.from_iterable(lambdas)),
            steps=self.steps,
            batch_size=self.batch_size,
            crop=self.crop,
            learning_rate=self.learning_rate,
            cooldown=self.cooldown,
            clip=self.clip,
            seed=self.seed,
        )
