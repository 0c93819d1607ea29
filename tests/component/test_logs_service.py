"""Logs through real managers and agents' feeds over loopback: order, following, breaks at every joint, rights."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from support.agents import a_task, until
from support.fake_engine import FakeEngine
from support.managers import TestCluster, running_cluster

from pyswarm.agent.logs import LogFeed
from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from pyswarm.common.logframes import lines
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import NodeState, NodeStatus, Service, ServiceSpec, Task, TaskState, TaskStatus
from pyswarm.gateway.logs import LogStream
from pyswarm.manager.logs.broker import MAX_SUBSCRIPTIONS
from pyswarm.proto.errors import SessionInvalid, error_from_rpc
from pyswarm.proto.v1 import logs_pb2 as pb
from pyswarm.proto.v1 import logs_pb2_grpc

SERVICE = "s" * 25


class Host:
    """A worker: its engine and the part of its agent that this is about."""

    def __init__(self, identity: TLSIdentity, number: int) -> None:
        self.identity = identity
        self.number = number
        self.engine = FakeEngine()
        self.feed = LogFeed(self.engine, SystemClock())
        self.serving: asyncio.Task[None] | None = None

    def connect(self, addr: str) -> None:
        """The agent has a session with the manager at ``addr``."""
        self.disconnect()
        self.serving = asyncio.ensure_future(self.feed.serve(self.identity, addr))

    def disconnect(self) -> None:
        """The session is lost."""
        if self.serving is not None:
            self.serving.cancel()

    async def add(self, cluster: TestCluster, slot: int) -> Task:
        """A task of the service runs here."""
        task = a_task(self.identity.node_id, slot=slot)
        await self.engine.create(task, [], egress=False)
        await self.engine.start(task.container_name)
        running = TaskStatus(state=TaskState.RUNNING)
        await cluster.store.update(lambda tx: tx.create(_with(task, status=running)))
        return task


def _with(task: Task, **fields: Any) -> Task:
    from msgspec.structs import replace

    return replace(task, **fields)


LEADING: dict[TestCluster, asyncio.Task[None]] = {}


def lead(cluster: TestCluster, manager: int) -> None:
    """Another manager leads: what only a leader runs is stopped at the other."""
    cluster.raft.leader = cluster.managers[manager].seat
    if cluster in LEADING:
        LEADING[cluster].cancel()
    LEADING[cluster] = asyncio.ensure_future(cluster.managers[manager].logs.run())


@asynccontextmanager
async def running(hosts: int, managers: int = 1) -> AsyncIterator[tuple[TestCluster, list[Host]]]:
    async with running_cluster(managers) as cluster:
        lead(cluster, 0)
        await cluster.store.update(lambda tx: tx.create(Service(id=SERVICE, spec=ServiceSpec(name="web"))))
        made = []
        for number in range(1, hosts + 1):
            host = Host(await cluster.add_worker(f"h{number}"), number)
            await cluster.store.update(lambda tx, host=host: _ready(tx, host))  # type: ignore[misc]
            host.connect(cluster.managers[0].addr)
            made.append(host)
        try:
            yield cluster, made
        finally:
            for host in made:
                host.disconnect()
            LEADING.pop(cluster).cancel()


def _ready(tx: Any, host: Host) -> None:
    from msgspec.structs import replace

    tx.update(replace(tx.view.nodes.find(host.identity.node_id), status=NodeStatus(state=NodeState.READY)))


class Client:
    """What a client of the API reads."""

    def __init__(self, cluster: TestCluster, manager: int = 0, **options: Any) -> None:
        wanted = {"stdout": True, "stderr": True, "tail": -1, **options}
        request = pb.ReadLogsRequest(service_id=SERVICE, options=pb.LogOptions(**wanted))
        control = cluster.client(manager)

        async def connect() -> Any:
            return control

        # With their times, so that they can be taken apart as between nodes.
        self.stream = LogStream(request, connect, timestamps=True, tty=False)
        self.texts: list[str] = []
        self.rest = b""
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for data in self.stream.data():
            if data.startswith(b"\x03"):
                self.rest += data
            else:
                self.texts += [line.text.decode().strip() for line in lines(data)]

    async def until(self, *texts: str) -> None:
        await until(lambda: self.reading.done() or set(texts) <= set(self.texts), f"{texts} were read")
        assert not self.reading.done() or set(texts) <= set(self.texts), self.reading

    def stop(self) -> None:
        self.reading.cancel()


async def test_what_is_there_comes_from_all_nodes_in_order() -> None:
    async with running(2, managers=2) as (cluster, (one, two)):
        first, second = await one.add(cluster, 1), await two.add(cluster, 2)
        for number in range(1, 7):
            host, task = ((one, first), (two, second))[number % 2]
            host.engine.say(task.container_name, f"{number}", tick=number)
        for manager in (0, 1):
            client = Client(cluster, manager)
            await asyncio.wait_for(client.reading, 10)
            assert (client.texts, client.rest) == ([str(n) for n in range(1, 7)], b"")
        client = Client(cluster, tail=1)
        await asyncio.wait_for(client.reading, 10)
        assert client.texts == ["5", "6"], "of each task"


async def test_following_shows_what_comes_and_new_tasks() -> None:
    async with running(2) as (cluster, (one, two)):
        first = await one.add(cluster, 1)
        one.engine.say(first.container_name, "old")
        client = Client(cluster, follow=True, tail=0)
        await until(lambda: one.engine.count("logs") >= 2, "it follows")
        one.engine.say(first.container_name, "new")
        second = await two.add(cluster, 2)
        two.engine.say(second.container_name, "hello")
        await client.until("new", "hello")
        assert sorted(client.texts) == ["hello", "new"]
        client.stop()


@pytest.mark.parametrize("joint", ["agent", "engine", "leader"])
async def test_no_line_is_lost_or_repeated_when_a_joint_breaks(joint: str) -> None:
    async with running(1, managers=2) as (cluster, (host,)):
        task = await host.add(cluster, 1)
        name = task.container_name
        host.engine.say(name, "0")
        client = Client(cluster, 1, follow=True)
        await client.until("0")
        said = 0
        for leader in (1, 0):
            if joint == "agent":
                host.disconnect()
            elif joint == "engine":
                host.engine.go_down()
            else:
                lead(cluster, leader)
                host.connect(cluster.managers[leader].addr)
            for _ in range(5):
                said += 1
                host.engine.say(name, str(said), tick=1000 + said // 3)
            if joint == "agent":
                host.connect(cluster.managers[0].addr)
            elif joint == "engine":
                host.engine.come_back()
                host.feed.engine_up()
            await client.until(str(said))
        assert client.texts == [str(n) for n in range(said + 1)]
        client.stop()


async def test_a_service_that_goes_ends_the_stream() -> None:
    async with running(1) as (cluster, (host,)):
        task = await host.add(cluster, 1)
        client = Client(cluster, follow=True)
        host.engine.say(task.container_name, "1")
        await client.until("1")
        host.engine.say(task.container_name, "last")
        host.engine.exit(task.container_name)

        def remove(tx: Any) -> None:
            tx.delete(tx.view.tasks.find(task.id))
            tx.delete(tx.view.services.find(SERVICE))

        await cluster.store.update(remove)
        await asyncio.wait_for(client.reading, 10)
        assert (client.texts, client.rest) == (["1", "last"], b"")


async def test_what_cannot_be_read_is_named() -> None:
    async with running(1) as (cluster, (host,)):
        good, bad = await host.add(cluster, 1), await host.add(cluster, 2)
        host.engine.say(good.container_name, "1")
        host.engine.unreadable.add(bad.container_name)
        client = Client(cluster)
        await asyncio.wait_for(client.reading, 10)
        assert client.texts == ["1"]
        assert client.rest[8:].decode() == (
            "Error grabbing logs: warning: incomplete log stream. some logs could not be retrieved for the "
            f"following reasons: task {bad.container_name}: configured logging driver does not support reading\n"
        )


async def test_a_slow_client_slows_the_containers_logs_down() -> None:
    async with running(1) as (cluster, (host,)):
        task = await host.add(cluster, 1)
        for _ in range(40):
            host.engine.say(task.container_name, "x" * 1_000_000)
        given = 0
        whole = host.engine.logs

        async def counted(name: str, query: Any) -> AsyncIterator[bytes]:
            nonlocal given
            async for frames in whole(name, query):
                for line in lines(frames):
                    given += 1
                    yield frames[line.end - len(line.text) - 39 : line.end]

        host.engine.logs = counted  # type: ignore[assignment, method-assign]
        request = pb.ReadLogsRequest(service_id=SERVICE, options=pb.LogOptions(stdout=True, tail=-1))
        messages = cluster.client().read_logs(request)
        await anext(messages)
        steady = 0

        def still() -> bool:
            nonlocal steady, before
            steady, before = (steady + 1, given) if given == before else (0, given)
            return steady > 30

        before = -1
        await until(still, "nothing more is read from the engine")
        # What is on its way, in the buffers of two connections among others.
        assert 0 < given < 35
        found = 0
        async for message in messages:
            found += sum(len(list(lines(chunk.frames))) for chunk in message.chunks)
        assert (found, given) == (40, 40)


async def test_a_node_may_give_only_what_was_asked_of_it() -> None:
    async with running(2) as (cluster, (one, two)):
        first, second = await one.add(cluster, 1), await two.add(cluster, 2)
        two.disconnect()
        client = Client(cluster, follow=True)
        async with two.identity.channel(cluster.managers[0].addr) as channel:
            stub: Any = logs_pb2_grpc.LogBrokerStub(channel)
            orders = stub.Listen(pb.ListenLogsRequest())
            order = await anext(aiter(orders))
            assert [t.task_id for t in order.tasks] == [second.id]

            async def publish(*messages: pb.PublishLogsMessage) -> None:
                try:
                    await stub.Publish(iter(messages))
                except grpc.aio.AioRpcError as exc:
                    raise error_from_rpc(exc) from exc

            hello = pb.PublishLogsMessage(subscription_id=order.subscription_id)
            others = pb.LogChunk(task_id=first.id, frames=b"")
            with pytest.raises(PermissionDenied):
                await publish(hello, pb.PublishLogsMessage(chunks=[others]))
            with pytest.raises(SessionInvalid):
                await publish(pb.PublishLogsMessage(subscription_id="nobody's"))
            with pytest.raises(InvalidArgument):
                await publish()
            logs: Any = logs_pb2_grpc.LogsStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(aiter(logs.Read(pb.ReadLogsRequest(service_id=SERVICE))))
            assert refused.value.details() == "a worker may not call Read"
        client.stop()


async def test_bad_requests_and_too_many_readers_are_refused() -> None:
    async with running(1) as (cluster, (host,)):
        await host.add(cluster, 1)
        control = cluster.client()
        for request, error in (
            (pb.ReadLogsRequest(service_id="x", options=pb.LogOptions(stdout=True)), NotFound),
            (pb.ReadLogsRequest(service_id=SERVICE), InvalidArgument),
        ):
            with pytest.raises(error):
                await anext(control.read_logs(request))
        wanted = pb.ReadLogsRequest(service_id=SERVICE, options=pb.LogOptions(stdout=True, follow=True))
        readers = [control.read_logs(wanted) for _ in range(MAX_SUBSCRIPTIONS)]
        for reader in readers:
            await anext(reader)
        with pytest.raises(Unavailable, match="as many as there may be"):
            await anext(control.read_logs(wanted))
        for reader in readers:
            await reader.aclose()  # type: ignore[attr-defined]

        async def one_more() -> bool:
            try:
                await anext(control.read_logs(wanted))
            except Unavailable:
                return False
            return True

        async with asyncio.timeout(10):
            while not await one_more():
                pass
