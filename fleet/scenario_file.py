"""Scenario files: every fault is reported at once with its line; a sweep expands into one scenario per combination.

A list where a single value is expected is a sweep.

Not here: what the keys mean (`scenario`), reading YAML itself (`yaml_file`), naming the faults (`model_faults`).
"""

import itertools
import math
import types
import typing
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel

from roadbits.fleet.model_faults import model_faults, models_in
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.yaml_file import Fault, KeyPath, YamlFileError, dotted, dump_yaml, override, read_yaml, replaced

_MOST_VARIANTS = 200


def scenario_path(text: str) -> Path:
    """Return the file of a scenario given by path or by the name of a shipped one.

    Raises:
        FileNotFoundError: if no shipped one has that name.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = Path(str(files("roadbits.scenarios")))
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    if text not in names:
        raise FileNotFoundError(f"no scenario {text!r}: give the path of a YAML file, or one of {', '.join(names)}")
    return shipped / f"{text}.yaml"


def load_scenario(path: Path, settings: tuple[str, ...] = ()) -> list[Scenario]:
    """Read, override and validate a scenario file; a sweep gives several.

    Args:
        path: the YAML file.
        settings: overrides of the form `dotted.key=value`, the value in YAML.

    Raises:
        YamlFileError: with all faults of the file.
    """
    file = read_yaml(path)
    if not isinstance(file.values, dict):
        raise YamlFileError(path, [Fault(1, (), "expected keys such as name, cameras, fleet, codecs")])
    if "kind" in file.values and "fleet" not in file.values:
        raise YamlFileError(path, [Fault(1, (), f"this is the recipe of a training: roadbits train {path}")])
    for setting in settings:
        override(file, setting)
    axes = _sweep_axes(Scenario, file.values, ())
    variants = math.prod(map(len, axes.values()))
    if variants > _MOST_VARIANTS:
        where = ", ".join(map(dotted, axes))
        raise YamlFileError(path, [Fault(1, (), f"sweeps over {where}: {variants} runs, at most {_MOST_VARIANTS}")])
    scenarios, names, faults = [], [], dict.fromkeys(file.faults)
    for choice in itertools.product(*axes.values()):
        values = file.values
        for key, value in zip(axes, choice, strict=True):
            values = replaced(values, key, value)
        try:
            scenario = Scenario.model_validate(values)
        except pydantic.ValidationError as error:
            faults |= dict.fromkeys(model_faults(Scenario, "scenario", file, values, error))
        else:
            scenarios.append(scenario)
            label = ",".join(f"{dotted(key)}={value}" for key, value in zip(axes, choice, strict=True))
            names.append(_safe(f"{scenario.name}-{label}" if label else scenario.name))
    if faults:
        raise YamlFileError(path, [*faults])
    if len(set(names)) < len(names):
        names = [f"{name[:94]}-{number}" for number, name in enumerate(names, 1)]
    return [each.model_copy(update={"name": name}) for each, name in zip(scenarios, names, strict=True)]


def _safe(label: str) -> str:
    """Return a name for a folder; two labels may become one name."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "._=,+-") else "-" for char in label)[:100]


def _sweep_axes(part: type[BaseModel], values: Any, path: KeyPath) -> dict[KeyPath, list[Any]]:
    """Return the places that hold a list where a single value is expected, with those values."""
    axes: dict[KeyPath, list[Any]] = {}
    for name, field in part.model_fields.items():
        value = values.get(name) if isinstance(values, dict) else None
        here = (*path, name)
        models = models_in(field.annotation)
        if isinstance(value, list) and value and not _takes_list(field.annotation):
            axes[here] = value
        elif isinstance(value, dict) and models and not _takes_list(field.annotation):
            kind = value.get("kind")
            for model in models:
                tag = model.model_fields.get("kind")
                if tag is None or kind in typing.get_args(tag.annotation):
                    axes |= _sweep_axes(model, value, here)
    return axes


def _takes_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, Annotated):
        return any(_takes_list(argument) for argument in typing.get_args(annotation))
    return origin in (tuple, list)


def dump_scenario(scenario: Scenario) -> str:
    """Return the resolved scenario as YAML that `load_scenario` reads back."""
    return dump_yaml(scenario.model_dump(mode="json"))
