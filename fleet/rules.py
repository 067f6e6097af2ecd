"""The words of how an arm finds its operating points: a codec with fixed points, and with policies.

Not here: what a policy does (`policies`), the rest of a scenario (`scenario`).
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.parts import Part, Positive, Seconds, distinct


def _point(text: str) -> str:
    return str(OperatingPoint.parse(text))


def _codec_name(name: str) -> str:
    return codec_named(name).name


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


class CodecChoice(Part):
    """One codec with ways to choose its operating point, each of which is a fleet of its own.

    Attributes:
        name: a codec's name.
        points: fixed operating points, for example `quality=30`; the codec's ladder if no policy is named either.
        policies: ways to choose a point for each frame.
    """

    name: Annotated[str, AfterValidator(_codec_name)]
    points: Annotated[tuple[Annotated[str, AfterValidator(_point)], ...], AfterValidator(distinct)] = Field(
        (), strict=False
    )
    policies: Annotated[tuple[PolicyWords, ...], AfterValidator(distinct)] = Field((), strict=False)

    @model_validator(mode="after")
    def _points_exist(self) -> Self:
        codec = codec_named(self.name)
        for point in self.points:
            codec.check(OperatingPoint.parse(point))
        return self

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The fixed points, then the policies; the ladder's points if neither is named."""
        fixed = tuple(map(OperatingPoint.parse, self.points))
        return (*fixed, *self.policies) or codec_named(self.name).points
