"""What pydantic finds wrong with a YAML file's values, as faults with their lines and dotted paths.

Not here: reading YAML (`yaml_file`), the models themselves (`scenario`, `training_config`).
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
            message = f"is no key of a {noun}" + _did_you_mean(model, tuple(path))
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


def _did_you_mean(model: type[BaseModel], key: KeyPath) -> str:
    known = {name for part in _all_parts(model) for name in part.model_fields}
    close = difflib.get_close_matches(str(key[-1]), known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _all_parts(part: type[BaseModel]) -> list[type[BaseModel]]:
    found = [part]
    for field in part.model_fields.values():
        for child in models_in(field.annotation):
            found += _all_parts(child)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, through unions, optionals and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]
