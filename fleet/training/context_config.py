"""The words of a context's training: for a still codec that is there already.

Not here: those of still codecs (`still_config`), reading files (`file`).
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.hyperprior import STRIDE
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.context_freezing import groups_of
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.parts import Count, Positive, Seed, Share
from roadbits.fleet.training.still_config import (
    Channels,
    FolderPath,
    Images,
    Side,
    TrainingName,
    TrainingPart,
    Validation,
    WeightedImages,
    with_absolute_file,
)


class ContextCodec(TrainingPart):
    """A context, or one for each width.

    Attributes:
        still: the codec that it is for, a shipped one or `NAME:FILE`; a context that it has is left out.
        groups: of y's channels, coded one after the other, in these proportions.
        channels: of the networks' hidden layers, one number or one for each width.
    """

    still: Annotated[str, AfterValidator(with_absolute_file)] = "hyperprior"
    groups: tuple[Channels, ...] = Field((1, 2, 3, 4, 6), strict=False, min_length=1, max_length=16)
    channels: Channels | Annotated[tuple[Channels, ...], Field(strict=False)] = 64

    def still_codec(self) -> NeuralStill | SlimStill:
        """Return the codec.

        Raises:
            ValueError: if it has no networks, or an adapter.
        """
        codec = codec_named(self.still)
        if not isinstance(codec, NeuralStill | SlimStill) or (isinstance(codec, NeuralStill) and codec.adapter_hash):
            raise ValueError(f"{self.still} can have no context: a neural codec without an adapter can")
        return codec

    def widths_codecs(self) -> tuple[NeuralStill, ...]:
        """Return the codec of each width."""
        codec = self.still_codec()
        return tuple(codec.codecs.values()) if isinstance(codec, SlimStill) else (codec,)

    def each_channels(self) -> tuple[int, ...]:
        """Return the number of hidden channels for each width.

        Raises:
            ValueError: if there are not as many as widths.
        """
        widths = len(self.widths_codecs())
        channels = (self.channels,) * widths if isinstance(self.channels, int) else self.channels
        if len(channels) != widths:
            raise ValueError(f"codec.channels must be a number, or {widths} of them for as many widths of {self.still}")
        return channels


class ContextTraining(TrainingPart):
    """The training of a context; see `Schedule` for what is not told here.

    Attributes:
        name: also of the default folder, `trainings/NAME`.
        kind: of the training.
        codec: the networks.
        checkpoint_every: steps.
        busiest_of: crops are drawn that many at a time, and the one with the strongest gradients is taken.
        start_from: a checkpoint of the same networks to take first weights from.
        data: sources of crops.
        validation: on real bytes.
    """

    name: TrainingName
    kind: Literal["context"]
    codec: ContextCodec
    steps: Count
    batch_size: Count = 8
    crop: Side = Field(192, multiple_of=STRIDE)
    learning_rate: Positive = 1e-3
    cooldown: Share = 0.5
    clip: Positive = 1.0
    seed: Seed = 0
    checkpoint_every: Count = 500
    busiest_of: Annotated[int, Field(ge=1, le=64)] = 1
    start_from: FolderPath | None = None
    data: tuple[WeightedImages, ...] = Field(strict=False, min_length=1)
    validation: Validation

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.codec.each_channels()
        counts = [len(codec.points) for codec in self.codec.widths_codecs()]
        if len(set(counts)) > 1:
            raise ValueError(f"codec: its widths have {counts} rates, expected equally many of each for a context")
        for codec in self.codec.widths_codecs():
            try:
                groups_of(self.codec.groups, codec.model.side.gain.shape[1])
            except ValueError as error:
                raise ValueError(f"codec.groups: {error}") from error
        return self

    @property
    def train_on(self) -> list[Images]:
        """Where crops come from."""
        return [source.images for source in self.data]

    @property
    def validate_on(self) -> tuple[Images, ...]:
        """What is measured."""
        return self.validation.images

    @property
    def schedule(self) -> Schedule:
        """Return how to train, in the words of the training loop."""
        description = self.codec.widths_codecs()[-1].model.description
        return Schedule(
            lambdas=tuple(description.lambdas[at] for at in description.trained),
            steps=self.steps,
            batch_size=self.batch_size,
            crop=self.crop,
            learning_rate=self.learning_rate,
            cooldown=self.cooldown,
            clip=self.clip,
            seed=self.seed,
        )
