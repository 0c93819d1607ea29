"""PySyncObj, tamed: all private names of it that this package touches are touched here.

``StockEngine`` gives the engine's state typed names, replaces what must never run by nothing, and offers
PySyncObj's own handlers for votes and entries. ``engine`` decides what may reach them.
"""

from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node

from pyswarm.manager.raft.entries import LogEntry
from pyswarm.manager.raft.journal import Journal
from pyswarm.manager.raft.transport import EngineTransport
from pyswarm.manager.raft.types import RaftConfig

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2

_create_stock_journal = pysyncobj.syncobj.createJournal


def _create_journal(journal: Any = None) -> Any:
    return journal if isinstance(journal, Journal) else _create_stock_journal(journal)


# The seam through which PySyncObj takes a journal of ours: ``journalFile`` carries the object.
pysyncobj.syncobj.createJournal = _create_journal


class _NoPoller:
    def poll(self, _timeout: float) -> None:
        """Nothing to wait for: the engine has no sockets."""


class StockEngine(SyncObj):  # type: ignore[misc]  # untyped base
    """PySyncObj with our journal and nothing that sends, forks, unpickles or waits."""

    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__otherNodes: set[Any]
    _SyncObj__readonlyNodes: set[Any]

    def __init__(
        self,
        config: RaftConfig,
        journal: Journal,
        send: Callable[[str, dict[str, Any]], None],
        monotonic: Callable[[], float],
    ) -> None:
        # Set before the base class runs: it looks at every attribute.
        self.config = config
        self.journal = journal
        self.monotonic = monotonic
        self._committed: list[LogEntry] = []
        # PySyncObj reads CLOCK_MONOTONIC_RAW, which drifts from the clock everybody else reads: deadlines of
        # one, compared with the time of the other, let a follower give up its leader early or never. One
        # clock for the whole process.
        pysyncobj.syncobj.monotonicTime = monotonic
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
            transport=EngineTransport(send),
        )
        self._poller = _NoPoller()
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__serializer = None
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex

    # -- state -----------------------------------------------------------------------------------------------

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
        return sorted(self._SyncObj__otherNodes, key=lambda n: str(n.id))

    @property
    def learners(self) -> list[Any]:
        """Nodes that are replicated to and do not count."""
        return sorted(self._SyncObj__readonlyNodes, key=lambda n: str(n.id))

    @property
    def next_index(self) -> dict[Any, int]:
        """As leader, per node: what to send next."""
        table: dict[Any, int] = self._SyncObj__raftNextIndex
        return table

    @property
    def match_index(self) -> dict[Any, int]:
        """As leader, per node: how far its log is known to match. The commit rule reads it."""
        table: dict[Any, int] = self._SyncObj__raftMatchIndex
        return table

    @property
    def answered_at(self) -> dict[Any, float]:
        """As leader, per node: when it last answered. The check for a quorum reads it."""
        table: dict[Any, float] = self._SyncObj__lastResponseTime
        return table

    @property
    def election_deadline(self) -> float:
        """When a follower stops waiting for its leader."""
        return self._SyncObj__raftElectionDeadline

    def campaign_at_once(self) -> None:
        """The next tick starts an election."""
        self._SyncObj__raftElectionDeadline = 0

    def wait_for_leader(self, now: float) -> None:
        """Another election timeout from now on."""
        deadline = now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, deadline)

    def feed_at(self, when: float) -> None:
        """As leader: when the next tick must feed the members."""
        self._SyncObj__newAppendEntriesTime = when

    def set_nodes(self, voters: set[Any], learners: set[Any]) -> None:
        """Who counts and who only receives. All count as connected: the network loses messages, no more."""
        known = voters | learners
        for table in (self.next_index, self.match_index, self.answered_at):
            for node in [n for n in table if n not in known]:
                del table[node]
        for node in known:
            self.next_index.setdefault(node, self.journal.last_index + 1)
            self.match_index.setdefault(node, 0)
            self.answered_at.setdefault(node, self.monotonic())
        self._SyncObj__otherNodes = voters
        self._SyncObj__readonlyNodes = learners
        self._SyncObj__connectedNodes = known

    def set_installed(self, index: int) -> None:
        """Everything up to ``index`` is committed and in the hands of whoever restores it."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = index

    def become_follower(self, term: int) -> None:
        """Somebody is at a newer term."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def take_committed(self) -> list[LogEntry]:
        """Entries committed since the last call, in order."""
        taken, self._committed = self._committed, []
        return taken

    # -- PySyncObj's own handlers; the caller has checked the message ----------------------------------------

    def stock_tick(self) -> None:
        """One tick: election, commit rule, check for a quorum."""
        super().doTick(0)

    def stock_append(self, leader: str, term: int, prev: int, new: list[LogEntry], commit: int) -> None:
        """Follow a leader; take over entries that follow ``prev``."""
        message = {
            "type": "append_entries",
            "term": term,
            "commit_index": commit,
            "prevLogIdx": prev,
            "prevLogTerm": self.journal.term_at(prev),
            "entries": new,
        }
        self._SyncObj__onMessageReceived(Node(leader), message)

    def stock_vote_request(self, candidate: str, term: int, last_index: int, last_term: int) -> None:
        """Vote if the candidate's log is good enough and the vote of that term is still free."""
        message = {"type": "request_vote", "term": term, "last_log_index": last_index, "last_log_term": last_term}
        self._SyncObj__onMessageReceived(Node(candidate), message)

    def stock_vote(self, voter: str, term: int) -> None:
        """Count a vote."""
        self._SyncObj__onMessageReceived(Node(voter), {"type": "response_vote", "term": term})

    # -- what the engine hears of ------------------------------------------------------------------------------

    def on_new_term(self) -> None:
        """The term changed."""

    def on_leading(self) -> None:
        """About to lead: before the first entry of the leadership."""

    def on_feed(self) -> None:
        """The members are to be fed."""

    def may_campaign(self) -> bool:
        """Whether an election may start now."""
        return False

    # -- overrides -----------------------------------------------------------------------------------------------

    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Votes are counted per voter and term."""
        changed = term != self.term
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)
        if changed:
            self.on_new_term()

    def _SyncObj__onBecomeLeader(self) -> None:
        """Progress of members starts anew with each leadership."""
        self.on_leading()
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
        self.on_feed()

    def _SyncObj__connectedToAnyone(self) -> bool:
        """An election needs a pre-vote and membership, not connections."""
        return self.may_campaign()

    def _SyncObj__parseChangeClusterRequest(self, _command: bytes) -> None:
        """Nothing in the log is unpickled; membership entries are read by the journal."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """Compaction follows our own snapshots: no fork, nothing rewritten in place."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        """There is no dump file of PySyncObj's."""
        raise NotImplementedError

    def _checkCommandsToApply(self) -> None:
        """Nothing is queued in the engine, so nothing is forwarded after a change of leader."""
