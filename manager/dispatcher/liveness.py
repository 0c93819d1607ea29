"""Which nodes are heard. Pure: the caller says what time it is.

A node is given up when it was silent for ``GRACE`` heartbeat periods. One whose agent closed its connection, as an
operating system does for a process that was killed, is given longer: a host that is lost closes nothing. The
period grows with the number of nodes, so that the leader answers a bounded number of heartbeats per second,
whatever the size of the cluster.
"""

from collections.abc import Mapping

from pyswarm.common.types import Node, NodeState

GRACE = 3
#: For the delays of a loaded host, on top of the periods.
JITTER_S = 0.5
MAX_HEARTBEATS_PER_S = 200
#: How long a node is waited for whose agent closed its connection, or which the leader has not heard of yet. The
#: host is there, and its daemon most likely being restarted: moving its tasks would disturb what runs undisturbed.
RESTART_GRACE_S = 15.0
SILENT_MESSAGE = "heartbeat failure"
LEFT_MESSAGE = "left the swarm"
HUNG_UP_MESSAGE = "the node's daemon closed its connection; waiting for it to return"


def heartbeat_period_s(configured_s: float, nodes: int) -> float:
    """The period agents are told to keep."""
    return max(configured_s, nodes / MAX_HEARTBEATS_PER_S)


class Liveness:
    """Deadlines of the nodes that are expected to be heard."""

    def __init__(self, jitter_s: float = JITTER_S, restart_grace_s: float = RESTART_GRACE_S) -> None:
        self._jitter_s = jitter_s
        self._restart_grace_s = restart_grace_s
        self._deadlines_s: dict[str, float] = {}
        self._fresh_until_s: dict[str, float] = {}
        self._hung_up: set[str] = set()

    def heard(self, node_id: str, now_s: float, period_s: float) -> None:
        """The node spoke."""
        self._deadlines_s[node_id] = now_s + GRACE * period_s + self._jitter_s
        self._fresh_until_s[node_id] = now_s + period_s + self._jitter_s
        self._hung_up.discard(node_id)

    def expect(self, node_id: str, now_s: float) -> None:
        """The node was there under an earlier leader and should be heard soon."""
        self._deadlines_s[node_id] = now_s + self._restart_grace_s

    def hung_up(self, node_id: str, now_s: float) -> None:
        """The connection closed. That the node closed it is believed only while its last heartbeat is fresh: the
        connection of a host that was lost ends too, once the sending side gives up."""
        if now_s <= self._fresh_until_s.get(node_id, now_s - 1):
            self._deadlines_s[node_id] = now_s + self._restart_grace_s
            self._hung_up.add(node_id)

    def forget(self, node_id: str) -> None:
        """Nothing is expected of the node any more."""
        self._deadlines_s.pop(node_id, None)
        self._fresh_until_s.pop(node_id, None)
        self._hung_up.discard(node_id)

    def postpone(self, by_s: float) -> None:
        """The listener itself was away for ``by_s`` seconds: silence in that time says nothing of the nodes."""
        for node_id in self._deadlines_s:
            self._deadlines_s[node_id] += by_s

    def silent(self, now_s: float) -> frozenset[str]:
        """The nodes whose time has run out."""
        return frozenset(node_id for node_id, at_s in self._deadlines_s.items() if at_s <= now_s)

    def waited_for(self) -> frozenset[str]:
        """The nodes that hung up and were not heard since."""
        return frozenset(self._hung_up)


def plan_states(
    nodes: Mapping[str, Node], silent: frozenset[str], present: frozenset[str], hung_up: frozenset[str]
) -> dict[str, NodeState]:
    """The states to write: DOWN for who fell silent, READY for who has a session, DISCONNECTED for who closed it,
    none when all is right.

    ``silent``, ``present`` and ``hung_up`` do not overlap.
    """
    plan = {}
    for node_id in silent:
        node = nodes.get(node_id)
        if node is not None and node.status.state is not NodeState.DOWN:
            plan[node_id] = NodeState.DOWN
    for node_id in hung_up:
        node = nodes.get(node_id)
        if node is not None and node.status.state is NodeState.READY:
            plan[node_id] = NodeState.DISCONNECTED
    for node_id in present:
        node = nodes.get(node_id)
        if node is not None and node.status.state is not NodeState.READY:
            plan[node_id] = NodeState.READY
    return plan
