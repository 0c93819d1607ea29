"""The durable log: append-only segments, one write and one fdatasync per batch.

PySyncObj sees a list of entries whose first stands for everything before it. ``add`` only changes memory
and a queue; ``sync`` makes the queue durable, and whoever drives the engine lets nothing leave the process
before that. A record whose index is not above the last one replaces what was there: truncation is
written as what comes after it, so files are only ever appended to, and removed whole by compaction.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import pysyncobj.journal

from pyswarm.manager.raft import records
from pyswarm.manager.raft.disk import REMEDY, Disk, is_full
from pyswarm.manager.raft.entries import MEMBERSHIP, NO_OP, LogEntry, Snapshot, decode_members
from pyswarm.manager.raft.meta import HardState
from pyswarm.manager.raft.types import Member, RaftInvariantError, RaftStorageError, StorageFullError

#: The entry every log begins with, never written anywhere.
GENESIS_INDEX, GENESIS_TERM = 1, 0
_NAME = re.compile(r"^journal-(\d{10})\.log$")


class _Segment:
    __slots__ = ("max_index", "number", "path")

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.max_index = 0


class Journal(pysyncobj.journal.Journal):  # type: ignore[misc]  # untyped base
    """The log of one node. Open it with ``load``; used on one thread at a time."""

    def __init__(
        self,
        folder: Path,
        hard_state: HardState,
        disk: Disk,
        *,
        segment_bytes: int,
        on_sync: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._folder = folder
        self._hard_state = hard_state
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._on_sync = on_sync
        self._log: list[LogEntry] = [(NO_OP, GENESIS_INDEX, GENESIS_TERM)]
        self._configs: list[tuple[int, tuple[Member, ...]]] = []
        self._pending: list[tuple[int, int, int, bytes]] = []
        self._segments: list[_Segment] = []
        self._fd = -1
        self._end = 0
        self._commit_floor = GENESIS_INDEX
        self.cut_bytes = 0

    # -- opening ---------------------------------------------------------------------------------------

    @staticmethod
    def segment_files(folder: Path, disk: Disk) -> list[tuple[int, Path]]:
        """The segments in a folder, in order."""
        found = ((_NAME.match(p.name), p) for p in disk.files(folder))
        return sorted((int(m.group(1)), p) for m, p in found if m)

    def create(self, members: tuple[Member, ...]) -> None:
        """Start the log of a node that never had one."""
        self._configs = [(0, members)]
        self._roll()

    def load(self, initial_members: tuple[Member, ...], snapshot: Snapshot | None) -> None:
        """Read all segments, cut a torn tail, and line the log up with the snapshot."""
        files = self.segment_files(self._folder, self._disk)
        if not files:
            raise RaftStorageError(f"no journal segment in {self._folder}: {REMEDY}")
        base: tuple[int, int] | None = None
        entries: list[LogEntry] = []
        for position, (number, path) in enumerate(files):
            if number != files[0][0] + position:
                raise RaftStorageError(f"the journal segment before {path} is missing: {REMEDY}")
            data = self._disk.read(path)
            records.check_segment_header(data, number, path)
            segment = _Segment(number, path)
            self._segments.append(segment)
            scan = records.SegmentScan(data, path, is_last=position == len(files) - 1)
            for record in scan:
                segment.max_index = max(segment.max_index, record.index)
                if record.kind == records.RESET:
                    base, entries = (record.index, record.term), []
                elif not self._replay(entries, base, record):
                    raise RaftStorageError(
                        f"entries before {record.index} are missing in {path} (offset {scan.end}): {REMEDY}"
                    )
            self._end = scan.end
            self.cut_bytes = len(data) - scan.end
        self._fd = self._disk.open_rw(self._segments[-1].path)
        if self.cut_bytes:
            self._disk.truncate(self._fd, self._end)
        # Also without a cut: a process that was killed may have written without having synced.
        self._disk.sync(self._fd)
        self._align(base, entries, initial_members, snapshot)

    @staticmethod
    def _replay(entries: list[LogEntry], base: tuple[int, int] | None, record: records.Record) -> bool:
        first = entries[0][1] if entries else record.index
        if not entries and base is not None and record.index != base[0] + 1:
            return False
        if entries and record.index > entries[-1][1] + 1:
            return False
        del entries[max(0, record.index - first) :]
        entries.append((record.payload, record.index, record.term))
        return True

    def _align(
        self,
        base: tuple[int, int] | None,
        entries: list[LogEntry],
        initial_members: tuple[Member, ...],
        snapshot: Snapshot | None,
    ) -> None:
        if snapshot is None:
            snapshot = Snapshot(GENESIS_INDEX, GENESIS_TERM, initial_members)
        first = entries[0][1] if entries else base[0] + 1 if base else snapshot.index + 1
        last = entries[-1][1] if entries else first - 1
        if first > snapshot.index + 1:
            raise RaftStorageError(
                f"the journal in {self._folder} starts at entry {first}, but no snapshot reaches it: {REMEDY}"
            )
        self._commit_floor = snapshot.index
        self._configs = [(snapshot.index, snapshot.members)]
        at = snapshot.index - first
        if entries and first == snapshot.index + 1:
            self._log = [(NO_OP, snapshot.index, snapshot.term), *entries]
        elif entries and last >= snapshot.index and entries[at][2] == snapshot.term:
            # Entries below the snapshot stay, for members slightly behind.
            self._log = [(NO_OP, first, entries[0][2]), *entries[1:]]
        else:
            self._log = [(NO_OP, snapshot.index, snapshot.term)]
            if entries or (base is not None and base != (snapshot.index, snapshot.term)):
                self._pending.append((records.RESET, snapshot.index, snapshot.term, b""))
                self.sync()
        for command, index, _ in self._log:
            if index > snapshot.index and command[:1] == MEMBERSHIP:
                self._configs.append((index, decode_members(command)))

    # -- what PySyncObj calls --------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry; durable after the next ``sync``."""
        last = self._log[-1]
        if idx != last[1] + 1 or term < last[2]:
            raise RaftInvariantError(f"entry {idx} of term {term} cannot follow entry {last[1]} of term {last[2]}")
        self._log.append((command, idx, term))
        self._pending.append((records.ENTRY, idx, term, command))
        if command[:1] == MEMBERSHIP:
            self._configs.append((idx, decode_members(command)))

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Forget the entries from a position on. What is committed stays, whatever the engine believes."""
        index = self.base_index + entryFrom
        if index > self.last_index:
            return
        if entryFrom <= 0 or index <= self._commit_floor:
            raise RaftInvariantError(f"refused to remove entry {index}: up to {self._commit_floor} is committed")
        del self._log[entryFrom:]
        while self._configs[-1][0] >= index:
            self._configs.pop()

    def __len__(self) -> int:
        return len(self._log)

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: Any) -> Any:
        return self._log[item]

    def _destroy(self) -> None:
        self.close()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Commitment is learned anew after a restart; it only protects against truncation."""
        self._commit_floor = max(self._commit_floor, raftCommitIndex)

    def getRaftCommitIndex(self) -> int:
        """What the snapshot covers."""
        return self._commit_floor

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Durable after the next ``sync``."""
        self._hard_state.set(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        """The last durable term."""
        return self._hard_state.term

    def getVotedForNodeId(self) -> str | None:
        """The vote given in that term."""
        return self._hard_state.voted_for

    def onOneSecondTimer(self) -> None:
        """Nothing waits here."""

    # -- what the rest of this package calls -------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @property
    def base_index(self) -> int:
        """The entry everything before which is gone from the log."""
        return self._log[0][1]

    @property
    def last_index(self) -> int:
        """The newest entry."""
        return self._log[-1][1]

    @property
    def last_term(self) -> int:
        """The newest entry's term."""
        return self._log[-1][2]

    @property
    def config(self) -> tuple[int, tuple[Member, ...]]:
        """The newest membership in the log, committed or not, and its entry."""
        return self._configs[-1]

    def config_at(self, index: int) -> tuple[Member, ...]:
        """The membership as of an entry that is still in the log, or of the log's start."""
        return next((members for at, members in reversed(self._configs) if at <= index), self._configs[0][1])

    def term_at(self, index: int) -> int:
        """The term of an entry between ``base_index`` and ``last_index``."""
        return self._log[index - self._log[0][1]][2]

    def first_of_term_at(self, index: int, floor: int) -> int:
        """The lowest index above ``floor`` from which on up to ``index`` all entries are of one term."""
        term = self.term_at(index)
        while index - 1 > floor and self.term_at(index - 1) == term:
            index -= 1
        return index

    def trailing_start(self, index: int, entries: int, size_bytes: int) -> int:
        """The entry below ``index`` from which on neither limit is exceeded."""
        while index > self.base_index and entries > 0 and size_bytes > 0:
            size_bytes -= len(self._log[index - self.base_index][0])
            entries -= 1
            index -= 1
        return index

    def slice(self, start: int, max_bytes: int) -> list[LogEntry]:
        """Entries from ``start`` on: at least one, further ones while they fit into ``max_bytes``."""
        position = start - self._log[0][1]
        end, size = position, 0
        while end < len(self._log):
            size += len(self._log[end][0]) + 16
            if size > max_bytes and end > position:
                break
            end += 1
        return self._log[position:end]

    def sync(self) -> bool:
        """Make term, vote and all added entries durable, with one write and one fdatasync for the entries."""
        self._hard_state.save()
        if not self._pending:
            return False
        try:
            if self._end >= self._segment_bytes:
                self._roll()
            data = b"".join(records.encode_record(*item, self._end) for item in self._pending)
            self._disk.write(self._fd, data, self._end)
            self._disk.sync(self._fd)
        except OSError as exc:
            if is_full(exc):
                # Written again from the start next time; what is there now was never relied on.
                self._disk.truncate(self._fd, self._end)
                raise StorageFullError(str(exc)) from exc
            raise RaftStorageError(f"cannot write {self._segments[-1].path}: {exc.strerror}") from exc
        self._end += len(data)
        segment = self._segments[-1]
        segment.max_index = max(segment.max_index, max(item[1] for item in self._pending))
        self._pending.clear()
        self._on_sync(len(data))
        return True

    def _roll(self) -> None:
        number = self._segments[-1].number + 1 if self._segments else 1
        path = self._folder / f"journal-{number:010d}.log"
        header = records.encode_segment_header(number)
        temporary = path.with_name(path.name + ".tmp")
        fd = self._disk.create(temporary)
        try:
            self._disk.write(fd, header, 0)
            self._disk.sync(fd)
            self._disk.rename(temporary, path)
        except OSError:
            self._disk.close(fd)
            raise
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd, self._end = fd, len(header)
        self._segments.append(_Segment(number, path))

    def compact(self, index: int) -> None:
        """A durable snapshot covers everything up to ``index``: forget that, and segments with nothing else."""
        if index <= self.base_index:
            return
        position = index - self.base_index
        self._log = [(NO_OP, index, self._log[position][2]), *self._log[position + 1 :]]
        while len(self._configs) > 1 and self._configs[1][0] <= index:
            del self._configs[0]
        self._drop_segments(index)

    def _drop_segments(self, index: int) -> None:
        while len(self._segments) > 1 and self._segments[0].max_index <= index:
            self._disk.unlink(self._segments.pop(0).path)
            # One after the other: a power cut may undo changes of names in any order, and a gap means damage.
            self._disk.sync_dir(self._folder)

    def install(self, snapshot: Snapshot) -> None:
        """A snapshot from the leader is durable. Keep the tail if it continues the snapshot, else start anew."""
        if self.base_index <= snapshot.index <= self.last_index and self.term_at(snapshot.index) == snapshot.term:
            self.compact(snapshot.index)
            self._configs = [(snapshot.index, snapshot.members)] + [
                c for c in self._configs if c[0] > snapshot.index
            ]
        else:
            self._log = [(NO_OP, snapshot.index, snapshot.term)]
            self._configs = [(snapshot.index, snapshot.members)]
            self._pending = [(records.RESET, snapshot.index, snapshot.term, b"")]
        self._commit_floor = max(self._commit_floor, snapshot.index)

    def close(self) -> None:
        """Close the open segment."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
