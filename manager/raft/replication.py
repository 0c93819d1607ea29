"""The leader's side of replication: what each member has, what is on its way, what to send next.

Every message carries a sequence number and every answer repeats it. So a rejection belonging to messages
sent before the last correction is known to be stale (several batches in flight are all rejected, and the
last such answer must not undo the first), and an answer proves leadership at the time its message was sent.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from pyswarm.common.log import get_logger
from pyswarm.manager.raft.journal import GENESIS_INDEX, GENESIS_TERM, Journal
from pyswarm.manager.raft.messages import Append, AppendAck, Message, SnapshotAck, SnapshotChunk
from pyswarm.manager.raft.snapshots import SnapshotReader, SnapshotStore
from pyswarm.manager.raft.types import RaftConfig

log = get_logger("raft")


class Transfer:
    """One snapshot on its way to one member: a window of pieces, sent again when nothing moves."""

    def __init__(self, reader: SnapshotReader, now: float) -> None:
        self.reader = reader
        self.acked = 0
        self.sent = 0
        self.moved_at = now

    def close(self) -> None:
        """Close the file."""
        self.reader.close()


class Progress:
    """What the leader knows of one member."""

    def __init__(self, since: int) -> None:
        #: Answers to messages up to here were meant for an earlier membership of that node.
        self.since = since
        self.loss_told = False
        #: Until the first success one message at a time: where the logs agree is not known yet.
        self.probing = True
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        #: Rejections of messages sent before the last correction say nothing; 0 answers another leadership's.
        self.ignore_before = 1
        #: The newest message sent when it was last heard how far the member's log matches.
        self.matched_at = 0
        self.acked_seq = 0
        self.transfer: Transfer | None = None

    def clear_inflight(self) -> None:
        """What was on its way is lost or pointless."""
        self.inflight.clear()
        self.inflight_bytes = 0


class Replicator:
    """Feeds all members. ``next_index`` and ``match_index`` are the engine's own, by its node objects."""

    def __init__(
        self,
        config: RaftConfig,
        journal: Journal,
        snapshots: SnapshotStore,
        next_index: dict[Any, int],
        match_index: dict[Any, int],
        send: Callable[[str, Message], None],
    ) -> None:
        self._config = config
        self._journal = journal
        self._snapshots = snapshots
        self._send = send
        self._progress: dict[str, Progress] = {}
        self.next_index = next_index
        self.match_index = match_index
        #: Rises over the life of the process, also across leaderships.
        self.seq = 0

    def reset(self) -> None:
        """A leadership begins or ends."""
        for node_id in list(self._progress):
            self.drop(node_id)

    def drop(self, node_id: str) -> None:
        """The member is gone."""
        progress = self._progress.pop(node_id, None)
        if progress is not None and progress.transfer is not None:
            progress.transfer.close()

    def reconnected(self, node_id: str) -> None:
        """Messages on their way may be lost: find out at the next heartbeat."""
        progress = self._progress.get(node_id)
        if progress is not None:
            progress.clear_inflight()

    def acked_since(self, node_id: str, seq: int) -> bool:
        """Whether the member answered a message sent after ``seq``."""
        progress = self._progress.get(node_id)
        return progress is not None and progress.acked_seq > seq

    def lowest_transfer(self) -> int | None:
        """The oldest snapshot on its way; the entries after it are needed."""
        return min((p.transfer.reader.snapshot.index for p in self._progress.values() if p.transfer), default=None)

    def _progress_of(self, node_id: str) -> Progress:
        progress = self._progress.get(node_id)
        if progress is None:
            progress = self._progress[node_id] = Progress(self.seq)
        return progress

    def feed(self, node: Any, term: int, commit: int, now: float, beat: bool) -> None:
        """Send what the member lacks, within its window; on a heartbeat at least an empty message."""
        progress = self._progress_of(node.id)
        if progress.transfer is not None:
            self._pump(node.id, progress.transfer, term, now)
            if beat:
                self._append(node.id, progress, term, commit, GENESIS_INDEX, GENESIS_TERM, [])
            return
        journal, sent = self._journal, False
        while self.next_index[node] <= journal.last_index and self._has_room(progress):
            start = self.next_index[node]
            if start <= journal.base_index:
                self._start_transfer(node.id, progress, term, now)
                break
            entries = journal.slice(start, self._config.append_batch_bytes)
            size = sum(len(e[0]) for e in entries)
            body = [(e[2], e[0]) for e in entries]
            self._append(node.id, progress, term, commit, start - 1, journal.term_at(start - 1), body)
            self.next_index[node] = entries[-1][1] + 1
            progress.inflight.append((self.seq, size))
            progress.inflight_bytes += size
            sent = True
        if beat and not sent:
            prev = self.next_index[node] - 1
            if prev >= journal.base_index:
                self._append(node.id, progress, term, commit, prev, journal.term_at(prev), [])
            else:
                self._append(node.id, progress, term, commit, GENESIS_INDEX, GENESIS_TERM, [])

    def _has_room(self, progress: Progress) -> bool:
        if progress.probing:
            return not progress.inflight
        return progress.inflight_bytes < self._config.append_window_bytes

    def _append(
        self,
        node_id: str,
        progress: Progress,
        term: int,
        commit: int,
        prev: int,
        prev_term: int,
        entries: list[tuple[int, bytes]],
    ) -> None:
        self.seq += 1
        self._send(node_id, Append(self._config.addr, term, self.seq, prev, prev_term, commit, entries))

    def acknowledged(self, node: Any, ack: AppendAck) -> bool:
        """An answer of the leader's own term. True if there may be something to send now."""
        progress = self._progress_of(node.id)
        if ack.seq > self.seq or (ack.ok and ack.seq <= progress.since):
            return False
        progress.acked_seq = max(progress.acked_seq, ack.seq)
        if not ack.ok:
            return self._rejected(node, progress, ack)
        while progress.inflight and progress.inflight[0][0] <= ack.seq:
            progress.inflight_bytes -= progress.inflight.popleft()[1]
        # Clamped: nobody can have what the leader has not.
        match = min(ack.match, self._journal.last_index)
        if match > self.match_index[node]:
            self.match_index[node] = match
            progress.matched_at = self.seq
        self.next_index[node] = max(self.next_index[node], match + 1)
        if progress.transfer is None:
            progress.probing = False
        return self.next_index[node] <= self._journal.last_index

    def _rejected(self, node: Any, progress: Progress, ack: AppendAck) -> bool:
        if progress.transfer is not None or ack.seq < progress.ignore_before:
            return False
        match = self.match_index[node]
        # Only of a message sent after the match was known: others may have been overtaken on their way.
        # A hint below it is none of loss: after a restart a member does not know up to where its log is committed.
        if ack.match < match and ack.seq > progress.matched_at and not progress.loss_told:
            progress.loss_told = True
            log.error("member lost entries it had acknowledged", member=node.id, had=match, has=ack.match)
        self.next_index[node] = max(match + 1, min(ack.hint, self._journal.last_index + 1))
        progress.clear_inflight()
        progress.probing = True
        progress.ignore_before = self.seq + 1
        return True

    # -- snapshots ---------------------------------------------------------------------------------------

    def _start_transfer(self, node_id: str, progress: Progress, term: int, now: float) -> None:
        reader = self._snapshots.open_current()
        if reader is None:
            return
        log.info("sending a snapshot", member=node_id, index=reader.snapshot.index, size_bytes=reader.size)
        progress.clear_inflight()
        progress.transfer = Transfer(reader, now)
        self._pump(node_id, progress.transfer, term, now)

    def _pump(self, node_id: str, transfer: Transfer, term: int, now: float) -> None:
        if transfer.sent > transfer.acked and now - transfer.moved_at > self._config.snapshot_resend_s:
            transfer.sent, transfer.moved_at = transfer.acked, now
        size = self._config.snapshot_chunk_bytes
        reader = transfer.reader
        while (
            transfer.sent < reader.size
            and transfer.sent - transfer.acked < size * self._config.snapshot_window_chunks
        ):
            data = reader.read(transfer.sent, size)
            meta = reader.snapshot
            self._send(
                node_id,
                SnapshotChunk(self._config.addr, term, meta.index, meta.term, reader.size, transfer.sent, data),
            )
            transfer.sent += len(data)

    def snapshot_acknowledged(self, node: Any, ack: SnapshotAck, term: int, now: float) -> bool:
        """A piece arrived, or all of it. True if there may be something to send now."""
        progress = self._progress.get(node.id)
        if progress is None or progress.transfer is None:
            return False
        transfer = progress.transfer
        snapshot = transfer.reader.snapshot
        if ack.index != snapshot.index:
            return False
        if ack.done:
            transfer.close()
            progress.transfer = None
            progress.probing = True
            self.match_index[node] = max(self.match_index[node], snapshot.index)
            progress.matched_at = self.seq
            self.next_index[node] = snapshot.index + 1
            return True
        if ack.offset > transfer.acked:
            transfer.acked, transfer.moved_at = ack.offset, now
            transfer.sent = max(transfer.sent, transfer.acked)
        elif ack.offset < transfer.acked:
            # The member started over.
            transfer.acked = transfer.sent = ack.offset
            transfer.moved_at = now
        self._pump(node.id, transfer, term, now)
        return False
