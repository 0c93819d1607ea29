"""Listens to nftables' word of changes by others to what the mesh stands on, and says when to look and repair.

A firewall that is loaded anew, as ``nft flush ruleset`` at its beginning does, takes the mesh's table with it; an
engine that starts writes its chains anew. Changes of this process come back too and are passed over by its id.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable

from pyswarm.common.log import get_logger
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.linux.iptables import CHAIN, ENTRANCE
from pyswarm.overlay.mesh.names import GUARD_TABLE, NFT_TABLE

log = get_logger("overlay")

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES = 270, 1, 7
_SUBSYSTEM_NFTABLES = 10
# NFT_MSG_*: the last message of each transaction, with the process that made it.
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWGEN = 0, 2, 3, 5, 6, 8, 15
_TABLE, _CHAIN_OF_RULE, _CHAIN_NAME, _GEN_PID = 1, 2, 3, 2
_NFGENMSG_BYTES = 4
_BIG_U32 = struct.Struct(">I")
_READS_AT_ONCE = 64


class NftMonitor:
    """Calls ``on_change`` when another process changed the mesh's table or the engine's chain. Lives on the event
    loop."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._touched = False

    def start(self) -> None:
        """Subscribe in the network namespace of this process."""
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
            sock.bind((0, 0))
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except OSError as exc:
            raise OverlayError(f"cannot watch this host's nftables: {exc.strerror}") from exc
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)

    def stop(self) -> None:
        """Listen no more."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket = None

    def _readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(_READS_AT_ONCE):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    log.warning("lost sight of this host's nftables", reason=str(exc))
                # Messages were lost: whatever they said, a look at everything shows it.
                self._touched = False
                self._on_change()
                return
            if self._heard(data):
                self._on_change()

    def _heard(self, data: bytes) -> bool:
        """Whether a transaction of another process that matters to us is complete."""
        matters = False
        for kind, _, _, start, end in wire.messages(data):
            if kind >> 8 != _SUBSYSTEM_NFTABLES:
                continue
            attrs = wire.parse_attrs(data, start + _NFGENMSG_BYTES, end)
            if kind & 0xFF == _NEWGEN:
                pid = attrs.get(_GEN_PID, b"")
                own = len(pid) == 4 and _BIG_U32.unpack(pid)[0] == os.getpid()
                matters |= self._touched and not own
                self._touched = False
            else:
                self._touched |= _touches(kind & 0xFF, attrs)
        return matters


def _touches(kind: int, attrs: wire.Attrs) -> bool:
    if _text(attrs.get(_TABLE, b"")) in (NFT_TABLE, GUARD_TABLE):
        return True
    if kind in (_NEWRULE, _DELRULE):
        return _text(attrs.get(_CHAIN_OF_RULE, b"")) in (CHAIN, ENTRANCE)
    return kind in (_NEWCHAIN, _DELCHAIN) and _text(attrs.get(_CHAIN_NAME, b"")) == CHAIN


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
