"""Interrupts that wait: Ctrl-C and SIGTERM come through only where a piece of work is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Whether somebody wishes to end the program."""

    def __init__(self) -> None:
        """Begin without such a wish."""
        self._wished = threading.Event()

    def note(self, *_: object) -> None:
        """Take note of a wish; this is what the signals call."""
        self._wished.set()

    @property
    def wished(self) -> bool:
        """Whether there has been one."""
        return self._wished.is_set()

    def check(self) -> None:
        """Raise KeyboardInterrupt if there has been one."""
        if self._wished.is_set():
            raise KeyboardInterrupt


@contextmanager
def postponed_interrupts() -> Iterator[Interrupts]:
    """Let signals wait for the next `check`, or for the end of the block if that comes without an error.

    Signals reach the main thread only; in any other this changes nothing.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts.note) for number in _SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    interrupts.check()
