"""What Raft needs from its surroundings, and what its surroundings see of it. No engine in here."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from pyswarm.common.errors import PyswarmError
from pyswarm.manager.raft.generation import Generation


class Member(msgspec.Struct, frozen=True):
    """One voting manager. Its identity is ``node_id``; the address is data and may change."""

    node_id: str
    addr: str


class StateMachine(Protocol):
    """What is replicated. Called on the loop that started the node, in commit order, never concurrently."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Carry out one committed command; the result goes to whoever proposed it. Never raises."""
        ...

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the present state cheaply; the returned function serialises it in a worker thread."""
        ...

    def restore(self, data: bytes, index: int) -> None:
        """Replace the whole state by a snapshot taken at ``index``."""
        ...


class PeerSender(Protocol):
    """The network. Called from the Raft thread: never blocks, may lose messages, keeps their order per peer."""

    def send(self, node_id: str, addr: str, payload: bytes) -> bool:
        """Send one message to a member; False when it certainly will not arrive."""
        ...

    def forget(self, node_id: str) -> None:
        """The member is gone: close what is open towards it."""
        ...


class RaftConfig(msgspec.Struct, frozen=True):
    """Where a node keeps its log, who it is, and its timing."""

    data_dir: str
    node_id: str
    addr: str
    #: Compared with the data folder's own when not empty: a folder of another cluster is refused.
    cluster_id: str = ""
    #: The group that a new folder joins; one with data has its own.
    generation: Generation = Generation()
    #: Names a rescue: this node becomes the only member, once for each name. Empty: none.
    force_new_cluster: str = ""
    #: Longest pause of the Raft thread while something is under way; idle, it sleeps until something is due.
    tick_s: float = 0.02
    heartbeat_s: float = 0.1
    election_min_s: float = 0.45
    election_max_s: float = 0.9
    #: A leader that heard from no majority for this long steps down.
    quorum_timeout_s: float = 1.2
    snapshot_every_entries: int = 10_000
    snapshot_every_bytes: int = 64 * 1024 * 1024
    #: Kept below a snapshot, so that a member slightly behind needs no snapshot.
    trailing_entries: int = 1_000
    trailing_bytes: int = 8 * 1024 * 1024
    segment_bytes: int = 16 * 1024 * 1024
    max_command_bytes: int = 2 * 1024 * 1024
    max_outstanding: int = 20_000
    append_batch_bytes: int = 512 * 1024
    append_window_bytes: int = 4 * 1024 * 1024
    snapshot_chunk_bytes: int = 256 * 1024
    snapshot_window_chunks: int = 4
    snapshot_resend_s: float = 1.0


class RaftStorageError(PyswarmError):
    """The data on disk cannot be trusted or used. The message names the file, the offset and the remedy."""

    code = "raft_storage"


class RaftInvariantError(PyswarmError):
    """A rule of Raft was about to be broken; the node stops instead."""

    code = "raft_invariant"


class StorageFullError(Exception):
    """No space for the log at the moment. Nothing was lost; the write is tried again."""
