"""The dispatcher over real gRPC: sessions, liveness, assignments, status reports, and who may do what."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc.aio
import msgspec
import pytest
from msgspec.structs import replace
from support.managers import TestCluster, eventually, running_cluster

from pyswarm.common.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotLeader,
    PermissionDenied,
    PyswarmError,
    Unavailable,
)
from pyswarm.common.ids import new_id
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    Config,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    ContainerStatus,
    FileTarget,
    ManagerStatus,
    Network,
    NetworkSpec,
    Node,
    NodeDescription,
    NodeState,
    Secret,
    SecretReference,
    SecretSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.state import ChangeTooLarge
from pyswarm.proto.errors import SessionInvalid, error_from_rpc
from pyswarm.proto.v1 import dispatcher_pb2 as pb
from pyswarm.proto.v1 import dispatcher_pb2_grpc

PERIOD_S = 0.2
_KINDS = {"task": Task, "network": Network, "secret": Secret, "config": Config}
_HOSTS = itertools.cycle(range(1, 255))


class Agent:
    """The client side of the contract, with nothing behind it."""

    def __init__(self, cluster: TestCluster, identity: TLSIdentity, manager: int = 0) -> None:
        self.node_id = identity.node_id
        self.addr = f"192.0.2.{next(_HOSTS)}"
        self.channel = identity.channel(cluster.managers[manager].addr)
        self.stub: Any = dispatcher_pb2_grpc.DispatcherStub(self.channel)
        self.session_id = ""
        self.session: Any = None
        self.sequence = 0
        self.known: dict[tuple[str, str], Any] = {}
        self.order: list[tuple[str, str, str]] = []

    async def call(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc

    async def open(self, hostname: str = "w1") -> pb.SessionMessage:
        description = msgspec.msgpack.encode(NodeDescription(hostname=hostname))
        request = pb.SessionRequest(description=description, underlay_addr=self.addr)
        self.session = self.stub.Session(request)
        message = await self.message()
        self.session_id = message.session_id
        return message

    async def message(self) -> pb.SessionMessage:
        async with asyncio.timeout(10):
            message = await self.call(self.session.read())
        assert message is not grpc.aio.EOF
        return message  # type: ignore[no-any-return]

    async def to_the_end(self) -> None:
        """Read the session's messages until it fails."""
        while True:
            await self.message()

    async def heartbeat(self, description: NodeDescription | None = None) -> float:
        data = msgspec.msgpack.encode(description) if description else b""
        reply = await self.call(
            self.stub.Heartbeat(pb.HeartbeatRequest(session_id=self.session_id, description=data))
        )
        return float(reply.period_ms) / 1000

    def assignments(self) -> Any:
        return self.stub.Assignments(pb.AssignmentsRequest(session_id=self.session_id))

    async def follow(self, stream: Any) -> pb.AssignmentsMessage:
        """Read and apply one message, as an agent must."""
        async with asyncio.timeout(10):
            message = await self.call(stream.read())
        assert message is not grpc.aio.EOF
        if message.type == pb.AssignmentsMessage.COMPLETE and message.applies_to == 0:
            self.known = {}
        else:
            assert message.applies_to == self.sequence
        self.sequence = message.results_in
        for change in message.changes:
            key = (change.kind, change.id)
            if change.action == pb.AssignmentChange.REMOVE:
                del self.known[key]
                self.order.append(("-", *key))
            else:
                self.known[key] = msgspec.msgpack.decode(change.object, type=_KINDS[change.kind])
                self.order.append(("+", *key))
        return message  # type: ignore[no-any-return]

    async def report(self, task_id: str, state: TaskState, **fields: Any) -> None:
        status = msgspec.msgpack.encode(TaskStatus(state=state, **fields))
        update = pb.TaskStatusUpdate(task_id=task_id, status=status)
        request = pb.UpdateTaskStatusRequest(session_id=self.session_id, updates=[update])
        await self.call(self.stub.UpdateTaskStatus(request))


