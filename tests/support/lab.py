"""The lab tool for tests and benchmarks: real hosts, driven through ``deploy/lab/lab``."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

LAB = Path(__file__).resolve().parents[2] / "deploy" / "lab" / "lab"
UP_LIMIT_S = 120.0
VERB_LIMIT_S = 60.0


class LabFailure(AssertionError):
    """A command that had to succeed did not; says what it printed."""


class Lab:
    """One lab, by its prefix. As a context manager it takes the lab down on leaving, whatever happened.

    >>> with Lab("e2e") as lab:
    ...     lab.up(3)
    ...     lab.sh("h1", "docker", "node", "ls")
    """

    def __init__(self, prefix: str) -> None:
        # So that the tests of two checkouts can run side by side on one machine.
        self.prefix = os.environ.get("PYSWARM_LAB_PREFIX", "") + prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def verb(
        self, *arguments: str, check: bool = True, timeout_s: float = VERB_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the lab tool; with ``check`` a failure is raised with what it printed."""
        return _run([str(LAB), "--name", self.prefix, *arguments], check=check, timeout_s=timeout_s)

    def up(self, hosts: int, *, engines_only: bool = False) -> None:
        """Make hosts h1..hN, or complete them, and wait until engines and daemons answer."""
        self.verb("up", str(hosts), *(["--engines-only"] if engines_only else []), timeout_s=UP_LIMIT_S)

    def down(self) -> None:
        """Remove everything of the lab."""
        self.verb("down")

    def sh(
        self, host: str, *argv: str, check: bool = True, timeout_s: float = VERB_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, with the clients' environment pointing at its API socket."""
        return self.verb("exec", host, "--", *argv, check=check, timeout_s=timeout_s)

    def popen(self, host: str, *argv: str) -> subprocess.Popen[str]:
        """Start a command on a host and return at once; its output is piped, and the caller ends it."""
        return subprocess.Popen(
            [str(LAB), "--name", self.prefix, "exec", host, "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def docker(
        self, host: str, *argv: str, check: bool = True, timeout_s: float = VERB_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker CLI against a host's own engine, not through the daemon."""
        return _run(["docker", "-H", f"unix://{self.engine(host)}", *argv], check=check, timeout_s=timeout_s)

    def ip(self, host: str) -> str:
        """A host's address."""
        return self._value("ip", host)

    def socket(self, host: str) -> str:
        """Path of a host's API socket."""
        return self._value("socket", host)

    def engine(self, host: str) -> str:
        """Path of a host's engine socket."""
        return self._value("engine", host)

    def netns(self, host: str) -> str:
        """Name of a host's network namespace (of the switch's for ``sw``), below /run/netns."""
        return self._value("netns", host)

    @property
    def datadir(self) -> Path:
        """The folder under which all hosts keep all data."""
        return Path(self._value("datadir"))

    def cut(self, host: str) -> None:
        """Pull a host's cable."""
        self.verb("cut", host)

    def heal(self, host: str) -> None:
        """Plug it in again."""
        self.verb("heal", host)

    def kill(self, host: str, what: str, signal: str = "KILL") -> None:
        """Signal a host's daemon, manager, engine or etcd; after KILL and TERM it has ended."""
        self.verb("kill", host, what, f"-{signal}")

    def start(self, host: str, what: str) -> None:
        """Start a host's daemon or engine, and wait until it answers."""
        self.verb("start", host, what)

    def _value(self, *arguments: str) -> str:
        return self.verb(*arguments).stdout.strip()


def _run(argv: list[str], *, check: bool, timeout_s: float) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode != 0:
        raise LabFailure(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done
