"""Snapshot files: written beside, verified in full."""

import errno
import os
from pathlib import Path

import pytest

from pyswarm.manager.raft import Member, RaftStorageError
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import Snapshot
from pyswarm.manager.raft.snapshots import SnapshotStore, encode_snapshot
from pyswarm.manager.raft.types import StorageFullError

MEMBERS = (Member("a", "a:2377"), Member("b", "b:2377"))


def saved(folder: Path, index: int, data: bytes) -> SnapshotStore:
    store = SnapshotStore(folder, Disk())
    snapshot = Snapshot(index, 3, MEMBERS)
    store.save(snapshot, data)
    assert store.adopt(snapshot)
    return store


def test_what_was_saved_is_loaded_with_its_membership(tmp_path: Path) -> None:
    saved(tmp_path, 10, b"x" * 1000)
    assert SnapshotStore(tmp_path, Disk()).load() == (Snapshot(10, 3, MEMBERS), b"x" * 1000)


def test_the_newest_counts_and_older_ones_go(tmp_path: Path) -> None:
    saved(tmp_path, 10, b"old")
    store = saved(tmp_path, 20, b"new")
    assert len(list(tmp_path.glob("*.snap"))) == 1
    assert not store.adopt(Snapshot(15, 3, MEMBERS)), "an older state is never put over a newer one"
    loaded = SnapshotStore(tmp_path, Disk()).load()
    assert loaded is not None
    assert loaded[1] == b"new"


def test_an_unfinished_write_is_not_seen(tmp_path: Path) -> None:
    saved(tmp_path, 10, b"whole")
    (tmp_path / "snapshot-00000000000000000020-00000000000000000003.snap.tmp").write_bytes(b"half")
    (tmp_path / "incoming-20-3.part").write_bytes(b"half")
    loaded = SnapshotStore(tmp_path, Disk()).load()
    assert loaded is not None
    assert loaded[0].index == 10
    assert len(list(tmp_path.iterdir())) == 1


def test_any_damage_is_refused(tmp_path: Path) -> None:
    store = saved(tmp_path, 10, b"precious")
    assert store.current is not None
    path = store.path_of(store.current)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        with pytest.raises(RaftStorageError, match=str(path)):
            SnapshotStore(tmp_path, Disk()).load()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(RaftStorageError, match=str(path)):
            SnapshotStore(tmp_path, Disk()).load()


def transfer(source: SnapshotStore, target: SnapshotStore, piece: int = 7) -> bytes:
    reader = source.open_current()
    assert reader is not None
    content = reader.read(0, reader.size)
    snapshot = reader.snapshot
    reader.close()
    incoming = target.receive(snapshot.index, snapshot.term, len(content))
    for offset in range(0, len(content), piece):
        incoming.add(offset, content[offset : offset + piece])
        incoming.add(offset, content[offset : offset + piece])  # a repeat changes nothing
        incoming.add(offset + 2 * piece, b"from the future")  # nor does a gap
    assert incoming.complete
    return content


def test_a_received_snapshot_becomes_current_when_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = saved(tmp_path / "a", 10, b"state" * 100)
    target = SnapshotStore(tmp_path / "b", Disk())
    content = transfer(source, target)
    finished = target.finish(target.receive(10, 3, len(content)))
    assert finished == (Snapshot(10, 3, MEMBERS), b"state" * 100)
    assert SnapshotStore(tmp_path / "b", Disk()).load() == finished


def test_a_received_snapshot_that_is_damaged_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = saved(tmp_path / "a", 10, b"state" * 100)
    reader = source.open_current()
    assert reader is not None
    content = bytearray(reader.read(0, reader.size))
    content[-1] ^= 1
    target = SnapshotStore(tmp_path / "b", Disk())
    incoming = target.receive(10, 3, len(content))
    incoming.add(0, bytes(content))
    assert target.finish(incoming) is None
    assert target.current is None
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_snapshot_that_finds_no_space_is_received_when_there_is_some(tmp_path: Path, operation: str) -> None:
    disk = Disk()
    content = encode_snapshot(Snapshot(10, 3, MEMBERS), b"state")
    target = SnapshotStore(tmp_path, disk)

    def receive() -> object:
        incoming = target.receive(10, 3, len(content))
        incoming.add(0, content)
        return target.finish(incoming)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(disk, operation, full)
    if operation == "sync":
        assert receive() is None
    else:
        with pytest.raises(StorageFullError):
            receive()
    delattr(disk, operation)
    assert receive() == (Snapshot(10, 3, MEMBERS), b"state")


def test_an_open_reader_outlives_its_snapshot(tmp_path: Path) -> None:
    store = saved(tmp_path, 10, b"old")
    reader = store.open_current()
    assert reader is not None
    newer = Snapshot(20, 3, MEMBERS)
    store.save(newer, b"new")
    store.adopt(newer)
    assert reader.read(0, reader.size).endswith(b"old")
    reader.close()
