"""The words of DCNGAN's training on clips that codecs of clips degraded.

Not here: those of codecs (`still_config`, `clip_config`), reading files (`file`).
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import ClipCodec, OperatingPoint, is_clip_codec
from roadbits.fleet.parts import Count, Positive, Seed, distinct
from roadbits.fleet.training.clip_config import Clips
from roadbits.fleet.training.still_config import Side, TrainingName, TrainingPart
from roadbits.restoration.dcngan import MOST_BLOCKS, MOST_CHANNELS, STRIDE, ClipRestorerSpec
from roadbits.restoration.training import Recipe

Points = Annotated[tuple[str, ...], AfterValidator(distinct)]


class DegradingCodec(TrainingPart):
    """A codec of clips, and the points at which it degrades them.

    Attributes:
        name: as on the command line.
        points: that are learned.
        tested_points: that are measured beside those, and never learned.
    """

    name: str
    points: Points = Field(strict=False, min_length=1)
    tested_points: Points = Field((), strict=False)

    @property
    def codec(self) -> ClipCodec:
        """The codec itself."""
        codec = still_or_clip_codec_named(self.name)
        assert is_clip_codec(codec)
        return codec

    @model_validator(mode="after")
    def _exists(self) -> Self:
        codec = still_or_clip_codec_named(self.name)
        if not is_clip_codec(codec):
            raise ValueError(f"{self.name} codes stills: clips need a codec of clips, such as hevc-lowdelay")
        for point in (*self.points, *self.tested_points):
            codec.check(OperatingPoint.parse(point))
        return self


class ClipRestorerTrainingWords(TrainingPart):
    """The training of a restorer of clips, DCNGAN; see `Recipe` for what is not told here.

    Attributes:
        name: also of the default folder, `trainings/NAME`.
        kind: of the training.
        channels: w of the network; the paper's is 64.
        blocks: residual ones.
        codecs: that degrade the clips.
        objective: of the second phase: `mse`, `perceptual`, or `gan` for that and a critic.
        first_steps: of the first phase, by pixels alone.
        steps: of the second.
        checkpoint_every: steps.
        data: clips to learn from.
        held_out: clips to measure on.
    """

    name: TrainingName
    kind: Literal["clip-restorer"]
    channels: Annotated[int, Field(ge=2, le=MOST_CHANNELS)] = 16
    blocks: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 9
    codecs: tuple[DegradingCodec, ...] = Field(strict=False, min_length=1)
    objective: Literal["mse", "perceptual", "gan"] = "gan"
    first_steps: Count = 500
    steps: Count = 1500
    batch_size: Count = 8
    crop: Side = Field(128, multiple_of=STRIDE)
    learning_rate: Positive = 1e-3
    seed: Seed = 0
    checkpoint_every: Count = 200
    data: tuple[Clips, ...] = Field(strict=False, min_length=1)
    held_out: tuple[Clips, ...] = Field(strict=False, min_length=1)

    @property
    def train_on(self) -> tuple[Clips, ...]:
        """Where crops come from."""
        return self.data

    @property
    def validate_on(self) -> tuple[Clips, ...]:
        """What is measured."""
        return self.held_out

    @property
    def spec(self) -> ClipRestorerSpec:
        """The network."""
        return ClipRestorerSpec(tuple(sorted({each.name for each in self.codecs})), self.channels, self.blocks)

    @property
    def phases(self) -> tuple[Recipe, Recipe]:
        """How to train, first by pixels."""
        own = Recipe(self.objective, self.steps, self.batch_size, self.crop, self.learning_rate, seed=self.seed)
        return replace(own, objective="pixels", steps=self.first_steps), own
