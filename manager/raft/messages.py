"""Messages between managers: msgpack with a version byte, decoded strictly. Nothing is ever unpickled.

The sender's identity is never in a message; it comes from the certificate of the stream it arrived on.
``addr`` is where its sender takes replies.
"""

import msgspec

from pyswarm.common.errors import InvalidArgument

VERSION = b"\x01"


class Append(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Leader to member: entries following (prev_index, prev_term); without entries, a heartbeat."""

    addr: str
    term: int
    #: Rises with every message of this leader; answers repeat it.
    seq: int
    prev_index: int
    prev_term: int
    commit: int
    entries: list[tuple[int, bytes]]


class AppendAck(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """``match``: up to here the log equals the leader's. Not ok: the log ends there; send again from ``hint``."""

    term: int
    seq: int
    ok: bool
    match: int
    hint: int


class Vote(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A candidate asks for a vote; with ``pre``, only whether it would get one."""

    addr: str
    term: int
    last_index: int
    last_term: int
    pre: bool
    #: The leader itself asked for this election.
    transfer: bool


class VoteReply(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Granted: ``term`` is the request's. Refused: it is the voter's own."""

    term: int
    granted: bool
    pre: bool


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A piece of the snapshot (index, snapshot_term), which is ``size`` bytes long."""

    addr: str
    term: int
    index: int
    snapshot_term: int
    size: int
    offset: int
    data: bytes


class SnapshotAck(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Received up to ``offset``; ``done``: installed, or not needed any more."""

    term: int
    index: int
    offset: int
    done: bool


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The leader hands over: start an election at once."""

    addr: str
    term: int


class Recall(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """A member that has started asks what it is known to have had on the data folder it runs on."""

    addr: str
    term: int
    #: Of this process: an answer to an earlier one says nothing.
    run: int
    folder_id: str


class Recalled(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """The answer: the term and the committed entry the asker was seen with."""

    term: int
    run: int
    known_term: int
    known_index: int


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far one member was seen to be with one data folder."""

    node_id: str
    folder_id: str
    term: int
    index: int


class Marks(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """The leader tells what it knows of the members, so that others remember it when it is gone."""

    addr: str
    term: int
    known: list[Known]


Message = (
    Append | AppendAck | Vote | VoteReply | SnapshotChunk | SnapshotAck | TimeoutNow | Recall | Recalled | Marks
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as it travels."""
    return VERSION + _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """A message from the network; raises InvalidArgument for anything else."""
    if payload[:1] != VERSION:
        raise InvalidArgument("raft message of an unknown version")
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except msgspec.DecodeError as exc:
        raise InvalidArgument(f"malformed raft message: {exc}") from exc
