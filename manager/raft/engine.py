"""PySyncObj with its unsafe paths closed.

What stays PySyncObj's own: terms and votes, the election, the commit rule, the check for a quorum. What
is ours: everything that comes in is checked first (``receive``), replication and snapshots
(``replication``), membership, the log (``journal``). Each override names the rule it restores; all
private names are listed in ``names``.

Used on one thread. Nothing here waits, sends or syncs: messages go to an outbox and committed entries to
a list, and both leave only after the driver made the journal durable.
"""

from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node

from pyswarm.common.log import get_logger
from pyswarm.manager.raft.entries import LogEntry
from pyswarm.manager.raft.follower import Follower
from pyswarm.manager.raft.journal import Journal
from pyswarm.manager.raft.messages import (
    Append,
    AppendAck,
    Message,
    SnapshotAck,
    SnapshotChunk,
    TimeoutNow,
    Vote,
    VoteReply,
)
from pyswarm.manager.raft.replication import Replicator
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.raft.transport import EngineTransport
from pyswarm.manager.raft.types import Member, RaftConfig

log = get_logger("raft")

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
#: A voter this long without its leader, as a part of the shortest election timeout, listens to candidates.
_STICKINESS = 0.9

_create_stock_journal = pysyncobj.syncobj.createJournal


def _create_journal(journal: Any = None) -> Any:
    return journal if isinstance(journal, Journal) else _create_stock_journal(journal)


# The seam through which PySyncObj takes a journal of ours: ``journalFile`` carries the object.
pysyncobj.syncobj.createJournal = _create_journal


class _NoPoller:
    def poll(self, _timeout: float) -> None:
        """Nothing to wait for."""


