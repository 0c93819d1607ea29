"""Every private name of PySyncObj this package reads, writes or overrides, and why.

PySyncObj is pinned to exactly one release; a test checks that it still has all of these and that the
package uses no other. ``_SyncObj__x`` is how Python spells ``self.__x`` of class SyncObj.
"""

PYSYNCOBJ_VERSION = "0.3.17"

#: Methods replaced by ours; the comment is the rule each restores.
OVERRIDDEN = {
    "_SyncObj__applyLogEntries": "apply never raises and runs outside the engine",
    "_SyncObj__sendAppendEntries": "bounded pipelines, no pickled pieces, snapshots on their own",
    "_SyncObj__onBecomeLeader": "progress of members starts anew with each leadership",
    "_SyncObj__setCurrentTerm": "votes are counted per voter and term",
    "_SyncObj__connectedToAnyone": "only a member of the newest membership campaigns",
    "_SyncObj__parseChangeClusterRequest": "nothing from the log is unpickled; membership is ours",
    "_SyncObj__tryLogCompaction": "snapshots are ours: no fork, no rewriting in place",
    "_SyncObj__loadDumpFile": "snapshots are ours: a damaged one stops the node",
    "_checkCommandsToApply": "no queued command is forwarded to another leader",
}

#: Methods called.
CALLED = {
    "_SyncObj__onMessageReceived": "votes and entries, after our guards let them through",
    "_SyncObj__setState": "step down",
    "_SyncObj__generateRaftTimeout": "random election timeouts",
}

#: Attributes read or written.
ATTRIBUTES = {
    "_SyncObj__raftCurrentTerm": "terms on all messages",
    "_SyncObj__raftState": "role",
    "_SyncObj__raftLeader": "who leads",
    "_SyncObj__raftCommitIndex": "what may be applied",
    "_SyncObj__raftLastApplied": "what was handed over",
    "_SyncObj__raftNextIndex": "replication",
    "_SyncObj__raftMatchIndex": "the commit rule reads it",
    "_SyncObj__lastResponseTime": "the check for a quorum reads it",
    "_SyncObj__raftElectionDeadline": "pre-vote, hand-over",
    "_SyncObj__newAppendEntriesTime": "send at once",
    "_SyncObj__otherNodes": "voting members",
    "_SyncObj__readonlyNodes": "members still catching up: replicated to, not counted",
    "_SyncObj__connectedNodes": "all members count as connected; the network only loses messages",
    "_SyncObj__needLoadDumpFile": "no dump of the engine's own",
    "_SyncObj__noopIDx": "the first entry of a leader's own term",
    "_SyncObj__serializer": "taken away: snapshots are ours",
    "_poller": "nothing to poll: no sockets of the engine",
}
