"""A reader of logs at the leader: which nodes are asked, the order of what comes, and who is not waited for."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from support.store import local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import InvalidArgument, NotFound, PermissionDenied
from pyswarm.common.logframes import STDOUT, Cursor, Mark, frame, lines, time_text
from pyswarm.common.types import (
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    Service,
    ServiceSpec,
    Task,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.logs.nodefeed import MAX_WAITING_BYTES, NodeFeed, State
from pyswarm.manager.logs.subscription import OPEN_PATIENCE_S, ORDER_PATIENCE_S, LogSubscription
from pyswarm.manager.state import Transaction
from pyswarm.proto.errors import SessionInvalid
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb


def at(tick: int) -> bytes:
    return time_text(1_767_225_600 + tick)


def line(tick: int, text: str) -> bytes:
    return frame(STDOUT, at(tick) + b" " + text.encode())


def message(task_id: str, *said: tuple[int, str], caught_up: bool = False) -> pb.PublishLogsMessage:
    frames = b"".join(line(tick, text) for tick, text in said)
    chunks = [pb.LogChunk(task_id=task_id, frames=frames)] if said else []
    last = at(said[-1][0]) if said else b""
    positions = [pb.LogPosition(task_id=task_id, stdout_time=last, stdout_count=1)] if said else []
    return pb.PublishLogsMessage(chunks=chunks, positions=positions, caught_up=caught_up)


class Reader:
    """A subscription to the service ``web``, one task on each of the nodes ``n1``, ``n2``, ..., and what came."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store, _ = local_store(self.clock)
        self.texts: list[str] = []
        self.notice = ""
        self.messages: list[pb.ReadLogsMessage] = []
        self.notified: list[str] = []

    async def form(self, nodes: int, down: tuple[str, ...] = ()) -> None:
        def build(tx: Transaction) -> None:
            tx.create(Service(id="web", spec=ServiceSpec(name="web")))
            for number in range(1, nodes + 1):
                name = f"n{number}"
                state = NodeState.DOWN if name in down else NodeState.READY
                description = NodeDescription(hostname=f"h{number}")
                tx.create(Node(id=name, description=description, status=NodeStatus(state=state)))
                tx.create(a_task(f"t{number}", name, number))

        await self.store.update(build)

    def open(self, service_id: str = "web", task_id: str = "", **options: object) -> LogSubscription:
        wanted = {"stdout": True, "stderr": True, "tail": -1, **options}
        request = pb.ReadLogsRequest(
            service_id="" if task_id else service_id,
            task_id=task_id,
            options=pb.LogOptions(**wanted),  # type: ignore[arg-type]
        )
        return self.resume(request)

    def resume(self, request: pb.ReadLogsRequest) -> LogSubscription:
        self.subscription = LogSubscription(
            request, lambda: self.store.view, clock=self.clock, notify=self.notified.append
        )
        self.reading = asyncio.ensure_future(self._read())
        return self.subscription

    async def _read(self) -> None:
        async for found in self.subscription.messages():
            self.messages.append(found)
            for chunk in found.chunks:
                self.texts += [found_line.text.decode() for found_line in lines(chunk.frames)]
            self.notice = found.notice or self.notice

    def feed(self, node_id: str) -> NodeFeed:
        return self.subscription.target.feeds[node_id]

    async def update(self, change: Callable[[Transaction], object]) -> None:
        await self.store.update(change)
        self.subscription.sync()
        await self.clock.settle()


