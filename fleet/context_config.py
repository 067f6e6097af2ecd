"""The words of a scale context's training: for a hyperprior that is there already.

Not here: those of still codecs (`training_config`), reading files (`training_file`).
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.hyperprior import STRIDE
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.parts import Count, Positive, Seed, Share
from roadbits.fleet.training_config import (
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


class ScaleContextCodec(TrainingPart):
    """A scale context.

    Attributes:
        still: the codec that it is for: `hyperprior`, or `hyperprior:FILE`; a context that it has is left out.
        groups: how many channels of y are coded at once, one group after the other; all channels in sum.
        channels: of each network's hidden layers.
    """

    still: Annotated[str, AfterValidator(with_absolute_file)] = "hyperprior"
    groups: tuple[Channels, ...] = Field(strict=False, min_length=1, max_length=16)
    channels: Channels = 64

    def still_codec(self) -> NeuralStill:
        """Return the codec.

        Raises:
            ValueError: if it is no hyperprior of one width.
        """
        codec = codec_named(self.still)
        if not isinstance(codec, NeuralStill) or codec.model.hyper is None:
            raise ValueError(
                f"{self.still} is no hyperprior: a scale context is for one, hyperprior or hyperprior:FILE"
            )
        return codec


class ScaleContextTraining(TrainingPart):
    """The training of a scale context; see `Schedule` for what is not told here.

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
    kind: Literal["scale-context"]
    codec: ScaleContextCodec
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
        channels = self.codec.still_codec().model.side.gain.shape[1]
        if sum(self.codec.groups) != channels:
            raise ValueError(
                f"codec.groups must hold the {channels} channels of {self.codec.still}, got {sum(self.codec.groups)}"
            )
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
        description = self.codec.still_codec().model.description
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
