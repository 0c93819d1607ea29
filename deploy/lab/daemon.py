"""A host's pyswarmd."""

import os
import shlex
import shutil

from . import probe
from .errors import LabError
from .names import Host
from .processes import clean_environment, ensure_running

DAEMON_LIMIT_S = 30.0
# The daemon's children, by the names of their pid files.
CHILDREN = ("gateway", "manager", "etcd")


def _command() -> list[str]:
    """The program to run, which $PYSWARM_LAB_DAEMON replaces."""
    chosen = os.environ.get("PYSWARM_LAB_DAEMON")
    if chosen:
        return shlex.split(chosen)
    found = shutil.which("pyswarmd", path=clean_environment()["PATH"])
    if found is None:
        raise LabError("pyswarmd is not installed: run 'make setup', or 'up N --engines-only' without it")
    return [found]


def ensure_daemon(host: Host) -> bool:
    """Start the daemon unless it runs, and wait until it answers; True if it was started."""

    def command() -> list[str]:
        return [
            *_command(),
            *("--data-dir", str(host.data_dir)),
            *("--run-dir", str(host.run_dir)),
            *("--engine", f"unix://{host.engine_socket}"),
        ]

    host.run_dir.mkdir(parents=True, exist_ok=True)
    return ensure_running(host, "pyswarmd", command, lambda: probe.pings(host.api_socket), DAEMON_LIMIT_S)
