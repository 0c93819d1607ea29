"""The Raft engine of one node: PySyncObj with its unsafe paths closed.

What stays PySyncObj's own: terms and votes, the election, the commit rule, the check for a quorum. What
is ours: everything that comes in is checked first (``receive``), replication and snapshots
(``replication``, ``follower``), membership, the log (``journal``).

Used on one thread. Nothing here waits, sends or syncs: messages go to an outbox and committed entries to
a list, and both leave only after the driver made the journal durable.
"""

from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node

from pyswarm.manager.raft.entries import LogEntry, Snapshot
from pyswarm.manager.raft.follower import Follower
from pyswarm.manager.raft.messages import (
    Append,
    AppendAck,
    Marks,
    Message,
    Recall,
    Recalled,
    SnapshotAck,
    SnapshotChunk,
    TimeoutNow,
    Vote,
    VoteReply,
)
from pyswarm.manager.raft.replication import Replicator
from pyswarm.manager.raft.stock import CANDIDATE, FOLLOWER, LEADER, StockEngine
from pyswarm.manager.raft.storage import Storage
from pyswarm.manager.raft.types import Member, RaftConfig

#: A voter this long without its leader, as a part of the shortest election timeout, listens to candidates.
_STICKINESS = 0.9
_TELL_MARKS_EVERY_S = 1.0


