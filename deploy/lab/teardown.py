"""Remove a lab: by what is recorded and by its names, so that an interrupted `up` or `down` is cleaned up too."""

import ctypes
import os
import re
import shutil
import signal
from pathlib import Path

from . import network, state
from .errors import LabError
from .names import Host, Lab
from .processes import lab_processes, recorded_pid, send, wait_until

TERM_LIMIT_S = 5.0
KILL_LIMIT_S = 10.0
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def down(lab: Lab) -> None:
    """Stop everything of the lab and leave nothing of it. Called with the lab locked."""
    owned = state.owns_folder(lab)  # a foreign folder is refused before anything is stopped
    _stop(lab, "pyswarmd", signal.SIGTERM, TERM_LIMIT_S)
    # Before the shims: a containerd that sees its shims end forgets where their sockets were.
    _stop(lab, "containerd", signal.SIGKILL, KILL_LIMIT_S)
    _kill_processes(lab)
    shims = _shim_sockets(lab)
    _unmount(lab)
    network.remove_namespaces(lab)
    _remove_cgroups(lab)
    for socket in shims:
        socket.unlink(missing_ok=True)
    if owned:
        # The marker goes last, so that an interrupted removal is still known as the lab's.
        for entry in lab.datadir.iterdir():
            if entry != lab.marker:
                _remove(entry)
        lab.marker.unlink(missing_ok=True)
        lab.datadir.rmdir()
    state.release(lab)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _stop(lab: Lab, program: str, number: signal.Signals, limit_s: float) -> None:
    """Signal a program on all hosts, and wait; one stopped by SIGSTOP is continued, so that it can end."""
    hosts = _possible_hosts(lab)
    for pid in [pid for host in hosts if (pid := recorded_pid(host, program))]:
        send(pid, number)
        send(pid, signal.SIGCONT)
    wait_until(lambda: not any(recorded_pid(host, program) for host in hosts), limit_s)


def _possible_hosts(lab: Lab) -> list[Host]:
    """The hosts that have a namespace, whatever is recorded."""
    numbers = {int(path.name.rpartition("-h")[2]) for path in network.namespaces(lab) if path != lab.switch_netns}
    return [lab.host(number) for number in sorted(numbers)]


def _kill_processes(lab: Lab) -> None:
    """Containers, shims, engines: again until none is left, since they start processes while being ended."""
    namespaces = network.namespaces(lab)

    def none_left() -> bool:
        pids = lab_processes(lab, namespaces)
        for pid in pids:
            send(pid, signal.SIGKILL)
        return not pids

    if not wait_until(none_left, KILL_LIMIT_S):
        pids = " ".join(str(pid) for pid in lab_processes(lab, namespaces))
        raise LabError(f"processes of the lab do not end: {pids}")


def _shim_sockets(lab: Lab) -> list[Path]:
    """Shims put their sockets below /run/containerd, whatever containerd's folders are; each names its own."""
    found: list[Path] = []
    for address in lab.datadir.glob("h*/containerd/state/io.containerd.runtime.v2.task/*/*/address"):
        try:
            path = address.read_text().strip().removeprefix("unix://")
        except OSError:
            continue
        if re.fullmatch(r"/run/containerd/s/[0-9a-f]{64}", path):
            found.append(Path(path))
    return found


def _mount_points(below: Path) -> list[str]:
    """Mount points below a folder, the latest first."""
    points: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4])
        if point.startswith(f"{below}/"):
            points.append(point)
    return points[::-1]


def _unmount(lab: Lab) -> None:
    for point in _mount_points(Path(os.path.realpath(lab.datadir))):
        if _libc.umount2(os.fsencode(point), 0) != 0:
            _libc.umount2(os.fsencode(point), _MNT_DETACH)
    left = _mount_points(Path(os.path.realpath(lab.datadir)))
    if left:
        raise LabError(f"cannot unmount {left[0]}")


def _cgroup_roots() -> list[Path]:
    """Where cgroup hierarchies are mounted: one for v2, one per controller for v1, both on a hybrid machine."""
    roots: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[fields.index("-") + 1] in ("cgroup", "cgroup2"):
            roots.append(Path(fields[4]))
    return roots


def cgroups(lab: Lab) -> list[Path]:
    """The lab's cgroups in every hierarchy."""
    return [
        entry
        for root in _cgroup_roots()
        if root.is_dir()
        for entry in root.iterdir()
        if lab.owned.fullmatch(entry.name) and entry.is_dir()
    ]


def _remove_cgroups(lab: Lab) -> None:
    """A cgroup can be removed once the kernel has let go of its last process, which takes a moment."""

    def all_removed() -> bool:
        for top in cgroups(lab):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    break
        return not cgroups(lab)

    if not wait_until(all_removed, KILL_LIMIT_S):
        raise LabError(f"cannot remove the cgroup {cgroups(lab)[0]}")
