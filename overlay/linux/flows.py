"""The door to the kernel's memory of flows (conntrack), in the network namespace of the calling thread.

Packed by hand like `wire`, as a busy container has tens of thousands of flows. Looking for some of them costs the
kernel some 10 ms however few there are, as all namespaces share one table; so a counter of nftables can be asked
first whether there were any.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.objects import Flow

_NETLINK_NETFILTER = 12
_NEW, _GET, _DELETE, _GET_STATS = 0x100, 0x101, 0x102, 0x105  # of subsystem 1, ctnetlink
_NFGENMSG = struct.Struct("=BBH")
_U32, _BE32, _BE64 = struct.Struct("=I"), struct.Struct("!I"), struct.Struct("!Q")
_NESTED = 0x8000
_ORIG, _REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST = 1, 2
_PROTO_NUM = 1
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_IP_SRC, _BY_PROTO_NUM = 1 << 0, 1 << 3
_STATS_ENTRIES = 1
_GET_OBJ = 0xA13  # of subsystem 10, nftables
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_COUNTER, _COUNTER_PACKETS = 1, 2
_SEEN_REPLY = 1 << 1
_PATIENCE_S = 10.0


class Flows:
    """A blocking nfnetlink socket, for one thread. Raises OverlayError where the kernel has none."""

    def __init__(self) -> None:
        self._seq = 0
        with _refusals():
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        self._socket.settimeout(_PATIENCE_S)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def __enter__(self) -> "Flows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def count(self) -> int:
        """How many flows the namespace has, of any kind; looks for none of them. Raises OverlayError."""
        with _refusals():
            attrs = self._ask(_GET_STATS, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
            return int(_BE32.unpack(attrs[_STATS_ENTRIES])[0])

    def counter(self, table: str, name: str) -> int:
        """How many packets a counter of an ``ip`` table has counted; libnftables would read the whole table first.
        Raises OverlayError, also when there is none."""
        body = _NFGENMSG.pack(socket.AF_INET, 0, 0)
        body += wire.attr(_OBJ_TABLE, table.encode() + b"\0") + wire.attr(_OBJ_NAME, name.encode() + b"\0")
        body += wire.attr(_OBJ_TYPE, _BE32.pack(_COUNTER))
        with _refusals():
            data = self._ask(_GET_OBJ, body)[_OBJ_DATA]
            return int(_BE64.unpack(wire.parse_attrs(data, 0, len(data))[_COUNTER_PACKETS])[0])

    def _ask(self, kind: int, body: bytes) -> wire.Attrs:
        """The attributes of the one answer to a question."""
        self._seq += 1
        self._socket.send(wire.question(kind, self._seq, body))
        attrs: wire.Attrs = {}
        while True:
            data = self._socket.recv(1 << 16)
            for answer, _, seq, start, end in wire.messages(data):
                if seq == self._seq and answer == wire.NLMSG_ERROR:
                    wire.check(data, start, end)
                    return attrs
                if seq == self._seq:
                    attrs = wire.parse_attrs(data, start + _NFGENMSG.size, end)

    def forget(
        self, stale: Callable[[Flow], bool], *, protocol: int | None = None, led_to: str | None = None
    ) -> list[Flow]:
        """Forget every IPv4 flow that is ``stale``, so that its next packet is led anew; ``protocol``
        and ``led_to`` narrow the search. Returns those that were found and stay. Raises OverlayError."""
        with _refusals():
            staying: list[Flow] = []
            for flow in list(self._flows(protocol, led_to)):
                if stale(flow):
                    self._delete(flow)
                else:
                    staying.append(flow)
            return staying

    def _flows(self, protocol: int | None, led_to: str | None) -> Iterator[Flow]:
        body, flags = _NFGENMSG.pack(socket.AF_INET, 0, 0), b""
        if protocol is not None:
            wanted = wire.attr(_TUPLE_PROTO | _NESTED, wire.attr(_PROTO_NUM, bytes([protocol])))
            body += wire.attr(_ORIG | _NESTED, wanted)
            flags += wire.attr(_FILTER_ORIG_FLAGS, _U32.pack(_BY_PROTO_NUM))
        if led_to is not None:
            wanted = wire.attr(_TUPLE_IP | _NESTED, wire.attr(_IP_SRC, wire.addr_bytes(led_to)))
            body += wire.attr(_REPLY | _NESTED, wanted)
            flags += wire.attr(_FILTER_REPLY_FLAGS, _U32.pack(_BY_IP_SRC))
        if flags:
            body += wire.attr(_FILTER | _NESTED, flags)
        self._seq += 1
        self._socket.send(wire.question(_GET, self._seq, body, dump=True))
        while True:
            data = self._socket.recv(1 << 18)
            for kind, _, seq, start, end in wire.messages(data):
                if seq != self._seq:
                    continue
                if kind == _NEW:
                    flow = _flow(data, start, end)
                    # Kernels before 5.8 do not know the filter, and tell of all.
                    if flow is not None and protocol in (None, flow.protocol) and led_to in (None, flow.led_to):
                        yield flow
                elif kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
                    wire.check(data, start, end)
                    return

    def _delete(self, flow: Flow) -> None:
        self._seq += 1
        body = _NFGENMSG.pack(socket.AF_INET, 0, 0) + flow.key
        self._socket.send(wire.question(_DELETE, self._seq, body))
        while True:
            data = self._socket.recv(1 << 16)
            for kind, _, seq, start, end in wire.messages(data):
                if seq == self._seq and kind == wire.NLMSG_ERROR:
                    try:
                        wire.check(data, start, end)
                    except OSError as exc:
                        if exc.errno != errno.ENOENT:  # it may have ended by itself meanwhile
                            raise
                    return


def _flow(data: bytes, start: int, end: int) -> Flow | None:
    attrs = wire.parse_attrs(data, start + _NFGENMSG.size, end)
    orig, reply = attrs.get(_ORIG, b""), attrs.get(_REPLY, b"")
    sent, answer = wire.parse_attrs(orig, 0, len(orig)), wire.parse_attrs(reply, 0, len(reply))
    try:
        to = _addr(sent[_TUPLE_IP], _IP_DST)
        by = _addr(answer[_TUPLE_IP], _IP_SRC)
        protocol = wire.parse_attrs(sent[_TUPLE_PROTO], 0, len(sent[_TUPLE_PROTO]))[_PROTO_NUM][0]
        status = _BE32.unpack(attrs[_STATUS])[0]
    except KeyError:
        return None
    key = wire.attr(_ORIG | _NESTED, orig) + wire.attr(_ID, attrs[_ID])
    if _ZONE in attrs:
        key += wire.attr(_ZONE, attrs[_ZONE])
    return Flow(protocol, to, by, bool(status & _SEEN_REPLY), key)


def _addr(ip: bytes, which: int) -> str:
    return wire.addr_text(wire.parse_attrs(ip, 0, len(ip))[which])


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OverlayError(f"cannot read or change the flows of a network namespace: {exc}") from exc
    except (KeyError, struct.error) as exc:
        raise OverlayError(f"the kernel tells of flows in a way that is not understood: {exc!r}") from exc
