"""The same adapters from a real Flower, of a SuperLink and SuperNodes on loopback, as from a run in virtual time."""

import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from flwr.app import Context
from flwr.serverapp import Grid

from roadbits.codecs.adaptation.danice import Adapter
from roadbits.codecs.adaptation.update import unpacked
from roadbits.fleet.adapter_exchange import AdapterLinks, Exchanges
from roadbits.fleet.adapting import Drive, source_codec, train_adapter, watch
from roadbits.fleet.flower_app import share_adapter
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "fleet.vehicles=2",
    "fleet.faults={}",
    "fleet.uplink={kind: constant, rate_mbps: 2.0}",
    "fleet.device={encode_watts: 5, radio_joules_per_mbit: 1, gmac_per_s: 20.0, joules_per_gmac: 0.3, memory_mb: 256}",
    "cameras={kind: street, height: 96, width: 128, domains: [day, night], frames_per_vehicle: 12, interval_s: 5.0, "
    "test_frames: 4, test_vehicles: 1}",
    "codecs=[{name: cae, points: [lambda=0.0067]}]",
    "adaptation={codec: cae, point: lambda=0.0067, frames: 2, rounds: 2, steps: 2, quorum: 2, batch_size: 1, crop: 64, "
    "drift: {baseline_frames: 3, threshold: 4.0}}",
    "downstream=null",
)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def serving(program: str, *arguments: str, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's programs, and end it with all that it started."""
    command = [Path(sysconfig.get_path("scripts")) / program, "--insecure", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    (found,) = load_scenario(ROOT / "scenarios" / "smoke.yaml", SETTINGS)
    return found


def shared_in_virtual_time(scenario: Scenario) -> bytes:
    """Return the update that a run's vehicles get."""
    notices = [notice for vehicle in range(2) for notice in watch(Drive(scenario, vehicle)).notices]
    exchanges = Exchanges(scenario, 0, AdapterLinks(scenario), lambda name, jobs: list(map(train_adapter, jobs)))
    return exchanges.by("federated", "night", notices).equipped[0].update


def test_a_domain_that_no_vehicle_sees_is_refused_before_any_is_asked(tmp_path: Path) -> None:
    out = str(tmp_path / "fog.safetensors")
    config = {"scenario": "smoke", "set": "; ".join(SETTINGS), "domain": "fog", "vehicles": 2, "out": out}
    context = cast(Context, SimpleNamespace(run_config=config))
    with pytest.raises(ValueError, match="domain is 'fog', the vehicles drive through day, night"):
        share_adapter(cast(Grid, None), context)


def test_flower_on_loopback_makes_the_adapter_that_a_run_makes(scenario: Scenario, tmp_path: Path) -> None:
    link_port, adapter = free_port(), tmp_path / "night.safetensors"
    (tmp_path / "config.toml").write_text(
        f'[superlink]\ndefault = "loopback"\n[superlink.loopback]\naddress = "127.0.0.1:{link_port}"\ninsecure = true\n'
    )
    flower = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(tmp_path)}
    flower["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    scripts = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **flower, "OMP_NUM_THREADS": "1", "PATH": scripts}
    settings = "; ".join(SETTINGS)
    config = f"scenario='smoke' set='{settings}' domain='night' vehicles=2 out='{adapter}'"
    with ExitStack() as stack:
        log = tmp_path / "link.log"
        link = serving("flower-superlink", "--host", "127.0.0.1", "--port", str(link_port), log=log, env=env)
        wait_for(link_port, stack.enter_context(link), log)
        for vehicle in range(2):
            where = ("--superlink", f"127.0.0.1:{link_port}", "--host", "127.0.0.1", "--port", str(free_port()))
            node = ("--node-config", f"partition-id={vehicle}")
            stack.enter_context(
                serving("flower-supernode", *where, *node, log=tmp_path / f"node{vehicle}.log", env=env)
            )
        run = subprocess.run(
            [sys.executable, "-m", "flwr.cli.app", "run", str(ROOT), "loopback", "--stream", "--run-config", config],
            capture_output=True,
            text=True,
            env=env,
            timeout=600,
        )
        told = run.stdout + run.stderr
        assert adapter.is_file(), told + log.read_text()
    assert "round 2: vehicles [0, 1]: shared" in told
    source = source_codec(scenario.adaptation).model if scenario.adaptation else None
    assert source is not None
    expected = unpacked(source, shared_in_virtual_time(scenario)).freeze("night", 4)
    assert Adapter.load(adapter).hash == expected.hash
