"""Who is silent, and what is to be written of it."""

import pytest

from pyswarm.common.types import Node, NodeState, NodeStatus
from pyswarm.manager.dispatcher.liveness import RESTART_GRACE_S, Liveness, heartbeat_period_s, plan_states


def test_three_periods_and_a_little_more_are_granted() -> None:
    liveness = Liveness(jitter_s=0.5)
    liveness.heard("a", now_s=100.0, period_s=1.0)
    assert liveness.silent(103.4) == frozenset()
    assert liveness.silent(103.5) == {"a"}
    liveness.heard("a", now_s=103.6, period_s=1.0)
    assert liveness.silent(106.0) == frozenset()
    liveness.forget("a")
    assert liveness.silent(1000.0) == frozenset()


def test_the_listener_s_own_absence_is_not_held_against_nodes() -> None:
    liveness = Liveness(jitter_s=0.5)
    liveness.heard("a", now_s=0.0, period_s=1.0)
    liveness.postpone(10.0)
    assert liveness.silent(13.4) == frozenset()
    assert liveness.silent(13.5) == {"a"}


@pytest.mark.parametrize(("nodes", "period_s"), [(1, 1.0), (200, 1.0), (400, 2.0), (1000, 5.0)])
def test_the_period_grows_with_the_cluster(nodes: int, period_s: float) -> None:
    assert heartbeat_period_s(1.0, nodes) == period_s


@pytest.mark.parametrize(
    ("state", "silent", "present", "written"),
    [
        (NodeState.READY, True, False, NodeState.DOWN),
        (NodeState.UNKNOWN, True, False, NodeState.DOWN),
        (NodeState.DOWN, True, False, None),
        (NodeState.DOWN, False, True, NodeState.READY),
        (NodeState.UNKNOWN, False, True, NodeState.READY),
        (NodeState.READY, False, True, None),
        (NodeState.READY, False, False, None),
    ],
)
def test_states_follow_what_was_heard(
    state: NodeState, silent: bool, present: bool, written: NodeState | None
) -> None:
    nodes = {"a": Node(id="a", status=NodeStatus(state=state))}
    ids = frozenset({"a", "removed"})
    plan = plan_states(nodes, ids if silent else frozenset(), ids if present else frozenset(), frozenset())
    assert plan == ({} if written is None else {"a": written})


def test_a_node_that_hung_up_is_waited_for_and_shown_as_disconnected() -> None:
    liveness = Liveness(jitter_s=0.5)
    liveness.heard("a", 0.0, 1.0)
    liveness.hung_up("a", 1.0)
    assert liveness.waited_for() == {"a"}
    assert liveness.silent(1.0 + RESTART_GRACE_S - 0.1) == frozenset()
    assert liveness.silent(1.0 + RESTART_GRACE_S) == {"a"}
    nodes = {"a": Node(id="a", status=NodeStatus(state=NodeState.READY))}
    plan = plan_states(nodes, frozenset(), frozenset(), liveness.waited_for())
    assert plan == {"a": NodeState.DISCONNECTED}
    liveness.heard("a", 5.0, 1.0)
    assert liveness.waited_for() == frozenset()
    assert liveness.silent(8.5) == {"a"}


def test_a_closed_connection_of_a_host_that_was_silent_already_wins_it_no_time() -> None:
    liveness = Liveness(jitter_s=0.5)
    liveness.heard("a", 0.0, 1.0)
    liveness.hung_up("a", 3.0)
    assert liveness.waited_for() == frozenset()
    assert liveness.silent(3.5) == {"a"}
