"""The lab's folder: made, marked as ours, locked, and asked how many hosts there are."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import LabError
from .names import MAX_HOSTS, Host, Lab


def claim(lab: Lab, hosts: int) -> None:
    """Make the lab's folder and record the number of hosts, before anything else of the lab is made."""
    _refuse_foreign(lab)
    lab.datadir.mkdir(mode=0o755, exist_ok=True)
    temporary = lab.marker.with_suffix(".new")
    temporary.write_text(json.dumps({"prefix": lab.prefix, "hosts": hosts}) + "\n")
    temporary.replace(lab.marker)


def _refuse_foreign(lab: Lab) -> None:
    """A folder with other people's files in it is neither used nor, later, removed."""
    if not lab.datadir.exists():
        return
    if lab.datadir.is_symlink() or lab.datadir.stat().st_uid != 0:
        raise LabError(f"{lab.datadir} is not a folder of root's: remove it, or choose another --name")
    ours = {lab.marker.name, lab.marker.with_suffix(".new").name}
    found = set(os.listdir(lab.datadir))
    if found and not found & ours:
        raise LabError(f"{lab.datadir} exists and was not made by the lab: choose another --name or root")


def owns_folder(lab: Lab) -> bool:
    """Whether the lab's folder exists and may be removed."""
    if not lab.datadir.exists():
        return False
    _refuse_foreign(lab)
    return True


def host_count(lab: Lab) -> int:
    """How many hosts were last asked for; 0 without a lab."""
    try:
        return int(json.loads(lab.marker.read_text())["hosts"])
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (ValueError, KeyError, TypeError) as exc:
        raise LabError(f"{lab.marker} is damaged: run 'down', then 'up'") from exc


def known_hosts(lab: Lab) -> list[Host]:
    return lab.hosts(host_count(lab))


def find_host(lab: Lab, name: str) -> Host:
    """The host called ``name``, which has to exist."""
    count = host_count(lab)
    if count == 0:
        raise LabError(f"there is no lab {lab.prefix!r}: make it with 'lab --name {lab.prefix} up N'")
    if name[:1] == "h" and name[1:].isdigit() and 1 <= int(name[1:]) <= min(count, MAX_HOSTS):
        return lab.host(int(name[1:]))
    hosts = "h1" if count == 1 else f"h1 to h{count}"
    raise LabError(f"no host {name!r}: lab {lab.prefix!r} has {hosts}")


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """One verb that changes the lab at a time; the lock's file goes with the lab."""
    if lab.root.exists() and lab.root.stat().st_uid != 0:
        raise LabError(f"{lab.root} is not root's: set PYSWARM_LAB_ROOT to a folder of root's")
    while True:
        lab.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            descriptor = os.open(lab.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # another lab's `down` removed the empty root in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                current = os.stat(lab.lock_file).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if not current:  # the holder before us removed the file: start over with the new one
                continue
            yield
            return
        finally:
            os.close(descriptor)


def release(lab: Lab) -> None:
    """Remove the lock's file and the root, if that was the last lab. Called with the lock held."""
    lab.lock_file.unlink(missing_ok=True)
    try:
        lab.root.rmdir()
    except OSError:
        return
