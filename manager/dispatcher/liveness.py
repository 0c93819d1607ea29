"""Which nodes are heard. Pure: the caller says what time it is.

A node is given up when it was silent for ``GRACE`` heartbeat periods. The period grows with the number of nodes,
so that the leader answers a bounded number of heartbeats per second, whatever the size of the cluster.
"""

from collections.abc import Mapping

from pyswarm.common.types import Node, NodeState

GRACE = 3
#: For the delays of a loaded host, on top of the periods.
JITTER_S = 0.5
MAX_HEARTBEATS_PER_S = 200
SILENT_MESSAGE = "heartbeat failure"


def heartbeat_period_s(configured_s: float, nodes: int) -> float:
    """The period agents are told to keep."""
    return max(configured_s, nodes / MAX_HEARTBEATS_PER_S)


class Liveness:
    """Deadlines of the nodes that are expected to be heard."""

    def __init__(self, jitter_s: float = JITTER_S) -> None:
        self._jitter_s = jitter_s
        self._deadlines_s: dict[str, float] = {}

    def heard(self, node_id: str, now_s: float, period_s: float) -> None:
        """The node spoke, or is expected to from now on."""
        self._deadlines_s[node_id] = now_s + GRACE * period_s + self._jitter_s

    def forget(self, node_id: str) -> None:
        """Nothing is expected of the node any more."""
        self._deadlines_s.pop(node_id, None)

    def postpone(self, by_s: float) -> None:
        """The listener itself was away for ``by_s`` seconds: silence in that time says nothing of the nodes."""
        for node_id in self._deadlines_s:
            self._deadlines_s[node_id] += by_s

    def silent(self, now_s: float) -> frozenset[str]:
        """The nodes whose time has run out."""
        return frozenset(node_id for node_id, at_s in self._deadlines_s.items() if at_s <= now_s)


def plan_states(
    nodes: Mapping[str, Node], silent: frozenset[str], present: frozenset[str]
) -> dict[str, NodeState]:
    """The states to write: DOWN for who fell silent, READY for who has a session; empty when all is right.

    ``silent`` and ``present`` do not overlap.
    """
    plan = {}
    for node_id in silent:
        node = nodes.get(node_id)
        if node is not None and node.status.state in (NodeState.READY, NodeState.UNKNOWN):
            plan[node_id] = NodeState.DOWN
    for node_id in present:
        node = nodes.get(node_id)
        if node is not None and node.status.state is not NodeState.READY:
            plan[node_id] = NodeState.READY
    return plan
