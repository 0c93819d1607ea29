"""The journal's record format, and how a segment is read back.

    segment = header, record*
    record  = magic, crc32, length, durable, index, term, kind, payload

``crc32`` covers everything after itself. ``durable`` is how much of this segment was known to be on disk
when the record was written. That tells a torn tail from damage: one batch may reach the disk in any
order, so an unreadable record followed by readable ones is still an unfinished write, *unless* a later
record says that the place was durable before it. The first is cut, the second stops the node.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pyswarm.manager.raft.disk import REMEDY
from pyswarm.manager.raft.types import RaftStorageError

ENTRY = 0
#: The log starts anew after (index, term), which a snapshot covers.
RESET = 1

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"PSWARMJL"
RECORD_MAGIC = b"\xa7RJ\x01"
_SEGMENT = struct.Struct("<8sIQI")  # magic, version, number, crc of the first three
_HEAD = struct.Struct("<4sI")  # magic, crc
_BODY = struct.Struct("<IIQQB")  # length, durable, index, term, kind
SEGMENT_HEADER_BYTES = _SEGMENT.size
RECORD_HEADER_BYTES = _HEAD.size + _BODY.size
MAX_RECORD_BYTES = 256 * 1024 * 1024


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a segment."""

    kind: int
    index: int
    term: int
    payload: bytes


def encode_record(kind: int, index: int, term: int, payload: bytes, durable: int) -> bytes:
    """A record as it stands in the file."""
    body = _BODY.pack(len(payload), durable, index, term, kind)
    return _HEAD.pack(RECORD_MAGIC, zlib.crc32(payload, zlib.crc32(body))) + body + payload


def encode_segment_header(number: int) -> bytes:
    """The start of segment ``number``."""
    plain = _SEGMENT.pack(SEGMENT_MAGIC, FORMAT_VERSION, number, 0)[:-4]
    return plain + zlib.crc32(plain).to_bytes(4, "little")


def check_segment_header(data: bytes, number: int, path: Path) -> None:
    """Refuse a file that is not segment ``number`` in this format."""
    if len(data) < _SEGMENT.size:
        raise RaftStorageError(f"journal segment {path} is damaged (offset {len(data)}): {REMEDY}")
    magic, version, found, crc = _SEGMENT.unpack_from(data)
    if magic == SEGMENT_MAGIC and version > FORMAT_VERSION:
        raise RaftStorageError(
            f"journal segment {path} has format {version}, this release reads up to {FORMAT_VERSION}: it was "
            "written by a newer release of pyswarm; start that one again"
        )
    if magic != SEGMENT_MAGIC or found != number or zlib.crc32(data[: _SEGMENT.size - 4]) != crc:
        raise RaftStorageError(f"journal segment {path} is damaged (offset 0): {REMEDY}")


def _parse(data: bytes, offset: int) -> tuple[Record, int, int] | None:
    """The record at ``offset`` as (record, its ``durable``, offset after it); None when there is none."""
    if offset + RECORD_HEADER_BYTES > len(data):
        return None
    magic, crc = _HEAD.unpack_from(data, offset)
    if magic != RECORD_MAGIC:
        return None
    start = offset + _HEAD.size
    length, durable, index, term, kind = _BODY.unpack_from(data, start)
    end = offset + RECORD_HEADER_BYTES + length
    if length > MAX_RECORD_BYTES or end > len(data):
        return None
    if zlib.crc32(memoryview(data)[start:end]) != crc:
        return None
    return Record(kind, index, term, data[offset + RECORD_HEADER_BYTES : end]), durable, end


def _proof_of_damage(data: bytes, bad: int) -> int | None:
    """Offset of a readable record written when ``bad`` was already durable, or None."""
    at = data.find(RECORD_MAGIC, bad + 1)
    while at >= 0:
        found = _parse(data, at)
        if found is not None and found[1] > bad:
            return at
        at = data.find(RECORD_MAGIC, at + 1)
    return None


class SegmentScan:
    """Iterates over the good records; afterwards ``end`` is where the good part ends."""

    def __init__(self, data: bytes, path: Path, *, is_last: bool) -> None:
        self._data = data
        self._path = path
        self._is_last = is_last
        self.end = SEGMENT_HEADER_BYTES

    def __iter__(self) -> Iterator[Record]:
        while self.end < len(self._data):
            found = _parse(self._data, self.end)
            if found is None:
                if not self._is_last or _proof_of_damage(self._data, self.end) is not None:
                    raise RaftStorageError(
                        f"journal segment {self._path} is damaged at offset {self.end}, before entries that "
                        f"were already acknowledged: {REMEDY}"
                    )
                return
            record, _, self.end = found
            yield record
