"""The resolver on real sockets of the loopback device, with a name server of the host's beside it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from dnslib import RR, A, DNSRecord
from prometheus_client import CollectorRegistry

from pyswarm.common.clock import SystemClock
from pyswarm.overlay.api import Overlay
from pyswarm.overlay.dns.metrics import DnsMetrics
from pyswarm.overlay.dns.resolver import Resolver
from pyswarm.overlay.dns.server import MAX_OPEN_EACH, DnsServer
from pyswarm.overlay.dns.upstream import Server, Upstream
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, OverlayState, ServiceEntry, ServiceNetwork

ADDR = "127.53.53.53"
CLIENT = "127.0.7.1"
STRANGER = "127.0.7.2"


def state(count: int = 2, ready: bool = True) -> OverlayState:
    endpoints = {
        ("n1", f"t{i}"): EndpointEntry(
            f"t{i}", "n1", f"10.0.{i // 200}.{i % 200 + 2}", "", "node", "id", "web", i + 1, ready
        )
        for i in range(count)
    }
    return OverlayState(
        networks={"n1": NetworkEntry("n1", "app", 4097, "10.0.0.0/16", "10.0.0.1", 1450)}, endpoints=endpoints
    )


class HostServer(asyncio.DatagramProtocol):
    """A name server that knows one name, or says nothing."""

    def __init__(self) -> None:
        self.silent = False
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def reply(self, packet: bytes) -> bytes:
        record = DNSRecord.parse(packet)
        self.asked.append(str(record.q.qname))
        reply = record.reply()
        if str(record.q.qname) == "example.com.":
            reply.add_answer(RR("example.com", rdata=A("192.0.2.1")))
        else:
            reply.header.rcode = 3
        return bytes(reply.pack())

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self.reply(data)
        if not self.silent:
            forged = bytes([reply[0] ^ 255]) + reply[1:-1] + b"\x07"
            self.transport.sendto(forged, addr)  # type: ignore[attr-defined]
            self.transport.sendto(reply, addr)  # type: ignore[attr-defined]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        reply = self.reply(await reader.readexactly(size))
        writer.write(struct.pack("!H", len(reply)) + reply)
        writer.close()


class Bench:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.host = HostServer()
        self.servers: list[Server] = []
        metrics = DnsMetrics(self.registry)
        self.upstream = Upstream(lambda: self.servers, try_s=0.3)
        self.resolver = Resolver(self.upstream, metrics, own_addr=ADDR, hold_s=0.3)
        self.server = DnsServer(self.resolver, metrics, ADDR, 0)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"pyswarm_dns_{name}", labels) or 0.0

    async def until(self, name: str, value: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 5
        while self.metric(name) < value:
            assert loop.time() < deadline, f"{name} stays at {self.metric(name)}"
            await asyncio.sleep(0.01)

    async def raw(self, packet: bytes, source: str = CLIENT) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind((source, 0))
            sock.connect((ADDR, self.server.port))
            await loop.sock_sendall(sock, packet)
            async with asyncio.timeout(5):
                return await loop.sock_recv(sock, 65535)

    async def ask(self, name: str, qtype: str = "A", source: str = CLIENT) -> DNSRecord:
        record = DNSRecord.question(name, qtype)
        reply = DNSRecord.parse(await self.raw(record.pack(), source))
        assert reply.header.id == record.header.id
        return reply

    async def ask_tcp(self, *names: str, source: str = CLIENT) -> list[DNSRecord]:
        reader, writer = await asyncio.open_connection(ADDR, self.server.port, local_addr=(source, 0))
        replies = []
        async with asyncio.timeout(5):
            for name in names:
                packet = DNSRecord.question(name).pack()
                writer.write(struct.pack("!H", len(packet)) + packet)
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                replies.append(DNSRecord.parse(await reader.readexactly(size)))
        writer.close()
        return replies


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    loop = asyncio.get_running_loop()
    tcp = await asyncio.start_server(bench.host.connected, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    udp, _ = await loop.create_datagram_endpoint(lambda: bench.host, local_addr=("127.0.0.1", port))
    bench.servers = [("127.0.0.1", port)]
    bench.resolver.set_client("task", [CLIENT], ["n1"])
    bench.resolver.update(state())
    await bench.server.start()
    try:
        yield bench
    finally:
        await bench.server.stop()
        udp.close()
        tcp.close()


def addrs(reply: DNSRecord) -> list[str]:
    return [str(rr.rdata) for rr in reply.rr]


async def test_a_service_is_found_and_its_tasks_take_turns(bench: Bench) -> None:
    replies = [addrs(await bench.ask("WEB")) for _ in range(2)]
    assert sorted(replies[0]) == ["10.0.0.2", "10.0.0.3"]
    assert replies[1] == replies[0][::-1]
    assert addrs(await bench.ask("web.2")) == ["10.0.0.3"]
    empty = await bench.ask("web", "AAAA")
    assert (addrs(empty), empty.header.rcode) == ([], 0)
    assert bench.host.asked == []
    assert bench.metric("queries_total", transport="udp") == 4


async def test_news_change_the_next_answer(bench: Bench) -> None:
    bench.resolver.update(state(1))
    assert addrs(await bench.ask("web")) == ["10.0.0.2"]
    bench.resolver.update(state(1, ready=False))
    gone = await bench.ask("web")
    assert (addrs(gone), gone.header.rcode) == ([], 0)


async def test_other_names_are_asked_of_the_hosts_servers(bench: Bench) -> None:
    assert addrs(await bench.ask("example.com")) == ["192.0.2.1"]
    assert (await bench.ask("nothing.example.com")).header.rcode == 3
    assert addrs((await bench.ask_tcp("example.com"))[0]) == ["192.0.2.1"]
    assert bench.metric("forwarded_total") == 3


async def test_without_servers_the_failure_comes_at_once(bench: Bench) -> None:
    bench.servers = []
    assert (await bench.ask("example.com")).header.rcode == 2
    assert bench.metric("unanswered_total") == 1


async def test_a_silent_server_is_passed_over(bench: Bench) -> None:
    bench.servers.insert(0, ("127.0.0.1", 9))
    assert addrs(await bench.ask("example.com")) == ["192.0.2.1"]
    bench.host.silent = True
    assert (await bench.ask("example.com")).header.rcode == 2


async def test_who_is_not_known_yet_waits_and_who_stays_unknown_sees_nothing(bench: Bench) -> None:
    asking = asyncio.ensure_future(bench.ask("web", source=STRANGER))
    await bench.until("held_total", 1)
    bench.resolver.set_client("new", [STRANGER], ["n1"])
    assert len(addrs(await asking)) == 2
    bench.resolver.forget_client("new")
    assert (await bench.ask("web", source=STRANGER)).header.rcode == 3
    assert bench.host.asked == ["web."]


async def test_an_address_belongs_to_the_container_that_has_it_last(bench: Bench) -> None:
    bench.resolver.set_client("other", [CLIENT], ["n2"])
    bench.resolver.forget_client("task")
    assert (await bench.ask("web")).header.rcode == 3


async def test_what_does_not_fit_comes_over_tcp(bench: Bench) -> None:
    bench.resolver.update(state(300))
    short = await bench.ask("web")
    assert (short.header.tc, 0 < len(short.rr) < 300) == (1, True)
    one, other = await bench.ask_tcp("web", "tasks.web")
    assert (len(one.rr), one.header.tc, len(other.rr)) == (300, 0, 300)


async def test_before_the_first_news_no_name_of_ours_is_denied(bench: Bench) -> None:
    await bench.server.stop()
    fresh = Bench()
    fresh.servers = bench.servers
    await fresh.server.start()
    try:
        assert (await fresh.ask("web")).header.rcode == 2
        assert addrs(await fresh.ask("example.com")) == ["192.0.2.1"]
    finally:
        await fresh.server.stop()


async def test_one_asker_without_measure_leaves_room_for_others(bench: Bench) -> None:
    bench.host.silent = True
    bench.upstream.try_s = 60.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((CLIENT, 0))
        for _ in range(MAX_OPEN_EACH + 20):
            sock.sendto(DNSRecord.question("example.com").pack(), (ADDR, bench.server.port))
    await bench.until("refused_total", 20)
    assert len(addrs(await bench.ask("web"))) == 2
    bench.host.silent = False
    bench.resolver.set_client("second", [STRANGER], ["n1"])
    assert addrs(await bench.ask("example.com", source=STRANGER)) == ["192.0.2.1"]


async def test_noise_leaves_it_standing(bench: Bench) -> None:
    good = DNSRecord.question("web").pack()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((CLIENT, 0))
        for packet in (b"", b"x", good[:14], b"\0" * 600, good[:12] + b"\xc0\x0c" * 20, b"\xff" * 1400):
            sock.sendto(packet, (ADDR, bench.server.port))
    _, writer = await asyncio.open_connection(ADDR, bench.server.port)
    writer.write(b"\xff\xff" + b"x" * 100)
    writer.close()
    assert len(addrs(await bench.ask("web"))) == 2
    assert len(addrs((await bench.ask_tcp("web"))[0])) == 2


async def test_the_overlay_answers_names_while_it_runs(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind((ADDR, 0))
        port = probe.getsockname()[1]
    overlay = Overlay(
        node_id="node",
        underlay_addr="127.0.0.1",
        clock=SystemClock(),
        dns_addr=ADDR,
        dns_port=port,
        resolv_conf=str(tmp_path / "none"),
    )
    overlay.update(state())
    overlay.set_client("task", [CLIENT], ["n1"])
    bench = Bench()
    bench.server.port = port
    await overlay.start()
    try:
        assert len(addrs(await bench.ask("web"))) == 2
        overlay.forget_client("task")
    finally:
        await overlay.stop()


async def test_a_virtual_ip_is_told_once_it_leads_somewhere(bench: Bench) -> None:
    service = ServiceEntry("id", "web", networks=(ServiceNetwork("n1", "10.0.0.250"),))
    bench.resolver.update(msgspec.structs.replace(state(), services={"id": service}))
    bench.resolver.set_client("c", [CLIENT], ["n1"])
    assert len((await bench.ask("tasks.web")).rr) == 2, "tasks' own addresses need no table"
    asking = asyncio.ensure_future(bench.ask("web"))
    await bench.until("held_total", 1)
    assert not asking.done()
    bench.resolver.tables_loaded("c")
    assert [str(rr.rdata) for rr in (await asking).rr] == ["10.0.0.250"]
    assert [str(rr.rdata) for rr in (await bench.ask("web")).rr] == ["10.0.0.250"]
    # Another address of the same container changes nothing about its table.
    bench.resolver.set_client("c", [CLIENT, STRANGER], ["n1"])
    assert [str(rr.rdata) for rr in (await bench.ask("web", source=STRANGER)).rr] == ["10.0.0.250"]
    assert bench.metric("held_total") == 1


async def test_a_table_that_does_not_come_holds_an_answer_for_a_while_only(bench: Bench) -> None:
    service = ServiceEntry("id", "web", networks=(ServiceNetwork("n1", "10.0.0.250"),))
    bench.resolver.update(msgspec.structs.replace(state(), services={"id": service}))
    bench.resolver.set_client("c", [CLIENT], ["n1"])
    assert [str(rr.rdata) for rr in (await bench.ask("web")).rr] == ["10.0.0.250"]
    assert bench.metric("held_total") == 1
