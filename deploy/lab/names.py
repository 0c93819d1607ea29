"""Every name, address and path of a lab, derived from its prefix.

Kernel names begin with ``<prefix>-``. A prefix has no dash in it, so no lab's names begin another's.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

DEFAULT_PREFIX = "lab"
MAX_HOSTS = 200
NETNS_DIR = Path("/run/netns")
REPOSITORY = Path(__file__).resolve().parents[2]
# The longest socket path the lab or a daemon makes below the lab's folder; the kernel's limit is 107 characters.
_LONGEST_SOCKET = "h200/containerd/containerd.sock.ttrpc"
_MAX_SOCKET_PATH = 107


@dataclass(frozen=True)
class Host:
    """One host of a lab."""

    lab: "Lab"
    number: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def kernel_name(self) -> str:
        """Namespace, switch port and cgroup parent of this host."""
        return f"{self.lab.prefix}-{self.name}"

    @property
    def address(self) -> str:
        return f"{self.lab.network}.{self.number}"

    @property
    def netns(self) -> Path:
        return NETNS_DIR / self.kernel_name

    @property
    def folder(self) -> Path:
        """Everything the host keeps, except the daemon's run folder."""
        return self.lab.datadir / self.name

    @property
    def uts(self) -> Path:
        """The host's UTS namespace, bind-mounted."""
        return self.folder / "uts"

    @property
    def engine_socket(self) -> Path:
        return self.folder / "engine.sock"

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd" / "containerd.sock"

    @property
    def data_dir(self) -> Path:
        """pyswarmd's --data-dir."""
        return self.folder / "pyswarm"

    @property
    def run_dir(self) -> Path:
        """pyswarmd's --run-dir."""
        return self.lab.datadir / "run" / self.name

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "docker.sock"

    def log(self, program: str) -> Path:
        return self.folder / f"{program}.log"

    def pid_file(self, program: str) -> Path:
        """Where a process's pid is recorded: by the lab for what it starts, by the daemon for its children."""
        if program in ("containerd", "dockerd", "pyswarmd"):
            return self.folder / f"{program}.pid"
        return self.run_dir / f"{program}.pid"


@dataclass(frozen=True)
class Lab:
    """A lab by its prefix; says where things are, not whether they exist."""

    prefix: str
    root: Path

    @property
    def datadir(self) -> Path:
        return self.root / self.prefix

    @property
    def marker(self) -> Path:
        """Shows that the folder is the lab's own, and records the number of hosts."""
        return self.datadir / "lab.json"

    @property
    def lock_file(self) -> Path:
        return self.root / f".{self.prefix}.lock"

    @property
    def network(self) -> str:
        """First three bytes of the lab's /24, by prefix, so that output of two labs is told apart by eye.

        Taken from 192.168.0.0/16: overlay networks come from 10.0.0.0/8 by default.
        """
        digest = hashlib.sha256(self.prefix.encode()).digest()
        return f"192.168.{digest[0] % 250 + 2}"

    @property
    def switch_name(self) -> str:
        return f"{self.prefix}-sw"

    @property
    def switch_netns(self) -> Path:
        return NETNS_DIR / self.switch_name

    @property
    def bridge(self) -> str:
        return f"{self.prefix}-br"

    @property
    def switch_address(self) -> str:
        """The switch's own address: a client outside the cluster."""
        return f"{self.network}.254"

    @property
    def owned(self) -> re.Pattern[str]:
        """Matches the kernel names of this lab, and of no other."""
        return re.compile(rf"{self.prefix}-(h[0-9]{{1,3}}|sw)")

    def host(self, number: int) -> Host:
        return Host(self, number)

    def hosts(self, count: int) -> list[Host]:
        return [Host(self, number) for number in range(1, count + 1)]


def lab_of(prefix: str) -> Lab:
    """The lab of ``prefix``, below $PYSWARM_LAB_ROOT."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", prefix):
        raise LabError(
            f"--name {prefix!r}: a lab's name has 1 to 8 characters of a-z and 0-9 and begins with a letter"
        )
    root = Path(os.environ.get("PYSWARM_LAB_ROOT") or "/var/tmp/pyswarm-lab")  # noqa: S108 - owner is checked
    if not root.is_absolute():
        raise LabError(f"PYSWARM_LAB_ROOT={root}: give an absolute path")
    lab = Lab(prefix, root)
    longest = len(str(lab.datadir / _LONGEST_SOCKET))
    if longest > _MAX_SOCKET_PATH:
        raise LabError(f"{lab.datadir}: {longest - _MAX_SOCKET_PATH} characters too long for the sockets in it")
    return lab
