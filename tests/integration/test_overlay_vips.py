"""Virtual IPs in real network namespaces."""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.env import require_binary, require_root
from support.managers import eventually

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import flows
from pyswarm.overlay.linux.netns import entered
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.linux.vips import Namespace, NamespaceGone
from pyswarm.overlay.registry.model import EndpointEntry, OverlayState, ServiceEntry, ServiceNetwork
from pyswarm.overlay.vips.plan import TABLE, VipTable
from pyswarm.overlay.vips.service import VipService

pytestmark = pytest.mark.integration_netns
ADDRS = ("10.9.0.5", "10.9.0.6")
VIP = "10.9.0.250"


class Container:
    """A process in a network namespace of its own, which has two addresses."""

    def __init__(self) -> None:
        setup = "ip link set lo up; " + "".join(f"ip addr add {addr}/24 dev lo; " for addr in ADDRS)
        self._process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", f"{setup} echo ready; exec sleep 600"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def server(self, addr: str, kind: socket.SocketKind = socket.SOCK_STREAM, port: int = 80) -> Iterator[None]:
        """Answers with its own address."""
        with entered(self.netns):
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(0.1)
        sock.bind((addr, port))
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                with contextlib.suppress(TimeoutError):
                    if kind is socket.SOCK_STREAM:
                        connection, _ = sock.accept()
                        with connection:
                            connection.sendall(addr.encode())
                    else:
                        _, peer = sock.recvfrom(100)
                        sock.sendto(addr.encode(), peer)

        if kind is socket.SOCK_STREAM:
            sock.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
            sock.close()

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command inside."""
        return subprocess.Popen(["nsenter", f"--net={self.netns}", *argv], stdout=subprocess.DEVNULL)

    def connect(self, addr: str, port: int = 80) -> str:
        """What answers there."""
        with entered(self.netns):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(3)
            sock.connect((addr, port))
            return sock.recv(100).decode()


def bring(namespace: Namespace, want: VipTable, have: VipTable | None) -> None:
    """Load a table, and be done with it."""
    with ExitStack() as closing:
        namespace.bring(want, have, closing)


@pytest.fixture
def container() -> Iterator[Container]:
    require_root()
    require_binary("ip", "unshare", "nft", "busybox")
    made = Container()
    yield made
    made.end()


def test_a_virtual_ip_leads_to_each_of_its_tasks_and_back_is_the_same_address(container: Container) -> None:
    namespace = Namespace(container.pid, ADDRS)
    assert namespace.read() is None
    bring(namespace, {VIP: ADDRS}, None)
    assert namespace.read() == {VIP: ADDRS}
    with container.server(ADDRS[0]), container.server(ADDRS[1]):
        assert {container.connect(VIP) for _ in range(40)} == set(ADDRS)
        bring(namespace, {VIP: ADDRS[1:]}, {VIP: ADDRS})
        assert {container.connect(VIP) for _ in range(10)} == {ADDRS[1]}


def test_without_tasks_it_refuses_at_once(container: Container) -> None:
    namespace = Namespace(container.pid, ADDRS)
    bring(namespace, {VIP: ()}, None)
    assert namespace.read() == {VIP: ()}
    with pytest.raises(ConnectionRefusedError):
        container.connect(VIP)
    bring(namespace, {VIP: ADDRS[:1]}, {VIP: ()})
    with container.server(ADDRS[0]):
        assert container.connect(VIP) == ADDRS[0]


async def started(container: Container, *addrs: str, registry: CollectorRegistry | None = None) -> VipService:
    """A service that has loaded the container's table."""
    service = VipService(registry, lambda _client: None)
    await service.start()
    service.set_client("t1", ADDRS, ["app"], container.pid)
    await service.apply(state(*addrs))
    return service


async def test_packets_of_one_sender_are_led_anew_when_their_task_is_withdrawn(container: Container) -> None:
    service = await started(container, ADDRS[0])
    with entered(container.netns):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.settimeout(3)

    def ask() -> str:
        sender.sendto(b"?", (VIP, 80))
        return sender.recv(100).decode()

    try:
        with sender, container.server(ADDRS[0], socket.SOCK_DGRAM), container.server(ADDRS[1], socket.SOCK_DGRAM):
            assert ask() == ADDRS[0]
            await service.apply(state(*ADDRS))
            assert ask() == ADDRS[0], "an open flow stays where it is"
            for led_to in (1, 0, 1):
                await service.apply(state(ADDRS[led_to]))
                assert ask() == ADDRS[led_to]
    finally:
        await service.stop()


