"""Which manager may be spared, demotions that were interrupted, and what is said when nobody leads."""

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from support.store import local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import FailedPrecondition
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Node, NodeDescription, NodeRole, NodeSpec
from pyswarm.manager.group import LAST_MANAGER, QUORUM_LOSS, ManagerGroup, RoleKeeper
from pyswarm.manager.raft import Member, RaftNode
from pyswarm.manager.state import Store


@dataclass
class FakeRaft:
    """Its members, and who was taken out."""

    members: tuple[Member, ...]
    node_id: str = "m1"
    trouble: str = ""
    removed: list[str] = field(default_factory=list)

    async def remove_member(self, node_id: str, timeout_s: float) -> tuple[Member, ...]:
        self.removed.append(node_id)
        self.members = tuple(m for m in self.members if m.node_id != node_id)
        return self.members


def group_of(store: Store, managers: int, away: set[str]) -> tuple[ManagerGroup, FakeRaft]:
    raft = FakeRaft(tuple(Member(f"m{n}", f"192.0.2.{n}:2377") for n in range(1, managers + 1)))
    fake: RaftNode = raft  # type: ignore[assignment]
    return ManagerGroup(store, fake, lambda node_id: node_id not in away), raft


@pytest.mark.parametrize(
    ("managers", "away", "spared", "text"),
    [
        (1, set(), "m1", LAST_MANAGER),
        (2, set(), "m2", ""),
        (2, set(), "m1", ""),
        # The other alone would be left, and does not answer.
        (2, {"m2"}, "m1", QUORUM_LOSS),
        (2, {"m2"}, "m2", ""),
        (3, set(), "m2", ""),
        (3, {"m3"}, "m2", QUORUM_LOSS),
        (3, {"m3"}, "m3", ""),
        (4, {"m4"}, "m3", ""),
        (5, {"m4", "m5"}, "m3", QUORUM_LOSS),
        (5, {"m4", "m5"}, "m5", ""),
        # A node that does not vote is no loss.
        (3, {"m2", "m3"}, "w1", ""),
    ],
)
def test_the_others_must_be_able_to_decide(managers: int, away: set[str], spared: str, text: str) -> None:
    store, _ = local_store(VirtualClock())
    group, _ = group_of(store, managers, away)
    if not text:
        group.require_spare(spared)
        return
    with pytest.raises(FailedPrecondition) as caught:
        group.require_spare(spared)
    assert str(caught.value) == text


async def test_those_missing_are_named() -> None:
    store, _ = local_store(VirtualClock())
    node = Node(id="m2", description=NodeDescription(hostname="host2"))
    await store.update(lambda tx: tx.create(node))
    group, _ = group_of(store, 3, {"m2", "m3"})
    text = group.no_leader()
    assert text.startswith(
        "no leader: 1 of 3 managers reachable (missing: host2 at 192.0.2.2:2377, m3 at 192.0.2.3:2377). "
    )
    assert "The swarm does not have a leader." in text
    assert "\n" not in text
    group, _ = group_of(store, 3, set())
    assert group.no_leader().startswith("no leader: 3 of 3 managers reachable. The swarm")


async def test_an_interrupted_demotion_is_finished_unless_it_would_cost_the_quorum() -> None:
    clock = VirtualClock()
    store, _ = local_store(clock)
    manager = Node(id="m1", spec=NodeSpec(role=NodeRole.MANAGER))
    for name in ("m1", "m2", "m3"):
        await store.update(lambda tx, name=name: tx.create(replace(manager, id=name)))  # type: ignore[misc]
    away = {"m3"}
    group, raft = group_of(store, 3, away)
    owner = TaskGroupOwner("test")
    owner.spawn(RoleKeeper(store, group, clock).run(), "keeper")
    await clock.advance(3)
    assert raft.removed == []
    demoted = replace(store.view.nodes.find("m2"), spec=NodeSpec(role=NodeRole.WORKER))
    await store.update(lambda tx: tx.update(demoted))
    await clock.advance(3)
    assert raft.removed == []
    away.clear()
    await clock.advance(3)
    assert raft.removed == ["m2"]
    await owner.stop()
