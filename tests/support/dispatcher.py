"""A dispatcher for tests of agents: real gRPC with real certificates, the leader's mind played by the test."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import grpc.aio
import msgspec

from pyswarm.common.errors import NotLeader, PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.common.tls import SERVER_OPTIONS, TLSIdentity, peer_identity
from pyswarm.common.types import (
    Config,
    Network,
    NodeDescription,
    Secret,
    Task,
    TaskState,
    TaskStatus,
)
from pyswarm.proto.errors import SessionInvalid, abort_with
from pyswarm.proto.v1 import dispatcher_pb2 as pb
from pyswarm.proto.v1 import dispatcher_pb2_grpc
from support.pki import Pki

Item = Task | Network | Secret | Config


def put(item: Item) -> pb.AssignmentChange:
    """An object to have."""
    kind = type(item).__name__.lower()
    return pb.AssignmentChange(kind=kind, id=item.id, object=msgspec.msgpack.encode(item))


def gone(item: Item) -> pb.AssignmentChange:
    """An object to have no more."""
    kind = type(item).__name__.lower()
    return pb.AssignmentChange(action=pb.AssignmentChange.REMOVE, kind=kind, id=item.id)


class FakeDispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """One manager. ``leads`` decides whether it takes sessions, ``leader_addr`` where it sends agents instead."""

    def __init__(self, pki: Pki, addr: str = "127.0.0.1:0") -> None:
        self.identity = pki.identity("manager")
        self.addr = addr
        self.leads = True
        self.leader_addr = ""
        self.managers: list[str] = []
        self.period_ms = 100
        self.objects: dict[str, Item] = {}
        #: How many objects go into one message of a complete set.
        self.part_size = 1000
        #: Complete sets of which the second message does not arrive.
        self.parts_to_lose = 0
        self.sessions: list[str] = []
        self.descriptions: list[NodeDescription] = []
        self.heartbeats = 0
        self.statuses: dict[str, list[TaskStatus]] = {}
        self.refusals: list[PyswarmError] = []
        self.skip_sequence = False
        self.silent = False
        self.left: list[str] = []
        self.news = asyncio.Condition()
        self._streams: list[asyncio.Queue[pb.AssignmentsMessage]] = []
        self._sequence = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Listen."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self, self._server)
        port = self._server.add_secure_port(self.addr, self.identity.server_credentials())
        self.addr = f"127.0.0.1:{port}"
        await self._server.start()

    async def kill(self) -> None:
        """Stop at once, as a process that was killed does."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    # --- what a test says and asks ---

    def assign(self, *changes: pb.AssignmentChange, items: Iterable[Item] = ()) -> None:
        """Send one incremental message of ``items`` and ``changes``."""
        for item in items:
            self.objects[item.id] = item
        for change in changes:
            if change.action == pb.AssignmentChange.REMOVE:
                self.objects.pop(change.id, None)
        before, self._sequence = self._sequence, self._sequence + 1
        message = pb.AssignmentsMessage(
            type=pb.AssignmentsMessage.INCREMENTAL,
            applies_to=before + (7 if self.skip_sequence else 0),
            results_in=self._sequence,
            changes=[*(put(item) for item in items), *changes],
        )
        for stream in self._streams:
            stream.put_nowait(message)

    def state(self, task: Task) -> TaskState:
        """What was last reported of a task."""
        reported = self.statuses.get(task.id)
        return reported[-1].state if reported else TaskState.NEW

    async def until(self, *states: tuple[Task, TaskState], timeout_s: float = 20.0) -> None:
        """Wait until each task was last reported in its state."""
        try:
            async with asyncio.timeout(timeout_s), self.news:
                await self.news.wait_for(lambda: all(self.state(task) is state for task, state in states))
        except TimeoutError:
            found = {task.name: self.statuses.get(task.id) for task, _ in states}
            raise AssertionError(f"not within {timeout_s:g} s; reported so far: {found}") from None

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    # --- the service ---

    async def _check(self, context: Any, session_id: str = "") -> None:
        if not self.leads:
            await abort_with(context, NotLeader(self.leader_addr))
        if session_id and (not self.sessions or session_id != self.sessions[-1]):
            await abort_with(context, SessionInvalid("the session is not known"))

    async def Session(self, request: pb.SessionRequest, context: Any) -> AsyncIterator[pb.SessionMessage]:
        """Opens a session."""
        await self._check(context)
        session_id = new_id()
        self.sessions.append(session_id)
        self.descriptions.append(msgspec.msgpack.decode(request.description, type=NodeDescription))
        await self._tell()
        peers = [pb.Peer(node_id=f"m{n}", addr=addr) for n, addr in enumerate(self.managers or [self.addr])]
        yield pb.SessionMessage(session_id=session_id, managers=peers, heartbeat_period_ms=self.period_ms)
        await asyncio.Event().wait()

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """Counts."""
        await self._check(context, request.session_id)
        if self.silent:
            await asyncio.Event().wait()
        self.heartbeats += 1
        if request.description:
            self.descriptions.append(msgspec.msgpack.decode(request.description, type=NodeDescription))
        await self._tell()
        return pb.HeartbeatReply(period_ms=self.period_ms)

    async def Assignments(
        self, request: pb.AssignmentsRequest, context: Any
    ) -> AsyncIterator[pb.AssignmentsMessage]:
        """The full set, then what the test assigns."""
        await self._check(context, request.session_id)
        stream: asyncio.Queue[pb.AssignmentsMessage] = asyncio.Queue()
        self._streams.append(stream)
        ordered = sorted(self.objects.values(), key=lambda item: isinstance(item, Task))
        try:
            starts = range(0, len(ordered) or 1, self.part_size)
            first = self._sequence
            self._sequence += len(starts) - 1
            for number, start in enumerate(starts):
                if number == 1 and self.parts_to_lose:
                    self.parts_to_lose -= 1
                    continue
                yield pb.AssignmentsMessage(
                    type=pb.AssignmentsMessage.COMPLETE,
                    applies_to=first + number - 1 if number else 0,
                    results_in=first + number,
                    changes=[put(item) for item in ordered[start : start + self.part_size]],
                    more=number < len(starts) - 1,
                )
            while True:
                yield await stream.get()
        finally:
            self._streams.remove(stream)

    async def UpdateTaskStatus(
        self, request: pb.UpdateTaskStatusRequest, context: Any
    ) -> pb.UpdateTaskStatusReply:
        """Keeps every status reported."""
        await self._check(context, request.session_id)
        if self.refusals:
            await abort_with(context, self.refusals.pop(0))
        for update in request.updates:
            status = msgspec.msgpack.decode(update.status, type=TaskStatus)
            self.statuses.setdefault(update.task_id, []).append(status)
        await self._tell()
        return pb.UpdateTaskStatusReply()

    async def Leave(self, request: pb.LeaveClusterRequest, context: Any) -> pb.LeaveClusterReply:
        """Keeps the last statuses."""
        await self._check(context)
        self.left.append(peer_identity(context).node_id)
        for update in request.updates:
            status = msgspec.msgpack.decode(update.status, type=TaskStatus)
            self.statuses.setdefault(update.task_id, []).append(status)
        await self._tell()
        return pb.LeaveClusterReply()


def agent_identity(pki: Pki) -> TLSIdentity:
    """A worker's certificate."""
    return pki.identity("worker")
