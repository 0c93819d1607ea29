"""The managers as a group: who can be reached, who may be spared, and what to say when nobody leads."""

import asyncio
from collections.abc import Callable

from pyswarm.common.clock import Clock
from pyswarm.common.errors import FailedPrecondition, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.types import NodeRole
from pyswarm.manager.control.forward import NO_LEADER
from pyswarm.manager.raft import RaftNode
from pyswarm.manager.state import Store

log = get_logger("managers")

CHANGE_TIMEOUT_S = 20.0
SETTLE_S = 1.0
LAST_MANAGER = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
QUORUM_LOSS = (
    "rpc error: code = FailedPrecondition desc = can't remove member from the raft: "
    "this would result in a loss of quorum"
)


class ManagerGroup:
    """Raft's members with what the store and the network know of them."""

    def __init__(self, store: Store, raft: RaftNode, is_connected: Callable[[str], bool]) -> None:
        self._store = store
        self._raft = raft
        self._is_connected = is_connected

    @property
    def members(self) -> frozenset[str]:
        """The node ids of those that vote."""
        return frozenset(m.node_id for m in self._raft.members)

    def is_reachable(self, node_id: str) -> bool:
        """Whether this manager reaches that one; itself it does."""
        return node_id == self._raft.node_id or self._is_connected(node_id)

    def require_spare(self, node_id: str) -> None:
        """Raise FailedPrecondition, in Docker's words, when the others could not decide without ``node_id``."""
        members = self.members
        if node_id not in members:
            return
        others = members - {node_id}
        if not others:
            raise FailedPrecondition(LAST_MANAGER)
        if sum(self.is_reachable(other) for other in others) * 2 <= len(others):
            raise FailedPrecondition(QUORUM_LOSS)

    async def remove(self, node_id: str) -> None:
        """Count a manager out. The leader itself hands over first, and raises NotLeader."""
        if node_id in self.members:
            await self._raft.remove_member(node_id, CHANGE_TIMEOUT_S)
            log.info("manager counted out", node=node_id)

    def no_leader(self) -> str:
        """Why nothing can be decided now, naming the managers that are missing."""
        if self._raft.trouble:
            return f"{self._raft.trouble} (another manager may lead meanwhile: ask there)"
        members = self._raft.members
        missing = [m for m in members if not self.is_reachable(m.node_id)]
        text = f"no leader: {len(members) - len(missing)} of {len(members)} managers reachable"
        if missing:
            names = sorted(f"{self._hostname(m.node_id)} at {m.addr}" for m in missing)
            text += f" (missing: {', '.join(names)})"
        return f"{text}. {NO_LEADER}"

    def _hostname(self, node_id: str) -> str:
        node = self._store.view.nodes.get(node_id)
        return node.description.hostname if node is not None and node.description.hostname else node_id


class RoleKeeper:
    """A loop of the leader: who is no manager in the store any more does not stay in Raft's quorum.

    A demotion is stored first, then counted out of Raft; this finishes those that were interrupted in between.
    """

    def __init__(self, store: Store, group: ManagerGroup, clock: Clock) -> None:
        self._store = store
        self._group = group
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for node_id in sorted(self._group.members):
                node = self._store.view.nodes.get(node_id)
                if node is None or node.spec.role is not NodeRole.MANAGER:
                    await self._count_out(node_id)
            await self._clock.sleep(SETTLE_S)

    async def _count_out(self, node_id: str) -> None:
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                self._group.require_spare(node_id)
                await self._group.remove(node_id)
        except (PyswarmError, TimeoutError) as exc:
            log.warning("a manager that was demoted still counts", node=node_id, reason=str(exc))
