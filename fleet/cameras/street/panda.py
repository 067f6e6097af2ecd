"""The import of panda3d, which an interrupt must not cut short.

Measured: a KeyboardInterrupt that Python raises inside the import ends the process with a segmentation fault.

Not here: anything drawn (`renderer`, `stage`).
"""

import signal
import sys
import threading
from typing import Any


def panda3d_core() -> Any:
    """Return the module `panda3d.core`; an interrupt during its first import waits for the end of it."""
    loaded = sys.modules.get("panda3d.core")
    if loaded is not None or threading.current_thread() is not threading.main_thread():
        return loaded or _imported()
    waiting: list[tuple[int, Any]] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *signalled: waiting.append(signalled)) for number in numbers}
    try:
        return _imported()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signalled, _ in waiting:
            signal.raise_signal(signalled)


def _imported() -> Any:
    from panda3d import core

    return core
