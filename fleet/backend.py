"""Who computes: the seam between a run and the processes that do its work, and the backend without any.

A backend maps pure functions over items. `map` is for many short jobs and keeps their order; `train` is for few long
ones, tells of their progress and yields each as it ends. Any job may be computed twice; its result is the same.

Not here: Ray (`actors`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)

Report = Callable[[int, float], None]
"""Called by a training with its finished steps and its loss."""

Progress = Callable[[int, int, float], None]
"""Called with a training's position among the items, its finished steps and its loss."""


class BackendError(Exception):
    """The processes that should do the work cannot be had, or a job failed in them."""


class Shared(Protocol[Value_co]):
    """A large value that is sent to each machine once."""

    def get(self) -> Value_co:
        """Return the value; arrays in it are read-only."""
        ...


class Backend(Protocol):
    """Computes jobs somewhere."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items; only a few are under way at once."""
        ...

    def train(
        self, function: Callable[[Item, Report], Result], items: Iterable[Item], threads: int, progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        """Yield (position, result) of each item as it ends; each is given that many processor threads.

        An item is asked for when its training can begin, and let go with its end.
        """
        ...

    def share(self, value: Value) -> Shared[Value]:
        """Make a value available to jobs."""
        ...

    def close(self) -> None:
        """End all processes that this backend started."""
        ...


class _Here(Generic[Value]):
    """A value that is shared by being here."""

    def __init__(self, value: Value) -> None:
        self._value = value

    def get(self) -> Value:
        return self._value


class LocalBackend:
    """Computes everything in this process, one job after the other: for debugging, tests and small runs."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order, each computed when it is asked for."""
        return map(function, items)

    def train(
        self, function: Callable[[Item, Report], Result], items: Iterable[Item], threads: int, progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        """Yield each result in turn; the training itself sets its threads."""
        for position, item in enumerate(items):
            yield position, function(item, lambda step, loss, position=position: progress(position, step, loss))  # type: ignore[misc]

    def share(self, value: Value) -> Shared[Value]:
        """Return the value in a box."""
        return _Here(value)

    def close(self) -> None:
        """Do nothing: there are no processes."""
