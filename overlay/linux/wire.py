"""Raw rtnetlink for what comes in thousands: FDB and neighbour entries, read in dumps and written in batches.

pyroute2 takes some 300 us for each entry, most of it building and decoding general messages. These messages have
one fixed header and at most four attributes, so they are packed and parsed here by hand, about a hundred times
faster. Links, of which there are few, go through pyroute2.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

from pyswarm.overlay.errors import OverlayError

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7
NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX = 1, 2, 5, 6, 7, 8
NTF_SELF, NTF_MASTER = 0x02, 0x04
NUD_REACHABLE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x40, 0x80
RTMGRP_LINK, RTMGRP_NEIGH = 0x1, 0x4
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_REPLACE, _NLM_F_CREATE = 0x01, 0x04, 0x300, 0x100, 0x400
_NLM_F_EXCL = 0x200
_NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_STRICT_CHK = 270, 10, 12

_HEADER = struct.Struct("=IHHII")
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_IFINFO = struct.Struct("=BxHiII")
_ATTR = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")

BATCH = 200
"""Messages in one send. Each is acknowledged, and the acknowledgements must fit into the socket's buffer."""

_DUMP_ATTEMPTS = 5
_PATIENCE_S = 10.0

Attrs = dict[int, bytes]


def parse_attrs(data: bytes, start: int, end: int) -> Attrs:
    """The attributes in ``data[start:end]``; of one that comes twice, the last."""
    attrs: Attrs = {}
    while start + 4 <= end:
        length, kind = _ATTR.unpack_from(data, start)
        if length < 4:
            break
        attrs[kind & 0x3FFF] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return attrs


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, sequence, start of body, end of body) of each message in one datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, seq, _ = _HEADER.unpack_from(data, at)
        if length < 16:
            return
        yield kind, flags, seq, at + 16, at + length
        at += (length + 3) & ~3


def neighbour(data: bytes, start: int, end: int) -> tuple[int, int, int, int, Attrs]:
    """(family, ifindex, state, flags, attributes) of a neighbour or FDB message."""
    family, index, state, flags, _ = _NDMSG.unpack_from(data, start)
    return family, index, state, flags, parse_attrs(data, start + 12, end)


def link(data: bytes, start: int, end: int) -> tuple[int, int, str, str]:
    """(family, ifindex, name, kind) of a link message."""
    family, _, index, _, _ = _IFINFO.unpack_from(data, start)
    attrs = parse_attrs(data, start + 16, end)
    info = attrs.get(IFLA_LINKINFO, b"")
    kind = parse_attrs(info, 0, len(info)).get(IFLA_INFO_KIND, b"")
    return family, index, _text(attrs.get(IFLA_IFNAME, b"")), _text(kind)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def mac_text(value: bytes) -> str:
    """``02:42:0a:00:00:01``."""
    return value.hex(":")


def addr_text(value: bytes) -> str:
    """An address of 4 or 16 bytes as text."""
    # Not inet_ntop and inet_pton: PySyncObj puts others in their place, which work on Windows only.
    return socket.inet_ntoa(value) if len(value) == 4 else str(ipaddress.IPv6Address(value))


def addr_bytes(addr: str) -> bytes:
    """The reverse of `addr_text`."""
    return ipaddress.IPv6Address(addr).packed if ":" in addr else socket.inet_aton(addr)


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTR.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def entry_message(
    *, put: bool, family: int, index: int, state: int, flags: int, dst: bytes = b"", lladdr: bytes = b""
) -> bytes:
    """A request to put (create or replace) or to remove an entry. The sequence number is filled in when sent."""
    body = _NDMSG.pack(family, index, state, flags, 0)
    if dst:
        body += attr(NDA_DST, dst)
    if lladdr:
        body += attr(NDA_LLADDR, lladdr)
    return request(RTM_NEWNEIGH if put else RTM_DELNEIGH, body, put=put)


def request(kind: int, body: bytes, *, put: bool, exclusive: bool = False) -> bytes:
    """A request to put something (in place of what there is, unless ``exclusive``) or to remove it, to be
    acknowledged. The sequence number is filled in when it is sent."""
    put_mode = _NLM_F_CREATE | (_NLM_F_EXCL if exclusive else _NLM_F_REPLACE)
    mode = _NLM_F_REQUEST | _NLM_F_ACK | (put_mode if put else 0)
    return _HEADER.pack(16 + len(body), kind, mode, 0, 0) + body


