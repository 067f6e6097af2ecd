"""The words of how an arm finds its operating points: a codec with fixed points, and with policies.

Not here: what a policy does (`policies`), the rest of a scenario (`scenario`).
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint, is_clip_codec
from roadbits.fleet.parts import Count, Part, Positive, Seconds, distinct


def _point(text: str) -> str:
    return str(OperatingPoint.parse(text))


def _codec_name(name: str) -> str:
    return still_or_clip_codec_named(name).name


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


class TargetBpp(Part):
    """Hold a mean rate by feedback on the bytes of the frames so far.

    Attributes:
        bpp: the mean to hold.
    """

    kind: Literal["target-bpp"]
    bpp: Annotated[float, Field(gt=0, le=24)]

    def __str__(self) -> str:
        """Return the name of the policy's arm."""
        return f"target-bpp={_plain(self.bpp)}"


class _Adaptive(Part):
    """A policy that follows the link.

    Attributes:
        latency_s: from capture to arrival, as it should be at most; the fleet's deadline if left out.
        max_bpp: no frame is given more, however wide the link.
    """

    latency_s: Seconds | None = None
    max_bpp: Annotated[float, Field(gt=0, le=24)] | None = None

    def _named(self, kind: str) -> str:
        given = self.model_dump(exclude={"kind"}, exclude_none=True)
        return ",".join([kind, *(f"{name}={_plain(value)}" for name, value in given.items())])


class Link(_Adaptive):
    """Follow the uplink: the highest rate that arrives in time, whatever it costs the device."""

    kind: Literal["link"]

    def __str__(self) -> str:
        """Return the name of the policy's arm."""
        return self._named("link")


class Budget(_Adaptive):
    """Follow the uplink, the device's speed and its energy: the best quality that all of them allow.

    Attributes:
        joules_per_hour: what encoding and sending may take in the mean over a drive; unbounded if left out.
    """

    kind: Literal["budget"]
    joules_per_hour: Positive | None = None

    def __str__(self) -> str:
        """Return the name of the policy's arm."""
        return self._named("budget")


PolicyWords = Annotated[TargetBpp | Link | Budget, Field(discriminator="kind")]
Rule = OperatingPoint | TargetBpp | Link | Budget
"""How an arm finds the point of a frame: always the same one, or by a policy."""


SEGMENT_FRAMES = 32
"""Frames of a drive that are computed at a time; clips never cross the border of two such segments."""
_DEFAULT_CLIP_FRAMES = 16


class Way(NamedTuple):
    """How an arm sends frames.

    Attributes:
        rule: finds the point of a frame, or of a clip.
        every: of so many captured frames one is sent.
        clip_frames: of a clip; 0 for stills.
    """

    rule: Rule
    every: int
    clip_frames: int

    def __str__(self) -> str:
        """Return the name of the arm's point or policy, with what else tells it from others of its codec."""
        every = f",every={self.every}" if self.every > 1 else ""
        return str(self.rule) + every + (f",frames={self.clip_frames}" if self.clip_frames else "")


class CodecChoice(Part):
    """One codec with ways to choose its operating point, each of which is a fleet of its own.

    Attributes:
        name: a codec's name.
        every: of so many captured frames one is encoded; the others are skipped.
        clip_frames: of a clip, for a codec of clips, 16 if left out; a power of two, 32 at most together with `every`.
        points: fixed operating points, for example `quality=30`; the codec's ladder if no policy is named either.
        policies: ways to choose a point for each frame.
    """

    name: Annotated[str, AfterValidator(_codec_name)]
    every: Count = 1
    clip_frames: Literal[1, 2, 4, 8, 16, 32] | None = None
    points: Annotated[tuple[Annotated[str, AfterValidator(_point)], ...], AfterValidator(distinct)] = Field(
        (), strict=False
    )
    policies: Annotated[tuple[PolicyWords, ...], AfterValidator(distinct)] = Field((), strict=False)

    @model_validator(mode="after")
    def _points_exist(self) -> Self:
        codec = still_or_clip_codec_named(self.name)
        for point in self.points:
            codec.check(OperatingPoint.parse(point))
        if not is_clip_codec(codec):
            if self.clip_frames is not None:
                raise ValueError(f"clip_frames is for codecs of clips, {self.name} codes stills: leave it out")
            return self
        if self.policies:
            raise ValueError(f"policies choose a point for each still, {self.name} codes clips: give points")
        span = self.every * (self.clip_frames or _DEFAULT_CLIP_FRAMES)
        if SEGMENT_FRAMES % span:
            raise ValueError(f"a clip takes {span} captured frames, every x clip_frames must divide {SEGMENT_FRAMES}")
        return self

    @property
    def ways(self) -> tuple[Way, ...]:
        """The fixed points, then the policies; the ladder's points if neither is named."""
        codec = still_or_clip_codec_named(self.name)
        fixed = tuple(map(OperatingPoint.parse, self.points))
        frames = (self.clip_frames or _DEFAULT_CLIP_FRAMES) if is_clip_codec(codec) else 0
        return tuple(Way(rule, self.every, frames) for rule in (*fixed, *self.policies) or codec.points)
