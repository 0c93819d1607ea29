"""The dispatcher: one loop follows the store and wakes streams, one watches for silent nodes, one writes statuses.

Nothing of it is stored but what it learns of nodes and tasks: a new leader starts from the store, gives every node
one grace period, and agents open their sessions with it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import msgspec
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Gauge

from pyswarm.common.clock import Clock
from pyswarm.common.errors import PermissionDenied, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.types import (
    SECOND_NS,
    Cluster,
    ClusterSpec,
    Config,
    Network,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    Secret,
    Task,
    TaskState,
    TaskStatus,
    timestamp,
)
from pyswarm.manager.allocator.meshindex import free_mesh_index
from pyswarm.manager.dispatcher.assignments import needed_files, relevant
from pyswarm.manager.dispatcher.liveness import (
    HUNG_UP_MESSAGE,
    JITTER_S,
    LEFT_MESSAGE,
    RESTART_GRACE_S,
    SILENT_MESSAGE,
    Liveness,
    heartbeat_period_s,
    plan_states,
)
from pyswarm.manager.dispatcher.session import Feed, Session
from pyswarm.manager.dispatcher.statuses import StatusWriter
from pyswarm.manager.dispatcher.underlay import check_free, check_underlay_addr
from pyswarm.manager.dispatcher.wire import decode_description, decode_status, in_parts
from pyswarm.manager.dispatcher.withdrawals import Withdrawals
from pyswarm.manager.leadership import RaftLeadership, not_leader
from pyswarm.manager.state import Event, ResyncRequired, Store, Transaction
from pyswarm.proto.errors import SessionInvalid
from pyswarm.proto.v1 import dispatcher_pb2 as pb

log = get_logger("dispatcher")

#: Endpoints of etcd for a node, and what the etcd it runs must be (empty: it runs none).
EtcdInfo = Callable[[str], tuple[Sequence[str], bytes]]

TICK_S = 0.25
#: A tick this late means that this process was not running, rather than that the nodes were silent.
LATE_TICK_S = 0.5
MAX_UPDATES_PER_CALL = 1_000
_MESSAGES = {NodeState.DOWN: SILENT_MESSAGE, NodeState.DISCONNECTED: HUNG_UP_MESSAGE}


class Dispatcher:
    """``run`` it while leading; without it, every call raises NotLeader."""

    def __init__(
        self,
        store: Store,
        raft: RaftLeadership,
        *,
        clock: Clock,
        etcd_info: EtcdInfo,
        registry: CollectorRegistry,
        withdrawals: Withdrawals,
        jitter_s: float = JITTER_S,
        restart_grace_s: float = RESTART_GRACE_S,
    ) -> None:
        self._store = store
        self._raft = raft
        self._clock = clock
        self._etcd_info = etcd_info
        self._jitter_s = jitter_s
        self._restart_grace_s = restart_grace_s
        self._active = False
        self._sessions: dict[str, Session] = {}
        self._liveness = Liveness(jitter_s, restart_grace_s)
        self._statuses = StatusWriter(store, clock)
        self._withdrawals = withdrawals
        self._sessions_gauge = Gauge("pyswarm_dispatcher_sessions", "Open agent sessions", registry=registry)
        self._nodes_gauge = Gauge("pyswarm_dispatcher_nodes", "Nodes by state", ("state",), registry=registry)
        self._heartbeats = Counter("pyswarm_dispatcher_heartbeats_total", "Heartbeats answered", registry=registry)
        self._status_updates = Counter(
            "pyswarm_dispatcher_status_updates_total", "Task statuses reported by agents", registry=registry
        )
        self._assignments = Counter(
            "pyswarm_dispatcher_assignments_total", "Assignment changes sent", ("kind",), registry=registry
        )

    async def run(self) -> None:
        """Serve agents until cancelled."""
        self._liveness = Liveness(self._jitter_s, self._restart_grace_s)
        self._statuses = StatusWriter(self._store, self._clock)
        for node in self._store.view.nodes.values():
            if node.status.state is not NodeState.DOWN:
                self._liveness.expect(node.id, self._clock.monotonic())
        self._withdrawals.begin(self._sessions.keys, self._task_changed)
        self._active = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="dispatcher.follow")
                group.create_task(self._watch_silence(), name="dispatcher.silence")
                group.create_task(self._statuses.run(), name="dispatcher.statuses")
                group.create_task(self._withdrawals.run(), name="dispatcher.withdrawals")
        finally:
            self._active = False
            error = not_leader(self._raft)
            for session in self._sessions.values():
                session.end(error)
            self._sessions.clear()
            self._statuses.close(error)
            self._count()

    # What agents call

    async def session(
        self, node_id: str, description: bytes, underlay_addr: str, peer_host: str
    ) -> AsyncGenerator[pb.SessionMessage, None]:
        """Register the node and tell it, now and after every change, where the managers and etcd are."""
        session = await self._register(node_id, description, underlay_addr, peer_host)
        sent: pb.SessionMessage | None = None
        try:
            while not session.ended:
                session.message_bell.clear()
                message = self._session_message(session)
                if message is not None and message != sent:
                    sent = message
                    yield message
                if not session.ended:
                    await session.message_bell.wait()
        finally:
            if not session.ended:
                self._hung_up(session)
        if session.error is not None:
            raise session.error

    async def _register(self, node_id: str, description: bytes, underlay_addr: str, peer_host: str) -> Session:
        self._require_active()
        described = decode_description(description)
        if underlay_addr:
            check_underlay_addr(underlay_addr)
        if self._store.view.nodes.get(node_id) is None:
            raise PermissionDenied(f"node {node_id} is not a member of this swarm")
        self._heard(node_id)

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.get(node_id)
            if node is None:
                raise PermissionDenied(f"node {node_id} is not a member of this swarm")
            if underlay_addr:
                check_free(tx.view.nodes.values(), node, underlay_addr, peer_host)
            addr = underlay_addr or node.status.addr or peer_host
            changed = replace(
                node,
                description=described,
                status=NodeStatus(state=NodeState.READY, addr=addr),
                underlay_addr=underlay_addr or node.underlay_addr or addr,
                # One that was stored by an earlier release has none yet.
                mesh_index=node.mesh_index or free_mesh_index(tx.view),
            )
            if changed != node:
                tx.update(changed)

        await self._store.update(build, reason="node registers")
        self._require_active()
        old = self._sessions.get(node_id)
        if old is not None:
            old.end(None)
        session = self._sessions[node_id] = Session(node_id)
        self._heard(node_id)
        self._count()
        return session

    async def heartbeat(self, node_id: str, session_id: str, description: bytes) -> float:
        """The node is alive. Returns the seconds until its next heartbeat is expected."""
        self._require_session(node_id, session_id)
        self._heard(node_id)
        self._heartbeats.inc()
        if description:
            await self._describe(node_id, decode_description(description))
        return self._period_s()

    async def _describe(self, node_id: str, description: NodeDescription) -> None:
        node = self._store.view.nodes.get(node_id)
        if node is None or node.description == description:
            return

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.get(node_id)
            if node is not None and node.description != description:
                tx.update(replace(node, description=description))

        await self._store.update(build, reason="node description")

    async def assignments(self, node_id: str, session_id: str) -> AsyncGenerator[pb.AssignmentsMessage, None]:
        """The complete set, then changes, each numbered; ends when the session does."""
        session = self._require_session(node_id, session_id)
        feed = session.open_feed(self._clock)
        try:
            while not feed.closed:
                for message in self._next_messages(feed):
                    yield message
                    if feed.closed:
                        break
                await feed.batcher.wait()
        finally:
            session.close_feed(feed)
        if session.error is not None:
            raise session.error

    def _next_messages(self, feed: Feed) -> Iterator[pb.AssignmentsMessage]:
        """One set of changes; one with many secrets or configs is too large for one message."""
        first = feed.sequence == 0
        changes = feed.sent.next_changes(self._store.view, self._withdrawals.shown)
        if not changes and not first:
            return
        for change in changes:
            self._assignments.labels(change.kind).inc()
        for part, more in in_parts(changes):
            feed.sequence += 1
            yield pb.AssignmentsMessage(
                type=pb.AssignmentsMessage.COMPLETE if first else pb.AssignmentsMessage.INCREMENTAL,
                applies_to=feed.sequence - 1,
                results_in=feed.sequence,
                changes=part,
                more=more,
            )

    def applied(self, node_id: str, session_id: str, fence: tuple[int, int]) -> None:
        """The node has in force what was written to the registry up to ``fence``."""
        self._require_session(node_id, session_id)
        self._withdrawals.applied(node_id, fence)

    async def update_task_status(
        self, node_id: str, session_id: str, updates: Sequence[tuple[str, bytes]]
    ) -> None:
        """Store what the agent observed of its own tasks; of records that are gone there is nothing to store."""
        self._require_session(node_id, session_id)
        statuses, refusal = self._own_statuses(node_id, updates)
        self._status_updates.inc(len(statuses))
        await self._statuses.report(statuses)
        if refusal is not None:
            raise refusal

    def _own_statuses(
        self, node_id: str, updates: Sequence[tuple[str, bytes]]
    ) -> tuple[dict[str, TaskStatus], PyswarmError | None]:
        """The statuses to store, and why the first of those refused was refused."""
        tasks, now = self._store.view.tasks, timestamp(self._clock.now())
        statuses: dict[str, TaskStatus] = {}
        refusal: PyswarmError | None = None
        for task_id, data in updates:
            task = tasks.get(task_id)
            try:
                if task is not None and task.node_id != node_id:
                    raise PermissionDenied(f"task {task_id} does not run on node {node_id}")
                status = decode_status(data, now)
            except PyswarmError as exc:
                refusal = refusal or exc
                continue
            if task is not None:
                statuses[task_id] = status
        return statuses, refusal

    async def leave(self, node_id: str, updates: Sequence[tuple[str, bytes]]) -> None:
        """The node has left the swarm: no more is expected of it, and ``updates`` is the last of its tasks."""
        self._require_active()
        if self._store.view.nodes.get(node_id) is None:
            raise PermissionDenied(f"node {node_id} is not a member of this swarm")
        statuses, refusal = self._own_statuses(node_id, updates)
        if isinstance(refusal, PermissionDenied):
            raise refusal
        if refusal is not None:
            log.warning("a node that leaves reports what cannot be stored", node=node_id, reason=str(refusal))
        # First: a node with a session, or one that is waited for, would be made ready or silent again.
        self._end(node_id, SessionInvalid(f"node {node_id} has left the swarm"))
        self._liveness.forget(node_id)
        stored = False

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.get(node_id)
            if node is not None:
                status = replace(node.status, state=NodeState.DOWN, message=LEFT_MESSAGE)
                tx.update(replace(node, status=status))

        try:
            await self._store.update(build, reason="node leaves")
            stored = True
        finally:
            if not stored and self._active:
                self._liveness.expect(node_id, self._clock.monotonic())
        log.info("node left the swarm", node=node_id)
        # After it, so that nobody gives the node new tasks in place of these.
        self._status_updates.inc(len(statuses))
        await self._statuses.report(statuses)

    # Sessions

    def _require_active(self) -> None:
        if not self._active:
            raise not_leader(self._raft)

    def _require_session(self, node_id: str, session_id: str) -> Session:
        self._require_active()
        session = self._sessions.get(node_id)
        if session is None or session.id != session_id:
            raise SessionInvalid("the session is not valid, or no longer; open a new one")
        return session

    def _end(self, node_id: str, error: PyswarmError) -> None:
        session = self._sessions.pop(node_id, None)
        if session is not None:
            session.end(error)
            self._count()

    def _hung_up(self, session: Session) -> None:
        """The agent's side closed the stream: its process ended, or its host is long gone."""
        if self._sessions.get(session.node_id) is not session:
            return
        del self._sessions[session.node_id]
        session.end(SessionInvalid("the session's stream was closed; open a new one"))
        self._liveness.hung_up(session.node_id, self._clock.monotonic())
        self._count()

    def _heard(self, node_id: str) -> None:
        self._liveness.heard(node_id, self._clock.monotonic(), self._period_s())

    def _period_s(self) -> float:
        cluster = self._store.view.cluster
        spec = cluster.spec if cluster is not None else ClusterSpec()
        return heartbeat_period_s(spec.heartbeat_period_ns / SECOND_NS, len(self._store.view.nodes))

    def _session_message(self, session: Session) -> pb.SessionMessage | None:
        view = self._store.view
        node, cluster = view.nodes.get(session.node_id), view.cluster
        if node is None or cluster is None:
            return None
        endpoints, assignment = self._etcd_info(node.id)
        managers = sorted(
            (n.id, n.manager_status.addr) for n in view.nodes.managers() if n.manager_status is not None
        )
        return pb.SessionMessage(
            session_id=session.id,
            node=msgspec.msgpack.encode(node),
            managers=[pb.Peer(node_id=node_id, addr=addr) for node_id, addr in managers],
            heartbeat_period_ms=round(self._period_s() * 1000),
            etcd_endpoints=endpoints,
            etcd_assignment=assignment,
            root_ca=cluster.root_ca_cert,
        )

    # Following the store

    async def _follow(self) -> None:
        while True:
            watch = self._store.watch()
            try:
                for session in self._sessions.values():
                    session.message_bell.set()
                    if session.feed is not None:
                        session.feed.anything_changed()
                async for batch in watch:
                    for event in batch:
                        self._route(event)
            except ResyncRequired:
                log.warning("fell behind the store; comparing everything")
            finally:
                watch.close()

    def _route(self, event: Event) -> None:
        old, new = event.old, event.new
        subject = new if new is not None else old
        if isinstance(subject, Task):
            self._route_task(old if isinstance(old, Task) else None, new if isinstance(new, Task) else None)
        elif isinstance(subject, Network) or (isinstance(subject, (Secret, Config)) and new is None):
            for session in self._sessions.values():
                if session.feed is not None:
                    session.feed.batcher.ring()  # each look compares the networks and files it needs
        elif isinstance(subject, Node):
            self._route_node(old if isinstance(old, Node) else None, new if isinstance(new, Node) else None)
        elif isinstance(subject, Cluster):
            self._ring_all()

    def _task_changed(self, node_id: str, task_id: str) -> None:
        session = self._sessions.get(node_id)
        if session is not None and session.feed is not None:
            session.feed.task_changed(task_id)

    def _route_task(self, old: Task | None, new: Task | None) -> None:
        if old is not None and (new is None or new.status.state.ended):
            self._withdrawals.forget(old.id)
        if (
            old is not None
            and new is not None
            and old.node_id == new.node_id
            and old.status.state.rank >= TaskState.ASSIGNED.rank
            and relevant(old) == relevant(new)
            and needed_files(old) == needed_files(new)
        ):
            return
        for task in {t.node_id: t for t in (old, new) if t is not None and t.node_id}.values():
            self._task_changed(task.node_id, task.id)

    def _route_node(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if node is None:
            return
        if new is None:
            self._liveness.forget(node.id)
            self._end(node.id, PermissionDenied(f"node {node.id} was removed from the swarm"))
        if old is None or new is None or old.manager_status != new.manager_status:
            self._ring_all()
        elif node.id in self._sessions:
            self._sessions[node.id].message_bell.set()

    def _ring_all(self) -> None:
        for session in self._sessions.values():
            session.message_bell.set()

    # Silence

    async def _watch_silence(self) -> None:
        last_s = self._clock.monotonic()
        while True:
            tick_s = min(TICK_S, self._period_s() / 4)
            await self._clock.sleep(tick_s)
            now_s = self._clock.monotonic()
            late_s = now_s - last_s - tick_s
            last_s = now_s
            if late_s > LATE_TICK_S:
                log.warning("this manager stood still; nodes get that much more time", late_s=round(late_s, 3))
                self._liveness.postpone(late_s)
            try:
                await self._settle_states()
            except PyswarmError as exc:
                log.warning("node states not stored, trying again", reason=str(exc))

    async def _settle_states(self) -> None:
        """Make the stored states what was heard. It compares states rather than acting on moments, so that a
        commit that failed, or crossed a registration, is made good by the next look."""
        for node_id in self._liveness.silent(self._clock.monotonic()):
            self._end(node_id, SessionInvalid(f"node {node_id} was silent for too long"))
        plan = self._state_plan()
        self._count()
        if not plan:
            return

        def build(tx: Transaction) -> None:
            for node_id, state in self._state_plan().items():
                node = tx.view.nodes.get(node_id)
                if node is not None and node.status.state is not state:
                    message = _MESSAGES.get(state, "")
                    tx.update(replace(node, status=replace(node.status, state=state, message=message)))

        await self._store.update(build, reason="node states")
        for node_id, state in plan.items():
            if state is NodeState.DOWN and node_id not in self._sessions:
                log.warning("node is down", node=node_id)

    def _state_plan(self) -> dict[str, NodeState]:
        nodes = {node.id: node for node in self._store.view.nodes.values()}
        silent = self._liveness.silent(self._clock.monotonic()) - self._sessions.keys()
        present = frozenset(self._sessions) - silent
        return plan_states(nodes, silent, present, self._liveness.waited_for() - silent - present)

    def _count(self) -> None:
        self._sessions_gauge.set(len(self._sessions))
        counts = dict.fromkeys(NodeState, 0)
        if self._active:
            for node in self._store.view.nodes.values():
                counts[node.status.state] += 1
        for state, number in counts.items():
            self._nodes_gauge.labels(state.value).set(number)