def a_task(task_id: str, node_id: str, slot: int, state: TaskState = TaskState.RUNNING, **fields: object) -> Task:
    return Task(
        id=task_id,
        service_id="web",
        service_name="web",
        slot=slot,
        node_id=node_id,
        status=TaskStatus(state=state),
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
async def reader() -> Reader:
    return Reader()


async def test_what_is_there_comes_in_the_order_of_its_times(reader: Reader) -> None:
    await reader.form(2)
    reader.open()
    streams = {node: reader.feed(node).open() for node in ("n1", "n2")}
    await reader.feed("n1").put(streams["n1"], message("t1", (1, "a1"), (4, "a4")))
    await reader.clock.settle()
    assert reader.texts == [], "the other may have earlier ones"
    await reader.feed("n2").put(streams["n2"], message("t2", (2, "b2"), (3, "b3")))
    await reader.clock.settle()
    assert reader.texts == ["a1", "b2", "b3"]
    await reader.feed("n2").put(streams["n2"], message("t2", caught_up=True))
    reader.feed("n2").finish(streams["n2"])
    await reader.clock.settle()
    assert reader.texts == ["a1", "b2", "b3", "a4"]
    reader.feed("n1").finish(streams["n1"])
    await reader.reading
    assert (reader.notice, reader.messages[0].began_ns > 0) == ("", True)
    chunk = reader.messages[1].chunks[0]
    assert (chunk.task_id, chunk.node_id, chunk.service_id) == ("t1", "n1", "web")


async def test_a_node_that_takes_long_does_not_hold_up_the_others(reader: Reader) -> None:
    await reader.form(2)
    reader.open()
    fast, slow = reader.feed("n1"), reader.feed("n2")
    fast_stream, slow_stream = fast.open(), slow.open()
    await fast.put(fast_stream, message("t1", (5, "a5")))
    fast.finish(fast_stream)
    await reader.clock.advance(ORDER_PATIENCE_S - 0.1)
    assert reader.texts == []
    await reader.clock.advance(0.2)
    assert reader.texts == ["a5"]
    await slow.put(slow_stream, message("t2", (1, "b1"), caught_up=True))
    slow.finish(slow_stream)
    await reader.reading
    assert (reader.texts, reader.notice) == (["a5", "b1"], "")


async def test_nodes_that_are_not_there_are_named_at_the_end(reader: Reader) -> None:
    await reader.form(3, down=("n2",))
    reader.open()
    assert reader.feed("n2").state is State.ABSENT
    stream = reader.feed("n1").open()
    await reader.feed("n1").put(stream, message("t1", (1, "a1"), caught_up=True))
    reader.feed("n1").finish(stream)
    await reader.clock.advance(OPEN_PATIENCE_S + 0.1)
    await reader.reading
    assert reader.texts == ["a1"]
    assert reader.notice == (
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
        "node h2 is not available, node h3 is not available"
    )


async def test_a_node_that_goes_down_meanwhile_gives_what_it_gave(reader: Reader) -> None:
    await reader.form(2)
    reader.open()
    for node, task in (("n1", "t1"), ("n2", "t2")):
        await reader.feed(node).put(reader.feed(node).open(), message(task, (1, node)))

    def down(tx: Transaction) -> None:
        tx.update(replace(tx.view.nodes.find("n2"), status=NodeStatus(state=NodeState.DOWN)))

    await reader.update(down)
    with pytest.raises(SessionInvalid):
        await reader.feed("n2").put(1, message("t2", (2, "late")))
    reader.feed("n1").finish(1)
    await reader.reading
    assert sorted(reader.texts) == ["n1", "n2"]
    assert "node h2 is not available" in reader.notice


async def test_a_broken_stream_goes_on_from_what_was_taken(reader: Reader) -> None:
    await reader.form(1)
    subscription = reader.open(follow=True)
    feed = reader.feed("n1")
    order = feed.next_order(subscription.id)
    assert order is not None
    assert [t.task_id for t in order.tasks] == ["t1"]
    assert not order.tasks[0].HasField("position")
    assert feed.next_order(subscription.id) is None
    stream = feed.open()
    await feed.put(stream, message("t1", (1, "a1")))
    feed.broke(stream)
    assert feed.next_order(subscription.id) is None, "not at once"
    feed.restart()
    with pytest.raises(SessionInvalid):
        await feed.put(stream, message("t1", (1, "a1")))
    order = feed.next_order(subscription.id)
    assert order is not None
    assert order.HasField("options")
    assert cursor_of(order.tasks[0].position) == Cursor(Mark(at(1), 1), Mark())
    reader.reading.cancel()


async def test_following_asks_for_new_tasks_and_forgets_those_that_are_gone(reader: Reader) -> None:
    await reader.form(1)
    subscription = reader.open(follow=True, tail=0)
    feed = reader.feed("n1")
    first = feed.next_order(subscription.id)
    assert first is not None
    assert not first.tasks[0].whole
    stream = feed.open()
    await feed.put(stream, message("t1", caught_up=True))
    await reader.update(lambda tx: tx.create(a_task("t2", "n1", 2, TaskState.ASSIGNED)))
    await reader.update(lambda tx: tx.create(Node(id="n9", status=NodeStatus(state=NodeState.READY))))
    await reader.update(lambda tx: tx.create(a_task("t3", "n9", 3, TaskState.ASSIGNED)))
    assert reader.notified[-1] == "n9"
    order = feed.next_order(subscription.id)
    assert order is not None
    assert [(t.task_id, t.whole, t.ended) for t in order.tasks] == [("t2", True, False)]
    await feed.put(stream, message("t2", (1, "b1")))
    await reader.clock.settle()
    assert reader.texts == ["b1"]

    await reader.update(lambda tx: tx.delete(tx.view.tasks.find("t2")))
    order = feed.next_order(subscription.id)
    assert order is not None
    assert [(t.task_id, t.ended) for t in order.tasks] == [("t2", True)]
    await feed.put(stream, pb.PublishLogsMessage(ends=[pb.LogEnd(task_id="t2")]))
    await reader.clock.settle()
    assert list(reader.messages[-1].gone) == ["t2"]
    assert set(feed.tasks) == {"t1"}
    reader.reading.cancel()


async def test_following_ends_with_the_service(reader: Reader) -> None:
    await reader.form(1)
    reader.open(follow=True)
    feed = reader.feed("n1")
    stream = feed.open()
    await feed.put(stream, message("t1", caught_up=True))

    def remove(tx: Transaction) -> None:
        tx.delete(tx.view.tasks.find("t1"))
        tx.delete(tx.view.services.find("web"))

    await reader.update(remove)
    assert not reader.reading.done(), "its last lines may still come"
    await feed.put(stream, message("t1", (9, "last")))
    await feed.put(stream, pb.PublishLogsMessage(ends=[pb.LogEnd(task_id="t1")]))
    await reader.reading
    assert (reader.texts, reader.notice) == (["last"], "")


async def test_a_reader_that_comes_again_is_served_from_where_it_was(reader: Reader) -> None:
    await reader.form(1)
    began = reader.store.view.tasks.find("t1").created_at.timestamp()
    await reader.clock.advance(10)
    await reader.store.update(lambda tx: tx.create(a_task("t2", "n1", 2)))
    request = pb.ReadLogsRequest(
        service_id="web",
        options=pb.LogOptions(follow=True, stdout=True, tail=3),
        began_ns=round((began + 5) * 1e9),
        positions=[position_of("t1", Cursor(Mark(at(7), 2)))],
    )
    subscription = reader.resume(request)
    order = reader.feed("n1").next_order(subscription.id)
    assert order is not None
    tasks = {t.task_id: t for t in order.tasks}
    assert cursor_of(tasks["t1"].position).stdout == Mark(at(7), 2)
    assert (tasks["t1"].whole, tasks["t2"].whole) == (False, True)
    reader.reading.cancel()


async def test_a_task_that_was_never_placed_is_named(reader: Reader) -> None:
    await reader.form(1)
    await reader.store.update(lambda tx: tx.create(a_task("t9", "", 9, TaskState.PENDING)))
    reader.open(task_id="t9")
    await reader.reading
    assert reader.notice.endswith("task t9 has not been scheduled")


async def test_a_log_that_cannot_be_read_is_named_once_others_were_given(reader: Reader) -> None:
    await reader.form(1)
    reader.open()
    feed = reader.feed("n1")
    stream = feed.open()
    failure = "configured logging driver does not support reading\n\x1b[31m"
    await feed.put(stream, pb.PublishLogsMessage(ends=[pb.LogEnd(task_id="t1", failure=failure)], caught_up=True))
    feed.finish(stream)
    await reader.reading
    assert reader.notice.endswith("task web.1.t1: configured logging driver does not support reading [31m")


async def test_nothing_but_what_was_asked_is_taken(reader: Reader) -> None:
    await reader.form(2)
    reader.open()
    feed = reader.feed("n1")
    stream = feed.open()
    for wrong in (
        message("t2", (1, "of another node")),
        pb.PublishLogsMessage(positions=[pb.LogPosition(task_id="t2")]),
        pb.PublishLogsMessage(ends=[pb.LogEnd(task_id="nobody")]),
    ):
        with pytest.raises(PermissionDenied):
            await feed.put(stream, wrong)
    long_time = pb.LogPosition(task_id="t1", stdout_time=b"x" * 1000)
    huge = pb.LogChunk(task_id="t1", frames=b"x" * 3_000_000)
    for wrong in (pb.PublishLogsMessage(positions=[long_time]), pb.PublishLogsMessage(chunks=[huge])):
        with pytest.raises(InvalidArgument):
            await feed.put(stream, wrong)
    # What is no frame at all ends that node's part, not the reader.
    await feed.put(stream, pb.PublishLogsMessage(chunks=[pb.LogChunk(task_id="t1", frames=b"rubbish")]))
    await reader.clock.settle()
    assert feed.state is State.ABSENT
    reader.feed("n2").finish(reader.feed("n2").open())
    await reader.reading
    assert "node h1 is not available" in reader.notice


async def test_a_reader_that_does_not_read_stops_the_nodes(reader: Reader) -> None:
    await reader.form(1)
    wanted = pb.LogOptions(stdout=True, stderr=True, tail=-1)
    subscription = LogSubscription(
        pb.ReadLogsRequest(service_id="web", options=wanted),
        lambda: reader.store.view,
        clock=reader.clock,
        notify=reader.notified.append,
    )
    feed = subscription.target.feeds["n1"]
    stream = feed.open()
    taken = 0

    async def publish() -> None:
        nonlocal taken
        while True:
            await feed.put(stream, message("t1", (taken, "x" * 10_000)))
            taken += 1

    publishing = asyncio.ensure_future(publish())
    await reader.clock.settle()
    assert taken == MAX_WAITING_BYTES // 10_000 + 1
    messages = subscription.messages()
    await anext(messages)
    await anext(messages)
    await reader.clock.settle()
    assert taken > MAX_WAITING_BYTES // 10_000 + 1
    subscription.end()
    with pytest.raises(SessionInvalid):
        await publishing


async def test_what_there_is_not_cannot_be_read(reader: Reader) -> None:
    await reader.form(1)
    with pytest.raises(NotFound):
        reader.open(service_id="other")
    with pytest.raises(NotFound):
        reader.open(task_id="other")
    with pytest.raises(InvalidArgument):
        reader.open(service_id="")