def question(kind: int, seq: int, body: bytes, *, dump: bool = False) -> bytes:
    """A message that asks for a dump, or else is acknowledged."""
    flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else _NLM_F_ACK)
    return _HEADER.pack(16 + len(body), kind, flags, seq, 0) + body


def check(data: bytes, start: int, end: int) -> None:
    """Raise the OSError that ends a dump or refuses a request, if it is one."""
    code = -_ERRNO.unpack_from(data, start)[0] if end - start >= 4 else 0
    if code:
        raise OSError(code, os.strerror(code))


class RouteSocket:
    """A blocking netlink socket (rtnetlink, unless told otherwise), for one thread."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._seq = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_PATIENCE_S)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            # Makes the kernel filter dumps by device instead of sending every entry of the host.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_STRICT_CHK, 1)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> "RouteSocket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fdb(self, index: int) -> list[tuple[int, int, Attrs]]:
        """(state, flags, attributes) of every FDB entry of a device: its own, and its bridge's for that port."""
        return self._entries(_NDMSG.pack(AF_BRIDGE, index, 0, 0, 0), index)

    def neighbours(self, index: int) -> list[tuple[int, int, Attrs]]:
        """(state, flags, attributes) of every IPv4 neighbour on a device."""
        body = _NDMSG.pack(socket.AF_INET, 0, 0, 0, 0) + attr(NDA_IFINDEX, struct.pack("=i", index))
        return self._entries(body, index)

    def _entries(self, body: bytes, index: int) -> list[tuple[int, int, Attrs]]:
        found = []
        for data in self.dump(RTM_GETNEIGH, RTM_NEWNEIGH, body):
            _, at, state, flags, attrs = neighbour(data, 0, len(data))
            if at == index:
                found.append((state, flags, attrs))
        return found

    def dump(self, request: int, reply: int, body: bytes) -> list[bytes]:
        """The bodies of all messages of kind ``reply`` that the kernel answers ``request`` with."""
        for _ in range(_DUMP_ATTEMPTS):
            found = self._dump_once(request, reply, body)
            if found is not None:
                return found
        raise OverlayError("the kernel's tables change faster than they can be read")

    def _dump_once(self, request: int, reply: int, body: bytes) -> list[bytes] | None:
        """One pass over the table, or None if it changed beneath the reader."""
        self._seq += 1
        self._socket.send(question(request, self._seq, body, dump=True))
        found: list[bytes] = []
        interrupted = False
        while True:
            data = self._socket.recv(1 << 18)
            for kind, msg_flags, seq, start, end in messages(data):
                if seq != self._seq:
                    continue
                interrupted |= bool(msg_flags & _NLM_F_DUMP_INTR)
                if kind == reply:
                    found.append(data[start:end])
                elif kind in (NLMSG_DONE, NLMSG_ERROR):
                    check(data, start, end)
                    return None if interrupted else found

    def send(self, requests: Sequence[bytes]) -> list[tuple[int, int]]:
        """Carry out the requests in order; (position, errno) of each that the kernel refused.

        A refused one does not keep the later ones from being carried out.
        """
        refused: list[tuple[int, int]] = []
        for first in range(0, len(requests), BATCH):
            refused += self._send_batch(first, requests[first : first + BATCH])
        return refused

    def _send_batch(self, first: int, batch: Sequence[bytes]) -> list[tuple[int, int]]:
        packet = bytearray()
        base = self._seq + 1
        for request in batch:
            self._seq += 1
            at = len(packet)
            packet += request
            struct.pack_into("=I", packet, at + 8, self._seq)
        self._socket.send(packet)
        refused: list[tuple[int, int]] = []
        missing = len(batch)
        while missing:
            data = self._socket.recv(1 << 18)
            for kind, _, seq, start, _ in messages(data):
                if kind == NLMSG_ERROR and base <= seq < base + len(batch):
                    missing -= 1
                    code = -_ERRNO.unpack_from(data, start)[0]
                    if code:
                        refused.append((first + seq - base, code))
        return refused


GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})
"""What the kernel answers when asked to remove what is not there."""
