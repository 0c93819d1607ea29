"""Opens everything a node keeps on disk, in the one order that is safe after any crash."""

import random
from collections.abc import Callable
from pathlib import Path

from pyswarm.common.ids import ID_LENGTH, base36
from pyswarm.manager.raft.disk import Disk, FolderLock
from pyswarm.manager.raft.entries import Snapshot
from pyswarm.manager.raft.generation import Generation
from pyswarm.manager.raft.journal import Journal
from pyswarm.manager.raft.meta import HardState, Meta, load_meta, save_meta
from pyswarm.manager.raft.records import SEGMENT_HEADER_BYTES
from pyswarm.manager.raft.rescue import rescue
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.raft.types import Member, RaftConfig, RaftStorageError
from pyswarm.manager.raft.witness import REFUSAL, Standing, Witness


class Storage:
    """The opened data folder. ``restored`` is the snapshot the state machine starts from, if there is one."""

    def __init__(
        self,
        lock: FolderLock,
        journal: Journal,
        snapshots: SnapshotStore,
        witness: Witness,
        standing: Standing,
        restored: tuple[Snapshot, bytes] | None,
        generation: Generation,
    ) -> None:
        self._lock = lock
        self.generation = generation
        self.journal = journal
        self.snapshots = snapshots
        self.witness = witness
        self.standing = standing
        self.restored = restored

    def close(self) -> None:
        """Close all files, then let another process in."""
        self.witness.close()
        self.snapshots.drop_incoming()
        self.journal.close()
        self._lock.release()


def open_storage(
    config: RaftConfig,
    initial_members: tuple[Member, ...] | None,
    disk: Disk,
    on_sync: Callable[[int], None] = lambda _size: None,
) -> Storage:
    """Open the data folder, or set it up when ``initial_members`` are given and there is none yet."""
    folder = Path(config.data_dir)
    try:
        disk.make_folder(folder)
        lock = disk.lock(folder / "lock")
    except OSError as exc:
        raise RaftStorageError(f"cannot use the data folder {folder}: {exc.strerror}") from exc
    try:
        return _open(config, folder, initial_members, disk, lock, on_sync)
    except OSError as exc:
        lock.release()
        raise RaftStorageError(f"cannot read {exc.filename or folder}: {exc.strerror}") from exc
    except BaseException:
        lock.release()
        raise


def _open(
    config: RaftConfig,
    folder: Path,
    initial_members: tuple[Member, ...] | None,
    disk: Disk,
    lock: FolderLock,
    on_sync: Callable[[int], None],
) -> Storage:
    hard_state = HardState(folder, disk)
    journal = Journal(folder, hard_state, disk, segment_bytes=config.segment_bytes, on_sync=on_sync)
    snapshots = SnapshotStore(folder, disk)
    witness = Witness(folder, disk)
    meta = load_meta(folder, disk)
    if meta is None:
        if initial_members is None:
            raise RaftStorageError(f"{folder} holds no raft data; initialise or join a swarm first")
        _clear_unfinished(folder, disk)
        hard_state.create()
        journal.create(initial_members)
        # Not a secret; and a simulation chooses all numbers of chance.
        folder_id = base36(random.getrandbits(128), ID_LENGTH)
        meta = Meta(config.node_id, config.cluster_id, initial_members, folder_id, config.generation)
        save_meta(folder, meta, disk)
        standing = Standing(folder, meta.folder_id, disk, fresh=True)
        return Storage(lock, journal, snapshots, witness, standing, None, meta.generation)
    if meta.node_id != config.node_id:
        raise RaftStorageError(f"{folder} belongs to node {meta.node_id}, not to {config.node_id}")
    if config.cluster_id and meta.cluster_id and meta.cluster_id != config.cluster_id:
        raise RaftStorageError(f"{folder} belongs to cluster {meta.cluster_id}, not to {config.cluster_id}")
    # What a killed process renamed can be seen, but need not be durable yet; from here on it is relied on.
    disk.sync_dir(folder)
    if disk.exists(folder / REFUSAL):
        raise RaftStorageError(disk.read(folder / REFUSAL).decode(errors="replace"))
    hard_state.load()
    restored = snapshots.load()
    journal.load(meta.members, restored[0] if restored else None)
    meta = rescue(config, meta, hard_state, journal, disk)
    witness.load()
    standing = Standing(folder, meta.folder_id, disk, fresh=False)
    return Storage(lock, journal, snapshots, witness, standing, restored, meta.generation)


def _clear_unfinished(folder: Path, disk: Disk) -> None:
    """A crash while setting up leaves files without a meta file; files with content are not ours to remove."""
    files = Journal.segment_files(folder, disk)
    snapshots = [path for path in disk.files(folder) if path.suffix == ".snap"]
    if snapshots or any(disk.size(path) > SEGMENT_HEADER_BYTES for _, path in files):
        raise RaftStorageError(
            f"{folder}/meta is missing beside raft data: put it back from a backup, or empty the folder"
        )
    for _, path in files:
        disk.unlink(path)
