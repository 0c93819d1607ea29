"""What is done to the managers while the clients write. Every fault is taken back by leaving its context."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.env import wait_until
from support.lab import Lab, LabFailure

#: Large enough for the store of a run, small enough to be filled at once.
DISK_BYTES = 192 * 1024 * 1024
_DROP = (
    "add table inet chaos; add chain inet chaos in {{ type filter hook input priority -300; }}; "
    "add rule inet chaos in ip saddr {addr} drop"
)
#: While these last nobody can lead; what counts is the time after them.
WITHOUT_QUORUM = frozenset({"kill -9 of two"})


class Faults:
    """The faults of one lab whose hosts are all managers. ``leader`` says who leads, empty when nobody does."""

    def __init__(self, lab: Lab, hosts: list[str], leader: Callable[[], str], choose: random.Random) -> None:
        self._lab = lab
        self._hosts = hosts
        self._leader = leader
        self._choose = choose
        self._disks: dict[str, Path] = {}
        self.kinds: dict[str, Callable[[], Iterator[str]]] = {
            "kill -9 of the leader": self._kill_leader,
            "kill -9 of a follower": self._kill_follower,
            "kill -9 of a whole daemon": self._kill_daemon,
            "leader cut off": self._cut_leader,
            "follower cut off": self._cut_follower,
            "one direction cut": self._one_direction,
            "leader frozen": self._freeze_leader,
            "disk full": self._fill_disk,
            "kill -9 of two": self._kill_two,
        }

    @contextmanager
    def small_disk(self, host: str) -> Iterator[None]:
        """Give a host a disk of its own for its manager's data, before it joins."""
        path = self._lab.datadir / host / "pyswarm" / "manager"
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(path)], check=True)
        self._disks[host] = path
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)
            del self._disks[host]

    def _led_by(self) -> str:
        return wait_until(self._leader, 30, "somebody leads")

    def _a_follower(self) -> str:
        leader = self._led_by()
        return self._choose.choice([h for h in self._hosts if h != leader])

    def _hold(self, low_s: float = 1.5, high_s: float = 5.0) -> None:
        time.sleep(self._choose.uniform(low_s, high_s))

    def _kill(self, host: str) -> Iterator[str]:
        # Its daemon starts it again at once.
        self._lab.kill(host, "manager", "KILL")
        yield host
        self._hold(0.5, 2)

    def _kill_leader(self) -> Iterator[str]:
        yield from self._kill(self._led_by())

    def _kill_follower(self) -> Iterator[str]:
        yield from self._kill(self._a_follower())

    def _kill_daemon(self) -> Iterator[str]:
        host = self._choose.choice(self._hosts)
        self._lab.kill(host, "daemon", "KILL")
        try:
            yield host
            self._hold()
        finally:
            self._lab.start(host, "daemon")

    def _kill_two(self) -> Iterator[str]:
        hosts = self._choose.sample(self._hosts, 2)
        for host in hosts:
            self._lab.kill(host, "daemon", "KILL")
        try:
            yield " and ".join(hosts)
            self._hold()
        finally:
            for host in hosts:
                self._lab.start(host, "daemon")

    def _cut(self, host: str) -> Iterator[str]:
        self._lab.cut(host)
        try:
            yield host
            self._hold(2, 6)
        finally:
            self._lab.heal(host)

    def _cut_leader(self) -> Iterator[str]:
        yield from self._cut(self._led_by())

    def _cut_follower(self) -> Iterator[str]:
        yield from self._cut(self._a_follower())

    def _one_direction(self) -> Iterator[str]:
        deaf, unheard = self._choose.sample(self._hosts, 2)
        self._lab.sh(deaf, "nft", _DROP.format(addr=self._lab.ip(unheard)))
        try:
            yield f"{deaf} does not hear {unheard}"
            self._hold(2, 6)
        finally:
            self._lab.sh(deaf, "nft", "delete table inet chaos")

    def _freeze_leader(self) -> Iterator[str]:
        host = self._led_by()
        self._lab.kill(host, "manager", "STOP")
        try:
            yield host
            self._hold(1, 4)
        finally:
            with suppress(LabFailure):
                self._lab.kill(host, "manager", "CONT")

    def _fill_disk(self) -> Iterator[str]:
        host, path = self._choose.choice(list(self._disks.items()))
        filling = path / "filling"
        try:
            with filling.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"\0" * 65536):
                    pass
            yield host
            self._hold(2, 5)
        finally:
            filling.unlink()
