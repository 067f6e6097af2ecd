"""Ray: a pool of actors, each hosting a platoon of vehicles, and trainings as tasks with declared processors.

A fixed pool, since one actor per vehicle costs 310 MB each and does not scale. Actors restart without limit and a job
is retried, which is safe because jobs are pure. An existing cluster is joined by its address, and left running.

Not here: the jobs themselves, Ray's token (`ray_environment`), and everything that works without Ray (`backend`).
"""

import itertools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from roadbits.fleet.backend import BackendError, Item, Progress, Report, Result, Shared, Value

_JOBS_PER_ACTOR = 2
"""One under way and one waiting: enough to keep an actor busy, little enough to bound memory."""
_RETRIES = 5
"""A job whose worker is killed is done anew so often: then the job itself is what kills it, by its memory perhaps."""
_REPORT_EVERY_S = 1.0
_CONNECT_S = 5.0
_READY_S = 60.0
_Stored = TypeVar("_Stored")


class _InObjectStore(Generic[_Stored]):
    """A value in Ray's object store."""

    def __init__(self, value: _Stored) -> None:
        self._reference = ray.put(value)

    def get(self) -> _Stored:
        value: _Stored = ray.get(self._reference)
        return value


class _Platoon:
    """A worker process of the pool."""

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Compute one job."""
        return function(item)

    def ready(self) -> None:
        """Answer, which an actor can only do once it has a processor."""


class _Board:
    """Collects the progress of trainings."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[int, float]] = {}

    def note(self, position: int, step: int, loss: float) -> None:
        """Take a training's latest step."""
        self._latest[position] = (step, loss)

    def read(self) -> dict[int, tuple[int, float]]:
        """Return the latest step of each training."""
        return self._latest


def _train(function: Callable[[Any, Report], Any], item: Any, position: int, board: Any) -> Any:
    """Compute one training in a task of its own."""
    told_s = 0.0

    def report(step: int, loss: float) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= _REPORT_EVERY_S:
            told_s = time.monotonic()
            board.note.remote(position, step, loss)

    return function(item, report)


class RayBackend:
    """Computes on Ray: one started here, or an existing cluster."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        """Start Ray on this machine, or join a cluster.

        Args:
            workers: actors in the pool, and trainings at once; one per processor if left out.
            address: of an existing cluster, for example `127.0.0.1:6379` or `auto`.

        Raises:
            BackendError: if Ray cannot be started or joined, for instance because its version differs.
        """
        self._started = not ray.is_initialized() and address is None
        try:
            if address is not None:
                _check_address(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            elif self._started:
                _start_ray(workers)
        except (RuntimeError, ConnectionError, ValueError, OSError, RayError) as error:
            raise BackendError(_why_not(address, error)) from error
        self._cpus = int(_remote(ray).cluster_resources().get("CPU", 1))
        self.workers = workers or max(1, self._cpus)
        self._pool: list[Any] = []

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order, computed by the pool with at most two jobs per actor under way."""
        free = deque(self._actors() * _JOBS_PER_ACTOR)
        pending: deque[tuple[Any, Any]] = deque()
        for item in items:
            if not free:
                yield self._oldest(pending, free)
            actor = free.popleft()
            pending.append((actor.run.remote(function, item), actor))
        while pending:
            yield self._oldest(pending, free)

    def _oldest(self, pending: deque[tuple[Any, Any]], free: deque[Any]) -> Any:
        reference, actor = pending.popleft()
        result = _get(reference)
        free.append(actor)
        return result

    def train(
        self, function: Callable[[Item, Report], Result], items: Iterable[Item], threads: int, progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        """Yield each result as it ends; as many run at once as workers and processors allow."""
        self._dismiss()
        task = _remote(ray).remote(_train).options(**self._share_of_a_node(threads), max_retries=3)
        board = _remote(ray).remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        waiting = enumerate(items)
        running: dict[Any, int] = {}
        while True:
            for position, item in itertools.islice(waiting, self.workers - len(running)):
                running[task.remote(function, item, position, board)] = position
            if not running:
                break
            ended, _ = ray.wait([*running], timeout=_REPORT_EVERY_S)
            for position, (step, loss) in _get(board.read.remote()).items():
                progress(position, step, loss)
            for reference in ended:
                yield running.pop(reference), _get(reference)
        ray.kill(board)

    def _share_of_a_node(self, threads: int) -> dict[str, float]:
        """Return what a training asks for: its threads, as far as any node has them, and a GPU where there are any."""
        nodes = [node["Resources"] for node in _remote(ray).nodes() if node["Alive"]]
        return {
            "num_cpus": min(threads, max(node.get("CPU", 0) for node in nodes)),
            "num_gpus": float(any(node.get("GPU", 0) >= 1 for node in nodes)),
        }

    def share(self, value: Value) -> Shared[Value]:
        """Put a value into the object store."""
        return _InObjectStore(value)

    def close(self) -> None:
        """End the pool, and Ray itself if it was started here."""
        self._dismiss()
        if self._started:
            ray.shutdown()

    def _actors(self) -> list[Any]:
        if not self._pool:
            platoon = _remote(ray).remote(_Platoon).options(max_restarts=-1, max_task_retries=_RETRIES, num_cpus=1)
            size = min(self.workers, max(1, self._cpus))
            waiting = [platoon.remote() for _ in range(size)]
            answers = {actor.ready.remote(): actor for actor in waiting}
            ready, late = ray.wait([*answers], num_returns=size, timeout=_READY_S)
            for answer in late:
                ray.kill(answers[answer])
            if not ready:
                raise BackendError(f"no processor of the Ray cluster became free within {_READY_S:.0f} s")
            self._pool = [answers[answer] for answer in ready]
        return self._pool

    def _dismiss(self) -> None:
        for actor in self._pool:
            ray.kill(actor)
        self._pool = []


def _start_ray(workers: int | None) -> None:
    """Start a Ray of our own: no dashboard, and a token (see `ray_environment`)."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise BackendError(
            "call roadbits.fleet.ray_environment.prepare_ray before importing ray: it must ask for a token"
        )
    cpus = max(os.cpu_count() or 1, workers or 1)
    ray.init(
        address="local",  # else Ray joins whatever cluster was last started on this machine
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )


def _check_address(address: str) -> None:
    """Refuse an address that nobody answers: Ray itself would try for minutes.

    Raises:
        OSError: if nothing listens there.
        ValueError: if the address is none that a driver inside the cluster uses.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and host and port.isdigit()):
        raise ValueError("expected auto or HOST:PORT of the head node; ray:// is slow, so run inside the cluster")
    socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


def _remote(module: Any) -> Any:
    """Return Ray without its type hints, which know no `remote` of a class and no `options`."""
    return module


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise BackendError(f"a worker failed: {error}") from error


def _why_not(address: str | None, error: Exception) -> str:
    if address is None:
        return f"Ray cannot be started: {error}; --backend local works without it"
    return (
        f"cannot join the Ray cluster at {address}: {error}; it needs the same Ray ({ray.__version__}) and the same "
        "Python on every node, a reachable address and, if it asks for one, RAY_AUTH_MODE=token with RAY_AUTH_TOKEN"
    )
