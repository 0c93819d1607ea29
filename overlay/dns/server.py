"""The resolver's sockets: UDP and TCP on one address. What arrives there never ends it."""

import asyncio
import struct
from collections import Counter

from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.dns import messages
from pyswarm.overlay.dns.messages import Question, Refusal
from pyswarm.overlay.dns.metrics import DnsMetrics
from pyswarm.overlay.dns.resolver import Resolver

log = get_logger("dns")

MAX_OPEN = 512
#: One container that asks without end must not use up what the others need.
MAX_OPEN_EACH = 64
MAX_CONNECTIONS = 128
MAX_CONNECTIONS_EACH = 16
IDLE_S = 5.0


class DnsServer:
    """Listens between ``start`` and ``stop``."""

    def __init__(self, resolver: Resolver, metrics: DnsMetrics, addr: str, port: int) -> None:
        self._resolver = resolver
        self._metrics = metrics
        self.addr = addr
        self.port = port
        self._tasks = TaskGroupOwner("dns")
        self._open: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; raises OSError when the address cannot be had. Port 0 takes any, the same for UDP and TCP."""
        self._tcp = await asyncio.start_server(self._connected, self.addr, self.port)
        self.port = self._tcp.sockets[0].getsockname()[1]
        try:
            self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self.addr, self.port)
            )
        except OSError:
            self._tcp.close()
            raise
        self._metrics.up.set(1)

    async def stop(self) -> None:
        """Listen no more; open questions stay unanswered."""
        self._metrics.up.set(0)
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        await self._tasks.stop()

    # --- UDP ---

    def datagram(self, transport: asyncio.DatagramTransport, packet: bytes, peer: tuple[str, int]) -> None:
        """Answer at once what can be; the rest in a task of its own."""
        question = self._read(packet, tcp=False)
        if isinstance(question, Refusal):
            self._send(transport, question.packet, peer)
            return
        reply = self._resolver.answer_now(question, peer[0])
        if reply is None and not self._room(peer[0]):
            reply = messages.failure(question)
        if reply is not None:
            self._send(transport, reply, peer)
        else:
            self._open[peer[0]] += 1
            self._tasks.spawn(self._answer_later(transport, question, peer), "query")

    async def _answer_later(
        self, transport: asyncio.DatagramTransport, question: Question, peer: tuple[str, int]
    ) -> None:
        try:
            self._send(transport, await self._resolver.answer(question, peer[0], tcp=False), peer)
        finally:
            _less(self._open, peer[0])

    def _send(self, transport: asyncio.DatagramTransport, reply: bytes | None, peer: tuple[str, int]) -> None:
        if reply is not None and not transport.is_closing():
            self._metrics.answers.labels(messages.rcode_name(reply)).inc()
            transport.sendto(reply, peer)

    # --- TCP ---

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]
        full = self._connections.total() >= MAX_CONNECTIONS or self._connections[source] >= MAX_CONNECTIONS_EACH
        if full:
            self._metrics.refused.inc()
            writer.close()
            return
        self._connections[source] += 1
        # The stream's own task is nobody's; ours ends with the server.
        self._tasks.spawn(self._converse(reader, writer, source), "connection")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str) -> None:
        """One question at a time, for as long as they keep coming."""
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    packet = await reader.readexactly(size)
                reply = await self._answer(packet, source)
                if reply is None:
                    return
                self._metrics.answers.labels(messages.rcode_name(reply)).inc()
                writer.write(struct.pack("!H", len(reply)) + reply)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return
        finally:
            _less(self._connections, source)
            writer.close()

    async def _answer(self, packet: bytes, source: str) -> bytes | None:
        question = self._read(packet, tcp=True)
        if isinstance(question, Refusal):
            return question.packet
        reply = self._resolver.answer_now(question, source)
        return reply if reply is not None else await self._resolver.answer(question, source, tcp=True)

    # --- both ---

    def _read(self, packet: bytes, *, tcp: bool) -> Question | Refusal:
        self._metrics.queries.labels("tcp" if tcp else "udp").inc()
        question = messages.read(packet, tcp=tcp)
        if isinstance(question, Refusal):
            self._metrics.malformed.inc()
        return question

    def _room(self, source: str) -> bool:
        if self._open.total() < MAX_OPEN and self._open[source] < MAX_OPEN_EACH:
            return True
        self._metrics.refused.inc()
        return False


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is None:
            return
        try:
            self._server.datagram(self._transport, data, addr)
        except Exception:
            log.exception("cannot answer a packet", size_bytes=len(data), source=addr[0])


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
