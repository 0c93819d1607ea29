"""The ports on which this host itself listens: what a published port would take away from it.

Read from the kernel's lists of sockets, in the network namespace of this process. What the tasks of this node
publish in mode ``host`` is held by a process of the engine and is not the host's own; it is known by the tasks.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.overlay.api import RESOLVER_ADDR

log = get_logger("agent")

#: As a person who starts something and then publishes a port expects.
LOOK_S = 2.0
#: A UDP socket on a port from which clients send is a server if it stays.
LASTING_S = 30.0
#: As many as managers take; beyond, the highest are left out.
MAX_PORTS = 4096
_LISTEN, _UNCONNECTED = "0A", "07"
_PROC = Path("/proc/net")
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: As the kernel prints an address: the bytes of each four in reverse.
_RESOLVER = "".join(f"{int(part):02X}" for part in reversed(RESOLVER_ADDR.split(".")))


class BoundSocket(msgspec.Struct, frozen=True):
    """A socket that takes what is sent to its port. ``inode`` tells it from an earlier one."""

    protocol: str
    port: int
    inode: str


def bound_sockets(protocol: str, lines: Iterable[str]) -> Iterator[BoundSocket]:
    """Those in the lines of ``/proc/net/tcp`` or ``udp`` (or tcp6, udp6). Pure.

    In TCP's list the listening ones come first, so that a host's many connections are not read through.
    """
    wanted = _LISTEN if protocol == "tcp" else _UNCONNECTED
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or not fields[0].endswith(":"):
            continue  # the heading
        if fields[3] != wanted:
            if protocol == "tcp":
                return
            continue
        addr, _, port = fields[1].partition(":")
        # Names are answered on an address of the host's that no published port takes.
        if addr != _RESOLVER:
            yield BoundSocket(protocol, int(port, 16), fields[9])


class Lasting:
    """Which UDP sockets have been there for a while. Pure: the caller says what time it is."""

    def __init__(self) -> None:
        self._since_s: dict[BoundSocket, float] = {}

    def servers(self, sockets: Iterable[BoundSocket], client_ports: range, now_s: float) -> Iterator[BoundSocket]:
        """The sockets but for UDP clients: those on a port for clients that came within ``LASTING_S``."""
        seen: dict[BoundSocket, float] = {}
        for found in sockets:
            if found.protocol == "udp" and found.port in client_ports:
                seen[found] = self._since_s.get(found, now_s)
                if now_s - seen[found] < LASTING_S:
                    continue
            yield found
        self._since_s = seen


def reported(sockets: Iterable[BoundSocket], ours: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """As a node describes itself: ``tcp/22``, in the order of numbers, without those in ``ours``. Pure."""
    ports = {(found.port, found.protocol) for found in sockets} - {(port, protocol) for protocol, port in ours}
    return tuple(f"{protocol}/{port}" for port, protocol in sorted(ports)[:MAX_PORTS] if port)


def read_sockets() -> tuple[list[BoundSocket], range]:
    """All of this host, and the ports from which its clients send. Blocking."""
    found: list[BoundSocket] = []
    for protocol in ("tcp", "udp"):
        for name in (protocol, f"{protocol}6"):
            try:
                with open(_PROC / name, encoding="ascii") as lines:
                    found += bound_sockets(protocol, lines)
            except FileNotFoundError:
                continue  # a kernel without IPv6
    low, high = _PORT_RANGE.read_text().split()
    return found, range(int(low), int(high) + 1)


class ListeningPorts:
    """Looks again and again; ``on_change`` is called when ``ports`` has changed. ``ours`` are the ports, as
    (protocol, number), that tasks of this node have."""

    def __init__(
        self,
        clock: Clock,
        ours: Callable[[], Iterable[tuple[str, int]]],
        on_change: Callable[[], None],
        read: Callable[[], tuple[list[BoundSocket], range]] = read_sockets,
    ) -> None:
        self._clock = clock
        self._read = read
        self._ours = ours
        self._on_change = on_change
        self._lasting = Lasting()
        self._complained = False
        self.ports: tuple[str, ...] = ()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Once."""
        try:
            sockets, client_ports = await asyncio.to_thread(self._read)
        except (OSError, ValueError) as exc:
            if not self._complained:
                log.warning("cannot see on which ports this host listens", reason=str(exc))
            self._complained = True
            return
        servers = self._lasting.servers(sockets, client_ports, self._clock.monotonic())
        ports = reported(servers, self._ours())
        if ports != self.ports:
            self.ports = ports
            self._on_change()
