"""A real Docker Engine for tests: a lab of one host without pyswarmd; nothing of the machine is touched."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.env import require_binary, require_root
from support.lab import Lab

IMAGE = "busybox:latest"


class Dockerd:
    """The engine and its host."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.socket = lab.engine("h1")
        self.url = f"unix://{self.socket}"
        self.netns = lab.netns("h1")
        #: The cgroup under which the kernel has its containers; the lab names it like the namespace.
        self.cgroup = self.netns

    def docker(self, *argv: str, check: bool = True) -> str:
        """Run the docker CLI against it; returns what it printed."""
        return self._lab.docker("h1", *argv, check=check).stdout.strip()

    def sh(self, *argv: str) -> str:
        """Run a command on its host."""
        return self._lab.sh("h1", *argv).stdout.strip()

    def kill(self) -> None:
        """kill -9; containers go on."""
        self._lab.kill("h1", "engine")

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        self._lab.start("h1", "engine")

    def clean(self) -> None:
        """Remove every container and every network made on it."""
        if containers := self.docker("ps", "-aq").split():
            self.docker("rm", "-f", *containers)
        for name in self.docker("network", "ls", "-q", "--filter", "type=custom").split():
            self.docker("network", "rm", name)


@contextmanager
def real_engine() -> Iterator[Dockerd]:
    """An engine with the busybox image, for as long as the context lasts."""
    require_root()
    require_binary("dockerd", "docker", "containerd", "ip", "nsenter")
    with Lab(f"e{secrets.token_hex(2)}") as lab:
        lab.up(1, engines_only=True)
        yield Dockerd(lab)


def cgroup_value(cgroup_parent: str, container_id: str, v1_file: str, v2_file: str) -> str:
    """A limit as the kernel has it, in either version of cgroups."""
    root = Path("/sys/fs/cgroup")
    controller = v1_file.partition(".")[0]
    first = root / controller / cgroup_parent / container_id / v1_file
    return (first if first.exists() else root / cgroup_parent / container_id / v2_file).read_text().strip()
