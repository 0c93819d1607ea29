"""Managers in one process: real gRPC with real certificates on loopback, and in place of Raft a stand-in that
commits at once to every manager's store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import NotLeader, Unavailable
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import SERVER_OPTIONS, TLSIdentity
from pyswarm.common.types import (
    SECOND_NS,
    Cluster,
    ClusterSpec,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeRole,
    NodeSpec,
)
from pyswarm.manager.control import ControlServicer
from pyswarm.manager.control.client import ControlClient
from pyswarm.manager.dispatcher import Dispatcher, DispatcherServicer
from pyswarm.manager.dispatcher.withdrawals import Withdrawals
from pyswarm.manager.events import EventFeed, EventsServicer
from pyswarm.manager.logs import LogBroker, LogBrokerServicer, LogsServicer
from pyswarm.manager.state import Store, Transaction
from pyswarm.proto.roles import RoleInterceptor
from pyswarm.proto.v1 import control_pb2_grpc, dispatcher_pb2_grpc, events_pb2_grpc, logs_pb2_grpc
from support.pki import Pki

T = TypeVar("T")


async def eventually(probe: Callable[[], T | Awaitable[T]], what: str, timeout_s: float = 10.0) -> T:
    """Call ``probe`` until it returns something true; fail with ``what`` after ``timeout_s`` seconds."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while True:
        value = probe()
        found = await value if isinstance(value, Awaitable) else value
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline_s:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Seat:
    """A manager as Raft names it."""

    node_id: str
    addr: str


@dataclass
class InstantRaft:
    """Every manager's store applies each entry at once; who leads is what the test says."""

    stores: list[Store] = field(default_factory=list)
    leader: Seat | None = None
    index: int = 0
    broken: bool = False
    #: Cleared, nothing is committed or confirmed: a leader cut off from the others.
    reachable: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reachable.set()

    async def propose(self, command: bytes) -> bytes:
        await asyncio.sleep(0)
        await self.reachable.wait()
        if self.broken:
            raise Unavailable("no quorum")
        self.index += 1
        results = [store.apply(self.index, command) for store in self.stores]
        return results[0]

    def seat(self, node_id: str) -> "RaftSeat":
        return RaftSeat(self, node_id)


@dataclass(frozen=True)
class RaftSeat:
    """What one manager sees of it."""

    raft: InstantRaft
    node_id: str

    @property
    def is_leader(self) -> bool:
        return self.raft.leader is not None and self.raft.leader.node_id == self.node_id

    @property
    def leader(self) -> Seat | None:
        return self.raft.leader

    async def read_barrier(self) -> None:
        if not self.is_leader:
            raise NotLeader
        await self.raft.reachable.wait()

    async def propose(self, command: bytes) -> bytes:
        if not self.is_leader:
            raise NotLeader
        return await self.raft.propose(command)


@dataclass
class TestManager:
    """One manager's listener with the control and dispatcher services."""

    __test__ = False

    identity: TLSIdentity
    store: Store
    seat: Seat
    server: grpc.aio.Server
    control: ControlServicer
    dispatcher: Dispatcher
    logs: LogBroker
    events: EventFeed
    registry: CollectorRegistry
    etcd: dict[str, tuple[list[str], bytes]]

    @property
    def addr(self) -> str:
        return self.seat.addr


