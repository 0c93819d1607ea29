"""One step of the Raft thread: take what came in, let the engine decide, make it durable, let it out.

The order is the safety: whatever the engine wants to send, and whatever it committed, leaves this process
only after ``sync``. There is no thread and no clock of its own in here, so a simulation drives it as is.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from pyswarm.common.errors import InvalidArgument, NotLeader, OutcomeUnknown, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.manager.raft import effects as fx
from pyswarm.manager.raft.engine import Engine
from pyswarm.manager.raft.entries import REGULAR, Snapshot
from pyswarm.manager.raft.membership import MembershipChanges
from pyswarm.manager.raft.messages import Message, decode, encode
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.raft.stock import LEADER
from pyswarm.manager.raft.storage import Storage
from pyswarm.manager.raft.types import Member, PeerSender, RaftConfig, StorageFullError
from pyswarm.manager.raft.waiters import Barrier, Change, HandOver, Proposal, Waiter

log = get_logger("raft")

#: Per step, so that heartbeats are never starved by a flood.
_MESSAGES_PER_STEP = 1024
_PROPOSAL_BYTES_PER_STEP = 4 * 1024 * 1024
#: Beyond this, messages are dropped, as a network would.
_MAX_QUEUED_MESSAGES = 20_000


class RaftCore:
    """The engine with everything around it except thread and loop."""

    def __init__(
        self,
        config: RaftConfig,
        storage: Storage,
        sender: PeerSender,
        emit: Callable[[list[fx.Effect]], None],
        monotonic: Callable[[], float],
    ) -> None:
        self.config = config
        self._journal = storage.journal
        self._snapshots: SnapshotStore = storage.snapshots
        self._witness = storage.witness
        self._sender = sender
        self._emit = emit
        self._monotonic = monotonic
        self._outbox: list[tuple[str, Message]] = []
        self.engine = Engine(config, storage, self._send, monotonic)
        self._changes = MembershipChanges(self.engine, self._fail, self._resolve, self._await_entry, sender.forget)
        self._messages: deque[tuple[str, bytes]] = deque()
        self._requests: deque[Waiter] = deque()
        self._hints: deque[str] = deque()
        self._saved: deque[Snapshot] = deque()
        self._pending: dict[int, tuple[int, Waiter]] = {}
        self._barriers: list[Barrier] = []
        self._hand_over: HandOver | None = None
        self._led_term: int | None = None
        self._withheld = False
        self._effects: list[fx.Effect] = []
        #: How long the last ``finish`` took to make entries durable, if there were any.
        self.sync_s: float | None = None
        self.status = fx.Status()
        self._publish_status()

    # -- from other threads: only atomic operations on deques ----------------------------------------------

    def deliver(self, sender: str, payload: bytes) -> None:
        """A message of a peer whose identity is proven."""
        if len(self._messages) < _MAX_QUEUED_MESSAGES:
            self._messages.append((sender, payload))

    def submit(self, waiter: Waiter) -> None:
        """A caller of this process."""
        self._requests.append(waiter)

    def connected(self, node_id: str) -> None:
        """A hint of the network."""
        self._hints.append(node_id)

    def snapshot_saved(self, snapshot: Snapshot) -> None:
        """A snapshot taken here is durable."""
        self._saved.append(snapshot)

    # -- the step ------------------------------------------------------------------------------------------

    def idle_for(self) -> float:
        """How long nothing will happen unless something comes in."""
        if self._messages or self._saved or (self._requests and self._hand_over is None):
            return 0.0
        longest = self.config.tick_s if self._hand_over or self._changes.busy else 1.0
        return min(max(self.engine.next_due - self._monotonic(), 0.0), longest)

    def step(self) -> None:
        """Everything up to, but without, making it durable. ``finish`` must follow."""
        now = self._monotonic()
        self._take_messages()
        self._note_leadership()
        self._take_requests()
        self._changes.advance(now)
        self.engine.tick(now)
        for node_id in self.engine.take_departed():
            if node_id != self._changes.departing:
                self._sender.forget(node_id)
        for snapshot, data in self.engine.take_installed():
            self._effects.append(fx.Restore(snapshot, data))
        self._take_committed()
        self._note_leadership()
        self._check_barriers()
        self._check_hand_over(now)

    def finish(self) -> None:
        """Durable first, then visible. Raises StorageFullError while there is no space; call it again later."""
        began = self._monotonic()
        self.sync_s = self._monotonic() - began if self._journal.sync() else None
        outbox, self._outbox = self._outbox, []
        for node_id, message in outbox:
            addr = self._addr_of(node_id)
            if addr:
                self._sender.send(node_id, addr, encode(message))
        self._publish_status()
        if self._effects:
            effects, self._effects = self._effects, []
            self._emit(effects)
        while self._saved:
            self._compact(self._saved.popleft())
        self._witness.save(began)

    def withhold_leadership(self) -> None:
        """There is no space to promise anything, so nobody shall take this node for the leader. The next ``step``
        comes when there is space, and takes the leadership up again if nobody else did."""
        term = self._led_term
        if term is None or self._withheld or any(isinstance(effect, fx.Leading) for effect in self._effects):
            return
        self._withheld = True
        self._emit([fx.Lost(term)])

    def abandon(self) -> None:
        """The node stops: nobody waits any longer. What was not made durable does not get out, either."""
        withheld, self._effects = self._effects, []
        for effect in withheld:
            if isinstance(effect, fx.Committed):
                for waiter in effect.waiters.values():
                    self._fail(waiter, OutcomeUnknown("this manager stopped before the change was durable here"))
            elif isinstance(effect, fx.Readable | fx.Resolve):
                self._fail(effect.waiter, Unavailable("this manager is stopping"))
            elif isinstance(effect, fx.Fail | fx.Lost):
                self._effects.append(effect)
        for index, (_, waiter) in sorted(self._pending.items()):
            self._effects.append(
                fx.Fail(waiter, OutcomeUnknown(f"this manager stopped; entry {index} may be stored"))
            )
        self._pending.clear()
        waiting: list[Waiter] = [*self._requests, *self._barriers]
        if self._hand_over is not None:
            waiting.append(self._hand_over)
        self._requests.clear()
        self._barriers.clear()
        self._hand_over = None
        self._effects += [fx.Fail(w, Unavailable("this manager is stopping")) for w in waiting]
        self._changes.abandon(Unavailable("this manager is stopping"))
        if self._led_term is not None:
            self._effects.append(fx.Lost(self._led_term))
            self._led_term = None
        effects, self._effects = self._effects, []
        self._emit(effects)

    # -- parts of it -----------------------------------------------------------------------------------------

    def _send(self, node_id: str, message: Message) -> None:
        self._outbox.append((node_id, message))

    def _addr_of(self, node_id: str) -> str:
        heard = self.engine.heard_addr.get(node_id)
        if heard:
            return heard
        learner = self._changes.learner
        if learner is not None and learner.node_id == node_id:
            return learner.addr
        return next((m.addr for m in self.engine.members if m.node_id == node_id), "")

    def _take_messages(self) -> None:
        while self._hints:
            self.engine.reconnected(self._hints.popleft())
        for _ in range(min(len(self._messages), _MESSAGES_PER_STEP)):
            sender, payload = self._messages.popleft()
            try:
                self.engine.receive(sender, decode(payload))
            except InvalidArgument as exc:
                log.warning("message dropped", sender=sender, reason=str(exc))
            except StorageFullError:
                log.warning("no space for a snapshot; it is asked for again", sender=sender)

    def _take_requests(self) -> None:
        size = 0
        while self._requests and size < _PROPOSAL_BYTES_PER_STEP and self._hand_over is None:
            waiter = self._requests.popleft()
            if not waiter.claim():
                continue
            if self.engine.state != LEADER:
                self._fail(waiter, self._not_leader())
            elif isinstance(waiter, Proposal):
                size += len(waiter.command)
                self._await_entry(*self.engine.append(REGULAR + waiter.command), waiter)
            elif isinstance(waiter, Barrier):
                waiter.mark = self.engine.mark()
                waiter.index = max(self.engine.commit_index, self.engine.noop_index)
                self._barriers.append(waiter)
                self.engine.send_soon(beat=True)
            elif isinstance(waiter, Change):
                self._changes.begin(waiter)
            elif isinstance(waiter, HandOver):
                self._hand_over = waiter

    def _await_entry(self, index: int, term: int, waiter: Waiter) -> None:
        self._pending[index] = (term, waiter)

    def _take_committed(self) -> None:
        entries = self.engine.take_committed()
        if not entries:
            return
        waiters: dict[int, Waiter] = {}
        if self._pending:
            for _, index, term in entries:
                waiting = self._pending.pop(index, None)
                if waiting is None:
                    continue
                if waiting[0] == term:
                    waiters[index] = waiting[1]
                else:
                    self._fail(waiting[1], OutcomeUnknown("another leader took over while the change was stored"))
        self._effects.append(fx.Committed(entries, waiters))

    def _note_leadership(self) -> None:
        leading = self.engine.term if self.engine.state == LEADER else None
        if self._withheld:
            self._withheld = False
            if leading is not None and leading == self._led_term:
                self._effects.append(fx.Leading(leading, self.engine.noop_index))
        if leading == self._led_term:
            return
        if self._led_term is not None:
            self._effects.append(fx.Lost(self._led_term))
            self._fail_all_waiting()
        self._led_term = leading
        if leading is not None:
            self._effects.append(fx.Leading(leading, self.engine.noop_index))

    def _fail_all_waiting(self) -> None:
        for index, (_, waiter) in sorted(self._pending.items()):
            text = f"leadership was lost while the change was stored; it may or may not be there (entry {index})"
            self._fail(waiter, OutcomeUnknown(text))
        self._pending.clear()
        for barrier in self._barriers:
            self._fail(barrier, self._not_leader())
        self._barriers.clear()
        self._changes.abandon(self._not_leader())
        if self._hand_over is not None:
            self._resolve(self._hand_over, None)
            self._hand_over = None

    def _check_barriers(self) -> None:
        if not self._barriers:
            return
        waiting = []
        for barrier in self._barriers:
            if self.engine.quorum_since(barrier.mark):
                self._effects.append(fx.Readable(barrier, barrier.index))
            elif not barrier.future.done():
                waiting.append(barrier)
        self._barriers = waiting

    def _check_hand_over(self, now: float) -> None:
        waiter, engine = self._hand_over, self.engine
        if waiter is None:
            return
        candidates = [n.id for n in engine.others if engine.match_of(n.id) == self._journal.last_index]
        if now >= waiter.deadline or not engine.others:
            self._fail(waiter, Unavailable("no other manager could take over the leadership in time"))
            self._hand_over = None
        elif candidates and now - waiter.asked_at > self.config.election_max_s:
            waiter.asked_at = now
            engine.hand_over(engine.most_recent(candidates))

    def _compact(self, snapshot: Snapshot) -> None:
        if self._snapshots.adopt(snapshot):
            keep = self.config.trailing_entries, self.config.trailing_bytes
            start = self._journal.trailing_start(snapshot.index, *keep)
            self._journal.compact(self.engine.compactable(start))

    def _not_leader(self) -> NotLeader:
        leader_id = self.engine.leader_id
        if leader_id is None or leader_id == self.config.node_id:
            return NotLeader()
        return NotLeader(self._addr_of(leader_id), leader_id)

    def _fail(self, waiter: Waiter, error: Exception) -> None:
        self._effects.append(fx.Fail(waiter, error))

    def _resolve(self, waiter: Waiter, result: Any) -> None:
        self._effects.append(fx.Resolve(waiter, result))

    def _publish_status(self) -> None:
        engine = self.engine
        leader_id, old = engine.leader_id, self.status
        leader = None
        if leader_id is not None:
            addr = self.config.addr if leader_id == self.config.node_id else self._addr_of(leader_id)
            if old.leader is not None and (old.leader.node_id, old.leader.addr) == (leader_id, addr):
                leader = old.leader
            else:
                leader = Member(leader_id, addr)
        self.status = fx.Status(
            engine.term,
            engine.state == LEADER,
            leader,
            engine.members,
            engine.commit_index,
            self._journal.last_index,
            engine.elections,
            self._journal.last_term,
        )
