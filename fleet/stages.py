"""Stages: pieces of a run whose output is kept under the hash of exactly what it depends on.

A stage writes into a folder of a temporary name and is renamed when it is complete, so a folder that has its final name
is whole, however the process ended. A stage that another run finished is taken from there, as hard links where the disk
has them: both folders stay whole whatever becomes of the other.

Not here: what the stages do (`run`).
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_KEY_CHARS = 16


def stage_key(name: str, **depends_on: Any) -> str:
    """Return a stage's key: a hash of its name and of everything it depends on, all of it plain JSON values."""
    text = json.dumps([name, depends_on], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:_KEY_CHARS]}"


class Stages:
    """The stage folders of one run.

    Attributes:
        taken: how many stages came from each other run, by its folder of stages.
    """

    def __init__(self, folder: Path, others: Sequence[Path] = ()) -> None:
        """Take the folder of all stages and those of other runs; what an earlier process left unfinished is removed."""
        self._folder, self._others = folder, tuple(others)
        self.taken = Counter[Path]()
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".unfinished-*"):
            shutil.rmtree(unfinished)

    def folder(self, key: str) -> Path:
        """Return where a complete stage lies."""
        return self._folder / key

    def is_done(self, key: str) -> bool:
        """Return whether a stage is complete, here or in another run, from which it is taken then."""
        return self.folder(key).is_dir() or any(self._take(other, key) for other in self._others)

    def _take(self, other: Path, key: str) -> bool:
        if not (other / key).is_dir():
            return False
        with self.writing(key) as folder:
            for file in (other / key).iterdir():
                _link(file, folder / file.name)
        self.taken[other] += 1
        return True

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Give a folder to write into; it becomes the stage's own when the block ends without an error."""
        unfinished = self._folder / f".unfinished-{key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():
            _flush(file)
        _flush(unfinished)
        unfinished.rename(self.folder(key))
        _flush(self._folder)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it has either its old or its new content, even after a crash."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_bytes(data)
    _flush(unfinished)
    unfinished.replace(path)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