@pytest.fixture
async def cluster() -> AsyncIterator[TestCluster]:
    async with running_cluster(managers=2, heartbeat_s=PERIOD_S) as running:
        running.owner.spawn(running.managers[0].dispatcher.run(), "dispatcher")
        await asyncio.sleep(0)
        yield running


@pytest.fixture
async def agent(cluster: TestCluster) -> AsyncIterator[Agent]:
    agent = Agent(cluster, await cluster.add_worker())
    yield agent
    await agent.channel.close(grace=None)


def node(cluster: TestCluster, agent: Agent) -> Node:
    found = cluster.store.view.nodes.get(agent.node_id)
    assert found is not None
    return found


def new_task(agent: Agent, state: TaskState = TaskState.ASSIGNED, **fields: Any) -> Task:
    return Task(id=new_id(), node_id=agent.node_id, status=TaskStatus(state=state), **fields)


async def put(cluster: TestCluster, *objects: Any) -> None:
    def build(tx: Any) -> None:
        for obj in objects:
            tx.create(obj)

    await cluster.store.update(build)


async def change(cluster: TestCluster, task: Task, **fields: Any) -> None:
    def build(tx: Any) -> None:
        tx.update(replace(tx.view.tasks.get(task.id), **fields))

    await cluster.store.update(build)


def state_of(cluster: TestCluster, task: Task) -> TaskState:
    found = cluster.store.view.tasks.get(task.id)
    assert found is not None
    return found.status.state


async def test_a_session_makes_the_node_ready_and_says_where_everything_is(
    cluster: TestCluster, agent: Agent
) -> None:
    cluster.managers[0].etcd[agent.node_id] = (["192.0.2.9:2379"], b"plan")
    message = await agent.open()
    assert {(p.node_id, p.addr) for p in message.managers} == {(m.seat.node_id, m.addr) for m in cluster.managers}
    assert message.heartbeat_period_ms == PERIOD_S * 1000
    assert list(message.etcd_endpoints) == ["192.0.2.9:2379"]
    assert message.etcd_assignment == b"plan"
    assert message.root_ca == cluster.pki.root_pem
    stored = node(cluster, agent)
    assert msgspec.msgpack.decode(message.node, type=Node) == stored
    assert (stored.status.state, stored.status.addr) == (NodeState.READY, "192.0.2.1")
    assert stored.underlay_addr == agent.addr
    assert stored.description.hostname == "w1"
    assert stored.mesh_index == 1, "a node of an earlier release is given a number"


