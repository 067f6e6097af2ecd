"""The folder of a training: one process at a time, nothing overwritten by mistake, nothing half written left behind.

Not here: what a training keeps in it (`run`, `clip_restorer`).
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingFolderError(f"another process is training in {folder}: wait for it, or end it") from None
        refuse_started(checkpoint, resume)
        for unfinished in (*folder.glob("*.tmp"), *folder.glob("cache/*.tmp")):
            unfinished.unlink()
        yield
