"""``--force-new-cluster`` on disk: one moment, whatever is interrupted, and nothing of the log is given up."""

from pathlib import Path

import msgspec
import pytest

from pyswarm.manager.raft import Generation, Member, RaftConfig, parse_generation
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import REGULAR, Snapshot
from pyswarm.manager.raft.storage import open_storage

THREE = tuple(Member(name, f"{name}:2377") for name in ("me", "b", "c"))
ME = (Member("me", "new:2377"),)


class PowerCut(Exception):
    """The machine is gone."""


class FailingDisk(Disk):
    """Loses power before its operation number ``survives``; a write may get through in part."""

    def __init__(self, survives: int = 1_000_000) -> None:
        self.survives = survives
        self.done = 0

    def _count(self) -> None:
        if self.done == self.survives:
            raise PowerCut
        self.done += 1

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.done == self.survives:
            super().write(fd, data[: len(data) // 2], offset)
        self._count()
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._count()
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)


def config(folder: Path, rescue: str = "") -> RaftConfig:
    return RaftConfig(str(folder), "me", "new:2377", force_new_cluster=rescue)


def old_member(folder: Path) -> None:
    """A member of three, with entries it does not know to be committed."""
    storage = open_storage(config(folder), THREE, Disk())
    storage.journal.setCurrentTerm(7, "b")
    for index in range(2, 12):
        storage.journal.add(REGULAR + b"%d" % index, index, 5)
    storage.journal.sync()
    storage.close()


def state(folder: Path, rescue: str = "", disk: Disk | None = None) -> tuple[Generation, tuple[Member, ...], int]:
    storage = open_storage(config(folder, rescue), None, disk or Disk())
    try:
        journal = storage.journal
        assert [e[0] for e in journal[1:11]] == [REGULAR + b"%d" % n for n in range(2, 12)]
        return storage.generation, journal.config[1], journal.last_index
    finally:
        storage.close()


OLD = (Generation(), THREE, 11)
NEW = (Generation(1, "r1"), ME, 12)


def test_every_entry_is_kept_and_this_node_is_the_only_member(tmp_path: Path) -> None:
    old_member(tmp_path)
    assert state(tmp_path) == OLD
    assert state(tmp_path, "r1") == NEW
    assert state(tmp_path) == NEW
    storage = open_storage(config(tmp_path), None, Disk())
    # Above every term of the old group that this node knows, and its vote there is its own.
    assert (storage.journal.last_term, storage.journal.getCurrentTerm()) == (8, 8)
    assert storage.journal.getVotedForNodeId() == "me"
    storage.close()


def test_asking_again_changes_nothing_and_another_rescue_counts_on(tmp_path: Path) -> None:
    old_member(tmp_path)
    assert state(tmp_path, "r1") == NEW
    assert state(tmp_path, "r1") == NEW
    assert state(tmp_path, "r2") == (Generation(2, "r2"), ME, 13)


def test_interrupted_anywhere_it_is_the_old_group_or_the_new_one(tmp_path: Path) -> None:
    counting = FailingDisk()
    old_member(tmp_path / "count")
    assert state(tmp_path / "count", "r1", counting) == NEW
    seen = []
    for survives in range(counting.done):
        folder = tmp_path / str(survives)
        old_member(folder)
        with pytest.raises(PowerCut):
            state(folder, "r1", FailingDisk(survives))
        after = state(folder)
        assert after in (OLD, NEW), survives
        seen.append(after)
        assert state(folder, "r1") == NEW
    assert seen[0] == OLD
    assert seen[-1] == NEW
    # Not back and forth: there is one moment.
    assert seen == sorted(seen, key=lambda s: s == NEW)


def test_a_log_behind_a_snapshot_is_rescued_too(tmp_path: Path) -> None:
    old_member(tmp_path)
    storage = open_storage(config(tmp_path), None, Disk())
    snapshot = Snapshot(11, 5, THREE)
    storage.snapshots.save(snapshot, b"state")
    storage.snapshots.adopt(snapshot)
    storage.journal.compact(11)
    storage.close()
    storage = open_storage(config(tmp_path, "r1"), None, Disk())
    assert storage.restored == (snapshot, b"state")
    assert storage.journal.config == (12, ME)
    storage.close()


def test_a_folder_of_an_earlier_release_has_the_first_generation(tmp_path: Path) -> None:
    old_member(tmp_path)
    from pyswarm.manager.raft.disk import seal, unseal

    path = tmp_path / "meta"
    fields = msgspec.msgpack.decode(unseal(b"PSWMETA1", path.read_bytes(), path))
    path.write_bytes(
        seal(b"PSWMETA1", msgspec.msgpack.encode({k: fields[k] for k in ("node_id", "cluster_id", "members")}))
    )
    assert state(tmp_path) == OLD


@pytest.mark.parametrize("generation", [Generation(), Generation(3, "abc")])
def test_a_generation_travels_as_text(generation: Generation) -> None:
    assert parse_generation(generation.encoded) == generation
    with pytest.raises(ValueError, match="invalid literal"):
        parse_generation("nonsense")
