"""What the members remember of each other, so that a disk that was put back to an earlier state is noticed.

Raft rests on every voter remembering its votes and the entries it acknowledged. A disk restored from an old backup
has forgotten some of both, and nothing on it says so. The others can: each notes how far every other member has
been seen (``Witness``). A member that starts asks them, and neither votes nor campaigns before they have answered
(``Standing``). If one of them knows of more than the disk holds, the member stops.

A member counts by the data folder it runs on: one that joins anew with an empty folder has nothing to remember.
What is known of a folder stays true for ever, so nothing is forgotten: not even when the member is removed, since
a removal that is not committed may be undone.
"""

import contextlib
import random
from pathlib import Path

import msgspec

from pyswarm.common.log import get_logger
from pyswarm.manager.raft.disk import START_ANEW, Disk, seal, unseal
from pyswarm.manager.raft.messages import Known, Recall, Recalled
from pyswarm.manager.raft.types import RaftStorageError, StorageFullError

log = get_logger("raft")

_MAGIC = b"PSWPEER1"
#: Holds why this data folder may not be used any more.
REFUSAL = "refused"
#: What is known of the others changes with every entry; on disk it may be this much older.
_SAVE_EVERY_S = 10.0
_ASK_EVERY_S = 0.2
#: Enough have answered, but not all: whoever runs does so within this time.
_PATIENCE_S = 0.5
#: Those that did not answer, once enough others did: they still have to learn of this folder.
_REMIND_EVERY_S = 1.0


class Mark(msgspec.Struct):
    """How far a member was seen to be: its term, and the committed entry it is known to have had on its disk."""

    term: int = 0
    index: int = 0

    def rise(self, term: int, index: int) -> bool:
        """Take over what is newer; whether anything was."""
        newer = term > self.term or index > self.index
        self.term, self.index = max(self.term, term), max(self.index, index)
        return newer


class _File(msgspec.Struct, array_like=True):
    running: dict[str, str]
    known: list[Known]


class Witness:
    """This node's memory of the others. Durable with ``save``, which may lag: it is a net, not a log."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path = folder / "peers"
        self._disk = disk
        self._running: dict[str, str] = {}
        self._marks: dict[tuple[str, str], Mark] = {}
        self._current: dict[str, Mark] = {}
        self._dirty = False
        self._save_at = 0.0

    def load(self) -> None:
        """Read the file back. Without one nothing is known; raises RaftStorageError for a damaged one."""
        if not self._disk.exists(self._path):
            return
        read = msgspec.msgpack.decode(unseal(_MAGIC, self._disk.read(self._path), self._path), type=_File)
        self._marks = {(k.node_id, k.folder_id): Mark(k.term, k.index) for k in read.known}
        for node_id, folder_id in read.running.items():
            self._run_on(node_id, folder_id)

    def _run_on(self, node_id: str, folder_id: str) -> None:
        self._running[node_id] = folder_id
        self._current[node_id] = self._marks.setdefault((node_id, folder_id), Mark())

    def runs_on(self, node_id: str, folder_id: str) -> None:
        """From now on what is seen of that member belongs to that data folder."""
        if self._running.get(node_id) != folder_id:
            self._run_on(node_id, folder_id)
            self._dirty = True
            self._save_at = 0.0

    def note(self, node_id: str, term: int, index: int = 0) -> None:
        """Its disk is known to hold this term, and this committed entry. Unknown members are not noted."""
        mark = self._current.get(node_id)
        if mark is not None and mark.rise(term, index):
            self._dirty = True

    def recall(self, node_id: str, folder_id: str) -> Mark:
        """How far that member was seen with that folder."""
        return self._marks.get((node_id, folder_id), Mark())

    def known(self) -> list[Known]:
        """Everything, to be told to others."""
        return [
            Known(node_id, folder_id, mark.term, mark.index) for (node_id, folder_id), mark in self._marks.items()
        ]

    def learn(self, known: list[Known]) -> None:
        """What another member has seen counts as seen."""
        for one in known:
            mark = self._marks.setdefault((one.node_id, one.folder_id), Mark())
            if mark.rise(one.term, one.index):
                self._dirty = True

    def save(self, now: float) -> None:
        """Write what changed, now and then, and at once when a member shows up with another folder."""
        if not self._dirty or now < self._save_at:
            return
        self._save_at = now + _SAVE_EVERY_S
        body = msgspec.msgpack.encode(_File(self._running, self.known()))
        try:
            self._disk.write_beside(self._path, seal(_MAGIC, body))
        except StorageFullError:
            return
        self._dirty = False

    def close(self) -> None:
        """Write what is not written yet, if it can be: the disk may be why the node stops."""
        try:
            self.save(float("inf"))
        except RaftStorageError as exc:
            log.warning("what is known of the other managers was not written", reason=str(exc))


class Standing:
    """Whether this node may vote and stand for election: not before the others said that it forgot nothing."""

    def __init__(self, folder: Path, folder_id: str, disk: Disk, *, fresh: bool) -> None:
        self._folder = folder
        self._disk = disk
        self._folder_id = folder_id
        self._run = random.getrandbits(63)
        self._answered: set[str] = set()
        self._asked_at: float | None = None
        self.ask_at = 0.0
        #: A folder made in this process has nothing to forget; the others only have to learn of it.
        self.confirmed = fresh

    def questions(self, now: float, addr: str, term: int, others: list[str]) -> dict[str, Recall]:
        """What to ask whom now; ``ask_at`` says when to come again."""
        if self._asked_at is None:
            self._asked_at = now
        self._count(now, others)
        missing = [node_id for node_id in others if node_id not in self._answered]
        self.ask_at = now + (_REMIND_EVERY_S if self.confirmed else _ASK_EVERY_S)
        return {node_id: Recall(addr, term, self._run, self._folder_id) for node_id in missing}

    def answer(
        self, now: float, sender: str, reply: Recalled, term: int, last_index: int, others: list[str]
    ) -> None:
        """Take one answer. Raises RaftStorageError if it knows of more than this node's disk holds."""
        if reply.run != self._run or sender in self._answered:
            return
        if reply.known_term > term or reply.known_index > last_index:
            if reply.known_index > last_index:
                what = f"it ends at entry {last_index}, and this manager had acknowledged {reply.known_index}"
            else:
                what = f"it is at term {term}, and this manager had taken part in term {reply.known_term}"
            problem = (
                f"the raft data in {self._folder} was put back to an earlier state: {what} (known by {sender}). "
                f"It may not vote on what it forgot: {START_ANEW}"
            )
            # The next start may meet only those who do not know.
            with contextlib.suppress(StorageFullError):
                self._disk.write_beside(self._folder / REFUSAL, problem.encode())
            raise RaftStorageError(problem)
        self._answered.add(sender)
        self._count(now, others)

    def _count(self, now: float, others: list[str]) -> None:
        """All have answered, or a majority, and the rest had the time to."""
        answers = len(self._answered & set(others))
        waited = self._asked_at is not None and now - self._asked_at >= _PATIENCE_S
        if answers == len(others) or (waited and (1 + answers) * 2 > len(others) + 1):
            self.confirmed = True
