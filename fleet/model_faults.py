"""What pydantic finds wrong with a YAML file's values, as faults with their lines and dotted paths.

Not here: reading YAML (`yaml_file`), the models themselves (`scenario`, `training`).
"""

import difflib
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
from pydantic import BaseModel

from roadbits.fleet.yaml_file import Fault, KeyPath, YamlFile


def model_faults(
    model: type[BaseModel], noun: str, file: YamlFile, values: Any, error: pydantic.ValidationError
) -> Iterator[Fault]:
    """Yield pydantic's findings, but not that a tuple is too short whose entries it has refused itself.

    Args:
        model: what the values were to become.
        noun: what a person calls it.
        file: where they were read, for the lines.
        values: what was validated.
        error: what came of it.
    """
    for detail in error.errors(include_url=False):
        if not (detail["type"] == "too_short" and detail["input"]):
            yield _fault(model, noun, file, values, detail)


def _fault(model: type[BaseModel], noun: str, file: YamlFile, values: Any, detail: Any) -> Fault:
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
            message = f"is no key of a {noun}" + _did_you_mean(model, tuple(path), values)
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


def _did_you_mean(model: type[BaseModel], key: KeyPath, values: Any) -> str:
    """Return what might have been meant of the keys that there are at that place, or all of these."""
    parts, at = [model], values
    for name in key[:-1]:
        at = at[name]
        if isinstance(name, str):
            fields = [part.model_fields[name] for part in parts if name in part.model_fields]
            parts = [child for field in fields for child in models_in(field.annotation)]
        if isinstance(at, dict):
            parts = [part for part in parts if _is_of_kind(part, at.get("kind"))]
    known = sorted({name for part in parts for name in part.model_fields} - {"kind"})
    close = difflib.get_close_matches(str(key[-1]), known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    kind = f" for kind {at['kind']}" if isinstance(at, dict) and "kind" in at else ""
    return f"; there are {', '.join(known)}{kind}" if known else ""


def _is_of_kind(part: type[BaseModel], kind: Any) -> bool:
    """Whether a model takes values of that kind; those without kinds take any."""
    tag = part.model_fields.get("kind")
    return tag is None or kind in typing.get_args(tag.annotation)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, through unions, optionals and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]
