"""The journal: what is durable, what is cut, what is refused."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from pyswarm.manager.raft import Member, RaftConfig, RaftInvariantError, RaftStorageError
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import REGULAR, Snapshot, encode_members
from pyswarm.manager.raft.journal import Journal
from pyswarm.manager.raft.records import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from pyswarm.manager.raft.storage import Storage, open_storage
from pyswarm.manager.raft.types import StorageFullError

ME = (Member("me", "me:2377"),)


def opened(folder: Path, disk: Disk | None = None, **settings: int) -> Storage:
    """The data folder of node ``me``."""
    config = RaftConfig(str(folder), "me", "me:2377", **settings)
    return open_storage(config, ME, disk or Disk())


def entry(n: int) -> bytes:
    return REGULAR + b"entry %d" % n


def fill(journal: Journal, first: int, last: int, term: int = 1, batch: int = 1) -> None:
    for index in range(first, last + 1):
        journal.add(entry(index), index, term)
        if index % batch == 0:
            journal.sync()
    journal.sync()


def segments(folder: Path) -> list[Path]:
    return [path for _, path in Journal.segment_files(folder, Disk())]


def test_entries_term_and_vote_survive(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 20, batch=5)
    storage.journal.setCurrentTerm(7, "other")
    storage.journal.sync()
    storage.close()
    storage = opened(tmp_path)
    assert storage.journal.last_index == 20
    assert storage.journal[3] == (entry(4), 4, 1)
    assert (storage.journal.getCurrentTerm(), storage.journal.getVotedForNodeId()) == (7, "other")
    storage.close()


def test_nothing_is_durable_before_sync_and_one_sync_covers_a_batch(tmp_path: Path) -> None:
    class Counting(Disk):
        syncs = 0

        def sync(self, fd: int) -> None:
            self.syncs += 1
            super().sync(fd)

    disk = Counting()
    storage = opened(tmp_path, disk)
    before, size = disk.syncs, segments(tmp_path)[0].stat().st_size
    for index in range(2, 102):
        storage.journal.add(entry(index), index, 1)
    assert segments(tmp_path)[0].stat().st_size == size
    storage.journal.sync()
    assert disk.syncs == before + 1
    storage.journal.sync()
    assert disk.syncs == before + 1
    storage.close()


def test_every_torn_tail_is_cut_at_the_last_good_record(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 6)
    good = segments(tmp_path)[0].stat().st_size
    fill(storage.journal, 7, 7)
    storage.close()
    whole = segments(tmp_path)[0].read_bytes()
    for size in range(good, len(whole)):
        segments(tmp_path)[0].write_bytes(whole[:size])
        storage = opened(tmp_path)
        assert storage.journal.last_index == 6
        assert storage.journal.cut_bytes == size - good
        fill(storage.journal, 7, 8)
        storage.close()
        storage = opened(tmp_path)
        assert storage.journal.last_index == 8
        storage.close()


def test_a_batch_whose_sectors_arrived_in_any_order_is_cut(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 6)
    good = segments(tmp_path)[0].stat().st_size
    fill(storage.journal, 7, 10, batch=100)
    storage.close()
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[good + 4 : good + 20] = bytes(16)  # the first record of the last batch never reached the disk
    path.write_bytes(data)
    storage = opened(tmp_path)
    assert storage.journal.last_index == 6
    storage.close()


def test_damage_before_acknowledged_entries_is_refused_with_place_and_remedy(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 6)
    bad = segments(tmp_path)[0].stat().st_size
    fill(storage.journal, 7, 10)
    storage.close()
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[bad + RECORD_HEADER_BYTES + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RaftStorageError) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    assert f"offset {bad}" in str(caught.value)
    assert "'pyswarm node promote'" in str(caught.value)
    assert path.read_bytes() == data, "a refused journal is left alone"


def test_damage_in_an_older_segment_is_refused_even_at_its_end(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=400)
    fill(storage.journal, 2, 40)
    storage.close()
    first = segments(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(RaftStorageError, match="damaged at offset"):
        opened(tmp_path, segment_bytes=400)


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=400)
    fill(storage.journal, 2, 60)
    storage.close()
    files = segments(tmp_path)
    assert len(files) > 3
    files[1].unlink()
    with pytest.raises(RaftStorageError, match="missing"):
        opened(tmp_path)
    files[0].unlink()
    with pytest.raises(RaftStorageError, match="no snapshot reaches it"):
        opened(tmp_path)


def test_a_missing_segment_is_refused_even_if_the_entries_would_still_follow_each_other(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=1)  # every sync begins a segment
    journal = storage.journal
    fill(journal, 2, 5, batch=100)
    journal.deleteEntriesFrom(4 - journal.base_index)
    fill(journal, 4, 5, term=2, batch=100)
    fill(journal, 6, 6, term=2)
    storage.close()
    replacing = segments(tmp_path)[-2]
    assert entry(4) in replacing.read_bytes()
    replacing.unlink()
    with pytest.raises(RaftStorageError, match="missing"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["vote", "meta"])
def test_a_damaged_small_file_is_refused(tmp_path: Path, name: str) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 3)
    storage.close()
    path = tmp_path / name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:5], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(RaftStorageError, match=str(path)):
            opened(tmp_path)
    path.unlink()
    with pytest.raises(RaftStorageError, match=name):
        opened(tmp_path)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(RaftStorageError, match="format 9"):
        opened(tmp_path)


def test_a_later_record_replaces_what_it_overrides(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=300)
    fill(storage.journal, 2, 20, term=1)
    storage.journal.deleteEntriesFrom(10 - storage.journal.base_index)
    assert storage.journal.last_index == 9
    fill(storage.journal, 10, 12, term=3)
    storage.close()
    storage = opened(tmp_path, segment_bytes=300)
    assert (storage.journal.last_index, storage.journal.last_term) == (12, 3)
    assert [storage.journal.term_at(i) for i in (9, 10, 12)] == [1, 3, 3]
    storage.close()


def test_committed_entries_are_never_removed(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 10)
    storage.journal.setRaftCommitIndex(8)
    with pytest.raises(RaftInvariantError):
        storage.journal.deleteEntriesFrom(8 - storage.journal.base_index)
    storage.journal.deleteEntriesFrom(9 - storage.journal.base_index)
    assert storage.journal.last_index == 8
    storage.close()


def test_entries_must_follow_each_other(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 4, term=5)
    with pytest.raises(RaftInvariantError):
        storage.journal.add(entry(6), 6, 5)
    with pytest.raises(RaftInvariantError):
        storage.journal.add(entry(5), 5, 4)
    storage.close()


def test_membership_follows_the_log_also_backwards(tmp_path: Path) -> None:
    two = (*ME, Member("b", "b:2377"))
    storage = opened(tmp_path)
    fill(storage.journal, 2, 4)
    storage.journal.add(encode_members(two), 5, 1)
    fill(storage.journal, 6, 7)
    assert storage.journal.config == (5, two)
    assert storage.journal.config_at(4) == ME
    storage.close()
    storage = opened(tmp_path)
    assert storage.journal.config == (5, two), "counts at once after a restart, applied or not"
    storage.journal.deleteEntriesFrom(5 - storage.journal.base_index)
    assert storage.journal.config[1] == ME
    storage.close()


def snapshot_at(storage: Storage, index: int) -> Snapshot:
    snapshot = Snapshot(index, storage.journal.term_at(index), storage.journal.config_at(index))
    storage.snapshots.save(snapshot, b"state up to %d" % index)
    storage.snapshots.adopt(snapshot)
    return snapshot


def test_compaction_removes_whole_segments_and_keeps_the_tail(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=400)
    fill(storage.journal, 2, 100)
    before = len(segments(tmp_path))
    snapshot_at(storage, 90)
    storage.journal.compact(80)
    assert storage.journal.base_index == 80
    assert len(segments(tmp_path)) < before
    storage.close()
    storage = opened(tmp_path, segment_bytes=400)
    assert storage.restored is not None
    assert storage.restored[0].index == 90
    assert storage.restored[1] == b"state up to 90"
    assert storage.journal.last_index == 100
    assert storage.journal.base_index <= 90
    assert storage.journal.getRaftCommitIndex() == 90
    fill(storage.journal, 101, 102)
    storage.close()


def test_a_kill_anywhere_between_snapshot_and_compaction_loses_nothing(tmp_path: Path) -> None:
    storage = opened(tmp_path, segment_bytes=400)
    fill(storage.journal, 2, 100)
    snapshot_at(storage, 90)  # durable; the journal was not trimmed yet
    storage.close()
    storage = opened(tmp_path, segment_bytes=400)
    assert storage.journal.last_index == 100
    for remaining in range(len(segments(tmp_path))):
        storage.close()
        storage = opened(tmp_path, segment_bytes=400)
        assert storage.journal.last_index == 100
        if remaining < 2:
            storage.close()
            segments(tmp_path)[0].unlink()  # compaction removes the oldest first and dies there
            storage = opened(tmp_path, segment_bytes=400)
    storage.close()


@pytest.mark.parametrize("crash", [False, True])
def test_installing_a_snapshot_over_a_diverged_log_starts_anew(tmp_path: Path, crash: bool) -> None:
    storage = opened(tmp_path, segment_bytes=400)
    fill(storage.journal, 2, 100, term=1)
    snapshot = Snapshot(50, 2, ME)
    storage.snapshots.save(snapshot, b"other")
    storage.snapshots.adopt(snapshot)
    if not crash:
        storage.journal.install(snapshot)
        assert (storage.journal.base_index, storage.journal.last_index) == (50, 50)
        fill(storage.journal, 51, 55, term=2)
    storage.close()
    storage = opened(tmp_path, segment_bytes=400)
    assert (storage.journal.last_index, storage.journal.last_term) == ((50, 2) if crash else (55, 2))
    fill(storage.journal, storage.journal.last_index + 1, 60, term=3)
    storage.close()
    storage = opened(tmp_path, segment_bytes=400)
    assert (storage.journal.last_index, storage.journal.last_term) == (60, 3)
    storage.close()


def test_installing_a_snapshot_that_the_log_continues_keeps_the_tail(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 100, term=2)
    snapshot = Snapshot(50, 2, ME)
    storage.snapshots.save(snapshot, b"same")
    storage.snapshots.adopt(snapshot)
    storage.journal.install(snapshot)
    assert (storage.journal.base_index, storage.journal.last_index) == (50, 100)
    storage.close()


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    class Full(Disk):
        room = True

        def write(self, fd: int, data: bytes, offset: int) -> None:
            if not self.room:
                super().write(fd, data[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(fd, data, offset)

    disk = Full()
    storage = opened(tmp_path, disk)
    fill(storage.journal, 2, 5)
    disk.room = False
    storage.journal.add(entry(6), 6, 1)
    size = segments(tmp_path)[0].stat().st_size
    for _ in range(3):
        with pytest.raises(StorageFullError):
            storage.journal.sync()
    assert segments(tmp_path)[0].stat().st_size == size
    storage.journal.setCurrentTerm(9, "x")
    with pytest.raises(StorageFullError):
        storage.journal.sync()
    disk.room = True
    storage.journal.sync()
    storage.close()
    storage = opened(tmp_path)
    assert storage.journal.last_index == 6
    assert storage.journal.getCurrentTerm() == 9
    storage.close()


def test_an_io_error_stops_the_node(tmp_path: Path) -> None:
    class Broken(Disk):
        broken = False

        def sync(self, fd: int) -> None:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().sync(fd)

    disk = Broken()
    storage = opened(tmp_path, disk)
    disk.broken = True
    storage.journal.add(entry(2), 2, 1)
    with pytest.raises(RaftStorageError, match="cannot write"):
        storage.journal.sync()
    storage.close()


def test_folder_of_another_node_or_cluster_or_in_use(tmp_path: Path) -> None:
    config = RaftConfig(str(tmp_path), "me", "me:2377", cluster_id="one")
    storage = open_storage(config, ME, Disk())
    with pytest.raises(RaftStorageError, match="in use by another manager process"):
        open_storage(config, None, Disk())
    storage.close()
    with pytest.raises(RaftStorageError, match="belongs to node me"):
        open_storage(msgspec.structs.replace(config, node_id="other"), None, Disk())
    with pytest.raises(RaftStorageError, match="belongs to cluster one"):
        open_storage(msgspec.structs.replace(config, cluster_id="two"), None, Disk())


def test_an_empty_folder_is_not_taken_for_a_member(tmp_path: Path) -> None:
    config = RaftConfig(str(tmp_path / "new"), "me", "me:2377")
    with pytest.raises(RaftStorageError, match="holds no raft data"):
        open_storage(config, None, Disk())


def test_a_crash_while_setting_up_is_not_in_the_way(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "meta").unlink()
    storage = opened(tmp_path)
    assert segments(tmp_path)[0].stat().st_size == SEGMENT_HEADER_BYTES
    fill(storage.journal, 2, 3)
    storage.close()
    (tmp_path / "meta").unlink()
    with pytest.raises(RaftStorageError, match="meta is missing"):
        opened(tmp_path)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = RaftConfig(str(tmp_path / "file" / "raft"), "me", "me:2377")
    with pytest.raises(RaftStorageError, match="cannot use the data folder"):
        open_storage(config, ME, Disk())


@pytest.mark.parametrize(
    ("name", "at"), [("meta", 7), ("vote", 7), ("snapshot-00000000000000000003-00000000000000000001.snap", 7)]
)
def test_files_of_a_newer_release_are_not_called_damaged(tmp_path: Path, name: str, at: int) -> None:
    storage = opened(tmp_path)
    fill(storage.journal, 2, 4)
    storage.snapshots.save(Snapshot(3, 1, ME), b"state")
    storage.close()
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[at : at + 1] = b"2"
    path.write_bytes(content)
    with pytest.raises(RaftStorageError, match=r"has format 2, .* newer release of pyswarm; start that one again"):
        opened(tmp_path)
