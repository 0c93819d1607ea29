"""Snapshot files: written beside, synced, renamed, and checked in full before anything believes them."""

import re
import struct
import zlib
from pathlib import Path

import msgspec

from pyswarm.manager.raft.disk import REMEDY, Disk, check_format, storage_error
from pyswarm.manager.raft.entries import Snapshot
from pyswarm.manager.raft.types import RaftStorageError, StorageFullError

_NAME = re.compile(r"^snapshot-(\d{20})-(\d{20})\.snap$")
_MAGIC = b"PSWMSNP1"
_HEAD = struct.Struct("<8sIIQI")  # magic, length and crc of the description, length and crc of the data
#: Received data is synced every so often, so that the last sync is short.
_SYNC_EVERY_BYTES = 8 * 1024 * 1024


def encode_snapshot(snapshot: Snapshot, data: bytes) -> bytes:
    """A snapshot file's content."""
    described = msgspec.msgpack.encode(snapshot)
    return (
        _HEAD.pack(_MAGIC, len(described), zlib.crc32(described), len(data), zlib.crc32(data)) + described + data
    )


def decode_snapshot(content: bytes, path: Path) -> tuple[Snapshot, bytes]:
    """Check a snapshot file in full; raises RaftStorageError with the place of the damage."""
    check_format(_MAGIC, content, path)
    if len(content) < _HEAD.size or content[:8] != _MAGIC:
        raise RaftStorageError(f"snapshot {path} is damaged or of another format (offset 0): {REMEDY}")
    _, length, crc, data_length, data_crc = _HEAD.unpack_from(content)
    start = _HEAD.size + length
    if zlib.crc32(content[_HEAD.size : start]) != crc:
        raise RaftStorageError(f"snapshot {path} is damaged (offset {_HEAD.size}): {REMEDY}")
    data = content[start:]
    if len(data) != data_length or zlib.crc32(data) != data_crc:
        raise RaftStorageError(f"snapshot {path} is damaged (offset {start}): {REMEDY}")
    return msgspec.msgpack.decode(content[_HEAD.size : start], type=Snapshot), data


class SnapshotReader:
    """An open snapshot being sent; stays readable when a newer one replaces it."""

    def __init__(self, snapshot: Snapshot, path: Path, disk: Disk) -> None:
        self.snapshot = snapshot
        self._disk = disk
        self._fd = disk.open_read(path)
        self.size = disk.size(path)

    def read(self, offset: int, size: int) -> bytes:
        """A piece of the file."""
        return self._disk.read_at(self._fd, offset, size)

    def close(self) -> None:
        """Close the file."""
        self._disk.close(self._fd)


class SnapshotStore:
    """The snapshots of one node. Saving runs in a worker thread, receiving in the Raft thread."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        self._incoming: Incoming | None = None
        self.current: Snapshot | None = None

    def _files(self) -> list[tuple[int, int, Path]]:
        found = ((_NAME.match(p.name), p) for p in self._disk.files(self._folder))
        return sorted((int(m.group(1)), int(m.group(2)), p) for m, p in found if m)

    def load(self) -> tuple[Snapshot, bytes] | None:
        """The newest snapshot, verified. An older one never stands in for a damaged newer one."""
        for path in self._disk.files(self._folder):
            if path.suffix in (".tmp", ".part"):
                self._disk.unlink(path)
        files = self._files()
        if not files:
            return None
        path = files[-1][2]
        loaded = decode_snapshot(self._disk.read(path), path)
        if (loaded[0].index, loaded[0].term) != files[-1][:2]:
            raise RaftStorageError(f"snapshot {path} carries another snapshot's description: {REMEDY}")
        self.current = loaded[0]
        self._remove_older()
        return loaded

    def path_of(self, snapshot: Snapshot) -> Path:
        """Where a snapshot is kept."""
        return self._folder / f"snapshot-{snapshot.index:020d}-{snapshot.term:020d}.snap"

    def save(self, snapshot: Snapshot, data: bytes) -> None:
        """Write a snapshot of our own; durable when this returns. ``adopt`` makes it the current one."""
        self._disk.write_beside(self.path_of(snapshot), encode_snapshot(snapshot, data))

    def adopt(self, snapshot: Snapshot) -> bool:
        """Make a saved snapshot the current one; False if a newer one came meanwhile."""
        newer = self.current is None or snapshot.index > self.current.index
        if newer:
            self.current = snapshot
        self._remove_older()
        return newer

    def _remove_older(self) -> None:
        keep = self.current
        for index, _, path in self._files():
            if keep is not None and index < keep.index:
                self._disk.unlink(path)

    def open_current(self) -> SnapshotReader | None:
        """The current snapshot, for sending."""
        return SnapshotReader(self.current, self.path_of(self.current), self._disk) if self.current else None

    def receive(self, index: int, term: int, size: int) -> "Incoming":
        """The file being received for that snapshot; one at a time, an unfinished other one is dropped."""
        incoming = self._incoming
        if incoming is None or (incoming.index, incoming.term, incoming.size) != (index, term, size):
            self.drop_incoming()
            self._incoming = incoming = Incoming(
                self._folder / f"incoming-{index}-{term}.part", index, term, size, self._disk
            )
        return incoming

    def finish(self, incoming: "Incoming") -> tuple[Snapshot, bytes] | None:
        """Verify a received snapshot and make it current. None when it is damaged: it is asked for again."""
        try:
            incoming.sync()
            content = self._disk.read(incoming.path)
            snapshot, data = decode_snapshot(content, incoming.path)
        except (RaftStorageError, StorageFullError):
            self.drop_incoming()
            return None
        if (snapshot.index, snapshot.term) != (incoming.index, incoming.term):
            self.drop_incoming()
            return None
        try:
            self._disk.rename(incoming.path, self.path_of(snapshot))
        except OSError as exc:
            self.drop_incoming()
            raise storage_error(exc, incoming.path) from exc
        self.drop_incoming()
        self.adopt(snapshot)
        return snapshot, data

    def drop_incoming(self) -> None:
        """Forget what was received so far."""
        if self._incoming is not None:
            self._incoming.close()
            self._disk.unlink(self._incoming.path)
            self._incoming = None


class Incoming:
    """A snapshot arriving in pieces, in order."""

    def __init__(self, path: Path, index: int, term: int, size: int, disk: Disk) -> None:
        self.path, self.index, self.term, self.size = path, index, term, size
        self.received = 0
        self._disk = disk
        self._unsynced = 0
        try:
            self._fd = disk.create(path)
        except OSError as exc:
            raise storage_error(exc, path) from exc

    def add(self, offset: int, data: bytes) -> None:
        """Take a piece if it is the next one; any other is ignored and asked for again."""
        if offset != self.received or offset + len(data) > self.size:
            return
        try:
            self._disk.write(self._fd, data, offset)
        except OSError as exc:
            raise storage_error(exc, self.path) from exc
        self.received += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EVERY_BYTES:
            self.sync()

    def sync(self) -> None:
        """Make what has arrived durable."""
        try:
            self._disk.sync(self._fd)
        except OSError as exc:
            raise storage_error(exc, self.path) from exc
        self._unsynced = 0

    @property
    def complete(self) -> bool:
        """Whether every piece is here."""
        return self.received == self.size

    def close(self) -> None:
        """Close the file."""
        self._disk.close(self._fd)
