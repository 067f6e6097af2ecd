"""Which programs computed what a run's folder holds, since what it has finished outlives the program.

A stage is kept under all that it depends on but the code: a version that computes something otherwise would take what
an older one left, and mix the two.

Not here: stages (`stages`).
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from roadbits.fleet.stages import write_whole

_COMPUTING = ("codecs", "restoration", "downstream", "fleet")
_SHOWING = ("report",)
_NAME = "program.txt"
_UNKNOWN = "unknown"


@cache
def program_hash() -> str:
    """Return the SHA-256, in hex, of all sources that compute something; those of the report show it only."""
    told = hashlib.sha256()
    for package in _COMPUTING:
        root = Path(str(files(f"roadbits.{package}")))
        for path in sorted(root.rglob("*.py")):
            if not {*path.relative_to(root).parts} & {*_SHOWING}:
                told.update(f"{package}/{path.relative_to(root)}".encode() + path.read_bytes())
    return told.hexdigest()


def sign(folder: Path, taken_from: Iterable[Path] = ()) -> None:
    """Write into a run's folder which programs have computed what it holds: this one, and those of other folders.

    Args:
        folder: of the run.
        taken_from: folders of runs whose stages may be taken, its own among them if it goes on.
    """
    programs = {program_hash()}.union(*map(_programs_of, taken_from))
    if programs != _programs_of(folder):
        write_whole(folder / _NAME, "".join(f"{each}\n" for each in sorted(programs)).encode())


def is_of_another(folder: Path) -> bool:
    """Return whether a run's folder holds what another version of the program computed, or one that did not say."""
    return _programs_of(folder) != {program_hash()}


def _programs_of(folder: Path) -> set[str]:
    path = folder / _NAME
    return set(path.read_text().split()) if path.is_file() else {_UNKNOWN}
