import os
import subprocess
import sys
from types import ModuleType

import pytest

from roadbits.fleet import cli
from roadbits.fleet.backend import BackendError, LocalBackend
from roadbits.fleet.ray_environment import prepare_ray

VARIABLES = (
    *("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"),
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Ray's variables away, and whether Ray was imported, for as long as a test lasts."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.delitem(sys.modules, "ray")


def test_a_ray_of_our_own_asks_for_a_token_that_was_made_up_for_it() -> None:
    prepare_ray(start_own=True)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(bytes.fromhex(token)) == 32
    del os.environ["RAY_AUTH_TOKEN"]
    prepare_ray(start_own=True)
    assert os.environ["RAY_AUTH_TOKEN"] != token


@pytest.mark.parametrize("start_own", [True, False])
def test_usage_statistics_are_off(start_own: bool) -> None:
    prepare_ray(start_own)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_joining_a_cluster_leaves_the_authentication_to_it() -> None:
    prepare_ray(start_own=False)
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(os.environ)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    prepare_ray(start_own=True)
    assert (os.environ["RAY_AUTH_TOKEN"], os.environ["RAY_USAGE_STATS_ENABLED"]) == ("mine", "1")


def test_a_token_in_a_file_stays_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/some/file")
    prepare_ray(start_own=True)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_ray_without_a_token_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare_ray(start_own=True)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_ray_that_was_imported_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(RuntimeError, match="ray was imported before prepare_ray"):
        prepare_ray(start_own=True)
    prepare_ray(start_own=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    prepare_ray(start_own=True)


def test_preparing_imports_no_ray() -> None:
    program = "import sys, roadbits.fleet.cli as cli; cli.prepare_ray(True); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/tmp")
    assert done.stdout == "False\n"


def test_without_loopback_the_default_is_to_run_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "loopback_works", lambda: False)
    assert isinstance(cli._backend(None, None, None), LocalBackend)
    with pytest.raises(BackendError, match="loopback"):
        cli._backend("ray", None, None)
