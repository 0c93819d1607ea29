"""The Dispatcher service: takes the caller's node from its certificate and hands the call to the dispatcher."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.tls import peer_identity
from pyswarm.manager.dispatcher.dispatcher import MAX_UPDATES_PER_CALL, Dispatcher
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import dispatcher_pb2 as pb
from pyswarm.proto.v1 import dispatcher_pb2_grpc


class DispatcherServicer(dispatcher_pb2_grpc.DispatcherServicer):
    """Every manager serves it; who does not lead answers with the leader's address."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def Session(self, request: pb.SessionRequest, context: Any) -> AsyncIterator[pb.SessionMessage]:
        """Open the node's session."""
        try:
            node_id = peer_identity(context).node_id
            messages = self._dispatcher.session(
                node_id, request.description, request.underlay_addr, _host(context.peer())
            )
            async with aclosing(messages):
                async for message in messages:
                    yield message
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> Any:
        """The node is alive."""
        try:
            node_id = peer_identity(context).node_id
            period_s = await self._dispatcher.heartbeat(node_id, request.session_id, request.description)
            return pb.HeartbeatReply(period_ms=round(period_s * 1000))
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Assignments(
        self, request: pb.AssignmentsRequest, context: Any
    ) -> AsyncIterator[pb.AssignmentsMessage]:
        """What the node must run."""
        try:
            messages = self._dispatcher.assignments(peer_identity(context).node_id, request.session_id)
            async with aclosing(messages):
                async for message in messages:
                    yield message
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def UpdateTaskStatus(self, request: pb.UpdateTaskStatusRequest, context: Any) -> Any:
        """What the node observed."""
        try:
            updates = _pairs(request.updates)
            await self._dispatcher.update_task_status(peer_identity(context).node_id, request.session_id, updates)
            return pb.UpdateTaskStatusReply()
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Applied(self, request: pb.AppliedRequest, context: Any) -> Any:
        """The node has a state of the registry in force."""
        try:
            node_id = peer_identity(context).node_id
            self._dispatcher.applied(node_id, request.session_id, (request.term, request.index))
            return pb.AppliedReply()
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Leave(self, request: pb.LeaveClusterRequest, context: Any) -> Any:
        """The node has left the swarm."""
        try:
            updates = _pairs(request.updates)
            await self._dispatcher.leave(peer_identity(context).node_id, updates)
            return pb.LeaveClusterReply()
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)


def _pairs(updates: Sequence[pb.TaskStatusUpdate]) -> list[tuple[str, bytes]]:
    """Counted before anything is made of them: one message has room for a million empty ones."""
    if len(updates) > MAX_UPDATES_PER_CALL:
        raise InvalidArgument(f"at most {MAX_UPDATES_PER_CALL} statuses fit into one report")
    return [(update.task_id, update.status) for update in updates]


def _host(peer: str) -> str:
    """``ipv4:10.0.0.5:4711`` -> ``10.0.0.5``."""
    _, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]")
