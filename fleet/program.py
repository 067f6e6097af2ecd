"""Which program a run's folder was begun by, since what it has finished outlives the program.

A stage is kept under all that it depends on but the code: a version that computes something otherwise would take what
an older one left, and mix the two.

Not here: stages (`stages`).
"""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from roadbits.fleet.stages import write_whole

_COMPUTING = ("codecs", "restoration", "downstream", "fleet")
_SHOWING = ("report",)
_NAME = "program.txt"


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


def sign(folder: Path) -> None:
    """Write into a new run's folder which program begins it."""
    write_whole(folder / _NAME, f"{program_hash()}\n".encode())


def is_of_another(folder: Path) -> bool:
    """Return whether a run's folder was begun by another version of the program, or one that did not say."""
    path = folder / _NAME
    return not path.is_file() or path.read_text().strip() != program_hash()
