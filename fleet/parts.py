"""What every part of a scenario is made of: strict models, and numbers within bounds.

Not here: the parts themselves (`scenario`, `rules`).
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=1e7)]
Wait = Annotated[float, Field(ge=0, le=1e7)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=16, le=8192)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """Return the values; one that stands twice would be measured, and counted, twice."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} more than once")
    return values


class Part(BaseModel):
    """A part of a scenario: unknown keys, wrong types and infinite numbers are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