class Engine(SyncObj):  # type: ignore[misc]  # untyped base
    """The Raft engine of one node."""

    _SyncObj__raftCommitIndex: int
    _SyncObj__otherNodes: set[Any]
    _SyncObj__newAppendEntriesTime: float

    def __init__(
        self,
        config: RaftConfig,
        journal: Journal,
        snapshots: SnapshotStore,
        send: Callable[[str, Message], None],
        monotonic: Callable[[], float],
    ) -> None:
        # Set before the base class runs: it looks at every attribute.
        self.config = config
        self.journal = journal
        self.members: tuple[Member, ...] = ()
        self.heard_addr: dict[str, str] = {}
        self.elections = 0
        self._send = send
        self._monotonic = monotonic
        self._replicator = Replicator(config, journal, snapshots, send)
        self._config_index = -1
        self._committed: list[LogEntry] = []
        self._voters: set[str] = set()
        self._pre_votes: set[str] | None = None
        self._leader_heard_at = float("-inf")
        self._ticked_at = monotonic()
        self._next_beat = 0.0
        self._campaign_now = False
        self._transfer_election = False
        self._follower = Follower(self, snapshots, send)
        super().__init__(
            Node(config.node_id),
            [],
            SyncObjConf(
                autoTick=False,
                appendEntriesUseBatch=True,
                dynamicMembershipChange=False,
                commandsWaitLeader=False,
                useFork=False,
                raftMinTimeout=config.election_min_s,
                raftMaxTimeout=config.election_max_s,
                appendEntriesPeriod=config.heartbeat_s,
                leaderFallbackTimeout=config.quorum_timeout_s,
                connectionTimeout=config.election_max_s,
                journalFile=journal,
            ),
            nodeClass=Node,
            transport=EngineTransport(self._from_stock),
        )
        self._poller = _NoPoller()
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__serializer = None
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex
        self._replicator.next_index = self._SyncObj__raftNextIndex
        self._replicator.match_index = self._SyncObj__raftMatchIndex
        self.adopt_membership()
        super().doTick(0)
        if [m.node_id for m in self.members] == [config.node_id]:
            self._SyncObj__raftElectionDeadline = 0

    # -- state ---------------------------------------------------------------------------------------------

    @property
    def me(self) -> Member:
        """This node."""
        return Member(self.config.node_id, self.config.addr)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return int(self._SyncObj__raftState)

    @property
    def commit_index(self) -> int:
        """The newest entry known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def noop_index(self) -> int:
        """As leader: the first entry of this leadership."""
        return int(self._SyncObj__noopIDx or 0)

    @property
    def leader_id(self) -> str | None:
        """Whom this node follows, itself included."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def others(self) -> list[Any]:
        """The other voting members."""
        return sorted(self._SyncObj__otherNodes, key=lambda n: n.id)

    @property
    def is_voter(self) -> bool:
        """Whether the newest membership has this node."""
        return any(m.node_id == self.config.node_id for m in self.members)

    def is_member(self, node_id: str) -> bool:
        """Whether the newest membership has that node."""
        return any(m.node_id == node_id for m in self.members)

    @property
    def next_due(self) -> float:
        """When something happens even if nothing comes in."""
        if self.state == LEADER:
            return self._next_beat if self._has_peers else self._monotonic() + 1.0
        if not self.is_voter:
            return self._monotonic() + 1.0
        # Looks in between too, so that ``tick`` can tell a long pause of this process from a silent leader.
        return min(float(self._SyncObj__raftElectionDeadline), self._ticked_at + self.config.election_min_s / 4)

    @property
    def _has_peers(self) -> bool:
        return bool(self._SyncObj__otherNodes or self._SyncObj__readonlyNodes)

    # -- what drives it -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Elections, commitment, heartbeats."""
        if self.state != LEADER:
            if now - self._ticked_at > self.config.election_min_s / 2:
                # This process did not run; what the leader sent meanwhile may still be on its way.
                self._delay_election(now)
            if self._campaign_now:
                self._SyncObj__raftElectionDeadline = 0
            elif self.others and self.is_voter and now > self._SyncObj__raftElectionDeadline:
                self._ask_before_election(now)
        self._ticked_at = now
        was_leading, term = self.state == LEADER, self.term
        super().doTick(0)
        if self.term != term and self.state != FOLLOWER:
            self.elections += 1
        self._campaign_now = False
        self._transfer_election = False
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
        self._SyncObj__newAppendEntriesTime = 0
        if beat:
            self._next_beat = 0.0

    def take_committed(self) -> list[LogEntry]:
        """Entries committed since the last call, in order."""
        taken, self._committed = self._committed, []
        return taken

    def mark(self) -> int:
        """For a read barrier: answers to messages sent after this prove leadership."""
        return self._replicator.seq

    def quorum_since(self, mark: int) -> bool:
        """Whether a majority answered messages of this leadership sent after ``mark``."""
        count = 1 + sum(1 for n in self.others if self._replicator.acked_since(n.id, mark))
        return count * 2 > len(self.others) + 1

    def match_of(self, node_id: str) -> int:
        """As leader: how far that member has the log."""
        return int(self._SyncObj__raftMatchIndex.get(Node(node_id), 0))

    def most_recent(self, node_ids: list[str]) -> str:
        """Whom of these this leader heard from last."""
        return max(node_ids, key=lambda n: (float(self._SyncObj__lastResponseTime.get(Node(n), 0.0)), n))

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

    # -- membership -----------------------------------------------------------------------------------------

    def adopt_membership(self) -> list[str]:
        """The newest membership in the log counts from the moment it is there. Returns who left."""
        index, members = self.journal.config
        if index == self._config_index and members == self.members:
            return []
        self._config_index, self.members = index, members
        old = self._SyncObj__otherNodes
        new = {Node(m.node_id) for m in members if m.node_id != self.config.node_id}
        for node in old - new:
            self._forget(node)
        for node in new - old:
            self._SyncObj__readonlyNodes.discard(node)
            self._greet(node)
        self._SyncObj__otherNodes = new
        self._SyncObj__connectedNodes = new | self._SyncObj__readonlyNodes
        return [n.id for n in old - new]

    def _greet(self, node: Any) -> None:
        self._SyncObj__raftNextIndex.setdefault(node, self.journal.last_index + 1)
        self._SyncObj__raftMatchIndex.setdefault(node, 0)
        self._SyncObj__lastResponseTime[node] = self._monotonic()

    def _forget(self, node: Any) -> None:
        for table in (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        ):
            table.pop(node, None)
        self._replicator.drop(node.id)
        self._voters.discard(node.id)

    def add_learner(self, node_id: str) -> None:
        """Replicate to a node that does not count yet."""
        node = Node(node_id)
        self._SyncObj__readonlyNodes.add(node)
        self._SyncObj__connectedNodes.add(node)
        self._greet(node)
        self.send_soon(beat=True)

    def drop_learner(self, node_id: str) -> None:
        """It did not catch up."""
        node = Node(node_id)
        if node in self._SyncObj__readonlyNodes:
            self._SyncObj__readonlyNodes.discard(node)
            self._SyncObj__connectedNodes.discard(node)
            self._forget(node)

    # -- messages -------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """One message whose sender is proven. Answers of non-members are dropped.

        Requests of a node this one does not know as a member are judged by their term and log like any
        other: the membership that has it may not have arrived here yet, and could not without them.
        """
        if isinstance(message, AppendAck | VoteReply | SnapshotAck):
            known = self.is_member(sender) or Node(sender) in self._SyncObj__readonlyNodes
            if not known:
                return
            promised = isinstance(message, VoteReply) and message.pre and message.granted
            if message.term > self.term and not promised:
                self._step_down(message.term)
                return
            self._on_answer(sender, message)
            return
        self.heard_addr[sender] = message.addr
        if isinstance(message, Append | SnapshotChunk):
            self._follower.receive(sender, message)
        elif isinstance(message, Vote):
            self._on_vote_request(sender, message)
        elif message.term == self.term and sender == self.leader_id and self.is_voter:
            self._campaign_now = self._transfer_election = True

    def _on_answer(self, sender: str, message: AppendAck | VoteReply | SnapshotAck) -> None:
        node = Node(sender)
        if isinstance(message, VoteReply):
            self._on_vote_reply(sender, message)
        elif self.state == LEADER and message.term == self.term:
            now = self._monotonic()
            self._SyncObj__lastResponseTime[node] = now
            if isinstance(message, AppendAck):
                more = self._replicator.acknowledged(node, message)
            else:
                more = self._replicator.snapshot_acknowledged(node, message, self.term, now)
            if more:
                self.send_soon()

    def _from_stock(self, node_id: str, message: dict[str, Any]) -> None:
        """What PySyncObj itself sends: requests for votes and votes. Acknowledgements are ours."""
        if message["type"] == "request_vote":
            last, term = message["last_log_index"], message["last_log_term"]
            self._send(
                node_id, Vote(self.config.addr, message["term"], last, term, False, self._transfer_election)
            )
        elif message["type"] == "response_vote":
            self._send(node_id, VoteReply(message["term"], True, False))

    def follow(self, sender: str, term: int, prev: int, new: list[LogEntry], commit: int) -> None:
        """Let PySyncObj take over entries that were checked: they follow ``prev``, which this log has."""
        self._leader_heard_at = self._monotonic()
        self._pre_votes = None
        was_leading = self.state == LEADER
        self._SyncObj__onMessageReceived(
            Node(sender),
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": prev,
                "prevLogTerm": self.journal.term_at(prev),
                "entries": new,
            },
        )
        if was_leading:
            self._end_leadership()
        self.adopt_membership()

    def installed(self, index: int) -> None:
        """A snapshot replaced the log up to ``index`` and is durable."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = index
        self.adopt_membership()

    def take_installed(self) -> list[tuple[Any, bytes]]:
        """Snapshots the state machine must be restored from."""
        return self._follower.take_installed()

    # -- elections ------------------------------------------------------------------------------------------

    def _delay_election(self, now: float) -> None:
        deadline = now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, deadline)

    def _ask_before_election(self, now: float) -> None:
        """Pre-vote: no term is raised until a majority would vote for this node."""
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        self._pre_votes = {self.config.node_id}
        request = Vote(
            self.config.addr, self.term + 1, self.journal.last_index, self.journal.last_term, True, False
        )
        for node in self.others:
            self._send(node.id, request)

    def _leader_is_heard(self) -> bool:
        if self.state == LEADER:
            return True
        age = self._monotonic() - self._leader_heard_at
        return self.leader_id is not None and age < self.config.election_min_s * _STICKINESS

    def _on_vote_request(self, sender: str, request: Vote) -> None:
        mine = (self.journal.last_term, self.journal.last_index)
        if request.pre:
            granted = (
                request.term > self.term
                and not self._leader_is_heard()
                and (request.last_term, request.last_index) >= mine
            )
            self._send(sender, VoteReply(request.term if granted else self.term, granted, True))
            return
        if request.term < self.term:
            self._send(sender, VoteReply(self.term, False, False))
            return
        # No disruption by a node that was cut off, unless the leader itself asked for the election.
        wanted = request.transfer and self.is_member(sender)
        if request.term > self.term and self._leader_is_heard() and not wanted:
            return
        was_leading = self.state == LEADER
        self._SyncObj__onMessageReceived(
            Node(sender),
            {
                "type": "request_vote",
                "term": request.term,
                "last_log_index": request.last_index,
                "last_log_term": request.last_term,
            },
        )
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
            return
        # One vote per voter and term: PySyncObj only counts messages.
        if self.state != CANDIDATE or reply.term != self.term or sender in self._voters:
            return
        self._voters.add(sender)
        self._SyncObj__onMessageReceived(Node(sender), {"type": "response_vote", "term": reply.term})

    def _step_down(self, term: int) -> None:
        """Somebody is at a newer term: this node's leadership or candidacy is over."""
        was_leading = self.state == LEADER
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        if was_leading:
            self._end_leadership()

    def _end_leadership(self) -> None:
        self._delay_election(self._monotonic())
        self._replicator.reset()
        for node in list(self._SyncObj__readonlyNodes):
            self.drop_learner(node.id)

    # -- overrides ------------------------------------------------------------------------------------------

    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Votes are counted per voter and term."""
        if term != self.term:
            self._voters.clear()
            self._pre_votes = None
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)

    def _SyncObj__onBecomeLeader(self) -> None:
        """Progress of members starts anew with each leadership."""
        self._replicator.reset()
        self._next_beat = 0.0
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__applyLogEntries(self) -> bool:
        """Applying never raises and never runs on this thread: entries are only handed over."""
        first, last = self._SyncObj__raftLastApplied + 1, self._SyncObj__raftCommitIndex
        if last >= first:
            base = self.journal.base_index
            self._committed += self.journal[first - base : last - base + 1]
            self._SyncObj__raftLastApplied = last
        return False

    def _SyncObj__sendAppendEntries(self) -> None:
        """Bounded pipelines, sequence numbers, snapshots apart; nothing is pickled."""
        now = self._monotonic()
        beat = now >= self._next_beat
        if beat:
            self._next_beat = now + self.config.heartbeat_s
        self._SyncObj__newAppendEntriesTime = self._next_beat
        for node in sorted(self._SyncObj__otherNodes | self._SyncObj__readonlyNodes, key=lambda n: str(n.id)):
            self._replicator.feed(node, self.term, self.commit_index, now, beat)

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Only a member of the newest membership campaigns, whatever is connected."""
        return self.is_voter and (self._campaign_now or not self.others)

    def _SyncObj__parseChangeClusterRequest(self, _command: bytes) -> None:
        """Nothing in the log is unpickled; membership entries are read by the journal."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """Compaction follows our own snapshots."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        """There is no dump file of PySyncObj's."""
        raise NotImplementedError

    def _checkCommandsToApply(self) -> None:
        """Nothing is queued in the engine, so nothing is forwarded after a change of leader."""
