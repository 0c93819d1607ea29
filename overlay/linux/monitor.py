"""Listens to the kernel's word of changes to links, FDBs, neighbours and the mesh's routes and rules, and says
when to look and repair.

The socket hears of every neighbour on the host, so a message is judged by its device first, then by whether it
contradicts what is wanted. Our own changes come back too; they agree, and cost nothing more.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping

from pyswarm.common.log import get_logger
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.linux.routing import (
    RTM_DELROUTE,
    RTM_DELRULE,
    RTMGRP_ROUTE,
    RTMGRP_RULE,
    is_our_route,
    is_our_rule,
)
from pyswarm.overlay.mesh.names import DEVICE
from pyswarm.overlay.objects import Entries, EntryEvent, is_overlay_bridge, is_vxlan_device
from pyswarm.overlay.plan import contradicts

log = get_logger("overlay")

_RECEIVE_BUFFER_BYTES = 8 << 20
_SO_RCVBUFFORCE = 33  # beyond the host's limit for ordinary sockets
_READS_AT_ONCE = 64


def _enlarge(sock: socket.socket) -> None:
    """Room for what a pass over thousands of entries makes the kernel say; less only costs one more look."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


class Watched:
    """What is in place on which device, by index, as of the last reconcile."""

    def __init__(self) -> None:
        self.ports: dict[int, Entries] = {}
        self.bridges: dict[int, Entries] = {}
        self.all_bridges: frozenset[int] = frozenset()


class Monitor:
    """Calls ``on_change`` when the kernel departs from what is wanted. Lives on the event loop."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._watched = Watched()
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Subscribe in the network namespace of this process."""
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            sock.bind((0, wire.RTMGRP_LINK | wire.RTMGRP_NEIGH | RTMGRP_ROUTE | RTMGRP_RULE))
            _enlarge(sock)
        except OSError as exc:
            raise OverlayError(f"cannot watch this host's network devices: {exc.strerror}") from exc
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)

    def stop(self) -> None:
        """Listen no more."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket = None

    def watch(self, watched: Watched) -> None:
        """From now on compare with this."""
        self._watched = watched

    def _readable(self) -> None:
        if self._socket is None:
            return
        changed = False
        for _ in range(_READS_AT_ONCE):  # the rest at the next turn of the loop, which has other work too
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    log.warning("lost sight of this host's network devices", reason=str(exc))
                # Messages were lost: whatever they said, a look at everything shows it.
                changed = True
                break
            changed = changed or any(
                self._matters(data, kind, start, end) for kind, _, _, start, end in wire.messages(data)
            )
        if changed:
            self._on_change()

    def _matters(self, data: bytes, kind: int, start: int, end: int) -> bool:
        if kind in (wire.RTM_NEWNEIGH, wire.RTM_DELNEIGH):
            return self._entry_matters(data, kind == wire.RTM_NEWNEIGH, start, end)
        if kind == RTM_DELRULE:
            return is_our_rule(data[start:end])
        if kind == RTM_DELROUTE:
            return is_our_route(data[start:end])
        if kind not in (wire.RTM_NEWLINK, wire.RTM_DELLINK):
            return False
        _, index, name, link_kind = wire.link(data, start, end)
        if is_vxlan_device(name) or is_overlay_bridge(name) or name == DEVICE:
            return True
        # A bridge just made by the engine: it may have turned iptables on for all bridges.
        return kind == wire.RTM_NEWLINK and link_kind == "bridge" and index not in self._watched.all_bridges

    def _entry_matters(self, data: bytes, present: bool, start: int, end: int) -> bool:
        family, index, state, flags, attrs = wire.neighbour(data, start, end)
        lladdr = wire.mac_text(attrs.get(wire.NDA_LLADDR, b""))
        dst = wire.addr_text(attrs[wire.NDA_DST]) if wire.NDA_DST in attrs else ""
        if family == wire.AF_BRIDGE:
            entries = self._watched.ports.get(index)
            if entries is None or wire.NDA_VLAN in attrs:
                return False
            if flags & wire.NTF_SELF:
                return contradicts(EntryEvent("self", present, lladdr, dst), entries.fdb)
            if state & wire.NUD_PERMANENT:
                return False  # the port's own MAC
            return contradicts(EntryEvent("master", present, lladdr, ""), entries.fdb)
        if family != socket.AF_INET or (entries := self._watched.bridges.get(index)) is None:
            return False
        return self._neighbour_matters(entries.neighbours, present, bool(state & wire.NUD_PERMANENT), dst, lladdr)

    @staticmethod
    def _neighbour_matters(want: Mapping[str, str], present: bool, permanent: bool, addr: str, mac: str) -> bool:
        # The host's own, learned neighbours of local containers come and go. One that is no longer permanent, or
        # goes without saying what it was, matters if it should be there.
        if present and permanent:
            return contradicts(EntryEvent("neighbour", True, addr, mac), want)
        return addr in want
