"""Getting a call to whoever leads: here, or over one hop to the leader.

A change is sent a second time only when it is certain that nobody acted on it; otherwise the caller is told that
its outcome is unknown. Reads are simply asked again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from pyswarm.common.clock import Clock
from pyswarm.common.errors import NotLeader, OutcomeUnknown, PyswarmError, Unavailable
from pyswarm.common.tls import TLSIdentity
from pyswarm.manager.leadership import LeaderRef, RaftLeadership, not_leader
from pyswarm.proto.errors import answered, error_from_rpc, was_never_sent
from pyswarm.proto.v1 import control_pb2_grpc

#: Metadata of a forwarded call: the manager it came through. Such a call is not forwarded again.
FORWARDED_KEY = "pyswarm-forwarded-by"
NO_LEADER = (
    "The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)
LEADER_PATIENCE_S = 5.0
#: The part of a shorter time limit after which a caller is told why nobody acts, while it still listens.
PATIENCE_SHARE = 0.8
POLL_S = 0.05
#: Also an upper bound on how long a call sticks to a leader that was replaced meanwhile.
WATCH_LEADER_S = 0.1
MAX_CHANNELS = 8


class _NotSent(PyswarmError):
    """Nobody has acted on the call, so it may go to another leader."""


class LeaderCalls:
    """Runs calls of the Control service where the leader is."""

    def __init__(
        self, raft: RaftLeadership, identity: TLSIdentity, clock: Clock, no_leader: Callable[[], str]
    ) -> None:
        self._no_leader = no_leader
        self._raft = raft
        self._identity = identity
        self._node_id = identity.node_id
        self._clock = clock
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    async def call(
        self,
        method: str,
        request: Any,
        local: Callable[[], Awaitable[Any]],
        *,
        forwarded: bool,
        timeout_s: float,
        repeatable: bool,
    ) -> Any:
        """Run ``local`` here if this manager leads, else send ``request`` to the leader, waiting for one to be
        elected for a few seconds. Raises what either raised; Unavailable when nobody leads."""
        start_s = self._clock.monotonic()
        while True:
            leader = self._raft.leader
            left_s = start_s + timeout_s - self._clock.monotonic()
            if self._raft.is_leader:
                with contextlib.suppress(NotLeader):
                    return await local()
            elif forwarded:
                raise not_leader(self._raft)
            elif leader is not None and leader.node_id != self._node_id and left_s > 0:
                # Also of a leader that died: its followers name it while too few are left to elect another.
                with contextlib.suppress(NotLeader, _NotSent):
                    return await self._send(leader, method, request, left_s, repeatable)
            if self._clock.monotonic() - start_s > min(LEADER_PATIENCE_S, timeout_s * PATIENCE_SHARE):
                raise Unavailable(self._no_leader())
            await self._clock.sleep(POLL_S)

    async def _send(self, leader: LeaderRef, method: str, request: Any, timeout_s: float, repeatable: bool) -> Any:
        stub = control_pb2_grpc.ControlStub(self._channel(leader))
        call = getattr(stub, method)(request, timeout=timeout_s, metadata=((FORWARDED_KEY, self._node_id),))
        try:
            await self._until_done(call, leader)
            if not call.done():
                raise _lost(leader, repeatable)
            return await call
        except grpc.aio.AioRpcError as exc:
            error = error_from_rpc(exc, leader.addr)
            if answered(exc):
                raise error from exc
            if was_never_sent(exc):
                raise _NotSent(str(error)) from exc
            if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED and repeatable:
                raise error from exc
            raise _lost(leader, repeatable) from exc
        finally:
            if not call.done():
                call.cancel()

    async def _until_done(self, call: Any, leader: LeaderRef) -> None:
        """Wait for the call's end, or for another manager to lead: a host that vanished never answers."""
        done = asyncio.Event()
        call.add_done_callback(lambda _call: done.set())
        while not call.done():
            try:
                async with asyncio.timeout(WATCH_LEADER_S):
                    await done.wait()
            except TimeoutError:
                now = self._raft.leader
                if now is not None and now.node_id != leader.node_id:
                    return

    def _channel(self, leader: LeaderRef) -> grpc.aio.Channel:
        key = (leader.node_id, leader.addr)
        channel = self._channels.get(key)
        if channel is None:
            while len(self._channels) >= MAX_CHANNELS:
                del self._channels[next(iter(self._channels))]
            channel = self._channels[key] = self._identity.channel(leader.addr, expect=leader.node_id)
        return channel

    async def close(self) -> None:
        """Close the connections to other managers."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(grace=None)


def _lost(leader: LeaderRef, repeatable: bool) -> PyswarmError:
    if repeatable:
        return _NotSent(f"the connection to {leader.addr} broke")
    return OutcomeUnknown(
        f"the connection to the leader at {leader.addr} broke while the change was on its way: "
        "it may or may not have been stored; look before trying again"
    )
