"""How fast the fleet is on this machine: deliveries, frames and cold starts, each against a plain yardstick.

Wall times depend on the machine and on what else it does; run it on an idle one.

Not here: codecs (`roadbits rd` times them), training.
"""

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.fleet.backend import Backend, LocalBackend
from roadbits.fleet.collection import collect, drive_lengths
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import train_source
from roadbits.fleet.store import Store
from roadbits.fleet.traces import TwoState
from roadbits.fleet.uplink import TraceUplink

_DELIVERIES = 2_000_000


class Figure(NamedTuple):
    """One measured figure."""

    name: str
    value: float
    unit: str


def deliveries_per_second() -> Figure:
    """Time vectorised delivery over a generated trace."""
    generator = np.random.default_rng(0)
    trace = TwoState(1.6, 0.7, 0.8, 40, 1.5).generate(600, generator)
    sent_s = np.sort(generator.random(_DELIVERIES) * 1e6)
    sizes = generator.integers(1_000, 50_000, _DELIVERIES)
    begin = time.perf_counter()
    TraceUplink(trace).delivery_times(sent_s, sizes)
    return Figure("uplink deliveries", _DELIVERIES / (time.perf_counter() - begin), "per s")


def throughput(scenario: Scenario, backend: Backend, workers: int) -> Iterator[Figure]:
    """Time a collection against the same frames captured and encoded in a bare loop.

    Args:
        scenario: what is collected; all its arms.
        backend: who computes it; one collection is made first, so that its processes are up.
        workers: of the backend, to give the rate per core.
    """
    words = scenario.model_copy(update={"downstream": None})
    _bare_loop(words)  # the first pass loads what both passes then have
    loop_s = _bare_loop(words)
    rates = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "uploads.sqlite") as store:
            begin = time.perf_counter()
            collect(Plan(words), drive_lengths(words), store, backend, Display(quiet=True), {})
            rates.append(store.count() / (time.perf_counter() - begin))
    encodes = _num_encodes(words)
    name = type(backend).__name__
    yield Figure(f"{name}: frames collected", rates[-1], "per s")
    yield Figure(f"{name}: per core, share of a bare loop", rates[-1] / workers / (encodes / loop_s), "")


def _num_encodes(scenario: Scenario) -> int:
    return sum(drive_lengths(scenario)) * len(Plan(scenario).arms)


def _bare_loop(scenario: Scenario) -> float:
    """Return the seconds that capturing and encoding alone take, in one process."""
    arms = [(codec_named(arm.source), OperatingPoint.parse(arm.point)) for arm in Plan(scenario).arms]
    begin = time.perf_counter()
    for vehicle in range(scenario.fleet.num_vehicles):
        for frame in train_source(scenario.cameras, scenario.seed, vehicle, scenario.fleet.num_vehicles):
            for codec, point in arms:
                codec.encode(frame.image, point)
    return time.perf_counter() - begin


def cold_start(scenario_file: Path, backend: str) -> Figure:
    """Time a new process from its start to its first stored upload.

    Raises:
        RuntimeError: if the process ends without storing one.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "roadbits.fleet", "run", str(scenario_file), "--quiet"]
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--backend", backend, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while _stored(out / "uploads.sqlite") == 0:
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended with exit code {process.returncode} before its first upload")
                time.sleep(0.01)
            return Figure(f"cold start to first stored upload, {backend}", time.perf_counter() - begin, "s")
        finally:
            process.terminate()
            process.wait()


def _stored(path: Path) -> int:
    """Return the number of uploads in a store that another process may be creating."""
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT COUNT(*) FROM uploads").fetchone()[0])
    except sqlite3.Error:
        return 0


def bench(scenario: Scenario, scenario_file: Path, ray: Backend, workers: int) -> Iterator[Figure]:
    """Yield every figure: deliveries, throughput without and with Ray, cold starts."""
    yield deliveries_per_second()
    yield from throughput(scenario, LocalBackend(), 1)
    yield from throughput(scenario, ray, workers)
    for backend in ("local", "ray"):
        yield cold_start(scenario_file, backend)
