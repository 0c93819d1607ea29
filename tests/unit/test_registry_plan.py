"""What the leader does about etcd's members: a table of situations, and a simulation of many."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm.overlay.registry.plan import (
    AddLearner,
    Bootstrap,
    EtcdHealth,
    EtcdMember,
    EtcdPlan,
    Limits,
    Managers,
    MemberHealth,
    Promote,
    Remove,
    Secure,
    Settled,
    StorePlan,
    Wait,
    assignment_for,
    decode_plan,
    encode_plan,
    next_step,
)

A, B, C, D = (EtcdMember(n, f"10.0.0.{i}", i) for i, n in enumerate("abcd", start=1))
ALL = {m.node_id: m.addr for m in (A, B, C)}


def plan_of(*members: EtcdMember, sealed: bool = False) -> EtcdPlan:
    return EtcdPlan(3, members, sealed, max((m.incarnation for m in members), default=0))


def managers_of(
    addrs: dict[str, str] = ALL, alive: str = "abcd", failed: dict[str, float] | None = None
) -> Managers:
    return Managers("a", addrs, frozenset(alive) & addrs.keys(), failed or {})


def seen(member: EtcdMember, *, learner: bool = False, down_for_s: float | None = None) -> MemberHealth:
    return MemberHealth(member.incarnation * 100, member.peer_url, learner, down_for_s is None, down_for_s or 0.0)


def ok(*members: MemberHealth, **more: bool) -> EtcdHealth:
    return EtcdHealth(True, members=members, **more)


LOST = EtcdHealth(False, unreachable_for_s=99)

CASES = {
    "nothing yet": (EtcdPlan(), managers_of(), EtcdHealth(False), Bootstrap),
    "no address is known yet": (EtcdPlan(), managers_of({"a": ""}), EtcdHealth(False), Wait),
    "a member's address is not known at the moment": (
        plan_of(A, B),
        managers_of({"a": A.addr, "b": ""}),
        ok(seen(A), seen(B)),
        Settled,
    ),
    "a newcomer's address is not known yet": (
        plan_of(A),
        managers_of({"a": A.addr, "b": ""}),
        ok(seen(A)),
        Settled,
    ),
    "nobody alive": (EtcdPlan(), managers_of(alive=""), EtcdHealth(False), Wait),
    "starting": (plan_of(A), managers_of(), EtcdHealth(False, unreachable_for_s=3), Wait),
    "no quorum": (plan_of(A, B), managers_of(), LOST, Bootstrap),
    "all members left": (plan_of(D), managers_of(), EtcdHealth(False, unreachable_for_s=0), Bootstrap),
    "the only member moved": (
        plan_of(msgspec.structs.replace(A, addr="10.9.9.9")),
        managers_of(),
        EtcdHealth(False),
        Bootstrap,
    ),
    "full": (plan_of(A), managers_of(), ok(seen(A), no_space=True), Bootstrap),
    "sealed": (plan_of(A, sealed=True), managers_of(), ok(seen(A)), Secure),
    "sealed and secured": (plan_of(A, sealed=True), managers_of(), ok(seen(A), secured=True), StorePlan),
    "two are missing": (plan_of(A), managers_of(), ok(seen(A)), AddLearner),
    "a learner starts": (plan_of(A, B), managers_of(), ok(seen(A), seen(B, learner=True, down_for_s=2)), Wait),
    "a learner runs": (plan_of(A, B), managers_of(), ok(seen(A), seen(B, learner=True)), Promote),
    "a learner never starts": (
        plan_of(A, B),
        managers_of(),
        ok(seen(A), seen(B, learner=True, down_for_s=31)),
        Remove,
    ),
    "a learner is known not to start": (
        plan_of(A, B),
        managers_of(failed={"b": 1}),
        ok(seen(A), seen(B, learner=True, down_for_s=1)),
        Remove,
    ),
    "a failed node rests": (
        plan_of(A, C),
        managers_of(failed={"b": 10}),
        ok(seen(A), seen(C)),
        Settled,
    ),
    "a failed node tries again": (plan_of(A, C), managers_of(failed={"b": 61}), ok(seen(A), seen(C)), AddLearner),
    "a manager's member is down with its host": (
        plan_of(A, B, C),
        managers_of(alive="ab"),
        ok(seen(A), seen(B), seen(C, down_for_s=999)),
        Settled,
    ),
    "a member is down on a live host": (
        plan_of(A, B, C),
        managers_of(),
        ok(seen(A), seen(B), seen(C, down_for_s=61)),
        Remove,
    ),
    "a removed manager": (
        plan_of(A, B, C),
        managers_of({"a": A.addr, "b": B.addr}),
        ok(seen(A), seen(B), seen(C)),
        Remove,
    ),
    "a removed manager is the only member": (plan_of(D), managers_of(), ok(seen(D)), Bootstrap),
    "a removed manager is the only voter": (
        plan_of(D, A),
        managers_of(),
        ok(seen(D), seen(A, learner=True)),
        Promote,
    ),
    "no newcomer while one is down": (
        plan_of(A, B),
        managers_of(alive="ac"),
        ok(seen(A), seen(B, down_for_s=1)),
        Wait,
    ),
    "etcd has one the plan has not": (plan_of(A), managers_of(), ok(seen(A), seen(B, learner=True)), Remove),
    "the plan has one etcd has not": (plan_of(A, B), managers_of(), ok(seen(A)), StorePlan),
    "all is well": (plan_of(A, B, C), managers_of(), ok(seen(A), seen(B), seen(C)), Settled),
}


@pytest.mark.parametrize("name", CASES)
def test_next_step(name: str) -> None:
    plan, managers, health, expected = CASES[name]
    assert type(next_step(plan, managers, health)) is expected


def test_a_new_generation_is_sealed_and_prefers_the_leader() -> None:
    step = next_step(plan_of(B, C), managers_of(), LOST)
    assert isinstance(step, Bootstrap)
    assert step.plan == EtcdPlan(4, (EtcdMember("a", A.addr, 4),), True, 4)
    step = next_step(plan_of(A), managers_of(failed={"a": 1}), LOST)
    assert isinstance(step, Bootstrap)
    assert step.plan.members[0].node_id == "b"


def test_assignments() -> None:
    alone = assignment_for(plan_of(A, sealed=True), "a")
    assert alone is not None
    assert (alone.state, alone.sealed, alone.initial_cluster) == ("new", True, "a=https://10.0.0.1:2380")
    plan = plan_of(A, B)
    second = assignment_for(plan, "b")
    assert second is not None
    assert (second.state, second.folder, second.token) == ("existing", "3-2", "pyswarm-3")
    assert second.initial_cluster == "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380"
    assert assignment_for(plan, "c") is None
    assert decode_plan(encode_plan(plan)) == plan
    assert decode_plan(b"") == EtcdPlan()


class Simulation:
    """etcd as the leader sees it, without etcd: members, who votes, who runs."""

    def __init__(self) -> None:
        self.plan = EtcdPlan()
        self.managers: dict[str, str] = {}
        self.down: set[str] = set()
        self.members: dict[str, tuple[int, bool]] = {}  # peer URL -> (id, learner)
        self.secured = False
        self.now_s = 0.0
        self.next_id = 1

    def running(self, url: str) -> bool:
        member = next((m for m in self.plan.members if m.peer_url == url), None)
        return member is not None and member.node_id not in self.down and member.node_id in self.managers

    def quorum(self) -> bool:
        voters = [u for u, (_, learner) in self.members.items() if not learner]
        return bool(voters) and sum(self.running(u) for u in voters) > len(voters) // 2

    def health(self) -> EtcdHealth:
        if not self.quorum():
            return EtcdHealth(False, unreachable_for_s=self.now_s)
        seen_members = tuple(
            MemberHealth(i, u, learner, self.running(u), 0.0 if self.running(u) else self.now_s)
            for u, (i, learner) in self.members.items()
        )
        return EtcdHealth(True, members=seen_members, secured=self.secured)

    def step(self, leader: str) -> bool:
        alive = frozenset(self.managers) - self.down
        step = next_step(self.plan, Managers(leader, self.managers, alive), self.health(), Limits(5, 5, 5, 5))
        match step:
            case Bootstrap(plan, _):
                assert plan.generation == self.plan.generation + 1
                self.plan, self.secured = plan, False
                self.members = {plan.members[0].peer_url: (self.next_id, False)}
                self.next_id += 1
            case Secure():
                self.secured = True
            case StorePlan(plan, _):
                self.plan = plan
            case AddLearner(member, plan):
                assert not any(learner for _, learner in self.members.values()), "etcd takes one learner at a time"
                assert member.peer_url not in self.members
                self.members[member.peer_url] = (self.next_id, True)
                self.next_id += 1
                self.plan = plan
            case Promote(member_id):
                url = next(u for u, (i, _) in self.members.items() if i == member_id)
                assert self.running(url)
                self.members[url] = (member_id, False)
            case Remove(member_id, plan, _):
                url = next(u for u, (i, _) in self.members.items() if i == member_id)
                del self.members[url]
                assert self.quorum(), "removed a member that the quorum needed"
                self.plan = plan
            case Wait():
                self.now_s += 2
                return True
            case Settled():
                return False
        incarnations = [m.incarnation for m in self.plan.members]
        assert len(set(incarnations)) == len(incarnations)
        assert max(incarnations) <= self.plan.last_incarnation
        return True


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "kill", "revive", "forget", "step", "move"]), st.sampled_from("abcdef")
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_it_always_settles_on_the_live_managers(events: list[tuple[str, str]]) -> None:
    sim = Simulation()
    sim.managers["a"] = "10.0.0.1"
    for n, (event, node) in enumerate(events):
        match event:
            case "join":
                sim.managers.setdefault(node, f"10.0.1.{n}")
            case "move" if node in sim.managers:
                sim.managers[node] = f"10.0.2.{n}"
            case "leave" if len(sim.managers) > 1:
                sim.managers.pop(node, None)
            case "kill":
                sim.down.add(node)
            case "revive":
                sim.down.discard(node)
            case "forget" if sim.plan.members:
                # A leader lost between changing etcd and storing the plan.
                sim.plan = sim.plan.without(sim.plan.members[-1].peer_url)
            case "step" if sim.managers.keys() - sim.down:
                sim.step(min(sim.managers.keys() - sim.down))
            case _:
                pass
    sim.down.clear()
    sim.now_s = 0
    for _ in range(100):
        if not sim.step(min(sim.managers)):
            break
    else:
        pytest.fail(f"never settles: {sim.plan}")
    assert {m.node_id: m.addr for m in sim.plan.members} == sim.managers
    assert sim.members.keys() == {m.peer_url for m in sim.plan.members}
    assert not any(learner for _, learner in sim.members.values())
    assert not sim.plan.sealed
