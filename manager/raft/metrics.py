"""Raft's figures for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pyswarm.manager.raft.effects import Status

_FSYNC_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class RaftMetrics:
    """``pyswarm_raft_*``; without a registry everything is counted nowhere."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.term = Gauge("pyswarm_raft_term", "Current term", registry=registry)
        self.is_leader = Gauge("pyswarm_raft_is_leader", "1 while this manager leads", registry=registry)
        self.commit_index = Gauge("pyswarm_raft_commit_index", "Newest committed entry", registry=registry)
        self.applied_index = Gauge("pyswarm_raft_applied_index", "Newest applied entry", registry=registry)
        self.last_index = Gauge("pyswarm_raft_last_index", "Newest entry in the log", registry=registry)
        self.last_term = Gauge("pyswarm_raft_last_term", "Term of the newest entry in the log", registry=registry)
        self.members = Gauge("pyswarm_raft_members", "Voting managers", registry=registry)
        self.storage_full = Gauge("pyswarm_raft_storage_full", "1 while the log has no space", registry=registry)
        self.fsync_seconds = Histogram(
            "pyswarm_raft_fsync_seconds",
            "Making one batch of the log durable",
            buckets=_FSYNC_BUCKETS,
            registry=registry,
        )
        self.proposals = Counter("pyswarm_raft_proposals_total", "Changes proposed here", registry=registry)
        self.elections = Counter("pyswarm_raft_elections_total", "Elections started here", registry=registry)
        self.journal_bytes = Counter("pyswarm_raft_journal_bytes_total", "Written to the log", registry=registry)
        self._elections_seen = 0

    def update(self, status: Status) -> None:
        """Show a new status of the Raft thread."""
        self.term.set(status.term)
        self.is_leader.set(status.leading)
        self.commit_index.set(status.commit_index)
        self.last_index.set(status.last_index)
        self.last_term.set(status.last_term)
        self.members.set(len(status.members))
        if status.elections > self._elections_seen:
            self.elections.inc(status.elections - self._elections_seen)
            self._elections_seen = status.elections
