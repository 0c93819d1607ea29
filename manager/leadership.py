"""What the manager's services need to know of Raft; ``manager.raft.RaftNode`` has it."""

from typing import Protocol

from pyswarm.common.errors import NotLeader


class LeaderRef(Protocol):
    """A member of the Raft group."""

    @property
    def node_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def addr(self) -> str:
        """``ip:port`` of its listener."""
        ...


class RaftLeadership(Protocol):
    """Who leads, and how far reading is safe."""

    @property
    def is_leader(self) -> bool:
        """Whether this manager leads."""
        ...

    @property
    def leader(self) -> LeaderRef | None:
        """Who leads, as far as this manager knows."""
        ...

    async def read_barrier(self) -> object:
        """Return once the local state has everything that was acknowledged before the call; raises NotLeader."""
        ...


def not_leader(raft: RaftLeadership) -> NotLeader:
    """The error that sends the caller to whoever leads."""
    leader = raft.leader
    return NotLeader(leader.addr, leader.node_id) if leader is not None else NotLeader()
