"""The folder of a training: one process at a time, nothing overwritten by mistake, nothing half written left behind.

Someone may give a folder that holds other things: nothing is removed whose name is not one that trainings write.

Not here: what a training keeps in it (`run`, `clip_restorer`).
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CACHE = "(?:folder|street|moving-photographs)-[0-9a-f]{16}"
_LATENTS = rf"latents-[0-9a-f]{{12}}-\d+-{_CACHE}"
CACHES = re.compile(rf"{_CACHE}\.bin")
LATENTS = re.compile(rf"{_LATENTS}\.npy")
_UNFINISHED = re.compile(rf"(?:checkpoint|model|{_CACHE}|{_LATENTS})\.\d+\.tmp")


class TrainingFolderError(Exception):
    """A folder that a training cannot begin in; the message says what to do."""


def refuse_started(checkpoint: Path, resume: bool) -> None:
    """Refuse to begin where a training is already.

    Raises:
        TrainingFolderError: if there is a checkpoint, and it is not to be resumed.
    """
    if checkpoint.exists() and not resume:
        raise TrainingFolderError(
            f"{checkpoint.parent} holds a training already: add --resume to continue it, or choose another --out"
        )


@contextmanager
def own_folder(checkpoint: Path, resume: bool) -> Iterator[None]:
    """Lock a checkpoint's folder, and remove what a killed process left half written.

    Raises:
        TrainingFolderError: if another process trains there, or a training is there that is not to be resumed.
    """
    folder = checkpoint.parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingFolderError(f"another process is training in {folder}: wait for it, or end it") from None
        refuse_started(checkpoint, resume)
        for unfinished in (*own_files(folder, _UNFINISHED), *own_files(folder / "cache", _UNFINISHED)):
            unfinished.unlink()
        yield


def own_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Return the files of a folder, which need not exist, whose whole name is as trainings write it."""
    return [path for path in folder.glob("*") if names.fullmatch(path.name)]
