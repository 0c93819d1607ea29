"""The agent's side of its session with the leader: found, held, and moved to the next leader when it dies.

While there is no leader, tasks go on as they are; what happens to them meanwhile is reported afterwards.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
import msgspec

from pyswarm.agent.applied import AppliedMark
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.reports import REFUSED_AGAIN_S, StatusReports
from pyswarm.agent.worker import Assignment, Removal
from pyswarm.common.clock import Clock
from pyswarm.common.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    NotLeader,
    PermissionDenied,
    PyswarmError,
    Unavailable,
)
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import until_first_ends
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import Config, Network, NodeDescription, Secret, Task, TaskStatus
from pyswarm.proto.errors import SessionInvalid, error_from_rpc
from pyswarm.proto.v1 import dispatcher_pb2 as pb
from pyswarm.proto.v1 import dispatcher_pb2_grpc

log = get_logger("agent")

#: A host that is gone does not even refuse; the next manager must not wait long for it.
CONNECT_LIMIT_S = 1.5
#: A session opens with a commit, which may have to wait for an election.
OPEN_LIMIT_S = 5.0
HEARTBEAT_LIMIT_S = 2.0
REPORT_LIMIT_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
#: A session that lasted this long was a good one; one that breaks at once again and again is not retried at once.
STEADY_S = 2.0
_MAX_REDIRECTS = 3

#: After a reply of these, saying the same again at once is of no use.
_REFUSALS = (InvalidArgument, NotFound, PermissionDenied, FailedPrecondition)


class Assignee(Protocol):
    """Who acts on what the leader says: ``worker.Worker`` in earnest."""

    async def complete(self, assignments: Sequence[Assignment]) -> None:
        """The full set."""
        ...

    async def incremental(self, assignments: Sequence[Assignment]) -> None:
        """What changed since."""
        ...

    def acknowledged(self, batch: Sequence[tuple[str, TaskStatus]]) -> None:
        """The leader has these statuses."""
        ...


class Session:
    """Keeps one session with whoever leads, for as long as ``run`` runs.

    ``alongside`` runs with the leader's address for as long as a session lasts, and does not return by itself.
    """

    def __init__(
        self,
        *,
        identity: TLSIdentity,
        managers: Sequence[str],
        underlay_addr: str,
        describe: Callable[[], NodeDescription],
        worker: Assignee,
        reports: StatusReports,
        applied: AppliedMark,
        clock: Clock,
        metrics: AgentMetrics,
        on_session: Callable[[pb.SessionMessage], None],
        alongside: Callable[[TLSIdentity, str], Coroutine[Any, Any, None]],
    ) -> None:
        self._identity = identity
        self._managers = tuple(managers)
        self._underlay_addr = underlay_addr
        self._describe = describe
        self._worker = worker
        self._reports = reports
        self._applied = applied
        self._clock = clock
        self._metrics = metrics
        self._on_session = on_session
        self._alongside = alongside
        self._random = random.SystemRandom()
        self._turn = 0
        self._connected = False
        self._error = ""
        self._new_description = asyncio.Event()
        self._new_identity = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the leader hears this node."""
        return self._connected

    @property
    def error(self) -> str:
        """Why there is no session, or empty."""
        return self._error

    def set_identity(self, identity: TLSIdentity) -> None:
        """Use a renewed certificate: the session is opened anew with it."""
        self._identity = identity
        self._new_identity.set()

    def description_changed(self) -> None:
        """What the node is changed; the leader hears of it at once."""
        self._new_description.set()

    async def run(self) -> None:
        """Until cancelled."""
        backoff_s, redirects, leader = BACKOFF_FIRST_S, 0, ""
        while True:
            addr, leader = leader or self._next_manager(), ""
            began_s = self._clock.monotonic()
            try:
                await self._serve(addr)
            except NotLeader as exc:
                reason = str(exc)
                if exc.leader_addr and exc.leader_addr != addr and redirects < _MAX_REDIRECTS:
                    leader, redirects = exc.leader_addr, redirects + 1
            except _Renewed:
                leader, reason = addr, ""
            except SessionInvalid as exc:
                leader, reason = addr, str(exc)
            except PyswarmError as exc:
                reason = str(exc)
            except Exception as exc:
                log.exception("session failed")
                reason = f"internal error of the agent: {exc!r}"
            if self._connected:
                redirects = 0
                if self._clock.monotonic() - began_s > STEADY_S:
                    backoff_s = BACKOFF_FIRST_S
            self._lost(reason)
            if leader and redirects:
                continue
            redirects = 0
            await self._clock.sleep(backoff_s * self._random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _next_manager(self) -> str:
        if not self._managers:
            return ""
        self._turn += 1
        return self._managers[self._turn % len(self._managers)]

    def _lost(self, reason: str) -> None:
        if self._connected:
            log.warning("session lost", reason=reason)
        elif reason and not self._error:
            # Once: while managers are away, every attempt may fail in other words.
            log.info("no session yet", reason=reason)
        self._connected = False
        self._error = reason
        self._metrics.session_connected.set(0)

    async def _serve(self, addr: str) -> NoReturn:
        """One session with the manager at ``addr``; raises what ended it."""
        if not addr:
            raise Unavailable("no manager of the swarm is known")
        self._new_identity.clear()
        self._new_description.clear()
        description = self._describe()
        try:
            async with self._identity.channel(addr) as channel:
                await connected(channel)
                stub: Any = dispatcher_pb2_grpc.DispatcherStub(channel)
                call = stub.Session(
                    pb.SessionRequest(
                        description=msgspec.msgpack.encode(description), underlay_addr=self._underlay_addr
                    )
                )
                messages = aiter(call)
                async with asyncio.timeout(OPEN_LIMIT_S):
                    first = await anext(messages, None)
                if first is None:
                    raise Unavailable(f"the manager at {addr} ended the session at once")
                self._opened(first, addr)
                await until_first_ends(
                    self._messages(messages),
                    self._heartbeats(stub, first, description),
                    self._assignments(stub, first.session_id),
                    self._send_reports(stub, first.session_id),
                    self._report_again(),
                    self._tell_applied(stub, first.session_id),
                    self._renewed(),
                    self._alongside(self._identity, addr),
                )
        except TimeoutError as exc:
            raise Unavailable(f"the manager at {addr} does not answer") from exc
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc, addr) from exc
        raise Unavailable(f"the manager at {addr} ended the session")

    def _opened(self, first: pb.SessionMessage, addr: str) -> None:
        log.info("session opened", manager=addr)
        self._connected = True
        self._error = ""
        self._metrics.session_connected.set(1)
        self._take(first)

    def _take(self, message: pb.SessionMessage) -> None:
        addrs = tuple(peer.addr for peer in message.managers)
        if addrs:
            self._managers = addrs
        self._on_session(message)

    # --- the parts of a session; none returns ---

    async def _messages(self, messages: AsyncIterator[pb.SessionMessage]) -> None:
        async for message in messages:
            self._take(message)
        raise Unavailable("the manager ended the session")

    async def _renewed(self) -> None:
        await self._new_identity.wait()
        raise _Renewed("the certificate was renewed")

    async def _heartbeats(self, stub: Any, first: pb.SessionMessage, told: NodeDescription) -> None:
        period_s = first.heartbeat_period_ms / 1000 or 1.0
        while True:
            # A little early each time, so that a late one is still in time.
            await self._sleep_or_changed(period_s * self._random.uniform(0.85, 0.95))
            self._new_description.clear()
            description = self._describe()
            reply = await stub.Heartbeat(
                pb.HeartbeatRequest(
                    session_id=first.session_id,
                    description=msgspec.msgpack.encode(description) if description != told else b"",
                ),
                timeout=HEARTBEAT_LIMIT_S,
            )
            told = description
            period_s = reply.period_ms / 1000 or period_s

    async def _sleep_or_changed(self, delay_s: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        changed = asyncio.ensure_future(self._new_description.wait())
        try:
            await asyncio.wait([sleeping, changed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()

    async def _assignments(self, stub: Any, session_id: str) -> None:
        while True:
            call = stub.Assignments(pb.AssignmentsRequest(session_id=session_id))
            if not await self._follow(call):
                raise Unavailable("the manager ended the stream of assignments")
            call.cancel()
            log.warning("assignments are not in sequence; asking for the full set")
            await self._clock.sleep(BACKOFF_FIRST_S)

    async def _follow(self, call: Any) -> bool:
        """Apply one stream of assignments; True if it has a gap, False at its end."""
        sequence: int | None = None
        gathered: list[Assignment] = []
        within_set = False
        async for message in call:
            complete = message.type == pb.AssignmentsMessage.COMPLETE
            if message.applies_to != sequence and (within_set or not complete):
                return True
            sequence, within_set = message.results_in, message.more
            gathered += [item for change in message.changes if (item := decoded(change)) is not None]
            if within_set:
                continue
            assignments, gathered = gathered, []
            if complete:
                await self._worker.complete(assignments)
            else:
                await self._worker.incremental(assignments)
        return False

    async def _send_reports(self, stub: Any, session_id: str) -> None:
        while True:
            await self._reports.some()
            await self._clock.sleep(self._reports.window_s)
            await self._report(stub, session_id, self._reports.batch())

    async def _tell_applied(self, stub: Any, session_id: str) -> None:
        self._applied.again()
        while True:
            term, index = await self._applied.next()
            request = pb.AppliedRequest(session_id=session_id, term=term, index=index)
            await stub.Applied(request, timeout=REPORT_LIMIT_S)

    async def _report_again(self) -> None:
        while True:
            self._reports.again()
            await self._clock.sleep(REFUSED_AGAIN_S)

    async def _report(self, stub: Any, session_id: str, batch: list[tuple[str, TaskStatus]]) -> None:
        updates = [
            pb.TaskStatusUpdate(task_id=task_id, status=msgspec.msgpack.encode(status))
            for task_id, status in batch
        ]
        request = pb.UpdateTaskStatusRequest(session_id=session_id, updates=updates)
        try:
            await stub.UpdateTaskStatus(request, timeout=REPORT_LIMIT_S)
        except grpc.aio.AioRpcError as exc:
            error = error_from_rpc(exc)
            if not isinstance(error, _REFUSALS):
                raise error from exc
            middle = len(batch) // 2
            if middle:
                await self._report(stub, session_id, batch[:middle])
                await self._report(stub, session_id, batch[middle:])
                return
            log.warning("a status report was refused", task=batch[0][0], reason=str(error))
            self._reports.refused(*batch[0])
        else:
            self._worker.acknowledged(batch)
            self._reports.acknowledged(batch)


class _Renewed(PyswarmError):
    """Ends a session to open it anew with another certificate."""


async def connected(channel: grpc.aio.Channel) -> None:
    """Wait until the channel is connected, or known not to be, which a call then explains."""
    async with asyncio.timeout(CONNECT_LIMIT_S):
        state = channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
            await channel.wait_for_state_change(state)
            state = channel.get_state()


def decoded(change: pb.AssignmentChange) -> Assignment | None:
    """What one change stands for; None, with a line in the log, if it cannot be read."""
    if change.action == pb.AssignmentChange.REMOVE:
        return Removal(change.kind, change.id)
    try:
        if change.kind == "task":
            return msgspec.msgpack.decode(change.object, type=Task)
        if change.kind == "network":
            return msgspec.msgpack.decode(change.object, type=Network)
        if change.kind == "secret":
            return msgspec.msgpack.decode(change.object, type=Secret)
        if change.kind == "config":
            return msgspec.msgpack.decode(change.object, type=Config)
    except msgspec.DecodeError as exc:
        log.error("cannot read an assignment", kind=change.kind, id=change.id, reason=str(exc))
        return None
    log.warning("unknown kind of assignment", kind=change.kind, id=change.id)
    return None
