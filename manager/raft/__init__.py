"""The replicated log: PySyncObj behind our own journal, snapshots, transport and guards (docs/design/raft.md)."""

from pyswarm.manager.raft.generation import Generation, parse_generation
from pyswarm.manager.raft.node import RaftNode
from pyswarm.manager.raft.types import (
    Member,
    PeerSender,
    RaftConfig,
    RaftInvariantError,
    RaftStorageError,
    StateMachine,
)

__all__ = [
    "Generation",
    "Member",
    "PeerSender",
    "RaftConfig",
    "RaftInvariantError",
    "RaftNode",
    "RaftStorageError",
    "StateMachine",
    "parse_generation",
]
