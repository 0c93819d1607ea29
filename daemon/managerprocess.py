"""What the daemon asks the manager process on this host."""

import asyncio
from collections.abc import Callable

import grpc.aio
import msgspec

from pyswarm.common.errors import Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import Node
from pyswarm.daemon.state import Membership
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc, raft_pb2, raft_pb2_grpc

log = get_logger("node")

POLL_S = 0.1
REACH_LIMIT_S = 2.0


async def until_ready(identity: TLSIdentity, membership: Membership, failure: Callable[[], str]) -> None:
    """Wait until the manager answers for the cluster; raises Unavailable with ``failure()`` when it cannot run."""
    async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        while True:
            if failure():
                raise Unavailable(failure())
            try:
                await stub.Get(control_pb2.GetRequest(kind="cluster"), timeout=5.0)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(POLL_S)


async def managers_by_reach(identity: TLSIdentity, membership: Membership) -> tuple[int, int] | None:
    """How many managers the leader reaches, and how many there are; None while nobody can tell."""
    request = control_pb2.ListRequest(kind="node")
    try:
        async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
            reply = await control_pb2_grpc.ControlStub(channel).List(request, timeout=REACH_LIMIT_S)
    except grpc.aio.AioRpcError:
        return None
    found = [msgspec.msgpack.decode(data, type=Node).manager_status for data in reply.objects]
    managers = [status for status in found if status is not None]
    return sum(status.reachability == "reachable" for status in managers), len(managers)


def leave_refusal(reach: tuple[int, int] | None) -> str:
    """Why a manager does not leave without ``--force``, in Docker's words."""
    text = "You are attempting to leave the swarm on a node that is participating as a manager. "
    if reach is not None:
        reachable, managers = reach
        if managers == 1:
            text += (
                "Removing the last manager erases all current state of the swarm. "
                "Use `--force` to ignore this message."
            )
            return text
        if (reachable - 1) * 2 <= managers - 1:
            text += (
                f"Removing this node leaves {reachable - 1} managers out of {managers}. "
                "Without a Raft quorum your swarm will be inaccessible. "
            )
    return text + (
        "The only way to restore a swarm that has lost consensus is to reinitialize it with "
        "`--force-new-cluster`. Use `--force` to suppress this message."
    )


async def leave_raft(identity: TLSIdentity, membership: Membership) -> None:
    """Ask the others to count this manager out, so that it does not stand in their quorum. Best effort."""
    try:
        async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
            await raft_pb2_grpc.RaftStub(channel).Leave(raft_pb2.RaftLeaveRequest(), timeout=10.0)
    except grpc.aio.AioRpcError as exc:
        log.warning("left without telling the other managers", reason=exc.details())
