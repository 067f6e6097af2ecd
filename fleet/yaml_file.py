"""Reading YAML so that every value knows its line.

PyYAML's own loader takes `1e-4` for text, keeps the last of two equal keys and forgets lines; this one mends all three.
Anchors and aliases work; the number of values is bounded, so that a file of nested aliases cannot fill the memory.

Not here: what the keys mean (`scenario`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_MAX_VALUES = 100_000
_MAX_BYTES = 4_000_000
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
"""What is a number here, though not all of it is one to PyYAML."""

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file; `line` is 0 for a value that `--set` gave."""

    line: int
    path: KeyPath
    message: str

    def __str__(self) -> str:
        """Return `line: dotted.path message`."""
        return f"{self.line or '--set'}: {dotted(self.path)} {self.message}".replace(":  ", ": ")


class YamlFileError(Exception):
    """A file with faults, all of them; the text has a line for each."""

    def __init__(self, path: Path, faults: list[Fault]) -> None:
        """Take the file and what is wrong with it."""
        self.faults = sorted(faults, key=lambda fault: (fault.line, dotted(fault.path)))
        super().__init__("\n".join(f"{path}:{fault}" if fault.line else str(fault) for fault in self.faults))


@dataclass
class YamlFile:
    """The values of a file.

    Attributes:
        values: the plain value: dicts, lists, text, numbers, booleans, None.
        lines: line of each value, by its path.
        faults: duplicate keys and the like, found while reading.
    """

    values: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def dotted(path: KeyPath) -> str:
    """Return a path as people write it, for example `codecs[1].points`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file.

    Raises:
        YamlFileError: if it cannot be read, is no YAML, or is too large; faults inside are left in `faults`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YamlFileError(path, [Fault(1, (), f"cannot be read: {error}")]) from error
    if len(text) > _MAX_BYTES:
        raise YamlFileError(path, [Fault(1, (), f"has {len(text)} characters, expected at most {_MAX_BYTES}")])
    file = YamlFile(None)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        file.values = _value(node, (), file, iter(range(_MAX_VALUES)), ()) if node else {}
    except yaml.YAMLError as error:
        raise YamlFileError(path, [Fault(_line_of(error, text), (), f"is no YAML: {_reason(error)}")]) from error
    except StopIteration:
        raise YamlFileError(path, [Fault(1, (), f"has more than {_MAX_VALUES} values")]) from None
    except RecursionError:
        raise YamlFileError(path, [Fault(1, (), "is nested too deeply")]) from None
    return file


def parse_scalar(text: str) -> Any:
    """Return the value of one line of YAML, as after `--set key=`.

    Raises:
        ValueError: if it is no YAML or has a fault, such as a key that stands twice.
    """
    file = YamlFile(None)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        file.values = _value(node, (), file, iter(range(_MAX_VALUES)), ()) if node else None
    except (yaml.YAMLError, StopIteration, RecursionError) as error:
        raise ValueError(f"{text!r} is no YAML value: {_reason(error)}") from error
    if file.faults:
        raise ValueError(f"{text!r} is no YAML value: {'; '.join(str(fault.message) for fault in file.faults)}")
    return file.values


def override(file: YamlFile, setting: str) -> None:
    """Apply one `dotted.key=value`; a fault is noted like those of the file."""
    key, equals, text = setting.partition("=")
    if not (equals and key.strip()):
        file.faults.append(Fault(0, (), f"{setting!r} is not of the form key=value"))
        return
    path: KeyPath = tuple(
        int(part) if part.isdecimal() else part for part in key.replace("[", ".").replace("]", "").split(".")
    )
    try:
        file.values = replaced(file.values, path, parse_scalar(text))
        file.lines = {known: line for known, line in file.lines.items() if known[: len(path)] != path}
        for depth in range(1, len(path) + 1):
            file.lines.setdefault(path[:depth], 0)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        file.faults.append(Fault(0, path, f"cannot be set: {error}"))


def replaced(values: Any, path: KeyPath, value: Any) -> Any:
    """Return a copy of nested dicts and lists with one value replaced."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(values, list):
        if not isinstance(first, int) or first >= len(values):
            raise ValueError(f"a list of {len(values)} has no entry {first!r}")
        return [replaced(child, rest, value) if k == first else child for k, child in enumerate(values)]
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{first!r} lies below a value, {values!r}")
    return {**(values or {}), str(first): replaced((values or {}).get(str(first)), rest, value)}


def _line_of(error: yaml.YAMLError, text: str) -> int:
    """Return the line of an error; one about a forbidden character knows only its position."""
    mark = getattr(error, "problem_mark", None)
    return int(mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))) + 1


def _reason(error: Exception) -> str:
    """Return what is wrong in one line, without PyYAML's own quotation of the file."""
    return str(getattr(error, "problem", None) or error).partition("\n")[0]


def _value(node: yaml.Node, path: KeyPath, file: YamlFile, budget: Iterator[int], above: tuple[yaml.Node, ...]) -> Any:
    """Return a node's value; note its line and its faults."""
    next(budget)
    file.lines[path] = node.start_mark.line + 1
    if node in above:
        file.faults.append(Fault(node.start_mark.line + 1, path, "refers to itself"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, k), file, budget, (*above, node)) for k, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, file, budget, above)
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, path, file)


def _mapping(
    node: yaml.MappingNode, path: KeyPath, file: YamlFile, budget: Iterator[int], above: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            file.faults.append(Fault(key_node.start_mark.line + 1, path, "has a key that is no plain text"))
            continue
        key = str(key_node.value)
        here = (*path, key)
        if key in values:
            first = file.lines[here]
            file.faults.append(Fault(key_node.start_mark.line + 1, here, f"stands twice, first on line {first}"))
            continue
        values[key] = _value(child, here, file, budget, (*above, node))
        file.lines[here] = key_node.start_mark.line + 1
    return values


def _scalar(node: yaml.ScalarNode, path: KeyPath, file: YamlFile) -> Any:
    if node.tag == "tag:yaml.org,2002:str" and node.style is None and NUMBER.fullmatch(node.value):
        return float(node.value)
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        # PyYAML's constructors check little: an empty !!int is an IndexError, a !!bool of another word a KeyError.
        file.faults.append(Fault(node.start_mark.line + 1, path, f"cannot be read: {_reason(error)}"))
        return None


def dump_yaml(values: Any) -> str:
    """Return plain values as YAML that `read_yaml` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Quotes text such as `1e-4`, which `read_yaml` takes for a number though PyYAML does not."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, None)
