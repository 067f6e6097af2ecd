"""The environment that Ray must find when it is imported: it reads these variables once, at that moment.

Ray listens on all interfaces whatever address it is given, so a Ray that is started here asks for a token, made up for
it and handed to its processes through the environment. Joining a cluster leaves the authentication to that cluster's
own variables (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`). Usage statistics are off in both cases.

Not here: Ray itself (`actors`).
"""

import os
import secrets
import socket
import sys


def prepare_ray(start_own: bool) -> None:
    """Set Ray's environment before it is imported; what the user has set stays.

    Args:
        start_own: a Ray is to be started here, not joined.

    Raises:
        RuntimeError: if Ray was imported before, without asking for a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not start_own:
        return
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise RuntimeError("ray was imported before prepare_ray: it would listen without asking for a token")
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def loopback_works() -> bool:
    """Return whether processes on this machine can reach each other over 127.0.0.1, without which Ray cannot start."""
    with socket.socket() as listener, socket.socket() as caller:
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            caller.settimeout(2)
            caller.connect(listener.getsockname())
        except OSError:
            return False
    return True
