"""What a person sees while a run works: one bar per stage on stderr, and a log of events in the run's folder.

Not here: results, which go to stdout.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

_TEXTS = 38
"""Columns of a terminal that a bar's line takes without the bar, its counts and its note."""
_NARROW_BAR, _WIDE_BAR = 6, 32


class Bar:
    """One stage's bar."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        """Begin a bar of `total` units."""
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, units: int = 1) -> None:
        """Move on by some units."""
        self._progress.advance(self._task, units)

    def set(self, units: int, note: str = "") -> None:
        """Move to a number of units, with a few words behind the bar."""
        self._progress.update(self._task, completed=units, note=note)

    def set_of(self, units: int, total: int) -> None:
        """Move to a number of units of a total that is known only now."""
        self._progress.update(self._task, completed=units, total=total)


class Display:
    """Bars for a person and `log.jsonl` for a program."""

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        """Write events to a log file, if given; `quiet` shows no bars."""
        self._console = Console(stderr=True, quiet=quiet)
        self._log = log

    @contextmanager
    def bar(self, title: str, total: int, note_width: int = 0) -> Iterator[Bar]:
        """Show a bar while a stage works, and log how long it took.

        Args:
            title: of the stage.
            total: of its units.
            note_width: columns to leave for a note, where the terminal has them.
        """
        begin = time.monotonic()
        room = self._console.width - _TEXTS - 2 * len(str(total))
        bar_width = max(_NARROW_BAR, min(_WIDE_BAR, room - note_width))
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, max_width=max(1, room - bar_width))),
        )
        self.event("begin", stage=title, units=total)
        with Progress(*columns, console=self._console) as progress:
            bar = Bar(progress, title, total)
            yield bar
        self.event("end", stage=title, seconds=round(time.monotonic() - begin, 3))

    def say(self, text: str) -> None:
        """Tell the person something, and log it."""
        self._console.print(text, style="dim", highlight=False, markup=False)
        self.event("note", text=text)

    def event(self, kind: str, **details: Any) -> None:
        """Log an event with the wall time in seconds."""
        if self._log is not None:
            line = json.dumps({"time_s": round(time.time(), 3), "event": kind, **details})
            with self._log.open("a+b") as file:
                file.write((_missing_newline(file) + line + "\n").encode())


def _missing_newline(log: BinaryIO) -> str:
    """Return what parts the next event from the last, which a full disk or a killed process may have cut off."""
    if not log.seek(0, os.SEEK_END):
        return ""
    log.seek(-1, os.SEEK_END)
    return "" if log.read(1) == b"\n" else "\n"
