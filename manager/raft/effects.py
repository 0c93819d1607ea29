"""What one step of the Raft thread hands to the loop, in order, after the journal is durable."""

import msgspec

from pyswarm.manager.raft.entries import LogEntry, Snapshot
from pyswarm.manager.raft.types import Member
from pyswarm.manager.raft.waiters import Waiter


class Committed(msgspec.Struct, gc=False):
    """Entries to apply, with who waits for which."""

    entries: list[LogEntry]
    waiters: dict[int, Waiter]


class Restore(msgspec.Struct):
    """The state machine starts over from a snapshot."""

    snapshot: Snapshot
    data: bytes


class Leading(msgspec.Struct):
    """This node leads; it may say so once the loop has applied ``index``."""

    term: int
    index: int


class Lost(msgspec.Struct):
    """This node no longer leads."""

    term: int


class Readable(msgspec.Struct):
    """Leadership is confirmed; the reader goes on once the loop has applied ``index``."""

    waiter: Waiter
    index: int


class Resolve(msgspec.Struct):
    """A caller's answer that needs no entry."""

    waiter: Waiter
    result: object


class Fail(msgspec.Struct):
    """A caller's error."""

    waiter: Waiter
    error: Exception


Effect = Committed | Restore | Leading | Lost | Readable | Resolve | Fail


class Status(msgspec.Struct, frozen=True):
    """What anybody may read of the Raft thread at any time."""

    term: int = 0
    leading: bool = False
    leader: Member | None = None
    members: tuple[Member, ...] = ()
    commit_index: int = 0
    last_index: int = 0
    elections: int = 0
    last_term: int = 0