class Engine(StockEngine):
    """``tick`` and ``receive`` drive it; ``append`` proposes; the rest is asking."""

    def __init__(
        self,
        config: RaftConfig,
        storage: Storage,
        send: Callable[[str, Message], None],
        monotonic: Callable[[], float],
    ) -> None:
        # Set before the base class runs: it looks at every attribute.
        self.members: tuple[Member, ...] = ()
        self.heard_addr: dict[str, str] = {}
        self.elections = 0
        self._send = send
        self._config_index = -1
        self._departed: list[str] = []
        self._voters: set[str] = set()
        self._pre_votes: set[str] | None = None
        self._leader_heard_at = float("-inf")
        self._ticked_at = monotonic()
        self._next_beat = 0.0
        self._campaign_now = False
        self._transfer_election = False
        self._follower = Follower(self, storage.snapshots, send)
        self._witness, self._standing = storage.witness, storage.standing
        self._tell_marks_at = 0.0
        super().__init__(config, storage.journal, self._from_stock, monotonic)
        self._replicator = Replicator(
            config, storage.journal, storage.snapshots, self.next_index, self.match_index, send
        )
        self.adopt_membership()
        self.stock_tick()
        if len(self.members) == 1 and self.is_voter:
            self.campaign_at_once()

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def is_voter(self) -> bool:
        """Whether the newest membership has this node."""
        return self.is_member(self.config.node_id)

    def is_member(self, node_id: str) -> bool:
        """Whether the newest membership has that node."""
        return any(m.node_id == node_id for m in self.members)

    @property
    def next_due(self) -> float:
        """When something happens even if nothing comes in."""
        if self.state == LEADER:
            return self._next_beat if self.others or self.learners else self._ticked_at + 1.0
        if not self.is_voter:
            return self._ticked_at + 1.0
        # Looks in between too, so that ``tick`` can tell a long pause of this process from a silent leader.
        return min(self.election_deadline, self._ticked_at + self.config.election_min_s / 4)

    # -- what drives it ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Elections, commitment, heartbeats."""
        if now >= self._standing.ask_at and self.is_voter:
            self._ask_what_is_known(now)
        if self.state != LEADER:
            if self.others and now - self._ticked_at > self.config.election_min_s / 2:
                # This process did not run; what the leader sent meanwhile may still be on its way.
                self.wait_for_leader(now)
            if self._campaign_now:
                self.campaign_at_once()
            elif self.others and self.is_voter and self._standing.confirmed and now > self.election_deadline:
                self._ask_before_election(now)
        self._ticked_at = now
        was_leading, term = self.state == LEADER, self.term
        self.stock_tick()
        if self.term != term and self.state != FOLLOWER:
            self.elections += 1
        self._campaign_now = self._transfer_election = False
        if was_leading and self.state != LEADER:
            self._end_leadership()

    def append(self, command: bytes) -> tuple[int, int]:
        """As leader: add an entry, to be sent with the next tick."""
        index = self.journal.last_index + 1
        self.journal.add(command, index, self.term)
        self.send_soon()
        return index, self.term

    def send_soon(self, beat: bool = False) -> None:
        """Feed the members at the next tick; with ``beat`` also those that have everything."""
        self.feed_at(0.0)
        if beat:
            self._next_beat = 0.0

    def mark(self) -> int:
        """For a read barrier: answers to messages sent after this prove leadership."""
        return self._replicator.seq

    def answered_since(self, node_id: str, mark: int) -> bool:
        """Whether that node answered a message sent after ``mark``."""
        return self._replicator.acked_since(node_id, mark)

    def quorum_since(self, mark: int) -> bool:
        """Whether a majority answered messages of this leadership sent after ``mark``."""
        others = self.others
        count = 1 + sum(1 for n in others if self._replicator.acked_since(n.id, mark))
        return count * 2 > len(others) + 1

    def match_of(self, node_id: str) -> int:
        """As leader: how far that node has the log."""
        return self.match_index.get(Node(node_id), 0)

    def most_recent(self, node_ids: list[str]) -> str:
        """Whom of these this leader heard from last."""
        return max(node_ids, key=lambda n: (self.answered_at.get(Node(n), 0.0), n))

    def compactable(self, index: int) -> int:
        """``index``, or less while a member receives an older snapshot."""
        lowest = self._replicator.lowest_transfer()
        return index if lowest is None else min(index, lowest)

    def reconnected(self, node_id: str) -> None:
        """The network has a fresh stream to that member."""
        if self.state == LEADER:
            self._replicator.reconnected(node_id)
            self.send_soon(beat=True)

    def hand_over(self, node_id: str) -> None:
        """Ask a member that has everything to campaign at once."""
        self._send(node_id, TimeoutNow(self.config.addr, self.term))

    # -- membership ----------------------------------------------------------------------------------------------

    def adopt_membership(self) -> None:
        """The newest membership in the log counts from the moment it is there, committed or not."""
        index, members = self.journal.config
        if index == self._config_index and members == self.members:
            return
        self._config_index, self.members = index, members
        old = set(self.others)
        new = {Node(m.node_id) for m in members if m.node_id != self.config.node_id}
        for node in old - new:
            self._replicator.drop(node.id)
            self._voters.discard(node.id)
            self._departed.append(node.id)
        self.set_nodes(new, set(self.learners) - new)

    def take_departed(self) -> list[str]:
        """Who left the membership since the last call."""
        taken, self._departed = self._departed, []
        return taken

    def add_learner(self, node_id: str) -> None:
        """Replicate to a node that does not count (yet, or any longer)."""
        self.set_nodes(set(self.others), {*self.learners, Node(node_id)})
        self.send_soon(beat=True)

    def drop_learner(self, node_id: str) -> None:
        """No longer replicate to it, unless it counts by now."""
        learners = set(self.learners)
        if Node(node_id) in learners:
            self.set_nodes(set(self.others), learners - {Node(node_id)})
            self._replicator.drop(node_id)

    # -- messages ---------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """One message whose sender is proven. Answers of non-members are dropped.

        Requests of a node this one does not know as a member are judged by their term and log like any
        other: the membership that has it may not have arrived here yet, and could not without them.
        """
        if isinstance(message, AppendAck | VoteReply | SnapshotAck | Recalled):
            if self.is_member(sender) or Node(sender) in self.learners:
                self._on_answer(sender, message)
            return
        self.heard_addr[sender] = message.addr
        if isinstance(message, Recall):
            self._on_recall(sender, message)
            return
        if isinstance(message, Marks):
            if message.term == self.term and sender == self.leader_id:
                self._witness.learn([k for k in message.known if k.node_id != self.config.node_id])
            return
        # A term is durable before anything that carries it is sent; of a pre-vote's this is not true.
        if not (isinstance(message, Vote) and message.pre):
            self._witness.note(sender, message.term, message.commit if isinstance(message, Append) else 0)
        if isinstance(message, Append | SnapshotChunk):
            self._follower.receive(sender, message)
        elif isinstance(message, Vote):
            self._on_vote_request(sender, message)
        elif message.term == self.term and sender == self.leader_id and self.is_voter:
            self._campaign_now = self._transfer_election = True

    def _on_answer(self, sender: str, message: AppendAck | VoteReply | SnapshotAck | Recalled) -> None:
        promised = isinstance(message, VoteReply) and message.pre and message.granted
        if not promised:
            self._witness.note(sender, message.term)
        if isinstance(message, Recalled):
            # Before its term is taken over: what this node's own disk says is what counts.
            others = [n.id for n in self.others]
            self._standing.answer(self.monotonic(), sender, message, self.term, self.journal.last_index, others)
        if message.term > self.term and not promised:
            self._step_down(message.term)
        elif isinstance(message, VoteReply):
            self._on_vote_reply(sender, message)
        elif isinstance(message, AppendAck | SnapshotAck) and self.state == LEADER and message.term == self.term:
            node, now = Node(sender), self.monotonic()
            self.answered_at[node] = now
            if isinstance(message, AppendAck):
                more = self._replicator.acknowledged(node, message)
            else:
                more = self._replicator.snapshot_acknowledged(node, message, self.term, now)
            if more:
                self.send_soon()

    def _from_stock(self, node_id: str, message: dict[str, Any]) -> None:
        """What PySyncObj itself sends: requests for votes, and votes. Acknowledgements are ours."""
        if message["type"] == "request_vote":
            last, term = message["last_log_index"], message["last_log_term"]
            self._send(
                node_id, Vote(self.config.addr, message["term"], last, term, False, self._transfer_election)
            )
        elif message["type"] == "response_vote":
            self._send(node_id, VoteReply(message["term"], True, False))

    def follow(self, leader: str, term: int, prev: int, new: list[LogEntry], commit: int) -> None:
        """Follow a leader of this or a newer term, and take over entries that were checked."""
        self._leader_heard_at = self.monotonic()
        self._pre_votes = None
        was_leading = self.state == LEADER
        self.stock_append(leader, term, prev, new, commit)
        if was_leading:
            self._end_leadership()
        self.adopt_membership()

    def installed(self, index: int) -> None:
        """A durable snapshot replaced the log up to ``index``."""
        self.set_installed(index)
        self.adopt_membership()

    def take_installed(self) -> list[tuple[Snapshot, bytes]]:
        """Snapshots the state machine must be restored from."""
        return self._follower.take_installed()

    # -- what the members remember of each other ----------------------------------------------------------------

    def _ask_what_is_known(self, now: float) -> None:
        others = [n.id for n in self.others]
        for node_id, question in self._standing.questions(now, self.config.addr, self.term, others).items():
            self._send(node_id, question)

    def _note_matches(self) -> None:
        """Only what is committed: the rest of a log may be replaced by a later leader, rightly."""
        for node, match in self.match_index.items():
            self._witness.note(node.id, 0, min(match, self.commit_index))

    def _on_recall(self, sender: str, question: Recall) -> None:
        if self.state == LEADER:
            self._note_matches()
        mark = self._witness.recall(sender, question.folder_id)
        self._send(sender, Recalled(self.term, question.run, mark.term, mark.index))
        if self.is_member(sender) or Node(sender) in self.learners:
            self._witness.runs_on(sender, question.folder_id)

    # -- elections --------------------------------------------------------------------------------------------

    def _ask_before_election(self, now: float) -> None:
        """Pre-vote: no term is raised until a majority would vote for this node."""
        self.wait_for_leader(now)
        self._pre_votes = {self.config.node_id}
        last_index, last_term = self.journal.last_index, self.journal.last_term
        for node in self.others:
            self._send(node.id, Vote(self.config.addr, self.term + 1, last_index, last_term, True, False))

    def _leader_is_heard(self) -> bool:
        if self.state == LEADER:
            return True
        age = self.monotonic() - self._leader_heard_at
        return self.leader_id is not None and age < self.config.election_min_s * _STICKINESS

    def _on_vote_request(self, sender: str, request: Vote) -> None:
        if request.pre:
            granted = (
                self._standing.confirmed
                and request.term > self.term
                and not self._leader_is_heard()
                and (request.last_term, request.last_index) >= (self.journal.last_term, self.journal.last_index)
            )
            self._send(sender, VoteReply(request.term if granted else self.term, granted, True))
            return
        if request.term < self.term:
            self._send(sender, VoteReply(self.term, False, False))
            return
        if not self._standing.confirmed:
            # What this node voted before its disk was put back, if it was, only the others can tell.
            return
        # No disruption by a node that was cut off, unless the leader itself asked for the election.
        wanted = request.transfer and self.is_member(sender)
        if request.term > self.term and self._leader_is_heard() and not wanted:
            return
        was_leading = self.state == LEADER
        self.stock_vote_request(sender, request.term, request.last_index, request.last_term)
        if was_leading and self.state != LEADER:
            self._end_leadership()

    def _on_vote_reply(self, sender: str, reply: VoteReply) -> None:
        if not reply.granted or not self.is_member(sender) or not self.is_voter:
            return
        if reply.pre:
            if self._pre_votes is None or self.state == LEADER or reply.term != self.term + 1:
                return
            self._pre_votes.add(sender)
            if len(self._pre_votes) * 2 > len(self.members):
                self._pre_votes = None
                self._campaign_now = True
        # One vote per voter and term: PySyncObj only counts messages.
        elif self.state == CANDIDATE and reply.term == self.term and sender not in self._voters:
            self._voters.add(sender)
            self.stock_vote(sender, reply.term)

    def _step_down(self, term: int) -> None:
        was_leading = self.state == LEADER
        self.become_follower(term)
        if was_leading:
            self._end_leadership()

    def _end_leadership(self) -> None:
        self.wait_for_leader(self.monotonic())
        self._replicator.reset()
        self.set_nodes(set(self.others), set())

    # -- what PySyncObj tells ------------------------------------------------------------------------------------

    def on_new_term(self) -> None:
        """Votes belong to one term."""
        self._voters.clear()
        self._pre_votes = None

    def on_leading(self) -> None:
        """Progress of members starts anew with each leadership."""
        self._replicator.reset()
        self._next_beat = 0.0

    def on_feed(self) -> None:
        """Send what is missing; on a heartbeat, something to everybody."""
        now = self.monotonic()
        beat = now >= self._next_beat
        if beat:
            self._next_beat = now + self.config.heartbeat_s
        self.feed_at(self._next_beat)
        for node in (*self.others, *self.learners):
            self._replicator.feed(node, self.term, self.commit_index, now, beat)
        if beat and now >= self._tell_marks_at:
            self._tell_marks_at = now + _TELL_MARKS_EVERY_S
            self._note_matches()
            known = self._witness.known()
            for node in self.others:
                self._send(node.id, Marks(self.config.addr, self.term, known))

    def may_campaign(self) -> bool:
        """Only a member of the newest membership, alone or after a pre-vote."""
        return self.is_voter and self._standing.confirmed and (self._campaign_now or not self.others)
