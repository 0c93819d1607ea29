"""A host's pyswarmd."""

import os
import shlex
import shutil

from . import probe
from .errors import LabError
from .names import Host
from .processes import clean_environment, recorded_pid, spawn, wait_started

DAEMON_LIMIT_S = 30.0
# The daemon and its children, by the names of their pid files.
FAMILY = ("pyswarmd", "gateway", "manager", "etcd")


def _command() -> list[str]:
    """The program to run, which $PYSWARM_LAB_DAEMON replaces."""
    chosen = os.environ.get("PYSWARM_LAB_DAEMON")
    if chosen:
        return shlex.split(chosen)
    found = shutil.which("pyswarmd", path=clean_environment()["PATH"])
    if found is None:
        raise LabError("pyswarmd is not installed: run 'make setup', or 'up N --engines-only' without it")
    return [found]


def daemon_pid(host: Host) -> int | None:
    """The daemon's pid, from its own pid file or, before it wrote that, from the lab's."""
    return recorded_pid(host, "pyswarmd") or recorded_pid(host, "daemon")


def ensure_daemon(host: Host) -> bool:
    """Start the daemon unless it answers, and wait until it does; True if it was started."""
    if daemon_pid(host) and probe.pings(host.api_socket):
        return False
    host.run_dir.mkdir(parents=True, exist_ok=True)
    log = host.log("pyswarmd")
    argv = [
        *_command(),
        *("--data-dir", str(host.data_dir)),
        *("--run-dir", str(host.run_dir)),
        *("--engine", f"unix://{host.engine_socket}"),
    ]
    process = spawn(host, log, argv)
    host.pid_file("daemon").write_text(f"{process.pid}\n")
    wait_started(process, lambda: probe.pings(host.api_socket), DAEMON_LIMIT_S, f"{host.name}: pyswarmd", log)
    return True
