"""Trainings as YAML files, read with all their faults at once.

`kind` says what is trained, so that each kind has words of its own.

Not here: the words of each kind (`still_config` and the others), reading YAML itself (`yaml_file`).
"""

from pathlib import Path

import pydantic

from roadbits.fleet.model_faults import model_faults
from roadbits.fleet.training.clip_config import ClipCodecTraining
from roadbits.fleet.training.clip_restorer_config import ClipRestorerTrainingWords
from roadbits.fleet.training.context_config import ContextTraining
from roadbits.fleet.training.still_config import StillCodecTraining
from roadbits.fleet.yaml_file import Fault, YamlFileError, dump_yaml, override, read_yaml

CodecTraining = StillCodecTraining | ContextTraining | ClipCodecTraining
Training = CodecTraining | ClipRestorerTrainingWords
_KINDS: dict[
    str,
    type[StillCodecTraining] | type[ContextTraining] | type[ClipCodecTraining] | type[ClipRestorerTrainingWords],
] = {
    "still-codec": StillCodecTraining,
    "context": ContextTraining,
    "clip-codec": ClipCodecTraining,
    "clip-restorer": ClipRestorerTrainingWords,
}


def load_training(path: Path, settings: tuple[str, ...] = ()) -> Training:
    """Read, override and validate a training's file.

    Args:
        path: the YAML file.
        settings: overrides of the form `dotted.key=value`, the value in YAML.

    Raises:
        YamlFileError: with all faults of the file.
    """
    file = read_yaml(path)
    if not isinstance(file.values, dict):
        raise YamlFileError(path, [Fault(1, (), "expected keys such as name, kind, codec, lambdas, steps, data")])
    if "fleet" in file.values and "kind" not in file.values:
        raise YamlFileError(path, [Fault(1, (), f"this is a scenario: roadbits run {path}")])
    for setting in settings:
        override(file, setting)
    faults, kind = list(file.faults), file.values.get("kind")
    if isinstance(kind, str) and kind not in _KINDS:
        line = file.lines.get(("kind",), 1)
        raise YamlFileError(
            path, [*faults, Fault(line, ("kind",), f"must be one of {', '.join(_KINDS)}, got {kind!r}")]
        )
    words = _KINDS[kind] if isinstance(kind, str) else StillCodecTraining
    try:
        training = words.model_validate(file.values, context={"folder": path.parent})
    except pydantic.ValidationError as error:
        faults += model_faults(words, "training", file, file.values, error)
    if faults:
        raise YamlFileError(path, faults)
    return training


def dump_training(training: Training) -> str:
    """Return the resolved training as YAML that `load_training` reads back."""
    return dump_yaml(training.model_dump(mode="json"))
