"""What the daemon asks the manager process on this host."""

import asyncio
from collections.abc import Callable

import grpc.aio

from pyswarm.common.errors import Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tls import TLSIdentity
from pyswarm.daemon.state import Membership
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc, raft_pb2, raft_pb2_grpc

log = get_logger("node")

POLL_S = 0.1


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


async def leave_raft(identity: TLSIdentity, membership: Membership) -> None:
    """Ask the others to count this manager out, so that it does not stand in their quorum. Best effort."""
    try:
        async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
            await raft_pb2_grpc.RaftStub(channel).Leave(raft_pb2.RaftLeaveRequest(force=True), timeout=10.0)
    except grpc.aio.AioRpcError as exc:
        log.warning("left without telling the other managers", reason=exc.details())
