"""Asks the host's own name servers what the cluster does not know."""

import asyncio
import ipaddress
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from pyswarm.overlay.dns import messages
from pyswarm.overlay.dns.messages import Question

Server = tuple[str, int]

TRY_S = 1.5
MAX_SERVERS = 3
PORT = 53
_TRY_NEXT = (messages.SERVFAIL, messages.NOTIMP, messages.REFUSED)


class ResolvConf:
    """The name servers of a ``resolv.conf``, read again when the file changes; never ``own_addr``."""

    def __init__(self, path: str, own_addr: str) -> None:
        self._path = path
        self._own_addr = own_addr
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[Server, ...] = ()

    def __call__(self) -> Sequence[Server]:
        """The servers to ask, in order; none when the file is not there."""
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._servers = self._parse(Path(self._path).read_text(errors="replace"))
                self._seen = seen
        except OSError:
            self._servers, self._seen = (), None
        return self._servers

    def _parse(self, text: str) -> tuple[Server, ...]:
        servers: list[Server] = []
        for line in text.splitlines():
            words = line.split()
            if len(words) < 2 or words[0] != "nameserver" or words[1] == self._own_addr:
                continue
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            servers.append((words[1], PORT))
        return tuple(servers[:MAX_SERVERS])


class Upstream:
    """One server after the other, each for a moment."""

    def __init__(self, servers: Callable[[], Sequence[Server]], *, try_s: float = TRY_S) -> None:
        self._servers = servers
        self.try_s = try_s

    async def ask(self, question: Question, *, tcp: bool) -> bytes | None:
        """The first usable answer, else the last one that was none; None when nobody answers."""
        last = None
        for server in self._servers():
            query_id = secrets.token_bytes(2)
            query = query_id + question.packet[2:]
            try:
                async with asyncio.timeout(self.try_s):
                    ask = _ask_tcp if tcp else _ask_udp
                    packet = await ask(server, query, question)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
            last = question.packet[:2] + packet[2:]
            if messages.rcode_of(packet) not in _TRY_NEXT:
                break
        return last


class _Exchange(asyncio.DatagramProtocol):
    def __init__(self, query_id: bytes, question: Question) -> None:
        self._query_id = query_id
        self._question = question
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and messages.answers(data, self._query_id, self._question):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(OSError(str(exc)))


async def _ask_udp(server: Server, query: bytes, question: Question) -> bytes:
    # A socket for each query: its random port is what makes forged answers hard.
    transport, exchange = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Exchange(query[:2], question), remote_addr=server
    )
    try:
        transport.sendto(query)
        return await exchange.answer
    finally:
        transport.close()


async def _ask_tcp(server: Server, query: bytes, question: Question) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        packet = await reader.readexactly(size)
    finally:
        writer.close()
    if not messages.answers(packet, query[:2], question):
        raise OSError("the server answered something else")
    return packet
