"""The format of log entries, results and snapshots, version 1. Pure.

An entry holds whole new objects and the versions they replace, never an operation to evaluate again, so that
every manager that applies it comes to the same state whatever its own clock, settings or code say. Several
transactions share one entry; each is checked, applied and answered on its own.

The structs are encoded as arrays: a later version may append fields with defaults, and old entries still
decode. Anything else needs a new ``SCHEMA``.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pyswarm.common.types import Cluster, Config, Network, Node, Secret, Service, Task

SCHEMA = 1

#: Every kind of stored object.
Stored = Node | Service | Task | Network | Cluster | Secret | Config

KINDS: dict[str, type[Stored]] = {
    "cluster": Cluster,
    "node": Node,
    "network": Network,
    "secret": Secret,
    "config": Config,
    "service": Service,
    "task": Task,
}
_KIND_OF: dict[type[object], str] = {cls: kind for kind, cls in KINDS.items()}
_NIL = msgspec.Raw(b"\xc0")
#: How many objects one piece of a snapshot holds at most.
SNAPSHOT_SLICE = 64


class Action(msgspec.Struct, frozen=True, array_like=True):
    """One object created, updated or deleted. ``replaces`` is the version the proposer saw, 0 on create."""

    op: str
    kind: str
    id: str
    replaces: int = 0
    obj: msgspec.Raw = _NIL


class TransactionRecord(msgspec.Struct, frozen=True, array_like=True):
    """All or nothing. A request id that was applied before is answered with the outcome it had then."""

    request_id: str
    actions: tuple[Action, ...]


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """What a log entry is: the body is read only when the schema is known."""

    schema: int
    body: msgspec.Raw


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of a transaction: ``ok`` (index), ``error`` (code, message) or ``conflict`` (message)."""

    status: str
    index: int = 0
    code: str = ""
    message: str = ""


class SnapshotBody(msgspec.Struct, frozen=True, array_like=True):
    """The whole state at ``index``; ``recent`` is the window of answered request ids, oldest first."""

    index: int
    objects: dict[str, list[msgspec.Raw]]
    recent: list[tuple[str, Outcome]]


_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in KINDS.items()}
_envelope = msgspec.msgpack.Decoder(Envelope)
_records = msgspec.msgpack.Decoder(tuple[TransactionRecord, ...])
_outcomes = msgspec.msgpack.Decoder(tuple[Outcome, ...])
_snapshot = msgspec.msgpack.Decoder(SnapshotBody)


class UnknownFormat(msgspec.DecodeError):
    """Written by a release newer than this one."""


def kind_of(obj: Stored) -> str:
    """``task`` for a Task, and so on."""
    return _KIND_OF[type(obj)]


def encode_object(obj: Stored) -> msgspec.Raw:
    """An object as it stands in entries and snapshots."""
    return msgspec.Raw(_encoder.encode(obj))


def decode_object(kind: str, raw: msgspec.Raw) -> Stored:
    """Raises msgspec.DecodeError, or KeyError for a kind this release does not know."""
    return _decoders[kind].decode(raw)


def encode_record(record: TransactionRecord) -> bytes:
    """One transaction, to be put into an entry."""
    return _encoder.encode(record)


def encode_entry(records: Sequence[bytes]) -> bytes:
    """A log entry from encoded transactions."""
    return _seal([msgspec.Raw(record) for record in records])


def decode_entry(data: bytes) -> tuple[TransactionRecord, ...]:
    """Raises msgspec.DecodeError when it is damaged or from a newer release."""
    return _records.decode(_open(data))


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """The answer to an entry, one outcome for each transaction."""
    return _encoder.encode(outcomes)


def decode_outcomes(data: bytes) -> tuple[Outcome, ...]:
    """The reverse of ``encode_outcomes``."""
    return _outcomes.decode(data)


def snapshot_pieces(
    index: int, tables: Mapping[str, Mapping[str, Stored]], recent: Sequence[tuple[str, Outcome]]
) -> Iterator[bytes]:
    """A snapshot's bytes: an ``Envelope`` with a ``SnapshotBody``, in pieces of a bounded number of objects.

    Encoding all of it in one call would hold the interpreter for as long as that takes, and with it the manager's
    loop, whichever thread encodes.
    """
    yield _array_header(2) + _encoder.encode(SCHEMA)
    yield _array_header(3) + _encoder.encode(index) + _map_header(len(tables))
    for kind, table in tables.items():
        yield _encoder.encode(kind) + _array_header(len(table))
        objects = iter(table.values())
        while piece := [_encoder.encode(obj) for obj in itertools.islice(objects, SNAPSHOT_SLICE)]:
            yield b"".join(piece)
    yield _array_header(len(recent))
    for start in range(0, len(recent), SNAPSHOT_SLICE):
        yield b"".join([_encoder.encode(answered) for answered in recent[start : start + SNAPSHOT_SLICE]])


def _array_header(length: int) -> bytes:
    """MessagePack's largest form, whatever the length."""
    return b"\xdd" + length.to_bytes(4, "big")


def _map_header(length: int) -> bytes:
    return b"\xdf" + length.to_bytes(4, "big")


def decode_snapshot(data: bytes) -> SnapshotBody:
    """Raises msgspec.DecodeError when it is damaged or from a newer release."""
    return _snapshot.decode(_open(data))


def _seal(body: object) -> bytes:
    return _encoder.encode(Envelope(schema=SCHEMA, body=msgspec.Raw(_encoder.encode(body))))


def _open(data: bytes) -> msgspec.Raw:
    envelope = _envelope.decode(data)
    if envelope.schema != SCHEMA:
        raise UnknownFormat(f"format {envelope.schema} is not known; this release reads format {SCHEMA}")
    return envelope.body
