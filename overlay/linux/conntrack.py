"""The kernel's table of connections: which were led to tasks by this host, and ending its memory of some.

The kernel leads every packet of a connection where it led the first. What it forgets, it leads anew.
"""

import os
import socket
import struct
from collections.abc import Callable

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.mesh.names import ENTRY_MARK
from pyswarm.overlay.mesh.objects import Flow

_NETLINK_NETFILTER = 12
_GET, _NEW, _DELETE = (1 << 8) | 1, (1 << 8) | 0, (1 << 8) | 2  # subsystem 1: conntrack
_NFGENMSG = struct.Struct("=BBH")
_BIG_U32 = struct.Struct(">I")
_BIG_U16 = struct.Struct(">H")
# CTA_*: of an entry, of its tuples, and of their addresses and ports.
_TUPLE_ORIG, _TUPLE_REPLY, _MARK, _ID, _MARK_MASK = 1, 2, 8, 12, 21
_TUPLE_IP, _TUPLE_PROTO, _V4_SRC = 1, 2, 1
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_NESTED = 0x8000
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


def forget_flows(is_stale: Callable[[Flow], bool]) -> int:
    """Forget those connections that were led to tasks by this host and are ``is_stale``; how many. Raises
    OverlayError."""
    try:
        with wire.RouteSocket(_NETLINK_NETFILTER) as sock:
            # The kernel picks them out of perhaps hundreds of thousands.
            mark = _BIG_U32.pack(ENTRY_MARK)
            body = _NFGENMSG.pack(socket.AF_INET, 0, 0) + wire.attr(_MARK, mark) + wire.attr(_MARK_MASK, mark)
            stale = [
                entry for entry in sock.dump(_GET, _NEW, body) if (f := _flow(entry)) is not None and is_stale(f)
            ]
            refused = [code for _, code in sock.send([_deletion(e) for e in stale]) if code not in wire.GONE]
    except OSError as exc:
        raise OverlayError(f"the kernel's connections cannot be read: {exc}") from exc
    if refused:
        raise OverlayError(f"cannot end connections to tasks that are gone: {os.strerror(refused[0])}")
    return len(stale)


def _attrs(data: bytes) -> wire.Attrs:
    return wire.parse_attrs(data, 0, len(data))


def _flow(entry: bytes) -> Flow | None:
    """None for what is no connection of ours."""
    attrs = wire.parse_attrs(entry, _NFGENMSG.size, len(entry))
    mark = attrs.get(_MARK, b"")
    if len(mark) != 4 or not _BIG_U32.unpack(mark)[0] & ENTRY_MARK:
        return None
    original, reply = (_attrs(attrs.get(kind, b"")) for kind in (_TUPLE_ORIG, _TUPLE_REPLY))
    went, answers = (_attrs(each.get(_TUPLE_PROTO, b"")) for each in (original, reply))
    addr = _attrs(reply.get(_TUPLE_IP, b"")).get(_V4_SRC, b"")
    protocol = _PROTOCOLS.get(int.from_bytes(went.get(_PROTO_NUM, b""), "big"))
    came_to, answered_from = went.get(_PROTO_DST_PORT, b""), answers.get(_PROTO_SRC_PORT, b"")
    if protocol is None or len(addr) != 4 or len(came_to) != 2 or len(answered_from) != 2:
        return None
    return Flow(protocol, _BIG_U16.unpack(came_to)[0], wire.addr_text(addr), _BIG_U16.unpack(answered_from)[0])


def _deletion(entry: bytes) -> bytes:
    """By its own key, and its id: another one may have come in its place."""
    attrs = wire.parse_attrs(entry, _NFGENMSG.size, len(entry))
    body = _NFGENMSG.pack(socket.AF_INET, 0, 0)
    body += wire.attr(_TUPLE_ORIG | _NESTED, attrs[_TUPLE_ORIG])
    if _ID in attrs:
        body += wire.attr(_ID, attrs[_ID])
    return wire.request(_DELETE, body, put=False)
