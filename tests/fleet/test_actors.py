"""Ray: the same digest as without it, with one worker, and with two that are killed; its token; a joined cluster."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from roadbits.fleet.backend import LocalBackend
from roadbits.fleet.ray_environment import loopback_works
from roadbits.fleet.run import Run
from roadbits.fleet.scenario_file import load_scenario

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not loopback_works(), reason="Ray needs a loopback network (127.0.0.1), which is down here"),
]

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
SETTINGS = (
    "fleet.vehicles=3",
    "cameras.frames_per_vehicle=4",
    "cameras.test_frames=2",
    "codecs=[{name: jpeg, points: [quality=20]}]",
    "downstream.steps=2",
    "downstream.seeds=[0]",
    "downstream.setups=[CO]",
)

PROGRAM = """
import os, sys
from pathlib import Path
from roadbits.fleet.ray_environment import prepare_ray

address = os.environ.get("TEST_ADDRESS")
prepare_ray(start_own=address is None)
from roadbits.fleet.actors import RayBackend
from roadbits.fleet.run import Run
from roadbits.fleet.scenario_file import load_scenario
"""

RUN = (
    PROGRAM
    + """
workers, folder, scenario, *settings = sys.argv[1:]
(words,) = load_scenario(Path(scenario), tuple(settings))
backend = lambda: RayBackend(int(workers), address)
print("digest", Run(words, Path(folder), backend, quiet=True).execute(resume=True).digest)
"""
)

ADAPTING = (
    "fleet.vehicles=3",
    "fleet.uplink={kind: constant, rate_mbps: 2.0}",
    "fleet.device={encode_watts: 5, radio_joules_per_mbit: 1, gmac_per_s: 20.0, joules_per_gmac: 0.3, memory_mb: 256}",
    "cameras={kind: street, height: 96, width: 128, domains: [day, night], frames_per_vehicle: 14, interval_s: 5.0, "
    "test_frames: 4, test_vehicles: 1}",
    "codecs=[{name: cae, points: [lambda=0.0067]}]",
    "adaptation={codec: cae, point: lambda=0.0067, points: [lambda=0.0009, lambda=0.0067, lambda=0.025], frames: 2, "
    "rounds: 2, steps: 2, quorum: 2, batch_size: 1, crop: 64, measured_frames: 2, "
    "drift: {baseline_frames: 3, threshold: 4.0}}",
    "downstream=null",
)

KILL_IN_A_ROUND = """
import signal
import roadbits.fleet.codec_adaptation as codec_adaptation

trained, marker = codec_adaptation._trained, sys.argv[1]

def trained_but_dies_once(job):
    if job.first_step and job.lessons[0].vehicle == 1 and not Path(marker).exists():
        Path(marker).write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return trained(job)

codec_adaptation._trained = trained_but_dies_once
del sys.argv[1]
"""

KILL = (
    PROGRAM
    + """
import signal, time
import roadbits.fleet.actors as actors

def pid(_):
    return os.getpid()

def die_once(item):
    marker, number = item
    if number == 3 and not Path(marker).exists():
        Path(marker).write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number

backend = RayBackend(2)
print("results", list(backend.map(die_once, [(sys.argv[1], number) for number in range(12)])))

def train_and_die_once(item, report):
    marker, number = item
    report(1, 0.5)
    # Nobody waits for a report to arrive: the board must be given the time to.
    until = time.monotonic() + 120
    while not Path(marker + "-board").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return die_once((marker, number))

seen = set()
asked = []

def items():
    for number in range(2, 5):
        asked.append(number)
        yield sys.argv[2], number

board_marker = Path(sys.argv[2] + "-board")

class MortalBoard(actors._Board):
    def note(self, position, step, loss):
        if not board_marker.exists():
            board_marker.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        super().note(position, step, loss)

actors._Board = MortalBoard
trainings = backend.train(train_and_die_once, items(), 1, lambda *note: seen.add(note))
first = next(trainings)
print("asked for", len(asked))
print("trained", sorted([first, *trainings]))