async def test_the_session_message_is_sent_again_when_it_changes(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    third = Node(id=new_id(), manager_status=ManagerStatus(addr="192.0.2.3:2377"))
    await put(cluster, third)
    message = await agent.message()
    assert third.id in {p.node_id for p in message.managers}
    assert message.session_id == agent.session_id


async def test_a_silent_node_is_down_and_comes_back(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    task = new_task(agent, TaskState.RUNNING)
    await put(cluster, task)
    for _ in range(5):
        assert await agent.heartbeat() == PERIOD_S
        await asyncio.sleep(PERIOD_S / 2)
    assert node(cluster, agent).status.state is NodeState.READY
    await eventually(lambda: node(cluster, agent).status.state is NodeState.DOWN, "the node is down")
    assert node(cluster, agent).status.message == "heartbeat failure"
    with pytest.raises(SessionInvalid):
        await agent.heartbeat()
    with pytest.raises(SessionInvalid):
        await agent.to_the_end()
    await change(cluster, task, desired_state=TaskState.SHUTDOWN)

    await agent.open()
    assert node(cluster, agent).status.state is NodeState.READY
    stream = agent.assignments()
    await agent.follow(stream)
    assert agent.known["task", task.id].desired_state is TaskState.SHUTDOWN
    await agent.report(task.id, TaskState.SHUTDOWN)
    assert state_of(cluster, task) is TaskState.SHUTDOWN


async def test_a_node_that_left_is_down_at_once_and_stays_down(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    mine, other = new_task(agent, TaskState.RUNNING), replace(new_task(agent, TaskState.RUNNING), node_id="x" * 25)
    await put(cluster, mine, other)
    done = msgspec.msgpack.encode(TaskStatus(state=TaskState.SHUTDOWN))
    updates = [pb.TaskStatusUpdate(task_id=other.id, status=done)]
    with pytest.raises(PermissionDenied, match="does not run on node"):
        await agent.call(agent.stub.Leave(pb.LeaveClusterRequest(updates=updates)))
    assert node(cluster, agent).status.state is NodeState.READY
    updates = [pb.TaskStatusUpdate(task_id=mine.id, status=done)]
    await agent.call(agent.stub.Leave(pb.LeaveClusterRequest(updates=updates)))
    assert node(cluster, agent).status.state is NodeState.DOWN
    assert node(cluster, agent).status.message == "left the swarm"
    assert state_of(cluster, mine) is TaskState.SHUTDOWN
    with pytest.raises(SessionInvalid):
        await agent.to_the_end()
    agent.session.cancel()
    await asyncio.sleep(2 * PERIOD_S)
    assert node(cluster, agent).status.state is NodeState.DOWN


async def test_a_leave_that_is_not_stored_leaves_the_node_expected(
    cluster: TestCluster, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.open()
    dispatcher = cluster.managers[0].dispatcher
    expected: list[str] = []
    update = cluster.store.update

    async def refuse(build: Any, *, reason: str = "") -> Any:
        if reason == "node leaves":
            raise Unavailable("no quorum")
        return await update(build, reason=reason)

    monkeypatch.setattr(cluster.store, "update", refuse)
    monkeypatch.setattr(dispatcher._liveness, "expect", lambda node_id, _now_s: expected.append(node_id))
    with pytest.raises(Unavailable):
        await agent.call(agent.stub.Leave(pb.LeaveClusterRequest()))
    assert expected == [agent.node_id]


async def test_a_new_leader_gives_every_node_a_grace_period(cluster: TestCluster) -> None:
    """Nodes the last leader saw: one comes to the new one in time, one does not."""
    worker, lost = await cluster.add_worker("w1"), await cluster.add_worker("w2")
    agents = [Agent(cluster, worker), Agent(cluster, lost)]
    for one in agents:
        await one.open()
    cluster.raft.leader = cluster.managers[1].seat
    cluster.owner.spawn(cluster.managers[1].dispatcher.run(), "dispatcher")
    moved = Agent(cluster, worker, manager=1)
    await moved.open()

    async def down() -> bool:
        await moved.heartbeat()
        return node(cluster, agents[1]).status.state is NodeState.DOWN

    await eventually(down, "the lost node is down")
    assert node(cluster, moved).status.state is NodeState.READY
    for one in (*agents, moved):
        await one.channel.close(grace=None)


async def test_without_the_lead_agents_are_sent_to_the_leader(cluster: TestCluster) -> None:
    identity = await cluster.add_worker()
    astray = Agent(cluster, identity, manager=1)
    with pytest.raises(NotLeader) as caught:
        await astray.open()
    assert caught.value.leader_addr == cluster.managers[0].addr
    await astray.channel.close(grace=None)


async def test_losing_the_lead_ends_sessions_with_the_new_leader_s_address() -> None:
    async with running_cluster(managers=2, heartbeat_s=PERIOD_S) as cluster:
        running = cluster.owner.spawn(cluster.managers[0].dispatcher.run(), "dispatcher")
        await asyncio.sleep(0)
        agent = Agent(cluster, await cluster.add_worker())
        await agent.open()
        stream = agent.assignments()
        await agent.follow(stream)
        cluster.raft.leader = cluster.managers[1].seat
        running.cancel()
        for ending in (agent.message(), agent.follow(stream)):
            with pytest.raises(NotLeader) as caught:
                await ending
            assert caught.value.leader_addr == cluster.managers[1].addr
        with pytest.raises(NotLeader):
            await agent.heartbeat()
        await agent.channel.close(grace=None)


async def test_assignments_follow_the_store(cluster: TestCluster, agent: Agent) -> None:
    network = Network(
        id=new_id(), spec=NetworkSpec(name="app"), subnet="10.0.1.0/24", gateway="10.0.1.1", vni=4096
    )
    first = new_task(agent, networks=(TaskNetwork(network_id=network.id, addr="10.0.1.2/24"),))
    unassigned = replace(new_task(agent, TaskState.PENDING), node_id="")
    await put(cluster, network, first, unassigned)
    await agent.open()
    stream = agent.assignments()
    message = await agent.follow(stream)
    assert message.type == pb.AssignmentsMessage.COMPLETE
    assert agent.order == [("+", "network", network.id), ("+", "task", first.id)]

    # A status alone is not sent back; the next message is about something else.
    await agent.report(first.id, TaskState.RUNNING)
    other = Network(id=new_id(), spec=NetworkSpec(name="b"), subnet="10.0.2.0/24", vni=4097)
    second = new_task(agent, networks=(TaskNetwork(network_id=other.id, addr="10.0.2.2/24"),))
    await put(cluster, other, second)
    agent.order.clear()
    await agent.follow(stream)
    assert agent.order == [("+", "network", other.id), ("+", "task", second.id)]

    await change(cluster, unassigned, node_id=agent.node_id, status=TaskStatus(state=TaskState.ASSIGNED))
    await agent.follow(stream)
    assert ("task", unassigned.id) in agent.known

    await change(cluster, first, desired_state=TaskState.SHUTDOWN)
    await agent.follow(stream)
    assert agent.known["task", first.id].desired_state is TaskState.SHUTDOWN

    await change(cluster, first, status=TaskStatus(state=TaskState.SHUTDOWN))
    await cluster.store.update(lambda tx: tx.delete(first))
    agent.order.clear()
    await agent.follow(stream)
    assert agent.order == [("-", "task", first.id), ("-", "network", network.id)]
    assert set(agent.known) == {("task", second.id), ("network", other.id), ("task", unassigned.id)}


async def test_a_second_stream_starts_with_a_complete_set(cluster: TestCluster, agent: Agent) -> None:
    task = new_task(agent)
    await put(cluster, task)
    await agent.open()
    first = agent.assignments()
    await agent.follow(first)
    second = agent.assignments()
    message = await agent.follow(second)
    assert message.type == pb.AssignmentsMessage.COMPLETE
    assert set(agent.known) == {("task", task.id)}
    assert await first.read() is grpc.aio.EOF


async def test_many_changes_travel_together(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    stream = agent.assignments()
    await agent.follow(stream)
    tasks = [new_task(agent) for _ in range(300)]
    for start in range(0, 300, 10):
        await put(cluster, *tasks[start : start + 10])
    messages = 0
    while len(agent.known) < 300:
        await agent.follow(stream)
        messages += 1
    assert messages <= 10


def spec_with(*files: Secret | Config) -> TaskSpec:
    """A task that needs these."""
    container = ContainerSpec(
        secrets=tuple(
            SecretReference(file=FileTarget(name=f.id), secret_id=f.id, secret_name=f.spec.name)
            for f in files
            if isinstance(f, Secret)
        ),
        configs=tuple(
            ConfigReference(file=FileTarget(name=f.id), config_id=f.id, config_name=f.spec.name)
            for f in files
            if isinstance(f, Config)
        ),
    )
    return TaskSpec(container_spec=container)


async def test_secrets_and_configs_go_to_nodes_whose_tasks_use_them(cluster: TestCluster, agent: Agent) -> None:
    other = Agent(cluster, await cluster.add_worker("w2"))
    secret = Secret(id=new_id(), spec=SecretSpec(name="tok", data=b"hunter2"))
    config = Config(id=new_id(), spec=ConfigSpec(name="conf", data=b"x=1"))
    unused = Secret(id=new_id(), spec=SecretSpec(name="unused", data=b"x"))
    await put(cluster, secret, config, unused)
    mine = new_task(agent, spec=spec_with(secret, config))
    await put(cluster, mine, new_task(other))
    await agent.open()
    await other.open("w2")
    stream, others = agent.assignments(), other.assignments()
    await agent.follow(stream)
    await other.follow(others)
    assert agent.order == [("+", "config", config.id), ("+", "secret", secret.id), ("+", "task", mine.id)]
    assert agent.known["secret", secret.id].spec.data == b"hunter2"
    assert agent.known["config", config.id].spec.data == b"x=1"
    assert {kind for kind, _ in other.known} == {"task"}

    theirs = new_task(other, spec=spec_with(secret))
    await put(cluster, theirs)
    await other.follow(others)
    assert ("secret", secret.id) in other.known

    await agent.report(mine.id, TaskState.RUNNING)
    agent.order.clear()
    await agent.report(mine.id, TaskState.FAILED)
    await agent.follow(stream)
    assert agent.order == [("-", "config", config.id), ("-", "secret", secret.id)]
    await cluster.store.update(lambda tx: tx.delete(secret))
    await other.follow(others)
    assert ("secret", secret.id) not in other.known, "a secret that was removed stays nowhere"
    await other.channel.close(grace=None)


async def test_more_payload_than_a_message_carries_comes_in_parts(cluster: TestCluster, agent: Agent) -> None:
    secrets = [Secret(id=new_id(), spec=SecretSpec(name=f"s{n}", data=bytes([n]) * 511_999)) for n in range(160)]
    for secret in secrets:
        await put(cluster, secret)
    task = new_task(agent, spec=spec_with(*secrets))
    await put(cluster, task)
    await agent.open()
    stream = agent.assignments()
    messages = [await agent.follow(stream)]
    while messages[-1].more:
        messages.append(await agent.follow(stream))
    assert len(messages) > 20
    assert {m.type for m in messages} == {pb.AssignmentsMessage.COMPLETE}
    assert max(m.ByteSize() for m in messages) < 4 * 1024 * 1024
    assert agent.order[-1] == ("+", "task", task.id)
    assert all(agent.known["secret", s.id].spec.data == s.spec.data for s in secrets)
    await put(cluster, follower := new_task(agent))
    message = await agent.follow(stream)
    assert (message.type, message.more) == (pb.AssignmentsMessage.INCREMENTAL, False)
    assert ("task", follower.id) in agent.known


async def test_tasks_of_other_nodes_are_neither_seen_nor_reported_on(cluster: TestCluster, agent: Agent) -> None:
    other = Agent(cluster, await cluster.add_worker("w2"))
    await other.open("w2")
    await agent.open()
    own, foreign = new_task(agent), new_task(other)
    await put(cluster, own, foreign)
    stream = agent.assignments()
    await agent.follow(stream)
    assert set(agent.known) == {("task", own.id)}
    with pytest.raises(PermissionDenied, match="does not run on node"):
        await agent.report(foreign.id, TaskState.FAILED)
    assert state_of(cluster, foreign) is TaskState.ASSIGNED
    # Another node's session is of no use either.
    agent.session_id = other.session_id
    for call in (agent.heartbeat(), agent.report(own.id, TaskState.RUNNING), agent.follow(agent.assignments())):
        with pytest.raises(SessionInvalid):
            await call
    await other.channel.close(grace=None)


async def test_states_only_move_forward(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    task = new_task(agent)
    await put(cluster, task)
    await agent.report(task.id, TaskState.RUNNING, container_status=ContainerStatus(container_id="c"))
    assert state_of(cluster, task) is TaskState.RUNNING
    await agent.report(task.id, TaskState.STARTING)
    assert state_of(cluster, task) is TaskState.RUNNING
    await agent.report(task.id, TaskState.FAILED, err="exit 3", container_status=ContainerStatus(exit_code=3))
    await agent.report(task.id, TaskState.REJECTED)
    assert state_of(cluster, task) is TaskState.FAILED
    await agent.report(new_id(), TaskState.RUNNING)  # of a record that is gone
    for state in (TaskState.NEW, TaskState.ORPHANED, TaskState.REMOVE):
        with pytest.raises(InvalidArgument, match="an agent cannot observe the state"):
            await agent.report(task.id, state)


async def test_reports_are_written_in_batches(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    tasks = [new_task(agent) for _ in range(50)]
    await put(cluster, *tasks)
    before = cluster.raft.index
    await asyncio.gather(*(agent.report(task.id, TaskState.RUNNING) for task in tasks))
    assert all(state_of(cluster, task) is TaskState.RUNNING for task in tasks)
    assert cluster.raft.index - before <= 5


async def test_a_report_that_was_not_stored_is_not_acknowledged(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    task = new_task(agent)
    await put(cluster, task)
    cluster.raft.broken = True
    with pytest.raises(PyswarmError, match="no quorum"):
        await agent.report(task.id, TaskState.RUNNING)
    cluster.raft.broken = False
    await agent.report(task.id, TaskState.RUNNING)
    assert state_of(cluster, task) is TaskState.RUNNING


async def test_a_newer_session_ends_the_older(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    old_id, old_stream, assignments = agent.session_id, agent.session, agent.assignments()
    await agent.follow(assignments)
    await agent.open()
    assert agent.session_id != old_id

    async def ended(stream: Any) -> bool:
        return await stream.read() is grpc.aio.EOF

    await eventually(lambda: ended(old_stream), "the old session's stream ends")
    await eventually(lambda: ended(assignments), "its assignments end")
    await agent.heartbeat()


async def test_a_heartbeat_may_bring_a_new_description(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    await agent.heartbeat(NodeDescription(hostname="w1", engine_error="the engine does not answer"))
    assert node(cluster, agent).description.engine_error == "the engine does not answer"


async def test_strangers_and_removed_nodes_are_refused(cluster: TestCluster, agent: Agent) -> None:
    stranger = Agent(cluster, cluster.pki.identity("worker"))
    with pytest.raises(PermissionDenied, match="is not a member of this swarm"):
        await stranger.open()
    await stranger.channel.close(grace=None)
    await agent.open()
    await cluster.client().remove_node(agent.node_id, force=True)
    with pytest.raises(PermissionDenied, match="was removed from the swarm"):
        await agent.to_the_end()
    with pytest.raises(PermissionDenied, match="was removed from the swarm"):
        await agent.open()


async def test_a_state_written_by_someone_else_is_made_good(cluster: TestCluster, agent: Agent) -> None:
    """A commit of DOWN that crossed the node's registration must not last."""
    await agent.open()

    def build(tx: Any) -> None:
        found = tx.view.nodes.get(agent.node_id)
        tx.update(replace(found, status=replace(found.status, state=NodeState.DOWN)))

    await cluster.store.update(build)

    async def ready() -> bool:
        await agent.heartbeat()
        return node(cluster, agent).status.state is NodeState.READY

    await eventually(ready, "the node is ready again")


async def test_figures(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    await agent.heartbeat()
    value = cluster.managers[0].registry.get_sample_value
    assert value("pyswarm_dispatcher_sessions") == 1
    assert value("pyswarm_dispatcher_heartbeats_total") == 1
    assert value("pyswarm_dispatcher_nodes", {"state": "ready"}) == 1


async def test_a_request_no_agent_sends_is_refused_unread(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    huge = pb.TaskStatusUpdate(task_id="x", status=b"x" * (5 << 20))
    with pytest.raises(InvalidArgument, match="takes no request as large"):
        await agent.call(agent.stub.UpdateTaskStatus(pb.UpdateTaskStatusRequest(updates=[huge])))
    many = [pb.TaskStatusUpdate() for _ in range(1001)]
    request = pb.UpdateTaskStatusRequest(session_id=agent.session_id, updates=many)
    with pytest.raises(InvalidArgument, match="at most 1000 statuses"):
        await agent.call(agent.stub.UpdateTaskStatus(request))
    await agent.heartbeat()


async def test_one_bad_status_does_not_keep_the_others_from_being_stored(
    cluster: TestCluster, agent: Agent
) -> None:
    await agent.open()
    tasks = [new_task(agent) for _ in range(3)]
    await put(cluster, *tasks)
    good = msgspec.msgpack.encode(TaskStatus(state=TaskState.RUNNING))
    bad = msgspec.msgpack.encode(
        TaskStatus(state=TaskState.RUNNING, container_status=ContainerStatus(container_id="c" * 2000))
    )
    updates = [
        pb.TaskStatusUpdate(task_id=task.id, status=data)
        for task, data in zip(tasks, (good, bad, good), strict=True)
    ]
    with pytest.raises(InvalidArgument, match="no valid container"):
        await agent.call(
            agent.stub.UpdateTaskStatus(pb.UpdateTaskStatusRequest(session_id=agent.session_id, updates=updates))
        )
    states = [state_of(cluster, task) for task in tasks]
    assert states == [TaskState.RUNNING, TaskState.ASSIGNED, TaskState.RUNNING]


async def test_a_status_that_cannot_be_stored_fails_its_own_node_only(
    cluster: TestCluster, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Agent(cluster, await cluster.add_worker("w2"))
    await other.open("w2")
    await agent.open()
    mine, foreign = new_task(agent), new_task(other)
    await put(cluster, mine, foreign)
    update = cluster.store.update

    async def refuse(build: Any, *, reason: str = "") -> Any:
        def checked(tx: Any) -> Any:
            result = build(tx)
            if tx.view.tasks.get(foreign.id).status.err == "too large":
                raise ChangeTooLarge("this change is too large")
            return result

        return await update(checked, reason=reason)

    monkeypatch.setattr(cluster.store, "update", refuse)
    results = await asyncio.gather(
        other.report(foreign.id, TaskState.FAILED, err="too large"),
        agent.report(mine.id, TaskState.RUNNING),
        return_exceptions=True,
    )
    assert isinstance(results[0], FailedPrecondition)
    assert results[1] is None
    assert state_of(cluster, mine) is TaskState.RUNNING
    assert state_of(cluster, foreign) is TaskState.ASSIGNED
    await other.channel.close(grace=None)


async def test_a_status_gets_the_manager_s_time_when_its_own_is_none(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    task = new_task(agent)
    await put(cluster, task)
    status = msgspec.msgpack.encode({"State": "running", "Timestamp": "2024-01-01T00:00:00"})
    update = pb.TaskStatusUpdate(task_id=task.id, status=status)
    await agent.call(
        agent.stub.UpdateTaskStatus(pb.UpdateTaskStatusRequest(session_id=agent.session_id, updates=[update]))
    )
    stored = cluster.store.view.tasks.get(task.id)
    assert stored is not None
    assert abs((datetime.now(UTC) - stored.status.timestamp).total_seconds()) < 60


async def test_the_underlay_address_of_another_node_is_refused(cluster: TestCluster, agent: Agent) -> None:
    await agent.open()
    thief = Agent(cluster, await cluster.add_worker("w2"))
    thief.addr = agent.addr
    with pytest.raises(FailedPrecondition, match=f"the underlay address {agent.addr} is that of node"):
        await thief.open("w2")
    thief.addr = "banana"
    with pytest.raises(InvalidArgument, match="invalid underlay address"):
        await thief.open("w2")
    await thief.channel.close(grace=None)
