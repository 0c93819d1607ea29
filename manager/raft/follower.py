"""The follower's side of replication: every message is checked against the log before the engine sees it.

PySyncObj removes whatever follows ``prevLogIdx``, even if it matches what is being sent, commits on the
word of a snapshot message, and acknowledges without a term. Here entries that match are dropped from the
message, so that only a real conflict truncates, and the acknowledgement is ours.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyswarm.common.log import get_logger
from pyswarm.manager.raft.disk import START_ANEW
from pyswarm.manager.raft.entries import LogEntry, Snapshot
from pyswarm.manager.raft.messages import Append, AppendAck, Message, SnapshotAck, SnapshotChunk
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.raft.stock import LEADER
from pyswarm.manager.raft.types import RaftInvariantError

if TYPE_CHECKING:
    from pyswarm.manager.raft.engine import Engine

log = get_logger("raft")


def _diverged(leader: str, index: int) -> RaftInvariantError:
    return RaftInvariantError(
        f"the leader {leader} disagrees about committed entry {index}: the logs have diverged; {START_ANEW}"
    )


class Follower:
    """Takes a leader's messages for one engine."""

    def __init__(self, engine: "Engine", snapshots: SnapshotStore, send: Callable[[str, Message], None]) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._send = send
        self._installed: list[tuple[Snapshot, bytes]] = []

    def receive(self, sender: str, message: Append | SnapshotChunk) -> None:
        """A leader of an older term is told so; that of this or a newer one is followed."""
        engine = self._engine
        if message.term < engine.term:
            # Carries the newer term, so that a leader that was cut off steps down. Not the message's number: it
            # was given before the sender led in this term, perhaps in another life, and would prove too much.
            self._send(sender, AppendAck(engine.term, 0, False, 0, 0))
            return
        if message.term == engine.term and engine.state == LEADER:
            log.error("another leader in the same term; its message is dropped", other=sender, term=engine.term)
            return
        if isinstance(message, Append):
            self._append(sender, message)
        else:
            self._chunk(sender, message)

    def _append(self, sender: str, m: Append) -> None:
        engine, journal = self._engine, self._engine.journal
        last, base = journal.last_index, journal.base_index
        if m.prev_index > last:
            self._reject(sender, m, last + 1)
            return
        if m.prev_index >= base and journal.term_at(m.prev_index) != m.prev_term:
            floor = max(base, engine.commit_index)
            if m.prev_index <= floor:
                raise _diverged(sender, m.prev_index)
            self._reject(sender, m, journal.first_of_term_at(m.prev_index, floor))
            return
        matched = 0
        for term, _ in m.entries:
            index = m.prev_index + 1 + matched
            if index > base and (index > last or journal.term_at(index) != term):
                if index <= min(last, engine.commit_index):
                    raise _diverged(sender, index)
                break
            matched += 1
        end = max(m.prev_index + len(m.entries), base)
        new: list[LogEntry] = [
            (data, m.prev_index + 1 + matched + i, term) for i, (term, data) in enumerate(m.entries[matched:])
        ]
        # Nothing new: the engine sees a heartbeat at the very end of the log, and truncates nothing.
        prev = m.prev_index + matched if new else last
        # Only what this message showed to match may be committed on its word.
        engine.follow(sender, m.term, prev, new, min(m.commit, end))
        self._send(sender, AppendAck(m.term, m.seq, True, end, 0))

    def _reject(self, sender: str, m: Append, hint: int) -> None:
        engine = self._engine
        engine.follow(sender, m.term, engine.journal.last_index, [], 0)
        self._send(sender, AppendAck(m.term, m.seq, False, engine.journal.last_index, hint))

    # -- snapshots -------------------------------------------------------------------------------------------

    def _chunk(self, sender: str, m: SnapshotChunk) -> None:
        engine = self._engine
        engine.follow(sender, m.term, engine.journal.last_index, [], 0)
        if m.index <= engine.commit_index:
            # Everything in it is here already; an older state is never put over a newer one.
            self._send(sender, SnapshotAck(m.term, m.index, m.size, True))
            return
        incoming = self._snapshots.receive(m.index, m.snapshot_term, m.size)
        incoming.add(m.offset, m.data)
        if not incoming.complete:
            self._send(sender, SnapshotAck(m.term, m.index, incoming.received, False))
            return
        loaded = self._snapshots.finish(incoming)
        if loaded is None:
            log.warning("a snapshot arrived damaged and is asked for again", leader=sender, index=m.index)
            self._send(sender, SnapshotAck(m.term, m.index, 0, False))
            return
        snapshot, _ = loaded
        engine.journal.install(snapshot)
        engine.installed(snapshot.index)
        self._installed.append(loaded)
        log.info("installed a snapshot", leader=sender, index=snapshot.index)
        self._send(sender, SnapshotAck(m.term, m.index, m.size, True))

    def take_installed(self) -> list[tuple[Snapshot, bytes]]:
        """Snapshots installed since the last call."""
        taken, self._installed = self._installed, []
        return taken
