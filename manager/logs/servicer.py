"""The services for reading logs: Logs for managers, LogBroker for agents.

Any manager takes a reader; who does not lead passes on what the leader says. The reader of a stream that breaks
asks again, from where it was, so nothing is repeated here.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from pyswarm.common.errors import Unavailable
from pyswarm.common.tls import TLSIdentity, peer_identity
from pyswarm.manager.control.forward import FORWARDED_KEY, NO_LEADER, WATCH_LEADER_S
from pyswarm.manager.leadership import LeaderRef, RaftLeadership, not_leader
from pyswarm.manager.logs.broker import LogBroker
from pyswarm.proto.errors import abort_with, error_from_rpc
from pyswarm.proto.v1 import logs_pb2 as pb
from pyswarm.proto.v1 import logs_pb2_grpc


class LogsServicer(logs_pb2_grpc.LogsServicer):
    """Only managers may call (``proto.roles``)."""

    def __init__(self, broker: LogBroker, raft: RaftLeadership, identity: TLSIdentity) -> None:
        self._broker = broker
        self._raft = raft
        self._identity = identity

    async def Read(self, request: pb.ReadLogsRequest, context: Any) -> AsyncIterator[pb.ReadLogsMessage]:
        """The lines asked for."""
        forwarded = any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())
        try:
            async with aclosing(self._messages(request, forwarded=forwarded)) as messages:
                async for message in messages:
                    yield message
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    def _messages(
        self, request: pb.ReadLogsRequest, *, forwarded: bool
    ) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        leader = self._raft.leader
        if self._raft.is_leader:
            return self._broker.read(request)
        if forwarded:
            raise not_leader(self._raft)
        if leader is None or leader.node_id == self._identity.node_id:
            raise Unavailable(NO_LEADER)
        return self._from(leader, request)

    async def _from(
        self, leader: LeaderRef, request: pb.ReadLogsRequest
    ) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        """What the leader says. The connection is this reader's own: others must not wait behind it."""
        async with self._identity.channel(leader.addr, expect=leader.node_id) as channel:
            stub: Any = logs_pb2_grpc.LogsStub(channel)
            call = stub.Read(request, metadata=((FORWARDED_KEY, self._identity.node_id),))
            messages = aiter(call)
            try:
                while (message := await self._next(messages, leader)) is not None:
                    yield message
            except grpc.aio.AioRpcError as exc:
                raise error_from_rpc(exc, leader.addr) from exc
            finally:
                call.cancel()

    async def _next(self, messages: AsyncIterator[Any], leader: LeaderRef) -> pb.ReadLogsMessage | None:
        """The next message, None at the end. Raises Unavailable when another manager leads meanwhile: a host that
        vanished never says anything."""
        reading = asyncio.ensure_future(_first_of(messages))
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=WATCH_LEADER_S)
                now = self._raft.leader
                if not reading.done() and now is not None and now.node_id != leader.node_id:
                    raise Unavailable("another manager leads now")
            return reading.result()
        finally:
            reading.cancel()


async def _first_of(messages: AsyncIterator[Any]) -> pb.ReadLogsMessage | None:
    return await anext(messages, None)


class LogBrokerServicer(logs_pb2_grpc.LogBrokerServicer):
    """Takes the caller's node from its certificate and hands the call to the broker."""

    def __init__(self, broker: LogBroker) -> None:
        self._broker = broker

    async def Listen(self, _request: pb.ListenLogsRequest, context: Any) -> AsyncIterator[pb.LogOrder]:
        """Orders for the node."""
        try:
            async with aclosing(self._broker.listen(peer_identity(context).node_id)) as orders:
                async for order in orders:
                    yield order
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Publish(self, messages: AsyncIterator[pb.PublishLogsMessage], context: Any) -> Any:
        """What the node has."""
        try:
            await self._broker.publish(peer_identity(context).node_id, messages)
            return pb.PublishLogsReply()
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)