def silence(container: Container, addr: str) -> None:
    """Nothing comes from there or gets there any more, as with a host that is lost."""
    with entered(container.netns), Nft() as nft:
        nft.run(
            "add table ip loss; add chain ip loss in { type filter hook input priority 0; }; "
            f"add rule ip loss in ip saddr {addr} tcp sport 80 drop; "
            f"add rule ip loss in ip daddr {addr} tcp dport 80 drop"
        )


async def test_a_connection_from_the_same_port_is_not_led_to_a_task_that_is_gone(container: Container) -> None:
    """A busy client uses its ports again while the kernel still remembers what nobody answered."""
    service = await started(container, ADDRS[0])

    def connect(patience_s: float) -> str:
        with entered(container.netns), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(patience_s)
            sock.bind((ADDRS[0], 40000))
            sock.connect((VIP, 80))
            return sock.recv(100).decode()

    silence(container, ADDRS[0])
    try:
        with container.server(ADDRS[1]):
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(connect, 0.3)
            await service.apply(state(ADDRS[1], ending=()))
            assert await asyncio.to_thread(connect, 5) == ADDRS[1]
    finally:
        await service.stop()


async def test_an_open_connection_is_remembered_while_its_task_ends_and_no_longer(container: Container) -> None:
    service = await started(container, ADDRS[0])

    def remembered() -> bool:
        with entered(container.netns), flows.Flows() as found:
            return any(flow.led_to == ADDRS[0] for flow in found.forget(lambda _flow: False, protocol=6))

    with entered(container.netns):
        listener = socket.create_server((ADDRS[0], 80))
        client = socket.create_connection((VIP, 80))
    try:
        with listener, client, listener.accept()[0]:
            await service.apply(state(ADDRS[1]))
            assert remembered(), "it ends"
            await service.apply(state(*ADDRS))
            await service.apply(state(ADDRS[1], ending=()))
            assert not remembered(), "it is lost"
    finally:
        await service.stop()


async def test_a_running_ping_is_led_anew_when_its_task_is_withdrawn(container: Container) -> None:
    service = await started(container, ADDRS[0])
    ping = container.start("busybox", "ping", "-i", "0.1", VIP)

    def leads_to(addr: str) -> bool:
        with entered(container.netns), flows.Flows() as found:
            return [flow.led_to for flow in found.forget(lambda _flow: False, protocol=1)] == [addr]

    try:
        await eventually(lambda: leads_to(ADDRS[0]), "it is led to the one task")
        await service.apply(state(ADDRS[1]))
        await eventually(lambda: leads_to(ADDRS[1]), "it is led to the other")
    finally:
        ping.kill()
        ping.wait()
        await service.stop()


async def test_what_was_sent_before_there_was_a_table_is_led_when_there_is(container: Container) -> None:
    """The namespace remembers flows already, as a container's does for the engine's resolver."""
    with entered(container.netns), Nft() as nft:
        nft.run(
            "add table ip engine; add chain ip engine out { type nat hook output priority -100; }; "
            "add rule ip engine out ip daddr 127.0.0.11 dnat to 127.0.0.1"
        )
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.settimeout(3)
        sender.sendto(b"lost", (VIP, 80))
        with flows.Flows() as found:
            assert found.count() == 1
    with sender, container.server(ADDRS[0], socket.SOCK_DGRAM):
        service = await started(container, ADDRS[0])
        try:
            sender.sendto(b"?", (VIP, 80))
            assert sender.recv(100).decode() == ADDRS[0]
        finally:
            await service.stop()


