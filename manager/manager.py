"""The manager: its parts, and the order in which they start and stop."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from prometheus_client import CollectorRegistry

from pyswarm.common.clock import Clock
from pyswarm.common.durable import write_durably
from pyswarm.common.errors import FailedPrecondition, NotLeader, PyswarmError, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import SERVER_OPTIONS, TLSIdentity
from pyswarm.manager import rescue
from pyswarm.manager.allocator import Allocator
from pyswarm.manager.bootstrap import load_bootstrap, store_bootstrap
from pyswarm.manager.ca.service import CAServicer
from pyswarm.manager.control import ControlServicer
from pyswarm.manager.dispatcher import Dispatcher, DispatcherServicer
from pyswarm.manager.dispatcher.withdrawals import Withdrawals
from pyswarm.manager.etcd import EtcdManagement
from pyswarm.manager.events import EventFeed, EventsServicer
from pyswarm.manager.group import ManagerGroup, RoleKeeper
from pyswarm.manager.joining import JoinServer, Leadership
from pyswarm.manager.leader import LeaderComponents
from pyswarm.manager.logs import LogBroker, LogBrokerServicer, LogsServicer
from pyswarm.manager.orchestrator import ReplicatedOrchestrator, TaskReaper
from pyswarm.manager.peers import GENERATION_KEY, PeerNetwork, check_generation
from pyswarm.manager.raft import Generation, Member, RaftConfig, RaftNode, parse_generation
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.meta import is_set_up
from pyswarm.manager.raftservice import RaftServicer
from pyswarm.manager.scheduler import Scheduler
from pyswarm.manager.state import Store
from pyswarm.manager.state.metrics import StoreMetrics
from pyswarm.proto.errors import error_from_rpc
from pyswarm.proto.roles import RoleInterceptor
from pyswarm.proto.v1 import (
    ca_pb2_grpc,
    control_pb2_grpc,
    dispatcher_pb2_grpc,
    events_pb2_grpc,
    logs_pb2_grpc,
    raft_pb2,
    raft_pb2_grpc,
)

log = get_logger("manager")

JOIN_TIMEOUT_S = 10.0
CONFIRM_TIMEOUT_S = 30.0
RETRY_S = 0.3


@dataclass(frozen=True)
class ManagerConfig:
    """Addresses are ``ip:port``; ``peers`` are managers to ask when this one is new."""

    data_dir: Path
    listen: str
    advertise: str
    peers: Sequence[str]


class Manager:
    """Everything a manager process runs."""

    def __init__(
        self,
        config: ManagerConfig,
        *,
        identity: TLSIdentity,
        clock: Clock,
        registry: CollectorRegistry,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._config = config
        self._identity = identity
        self._clock = clock
        self._registry = registry
        self._on_failure = on_failure
        self._owner = TaskGroupOwner("manager")
        self._peers = PeerNetwork(identity, lambda: self._generation)
        self._peers.on_left_behind = on_failure
        self._store = Store(clock)
        StoreMetrics(self._store, registry)
        self._bootstrap_path = config.data_dir / "bootstrap.msgpack"
        self._rescue_path = config.data_dir / "force-new-cluster"
        self._raft_folder = config.data_dir / "raft"
        self._joining_generation = Generation()
        # Until this file is there, a start that was interrupted half-way asks to be counted in again.
        self._counted_in = config.data_dir / "counted-in"
        self._server: grpc.aio.Server | None = None
        self._join_server: JoinServer | None = None
        self._raft: RaftNode | None = None
        self._control: ControlServicer | None = None
        self._leader: LeaderComponents | None = None

    async def start(self) -> None:
        """Open the log, listen, and take part. Raises PyswarmError when that is impossible."""
        self._peers.start()
        order = self._rescue_order()
        members = await self._initial_members()
        raft = RaftNode(
            RaftConfig(
                data_dir=str(self._raft_folder),
                node_id=self._identity.node_id,
                addr=self._config.advertise,
                cluster_id=self._identity.cluster_id,
                generation=self._joining_generation,
                force_new_cluster=order.id if order is not None else "",
            ),
            self._store,
            self._peers,
            initial_members=members,
            registry=self._registry,
            on_failure=self._on_failure,
        )
        self._raft = raft
        self._peers.on_connected = raft.peer_connected
        self._peers.on_disconnected = raft.peer_disconnected
        self._store.bind(raft.propose)
        await raft.start()
        group = ManagerGroup(self._store, raft, self._peers.is_connected)
        withdrawals = Withdrawals(self._clock)
        etcd = EtcdManagement(
            self._store, self._identity, raft, self._clock, self._registry, on_synced=withdrawals.synced
        )
        dispatcher = Dispatcher(
            self._store,
            raft,
            clock=self._clock,
            etcd_info=etcd.info_for,
            registry=self._registry,
            withdrawals=withdrawals,
        )
        logs = LogBroker(self._store, raft, clock=self._clock, registry=self._registry)
        events = EventFeed(
            self._store,
            raft,
            caught_up=lambda: raft.leader is not None and raft.applied_index >= raft.commit_index,
            clock=self._clock,
            registry=self._registry,
        )
        self._owner.spawn(events.run(), "events")
        self._leader = LeaderComponents(
            (
                # Before the dispatcher: an agent that has a session listens to orders for logs at once.
                ("logs", logs),
                ("dispatcher", dispatcher),
                ("allocator", Allocator(self._store, self._clock)),
                ("scheduler", Scheduler(self._store, self._clock)),
                ("orchestrator", ReplicatedOrchestrator(self._store, self._clock)),
                ("reaper", TaskReaper(self._store, self._clock)),
                ("etcd", etcd),
                ("roles", RoleKeeper(self._store, group, self._clock)),
            ),
            prepare=self._prepare_leadership,
        )
        raft.on_leadership(self._leadership_changed)
        await self._listen(raft, group, dispatcher, logs, events)
        if members is not None:
            await self._confirm(members)

    async def stop(self) -> None:
        """Stop in the reverse order; what is acknowledged is on disk already."""
        if self._leader is not None:
            await self._leader.stop()
        if self._join_server is not None:
            await self._join_server.stop()
        if self._server is not None:
            await self._server.stop(grace=0.2)
        if self._control is not None:
            await self._control.close()
        if self._raft is not None:
            await self._raft.stop()
        await self._store.close()
        await self._peers.stop()
        await self._owner.stop()

    def _leadership_changed(self, leads: bool, term: int) -> None:
        leader = self._leader
        if leader is None:
            return
        self._owner.spawn(leader.start(term) if leads else leader.stop(), "leadership")

    @property
    def _generation(self) -> Generation:
        return self._raft.generation if self._raft is not None else Generation()

    def _rescue_order(self) -> rescue.RescueOrder | None:
        order = rescue.load_order(self._rescue_path)
        if order is not None and not self._counted_in.exists():
            self._rescue_path.unlink()
            raise FailedPrecondition(
                "this manager has nothing of the swarm yet: it never became a full member. "
                "Run --force-new-cluster on another manager"
            )
        return order

    async def _prepare_leadership(self) -> None:
        await store_bootstrap(self._store, self._bootstrap_path)
        await rescue.carry_out(self._store, self._rescue_path, self._identity.node_id, self._config.advertise)
        if self._store.view.cluster is None:
            raise Unavailable("the store holds no cluster")

    async def _listen(
        self, raft: RaftNode, group: ManagerGroup, dispatcher: Dispatcher, logs: LogBroker, events: EventFeed
    ) -> None:
        interceptor = RoleInterceptor(
            self._identity.cluster_id, is_removed=self._is_removed, role_of=self._role_of, guard=self._guard
        )
        server = grpc.aio.server(interceptors=(interceptor,), options=SERVER_OPTIONS)
        self._control = ControlServicer(
            self._store,
            raft,
            self._identity,
            clock=self._clock,
            registry=self._registry,
            managers=group,
        )
        control_pb2_grpc.add_ControlServicer_to_server(self._control, server)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(DispatcherServicer(dispatcher), server)
        events_pb2_grpc.add_EventsServicer_to_server(EventsServicer(events), server)
        logs_pb2_grpc.add_LogBrokerServicer_to_server(LogBrokerServicer(logs), server)
        logs_pb2_grpc.add_LogsServicer_to_server(LogsServicer(logs, raft, self._identity), server)
        ca_pb2_grpc.add_CAServicer_to_server(CAServicer(self._store), server)
        raft_pb2_grpc.add_RaftServicer_to_server(RaftServicer(raft, self._store, self._identity), server)
        host, _, port = self._config.listen.rpartition(":")
        try:
            server.add_secure_port(self._config.listen, self._identity.server_credentials())
        except RuntimeError as exc:
            raise Unavailable(f"cannot listen on {self._config.listen}: the port is in use") from exc
        await server.start()
        self._server = server
        leadership = Leadership(
            is_leader=lambda: raft.is_leader, leader_addr=lambda: raft.leader.addr if raft.leader else ""
        )
        join_server = JoinServer(
            identity=self._identity, store=self._store, leadership=leadership, clock=self._clock
        )
        await join_server.start(host, int(port) + 1)
        self._join_server = join_server

    def _guard(self, method: str, metadata: Mapping[str, str]) -> None:
        if method == "/pyswarm.v1.Raft/Stream":
            check_generation(metadata.get(GENERATION_KEY, ""), self._generation)

    def _is_removed(self, node_id: str) -> bool:
        cluster = self._store.view.cluster
        return cluster is not None and node_id in cluster.removed_nodes

    def _role_of(self, node_id: str) -> str | None:
        node = self._store.view.nodes.get(node_id)
        return node.spec.role.value if node is not None else None

    async def _initial_members(self) -> Sequence[Member] | None:
        """None after a restart; this node alone for a new cluster; the leader's answer for a new manager."""
        if self._counted_in.exists():
            return None
        if load_bootstrap(self._bootstrap_path) is not None:
            return (Member(self._identity.node_id, self._config.advertise),)
        reply = await self._ask_to_join(self._config.peers, confirm=False, timeout_s=CONFIRM_TIMEOUT_S)
        self._joining_generation = parse_generation(reply.generation)
        return tuple(Member(m.node_id, m.addr) for m in reply.members)

    async def _confirm(self, members: Sequence[Member]) -> None:
        """Listening now: ask the leader to count this manager in."""
        addrs = [m.addr for m in members if m.node_id != self._identity.node_id]
        if addrs:
            await self._ask_to_join(addrs, confirm=True, timeout_s=CONFIRM_TIMEOUT_S)
            log.info("counted in as a manager", managers=len(addrs) + 1)
        write_durably(self._counted_in, b"")

    async def _ask_to_join(
        self, addrs: Sequence[str], *, confirm: bool, timeout_s: float
    ) -> raft_pb2.RaftJoinReply:
        """Ask each manager in turn, following the leader's address, until one answers or the time is over."""
        has_data = is_set_up(self._raft_folder, Disk())
        request = raft_pb2.RaftJoinRequest(addr=self._config.advertise, confirm=confirm, has_data=has_data)
        deadline = self._clock.monotonic() + timeout_s
        failure: PyswarmError = Unavailable("no manager is known to ask")
        pending = list(addrs)
        while self._clock.monotonic() < deadline:
            for addr in pending:
                async with self._identity.channel(addr) as channel:
                    try:
                        reply: raft_pb2.RaftJoinReply = await raft_pb2_grpc.RaftStub(channel).Join(
                            request, timeout=JOIN_TIMEOUT_S
                        )
                        return reply
                    except grpc.aio.AioRpcError as exc:
                        failure = error_from_rpc(exc, addr)
                if isinstance(failure, FailedPrecondition):
                    raise failure
                if isinstance(failure, NotLeader) and failure.leader_addr:
                    pending = [failure.leader_addr, *addrs]
                    break
            await asyncio.sleep(RETRY_S)
        raise failure
