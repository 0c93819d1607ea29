"""What log entries contain: a kind, as PySyncObj numbers them, then the command."""

import msgspec

from pyswarm.manager.raft.types import Member

REGULAR = b"\x00"
NO_OP = b"\x01"
MEMBERSHIP = b"\x02"

#: (command with its kind, index, term): PySyncObj's shape of a log entry.
LogEntry = tuple[bytes, int, int]

_members = msgspec.msgpack.Decoder(tuple[Member, ...])


class Snapshot(msgspec.Struct, frozen=True):
    """What a snapshot stands for. ``members`` is the membership as of ``index``, committed by definition."""

    index: int
    term: int
    members: tuple[Member, ...]


def encode_members(members: tuple[Member, ...]) -> bytes:
    """A membership entry carries the whole new list, so that replaying it needs no earlier one."""
    return MEMBERSHIP + msgspec.msgpack.encode(members)


def decode_members(command: bytes) -> tuple[Member, ...]:
    """The list in a membership entry."""
    return _members.decode(command[1:])
