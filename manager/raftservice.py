"""The Raft service: messages between managers, and managers that come and go."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import msgspec

from pyswarm.common.errors import FailedPrecondition, NotLeader, PermissionDenied, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tls import TLSIdentity, peer_identity
from pyswarm.common.types import ManagerStatus, NodeRole
from pyswarm.manager.peers import PeerReceiver
from pyswarm.manager.raft import Member, RaftNode
from pyswarm.manager.state import Store, Transaction
from pyswarm.proto.errors import abort_with, error_from_rpc
from pyswarm.proto.v1 import raft_pb2, raft_pb2_grpc

log = get_logger("membership")

CHANGE_TIMEOUT_S = 20.0
#: A manager that left is counted out on behalf of itself; the leader asks nobody else.
_FORWARDED_FOR = "pyswarm-forwarded-for"


class RaftServicer(raft_pb2_grpc.RaftServicer):
    """Only managers' certificates reach it (``proto.roles``)."""

    def __init__(self, raft: RaftNode, store: Store, identity: TLSIdentity) -> None:
        self._raft = raft
        self._store = store
        self._identity = identity
        self._receiver = PeerReceiver(raft.deliver)

    async def Stream(self, request_iterator: AsyncIterator[raft_pb2.RaftMessage], context: Any) -> Any:
        """Messages of one peer, in order."""
        return await self._receiver.stream(request_iterator, context)

    async def Join(self, request: raft_pb2.RaftJoinRequest, context: Any) -> Any:
        """Count the caller in. First without ``confirm``, to learn the members; then with it, once it listens."""
        try:
            return await self._join(peer_identity(context).node_id, request)
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def _join(self, node_id: str, request: raft_pb2.RaftJoinRequest) -> raft_pb2.RaftJoinReply:
        self._require_leader()
        node = self._store.view.nodes.get(node_id)
        if node is None or node.spec.role is not NodeRole.MANAGER:
            raise PermissionDenied("only a node that joined as a manager can become one")
        members = self._raft.members
        if not request.confirm and not request.has_data and any(m.node_id == node_id for m in members):
            # It would vote and acknowledge as one who has what it acknowledged before.
            raise FailedPrecondition(
                "this node counts as a manager, but its data folder is empty: it has forgotten what it voted for "
                f"and stored. On another manager run 'pyswarm node demote {node.description.hostname}' and then "
                f"'pyswarm node promote {node.description.hostname}'"
            )
        if request.confirm:
            members = await self._raft.add_member(Member(node_id, request.addr), CHANGE_TIMEOUT_S)
            log.info("manager counted in", node=node_id, addr=request.addr, managers=len(members))
            await self._store.update(lambda tx: _now_a_manager(tx, node_id, request.addr), reason="manager joins")
        return raft_pb2.RaftJoinReply(
            members=[raft_pb2.RaftMember(node_id=m.node_id, addr=m.addr) for m in members],
            generation=self._raft.generation.encoded,
        )

    async def Leave(self, request: raft_pb2.RaftLeaveRequest, context: Any) -> Any:
        """Count the caller out, through whichever manager leads."""
        try:
            caller = peer_identity(context).node_id
            metadata = dict(context.invocation_metadata() or ())
            leaving = str(metadata.get(_FORWARDED_FOR, caller))
            return await self._leave(leaving)
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def _leave(self, node_id: str) -> raft_pb2.RaftLeaveReply:
        members = self._raft.members
        if len(members) == 1:
            raise FailedPrecondition("this is the last manager")
        if not self._raft.is_leader:
            return await self._forward_leave(node_id)

        def demote(tx: Transaction) -> None:
            node = tx.view.nodes.get(node_id)
            if node is not None and node.manager_status is not None:
                spec = msgspec.structs.replace(node.spec, role=NodeRole.WORKER)
                tx.update(msgspec.structs.replace(node, spec=spec, manager_status=None))

        await self._store.update(demote, reason="manager leaves")
        if node_id == self._identity.node_id:
            # The leader hands over first: the others must not wait for an election to learn that it is gone.
            await self._raft.transfer_leadership(CHANGE_TIMEOUT_S)
            if not self._raft.is_leader:
                return await self._forward_leave(node_id)
        await self._raft.remove_member(node_id, CHANGE_TIMEOUT_S)
        log.info("manager counted out", node=node_id)
        return raft_pb2.RaftLeaveReply()

    async def _forward_leave(self, node_id: str) -> raft_pb2.RaftLeaveReply:
        leader = self._raft.leader
        if leader is None or leader.node_id == self._identity.node_id:
            raise Unavailable("the swarm has no leader at the moment")
        async with self._identity.channel(leader.addr, expect=leader.node_id) as channel:
            try:
                reply: raft_pb2.RaftLeaveReply = await raft_pb2_grpc.RaftStub(channel).Leave(
                    raft_pb2.RaftLeaveRequest(),
                    metadata=((_FORWARDED_FOR, node_id),),
                    timeout=CHANGE_TIMEOUT_S,
                )
            except grpc.aio.AioRpcError as exc:
                raise error_from_rpc(exc, leader.addr) from exc
            return reply

    def _require_leader(self) -> None:
        if not self._raft.is_leader:
            leader = self._raft.leader
            raise NotLeader(leader.addr if leader else "", leader.node_id if leader else "")


def _now_a_manager(tx: Transaction, node_id: str, addr: str) -> None:
    """A node that was promoted shows as a manager once it is one."""
    node, status = tx.view.nodes.get(node_id), ManagerStatus(addr=addr)
    if node is not None and node.spec.role is NodeRole.MANAGER and node.manager_status != status:
        tx.update(msgspec.structs.replace(node, manager_status=status))
