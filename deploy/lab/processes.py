"""Processes of a lab: started in a host's namespaces, found, signalled and waited for.

A process belongs to a host when it is in the host's network namespace (engine, containerd, shims, daemon) or in
the host's cgroup (containers). Both are the kernel's word, so a recycled pid in a stale file is never signalled.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import LabError
from .names import REPOSITORY, Host, Lab

POLL_S = 0.02
TAIL_LINES = 15


def run(*argv: str, stdin: str | None = None) -> str:
    """Run a command to its end and return its output; its complaint becomes the error."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as exc:
        raise LabError(f"the program {argv[0]!r} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise LabError(f"not finished within 60 s: {' '.join(argv)}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(argv)}: {said}")
    return done.stdout


def venv_bin() -> Path:
    return REPOSITORY / ".venv" / "bin"


def clean_environment() -> dict[str, str]:
    """The caller's environment with the project's programs first on PATH, and no engine chosen."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    path = env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    env["PATH"] = f"{venv_bin()}:{path}:/usr/local/sbin:/usr/sbin:/sbin"
    return env


def enter(host: Host) -> list[str]:
    """The command that continues in a host's namespaces (not `ip netns exec`, which hides the cgroup mounts)."""
    return ["nsenter", f"--net={host.netns}", f"--uts={host.uts}", "--"]


def spawn(host: Host, program: str, argv: list[str]) -> subprocess.Popen[bytes]:
    """Start a process on a host that outlives the lab tool.

    It records its pid itself before it becomes the program, so that a lab tool killed right now loses no process.
    """
    record = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(host.pid_file(program))]
    with open(host.log(program), "ab") as output:
        return subprocess.Popen(
            [*enter(host), *record, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=clean_environment(),
            start_new_session=True,
        )


def tail(log: Path) -> str:
    """The end of a log, for an error."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([f"--- {log}", *lines[-TAIL_LINES:]])


def wait_until(ready: Callable[[], bool], limit_s: float) -> bool:
    """Poll ``ready`` until it is true; False after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _inode(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def in_host(pid: int, host: Host) -> bool:
    """Whether a live process is in the host's network namespace (a zombie is in none)."""
    there = _inode(host.netns)
    return there is not None and _inode(f"/proc/{pid}/ns/net") == there


def recorded_pid(host: Host, program: str) -> int | None:
    """The pid in a pid file, if that process lives and is the host's."""
    try:
        pid = int(host.pid_file(program).read_text())
    except (OSError, ValueError):
        return None
    return pid if in_host(pid, host) else None


def ensure_running(
    host: Host, program: str, argv: Callable[[], list[str]], ready: Callable[[], bool], limit_s: float
) -> bool:
    """Have a program run on a host, and wait until it is ready; True if it was started.

    One that runs already is waited for: another beside it would only be in its way. The end of its log explains a
    failure.
    """
    log = host.log(program)
    if pid := recorded_pid(host, program):
        if not wait_until(lambda: ready() or not in_host(pid, host), limit_s):
            raise LabError(
                f"{host.name}: {program} runs (pid {pid}) but has not answered for {limit_s:g} s", tail(log)
            )
        if in_host(pid, host):
            return False
    process = spawn(host, program, argv())
    if not wait_until(lambda: process.poll() is not None or ready(), limit_s):
        raise LabError(f"{host.name}: {program} is not ready after {limit_s:g} s", tail(log))
    if process.poll() is not None:
        raise LabError(f"{host.name}: {program} ended with exit code {process.returncode}", tail(log))
    return True


def _ancestry() -> set[int]:
    """This process and those that started it, which no clean-up may end."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        try:
            # The name in parentheses may hold anything; the parent is the second field after it.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return line


def lab_processes(lab: Lab, namespaces: Sequence[Path]) -> list[int]:
    """Every live process in one of the lab's network namespaces or cgroups, except this one's own line."""
    inodes = {inode for path in namespaces if (inode := _inode(path)) is not None}
    spared = _ancestry()
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        if (
            _inode(f"/proc/{entry}/ns/net") in inodes
            or _in_lab_cgroup(entry, lab)
            or _is_entering(entry, namespaces)
        ):
            found.append(int(entry))
    return found


def _is_entering(pid: str, namespaces: Sequence[Path]) -> bool:
    """Whether this is an nsenter about to enter one of the namespaces, as after an `up` that was just killed."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 2)
    except OSError:
        return False
    return argv[0] == b"nsenter" and any(argv[1] == b"--net=" + os.fsencode(path) for path in namespaces)


def _in_lab_cgroup(pid: str, lab: Lab) -> bool:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if not any(lab.owned.fullmatch(line.split(":", 2)[2].split("/")[1]) for line in lines):
            return False
        # Zombies keep their cgroup; they need no signal and end with their parent's wait.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone by now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
