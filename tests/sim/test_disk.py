"""The simulated disk forgets what a disk may forget, and the data folder survives it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyswarm.manager.raft import Member, RaftConfig
from pyswarm.manager.raft.entries import REGULAR, Snapshot
from pyswarm.manager.raft.storage import Storage, open_storage
from sim.disk import SECTOR_BYTES, Platter, SimDisk
from sim.loop import PowerCut, Process

ME = (Member("me", "me:2377"),)
FILE = Path("/data/file")
CONFIG = RaftConfig("/data", "me", "me:2377", segment_bytes=700)


def outcomes(change: Callable[[SimDisk, int], None]) -> set[bytes | None]:
    """What may be left of a file of three synced sectors after a change and a power cut."""
    found: set[bytes | None] = set()
    for seed in range(300):
        platter = Platter(random.Random(seed))
        disk = SimDisk(platter, Process("one"))
        fd = disk.create(FILE)
        disk.write(fd, b"o" * 3 * SECTOR_BYTES, 0)
        disk.sync(fd)
        disk.sync_dir(FILE.parent)
        change(disk, fd)
        platter.lose_power()
        found.add(SimDisk(platter, Process("two")).read(FILE) if disk.exists(FILE) else None)
    return found


def test_what_was_not_synced_is_lost_or_kept_sector_by_sector() -> None:
    old, new = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES

    def write(disk: SimDisk, fd: int) -> None:
        disk.write(fd, new * 3, 0)

    found = outcomes(write)
    assert {old * 3, new * 3, old + new + old, new + old + new} <= found

    def write_and_sync(disk: SimDisk, fd: int) -> None:
        write(disk, fd)
        disk.sync(fd)

    assert outcomes(write_and_sync) == {new * 3}


def test_a_file_may_have_grown_without_its_content_or_not_at_all() -> None:
    sizes = {len(content or b"") for content in outcomes(lambda disk, fd: disk.write(fd, b"n" * 600, 3 * 512))}
    assert {3 * 512, 3 * 512 + 600} <= sizes
    assert any(3 * 512 < size < 3 * 512 + 600 for size in sizes)


def test_names_are_durable_only_with_their_folder() -> None:
    assert None in outcomes(lambda disk, _fd: disk.unlink(FILE))

    def remove(disk: SimDisk, _fd: int) -> None:
        disk.unlink(FILE)
        disk.sync_dir(FILE.parent)

    assert outcomes(remove) == {None}


def test_a_killed_process_leaves_what_it_wrote_until_the_power_goes() -> None:
    platter = Platter(random.Random(1))
    process = Process("one")
    disk = SimDisk(platter, process)
    fd = disk.create(FILE)

    def kill() -> None:
        process.alive = False

    platter.arm(1, kill)
    with pytest.raises(PowerCut):
        disk.write(fd, b"x", 0)
    with pytest.raises(PowerCut):
        disk.write(fd, b"y", 0)
    assert SimDisk(platter, Process("two")).read(FILE) in (b"", b"x")


def seen(storage: Storage) -> tuple[object, ...]:
    """All that a node takes for granted after a start."""
    journal = storage.journal
    return journal.getCurrentTerm(), journal.getVotedForNodeId(), journal[:], storage.restored


def use(storage: Storage, promised: list[tuple[int, int, int]]) -> None:
    """Votes, entries over several segments, snapshots and compaction, each as the node does it.

    ``promised`` is what others may have been told of: term, newest entry, newest snapshot.
    """
    journal, saved = storage.journal, 0
    for index in range(2, 40):
        journal.add(REGULAR + b"x" * 150, index, index // 10)
        if index % 4 == 0:
            journal.setCurrentTerm(index, "somebody")
        journal.sync()
        promised.append((journal.getCurrentTerm(), index, saved))
        if index % 12 == 0:
            snapshot = Snapshot(index, index // 10, ME)
            storage.snapshots.save(snapshot, b"state" * 100)
            storage.snapshots.adopt(snapshot)
            saved = index
            journal.compact(index - 2)


def test_what_a_process_finds_after_a_kill_outlasts_a_power_cut() -> None:
    for seed in range(200):
        platter = Platter(random.Random(seed))
        first = Process("first")
        storage = open_storage(CONFIG, ME, SimDisk(platter, first))
        platter.arm(random.Random(seed).randint(1, 150), lambda first=first: setattr(first, "alive", False))
        with pytest.raises(PowerCut):
            use(storage, [])
        second = Process("second")
        found = seen(open_storage(CONFIG, None, SimDisk(platter, second)))
        # It answers others from what it found, without writing anything.
        second.alive = False
        platter.lose_power()
        assert seen(open_storage(CONFIG, None, SimDisk(platter, Process("third")))) == found


def test_no_power_cut_takes_away_what_was_synced_or_keeps_the_folder_from_opening() -> None:
    for seed in range(200):
        platter = Platter(random.Random(seed))
        process = Process("first")
        storage = open_storage(CONFIG, ME, SimDisk(platter, process))
        platter.arm(random.Random(seed).randint(1, 150), lambda process=process: setattr(process, "alive", False))
        promised = [(0, 1, 0)]
        with pytest.raises(PowerCut):
            use(storage, promised)
        platter.lose_power()
        storage = open_storage(CONFIG, None, SimDisk(platter, Process("second")))
        term, index, saved = promised[-1]
        assert storage.journal.getCurrentTerm() >= term
        assert storage.journal.last_index >= index
        assert (storage.restored[0].index if storage.restored else 0) >= saved