class TestCluster:
    """Some managers and a store with their node objects. The first leads until told otherwise."""

    __test__ = False

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.raft = InstantRaft()
        self.managers: list[TestManager] = []
        self.owner = TaskGroupOwner("test-cluster")
        self.clients: list[ControlClient] = []

    @property
    def store(self) -> Store:
        """The leader's."""
        return self.managers[0].store

    async def add_manager(self) -> TestManager:
        identity = self.pki.identity("manager")
        store = Store(SystemClock())
        raft = self.raft.seat(identity.node_id)
        store.bind(raft.propose)
        self.raft.stores.append(store)
        registry = CollectorRegistry()
        control = ControlServicer(store, raft, identity, clock=SystemClock(), registry=registry)
        etcd: dict[str, tuple[list[str], bytes]] = {}
        # Patience for nobody: there is no etcd here that hosts could follow.
        withdrawals = Withdrawals(SystemClock(), patience_s=0.0)
        dispatcher = Dispatcher(
            store,
            raft,
            clock=SystemClock(),
            etcd_info=lambda node_id: etcd.get(node_id, ([], b"")),
            registry=registry,
            withdrawals=withdrawals,
            jitter_s=0.1,
            restart_grace_s=0.5,
        )
        logs = LogBroker(store, raft, clock=SystemClock(), registry=registry)
        server = grpc.aio.server(interceptors=(self._interceptor(store),), options=SERVER_OPTIONS)
        control_pb2_grpc.add_ControlServicer_to_server(control, server)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(DispatcherServicer(dispatcher), server)
        events = EventFeed(store, raft, caught_up=lambda: True, clock=SystemClock(), registry=registry)
        events_pb2_grpc.add_EventsServicer_to_server(EventsServicer(events), server)
        logs_pb2_grpc.add_LogBrokerServicer_to_server(LogBrokerServicer(logs), server)
        logs_pb2_grpc.add_LogsServicer_to_server(LogsServicer(logs, raft, identity), server)
        port = server.add_secure_port("127.0.0.1:0", identity.server_credentials())
        await server.start()
        seat = Seat(identity.node_id, f"127.0.0.1:{port}")
        manager = TestManager(identity, store, seat, server, control, dispatcher, logs, events, registry, etcd)
        self.managers.append(manager)
        return manager

    def _interceptor(self, store: Store) -> RoleInterceptor:
        def is_removed(node_id: str) -> bool:
            return store.view.cluster is not None and node_id in store.view.cluster.removed_nodes

        return RoleInterceptor(self.pki.cluster_id, is_removed)

    async def start(self, managers: int, heartbeat_s: float) -> None:
        for _ in range(managers):
            await self.add_manager()
        self.raft.leader = self.managers[0].seat
        cluster = Cluster(
            id=self.pki.cluster_id,
            spec=ClusterSpec(heartbeat_period_ns=round(heartbeat_s * SECOND_NS)),
            root_ca_cert=self.pki.root_pem,
            root_ca_key=b"secret",
        )

        def build(tx: Transaction) -> None:
            tx.create(cluster)
            for number, manager in enumerate(self.managers, 1):
                tx.create(
                    Node(
                        id=manager.seat.node_id,
                        spec=NodeSpec(role=NodeRole.MANAGER),
                        description=NodeDescription(hostname=f"m{number}"),
                        manager_status=ManagerStatus(addr=manager.addr),
                    )
                )

        await self.store.update(build)

    async def add_worker(self, hostname: str = "w1") -> TLSIdentity:
        """A worker that joined, with its certificate."""
        identity = self.pki.identity("worker")
        node = Node(id=identity.node_id, description=NodeDescription(hostname=hostname))
        await self.store.update(lambda tx: tx.create(node))
        return identity

    def client(self, manager: int = 0, identity: TLSIdentity | None = None) -> ControlClient:
        target = self.managers[manager]
        client = ControlClient(identity or target.identity, target.addr, patience_s=0.3)
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            await client.close()
        await self.owner.stop()
        for manager in self.managers:
            await manager.control.close()
            await manager.server.stop(grace=None)
            await manager.store.close()
            manager.store.validate()


@asynccontextmanager
async def running_cluster(managers: int = 1, heartbeat_s: float = 1.0) -> AsyncIterator[TestCluster]:
    """Managers on loopback, stopped at the end; their stores' invariants are checked then."""
    cluster = TestCluster(Pki())
    try:
        await cluster.start(managers, heartbeat_s)
        yield cluster
    finally:
        await cluster.stop()