import subprocess
import ray
address = ray.get_runtime_context().gcs_address
stranger = "import ray, logging; ray.init(address=%r, logging_level=logging.ERROR, log_to_driver=False)" % address
environment = {k: v for k, v in os.environ.items() if k not in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
environment |= {"HOME": sys.argv[3], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
refused = subprocess.run([sys.executable, "-c", stranger], env=environment, capture_output=True, text=True)
print("stranger", refused.returncode, "uthentication" in refused.stderr)
print("usage", os.environ["RAY_USAGE_STATS_ENABLED"])
backend.close()
print("left", ray.is_initialized())
"""
)

DEADLY = (
    PROGRAM
    + """
from roadbits.fleet.backend import BackendError

def die(_):
    os._exit(1)

backend = RayBackend(1)
try:
    list(backend.map(die, [1]))
except BackendError as error:
    print("ended:", error)
backend.close()
"""
)


def python(program: str, *arguments: str, **environment: str) -> str:
    """Run a program that uses Ray in a process of its own, since Ray reads its environment once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def digest_of(text: str) -> str:
    (digest,) = re.findall(r"digest ([0-9a-f]{64})", text)
    return str(digest)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    (words,) = load_scenario(SMOKE, SETTINGS)
    return Run(words, tmp_path_factory.mktemp("local"), LocalBackend, quiet=True).execute(resume=True).digest


def test_digest_is_the_same_with_one_worker(expected: str, tmp_path: Path) -> None:
    assert digest_of(python(RUN, "1", str(tmp_path), str(SMOKE), *SETTINGS)) == expected


def test_a_killed_worker_changes_no_result_and_strangers_are_refused(tmp_path: Path) -> None:
    output = python(KILL, str(tmp_path / "map"), str(tmp_path / "train"), str(tmp_path))
    assert (tmp_path / "map").exists() and (tmp_path / "train").exists(), "no worker died"
    assert (tmp_path / "train-board").exists(), "the board did not die"
    assert f"results {[number * number for number in range(12)]}" in output
    assert "asked for 2" in output  # one for each worker
    assert "trained [(0, 4), (1, 9), (2, 16)]" in output
    assert re.search(r"stranger [1-9]\d* True", output), output
    assert "usage 0" in output
    assert "left False" in output


def test_a_job_that_always_kills_its_worker_ends_the_run() -> None:
    assert "ended: a worker failed" in python(DEADLY)


def test_a_run_whose_workers_are_killed_keeps_its_digest(expected: str, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, "2", str(tmp_path), str(SMOKE), *SETTINGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed = set()
    while child.poll() is None and len(killed) < 3:
        for process in _descendants(child.pid):
            if process not in killed and b"ray::_Platoon.run" in _command_line(process):
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        time.sleep(0.01)  # whoever is watched needs a core
    output, errors = child.communicate(timeout=400)
    assert child.returncode == 0, errors[-3000:]
    assert killed, "no worker was seen at work"
    assert digest_of(output) == expected


def test_a_worker_killed_in_the_second_round_of_sharing_changes_nothing(tmp_path: Path) -> None:
    (words,) = load_scenario(SMOKE, ADAPTING)
    results = Run(words, tmp_path / "local", LocalBackend, quiet=True).execute()
    assert results.adaptation[0].rounds == 2
    program = RUN.replace(PROGRAM, PROGRAM + KILL_IN_A_ROUND)
    output = python(program, str(tmp_path / "died"), "2", str(tmp_path / "ray"), str(SMOKE), *ADAPTING)
    assert (tmp_path / "died").exists(), "no worker died"
    assert digest_of(output) == results.digest


def _descendants(ancestor: int) -> list[int]:
    """Return the processes below one, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {ancestor}
    for _ in range(6):
        found |= {child for child, parent in parents.items() if parent in found}
    return sorted(found - {ancestor})


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense"])
def test_a_cluster_that_cannot_be_joined_is_named_with_what_it_takes(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roadbits.fleet", "run", str(SMOKE), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--address", address], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    assert address in done.stderr and "same Ray" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_existing_cluster_is_joined_and_left_running(expected: str, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "1" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
        # pytest's folders are too long for the sockets that Ray keeps there.
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"),
    }
    start = ["start", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--num-cpus=1", "--block"]
    address = f"127.0.0.1:{_free_port()}"
    head = [ray, *start, "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    nodes = [subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    try:
        _wait_for(address)
        second = [ray, *start, f"--address={address}"]
        nodes.append(subprocess.Popen(second, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        output = python(RUN, "2", str(tmp_path / "run"), str(SMOKE), *SETTINGS, TEST_ADDRESS=address, **environment)
        assert digest_of(output) == expected
        assert [node.poll() for node in nodes] == [None, None], "the cluster was shut down"
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(timeout=60)
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(300):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"nothing listens at {address}")
