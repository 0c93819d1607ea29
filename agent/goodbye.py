"""What a node that has left its swarm says last, so that the managers need not wait for its silence."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import msgspec

from pyswarm.agent.reports import fitting
from pyswarm.agent.session import connected
from pyswarm.common.errors import NotLeader, PermissionDenied, PyswarmError, Unavailable
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import TaskStatus
from pyswarm.proto.errors import error_from_rpc
from pyswarm.proto.v1 import dispatcher_pb2 as pb
from pyswarm.proto.v1 import dispatcher_pb2_grpc

#: Leaving must not take long when the managers are away: they notice by themselves.
LIMIT_S = 3.0
_CONNECT_LIMIT_S = 1.0
_AGAIN_S = 0.2
_MAX_UPDATES = 1_000


async def say_goodbye(identity: TLSIdentity, managers: Sequence[str], statuses: Mapping[str, TaskStatus]) -> str:
    """Tell whoever leads that this node is gone, with the last of its tasks; why that failed, or nothing."""
    updates = [
        pb.TaskStatusUpdate(task_id=task_id, status=msgspec.msgpack.encode(status))
        for task_id, status in fitting(statuses.items(), _MAX_UPDATES)
    ]
    request = pb.LeaveClusterRequest(updates=updates)
    reason = "no manager answered"
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                for addr in managers:
                    try:
                        await _tell_leader(identity, addr, request)
                        return ""
                    except PermissionDenied as exc:
                        return str(exc)  # such as: removed already
                    except PyswarmError as exc:
                        reason = str(exc)
                await asyncio.sleep(_AGAIN_S)
    except TimeoutError:
        return reason


async def _tell_leader(identity: TLSIdentity, addr: str, request: pb.LeaveClusterRequest) -> None:
    try:
        await _tell(identity, addr, request)
    except NotLeader as exc:
        if not exc.leader_addr or exc.leader_addr == addr:
            raise
        await _tell(identity, exc.leader_addr, request)


async def _tell(identity: TLSIdentity, addr: str, request: pb.LeaveClusterRequest) -> None:
    try:
        async with identity.channel(addr) as channel:
            async with asyncio.timeout(_CONNECT_LIMIT_S):
                await connected(channel)
            stub: Any = dispatcher_pb2_grpc.DispatcherStub(channel)
            await stub.Leave(request, timeout=LIMIT_S)
    except TimeoutError as exc:
        raise Unavailable(f"the manager at {addr} does not answer") from exc
    except grpc.aio.AioRpcError as exc:
        raise error_from_rpc(exc, addr) from exc