async def test_flows_are_looked_for_only_where_there_may_be_some(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    forget = flows.Flows.forget
    monkeypatch.setattr(flows.Flows, "forget", lambda *a, **how: looks.append(how) or forget(*a, **how))
    service = await started(container, *ADDRS)

    async def withdraw_and_count() -> int:
        looks.clear()
        await service.apply(state(ADDRS[0]))
        await service.apply(state(*ADDRS))
        return len(looks)

    try:
        with container.server(ADDRS[0]), container.server(ADDRS[1]):
            await withdraw_and_count()
            assert container.connect(VIP) in ADDRS
            assert await withdraw_and_count() == 0, "a connection needs none to be forgotten"
        with entered(container.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (VIP, 80))
        assert await withdraw_and_count() > 0
    finally:
        await service.stop()


async def test_more_containers_than_fit_into_a_batch_are_loaded(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyswarm.overlay.vips.service.BATCH", 2)
    others = [Container() for _ in range(4)]
    loaded: list[str] = []
    service = VipService(None, loaded.append)
    await service.start()
    try:
        for number, each in enumerate([container, *others]):
            service.set_client(f"t{number}", ADDRS, ["app"], each.pid)
        for addrs in (ADDRS[:1], ADDRS, ADDRS[1:]):
            await service.apply(state(*addrs))
            assert {f"t{number}" for number in range(5)} == set(loaded)
            for each in (container, *others):
                namespace = await asyncio.to_thread(Namespace, each.pid, ADDRS)
                assert namespace.read() == {VIP: addrs}
    finally:
        await service.stop()
        for each in others:
            each.end()


def test_a_table_that_is_not_as_it_was_left_is_made_anew(container: Container) -> None:
    namespace = Namespace(container.pid, ADDRS)
    bring(namespace, {VIP: ADDRS[:1]}, None)
    for damage in (f"delete table ip {TABLE}", f"flush table ip {TABLE}", f"flush chain ip {TABLE} out"):
        with entered(container.netns), Nft() as nft:
            nft.run(damage)
        assert namespace.read() is None
        bring(namespace, {VIP: ADDRS[1:]}, namespace.read())
        assert namespace.read() == {VIP: ADDRS[1:]}
    with entered(container.netns), Nft() as nft:
        nft.run(f"delete table ip {TABLE}")
    bring(namespace, {VIP: ADDRS}, {VIP: ADDRS[1:]})
    assert namespace.read() == {VIP: ADDRS}


def test_only_the_containers_own_namespace_is_touched(container: Container) -> None:
    with pytest.raises(OverlayError, match="none of the container's addresses"):
        Namespace(container.pid, ["10.9.0.99"])
    with pytest.raises(OverlayError, match="no network namespace of its own"):
        Namespace(os.getpid(), ADDRS)
    namespace = Namespace(container.pid, ADDRS)
    container.end()
    with pytest.raises(NamespaceGone):
        namespace.read()


def state(*addrs: str, ending: tuple[str, ...] = ADDRS) -> OverlayState:
    """``addrs`` are ready tasks; those of ``ending`` that are not run still."""
    endpoints = {
        ("app", addr): EndpointEntry(addr, "app", addr, "", "node", "s", "web", 1, addr in addrs)
        for addr in {*addrs, *ending}
    }
    return OverlayState(
        endpoints=endpoints, services={"s": ServiceEntry("s", "web", networks=(ServiceNetwork("app", VIP),))}
    )


async def test_the_service_keeps_tables_and_repairs_them(container: Container) -> None:
    registry = CollectorRegistry()
    loaded: list[str] = []
    service = VipService(registry, loaded.append)
    await service.start()
    try:
        service.set_client("t1", ADDRS, ["app"], 0)
        await service.apply(state(ADDRS[0]))
        assert loaded == [], "it does not run yet"
        service.set_client("t1", ADDRS, ["app"], container.pid)
        await eventually(lambda: loaded == ["t1"], "the table is loaded")
        namespace = await asyncio.to_thread(Namespace, container.pid, ADDRS)
        assert namespace.read() == {VIP: ADDRS[:1]}
        await service.apply(state(*ADDRS))
        assert namespace.read() == {VIP: ADDRS}
        with entered(container.netns), Nft() as nft:
            nft.run("flush ruleset")
        service.resync()
        await eventually(lambda: registry.get_sample_value("pyswarm_vip_repairs_total") == 1, "it is repaired")
        assert namespace.read() == {VIP: ADDRS}
    finally:
        await service.stop()
    # The next process finds the table as it is, and repairs nothing.
    registry = CollectorRegistry()
    second = VipService(registry, loaded.append)
    await second.start()
    second.set_client("t1", ADDRS, ["app"], container.pid)
    await second.apply(state(ADDRS[1]))
    assert namespace.read() == {VIP: ADDRS[1:]}
    assert registry.get_sample_value("pyswarm_vip_repairs_total") == 0
    container.end()
    second.resync()
    await second.apply(state(*ADDRS))
    assert registry.get_sample_value("pyswarm_vip_failing") == 0
    second.forget_client("t1")
    await second.stop()
