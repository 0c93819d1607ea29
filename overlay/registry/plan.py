"""Which managers run an etcd member, and what to do next about it. Pure.

The plan is stored in the cluster's replicated store; each node that it names is told its part
(``assignment_for``) and its daemon runs etcd accordingly. The leader compares plan, managers and what etcd says,
and takes one step at a time (``next_step``):

    no plan ........................ Bootstrap: one member, sealed (only managers' certificates may connect)
    sealed ......................... Secure: roles, users, authentication on; then Unseal
    a manager without a member ..... AddLearner; once it has caught up, Promote
    a member without a manager ..... Remove
    a member that does not start ... Remove; tried again later, from an empty folder
    no quorum for a while .......... Bootstrap of the next generation: every folder is wiped, the leader refills

etcd holds only what the store says, so giving up a generation loses nothing, and hosts keep their last state
meanwhile. This is also why there is no repair of a broken quorum.

A generation has a token of its own, hence another cluster id, so that members and watchers of two generations
never mistake each other. An incarnation is one attempt of one node to be a member: with a new one its folder
starts empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pyswarm.common.errors import PyswarmError
from pyswarm.overlay.registry.server import CLIENT_PORT, PEER_PORT, host_port, url_of


class EtcdMember(msgspec.Struct, frozen=True):
    """A node that runs etcd, and since which incarnation."""

    node_id: str
    addr: str
    incarnation: int
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    @property
    def peer_url(self) -> str:
        """Where other members reach it. In etcd's own list, this is what tells members apart."""
        return url_of(self.addr, self.peer_port)

    @property
    def client_endpoint(self) -> str:
        """Where clients reach it, in the form that means a member of the cluster's own etcd."""
        return host_port(self.addr, self.client_port)


class EtcdPlan(msgspec.Struct, frozen=True):
    """All members of one generation, in the order they came. Generation 0 means none yet."""

    generation: int = 0
    members: tuple[EtcdMember, ...] = ()
    sealed: bool = False
    last_incarnation: int = 0

    @property
    def client_endpoints(self) -> tuple[str, ...]:
        """What clients connect to."""
        return tuple(m.client_endpoint for m in self.members)

    def member(self, node_id: str) -> EtcdMember | None:
        """The member on that node."""
        return next((m for m in self.members if m.node_id == node_id), None)

    def without(self, peer_url: str) -> "EtcdPlan":
        """The plan less one member."""
        return msgspec.structs.replace(self, members=tuple(m for m in self.members if m.peer_url != peer_url))


class EtcdAssignment(msgspec.Struct, frozen=True):
    """What one node's daemon has to run."""

    generation: int
    incarnation: int
    token: str
    initial_cluster: str
    state: str
    sealed: bool = False
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    @property
    def folder(self) -> str:
        """The data folder's name: another generation or incarnation has another one."""
        return f"{self.generation}-{self.incarnation}"


def encode_plan(plan: EtcdPlan) -> bytes:
    """The form in which the store keeps the plan."""
    return msgspec.msgpack.encode(plan)


def decode_plan(data: bytes) -> EtcdPlan:
    """The plan the store keeps; no bytes are no plan yet."""
    if not data:
        return EtcdPlan()
    try:
        return msgspec.msgpack.decode(data, type=EtcdPlan)
    except msgspec.DecodeError as exc:
        raise PyswarmError(f"the stored etcd plan cannot be read: {exc}") from exc


def assignment_for(plan: EtcdPlan, node_id: str) -> EtcdAssignment | None:
    """What ``node_id`` has to run under ``plan``; None: nothing."""
    member = plan.member(node_id)
    if member is None:
        return None
    return EtcdAssignment(
        generation=plan.generation,
        incarnation=member.incarnation,
        token=f"pyswarm-{plan.generation}",
        initial_cluster=",".join(f"{m.node_id}={m.peer_url}" for m in plan.members),
        # Only a lone member may ever found a cluster. One that lost its folder later has to join like all others;
        # a second founding under the same token would be taken for the real cluster.
        state="new" if len(plan.members) == 1 else "existing",
        sealed=plan.sealed,
        client_port=member.client_port,
        peer_port=member.peer_port,
    )


@dataclass(frozen=True)
class MemberHealth:
    """One member as etcd lists it, and how it answers."""

    member_id: int
    peer_url: str
    learner: bool
    healthy: bool
    down_for_s: float = 0.0
    """How long it has not been healthy."""


@dataclass(frozen=True)
class EtcdHealth:
    """What the leader sees of etcd."""

    reachable: bool
    """A read that needs a quorum was answered."""
    unreachable_for_s: float = 0.0
    members: tuple[MemberHealth, ...] = ()
    no_space: bool = False
    secured: bool = False
    """This leader has set up users and authentication in this generation."""


@dataclass(frozen=True)
class Managers:
    """The cluster's managers, and which of them are heard of. ``self_id`` is the leader."""

    self_id: str
    addrs: Mapping[str, str]
    """Node id -> address; empty where it is not known yet."""
    alive: frozenset[str]
    failed_for_s: Mapping[str, float] = field(default_factory=dict)
    """Nodes on which etcd did not start in this generation, and how long ago that was."""
    ports: Mapping[str, tuple[int, int]] | None = None
    """(client, peer) ports that are not the usual ones; for tests on one machine."""


@dataclass(frozen=True)
class Limits:
    """How patient the leader is."""

    broken_after_s: float = 15.0
    join_patience_s: float = 30.0
    down_patience_s: float = 60.0
    retry_failed_after_s: float = 60.0
    max_members: int = 7


@dataclass(frozen=True)
class Bootstrap:
    """Store ``plan``: a new generation."""

    plan: EtcdPlan
    reason: str


@dataclass(frozen=True)
class Secure:
    """Set up roles and users and turn authentication on."""


@dataclass(frozen=True)
class StorePlan:
    """Store ``plan``: nothing has to be done in etcd."""

    plan: EtcdPlan
    reason: str


@dataclass(frozen=True)
class AddLearner:
    """Add ``member`` to etcd, then store ``plan``."""

    member: EtcdMember
    plan: EtcdPlan


@dataclass(frozen=True)
class Promote:
    """Let the learner vote, if it has caught up."""

    member_id: int


@dataclass(frozen=True)
class Remove:
    """Remove a member from etcd, then store ``plan``."""

    member_id: int
    plan: EtcdPlan
    reason: str


@dataclass(frozen=True)
class Wait:
    """Nothing can be done right now."""

    reason: str


@dataclass(frozen=True)
class Settled:
    """Everything is as it should be."""


EtcdStep = Bootstrap | Secure | StorePlan | AddLearner | Promote | Remove | Wait | Settled


def next_step(plan: EtcdPlan, managers: Managers, health: EtcdHealth, limits: Limits | None = None) -> EtcdStep:
    """The one thing to do now."""
    limits = limits or Limits()
    if not plan.members:
        return _bootstrap(plan, managers, "there is none yet")
    if not any(managers.addrs.get(m.node_id) in (m.addr, "") for m in plan.members):
        return _bootstrap(plan, managers, "no member is where a manager is")
    if not health.reachable:
        if health.unreachable_for_s >= limits.broken_after_s:
            return _bootstrap(plan, managers, f"no quorum for {health.unreachable_for_s:.0f} s")
        return Wait("etcd has no quorum, or has not started yet")
    if health.no_space:
        return _bootstrap(plan, managers, "it is full")
    if plan.sealed:
        return StorePlan(_unsealed(plan), "authentication is on") if health.secured else Secure()
    return (
        _reconcile_list(plan, health)
        or _unwanted(plan, managers, health, limits)
        or _learner(health)
        or _missing(plan, managers, health, limits)
        or Settled()
    )


def _unsealed(plan: EtcdPlan) -> EtcdPlan:
    return msgspec.structs.replace(plan, sealed=False)


def _new_member(plan: EtcdPlan, managers: Managers, node_id: str) -> EtcdMember:
    ports = (managers.ports or {}).get(node_id, (CLIENT_PORT, PEER_PORT))
    return EtcdMember(node_id, managers.addrs[node_id], plan.last_incarnation + 1, *ports)


def _candidates(managers: Managers) -> list[str]:
    """Managers that are alive and can be reached."""
    return [n for n, addr in managers.addrs.items() if addr and n in managers.alive]


def _bootstrap(plan: EtcdPlan, managers: Managers, reason: str) -> EtcdStep:
    """On the leader's own node if possible: it is certainly alive. Nodes where etcd failed are the last resort."""
    candidates = sorted(
        _candidates(managers),
        key=lambda n: (n in managers.failed_for_s, n != managers.self_id, n),
    )
    if not candidates:
        return Wait("no manager is alive")
    founder = _new_member(plan, managers, candidates[0])
    new = EtcdPlan(plan.generation + 1, (founder,), sealed=True, last_incarnation=founder.incarnation)
    return Bootstrap(new, reason)


def _reconcile_list(plan: EtcdPlan, health: EtcdHealth) -> EtcdStep | None:
    """Plan and etcd's list differ when a leader was lost between changing the one and storing the other."""
    planned = {m.peer_url for m in plan.members}
    listed = {m.peer_url for m in health.members}
    for member in health.members:
        if member.peer_url not in planned:
            return Remove(member.member_id, plan, "it is not in the plan")
    for planned_member in plan.members:
        if planned_member.peer_url not in listed:
            return StorePlan(plan.without(planned_member.peer_url), "etcd does not list it")
    return None


def _can_spare(health: EtcdHealth, member: MemberHealth) -> bool:
    """Whether the others would have a quorum of their own."""
    if member.learner:
        return True
    others = [m for m in health.members if not m.learner and m is not member]
    return bool(others) and sum(m.healthy for m in others) > len(others) // 2


def _unwanted(plan: EtcdPlan, managers: Managers, health: EtcdHealth, limits: Limits) -> EtcdStep | None:
    by_url = {m.peer_url: m for m in plan.members}
    for seen in health.members:
        planned = by_url[seen.peer_url]
        reason = _why_unwanted(planned, seen, managers, limits)
        if reason and _can_spare(health, seen):
            return Remove(seen.member_id, plan.without(seen.peer_url), reason)
    return None


def _why_unwanted(planned: EtcdMember, seen: MemberHealth, managers: Managers, limits: Limits) -> str:
    if planned.node_id not in managers.addrs:
        return "its node is no manager any more"
    if managers.addrs[planned.node_id] not in (planned.addr, ""):
        return "its node has another address now"
    if seen.healthy:
        return ""
    if planned.node_id in managers.failed_for_s:
        return "it does not start"
    # The member of a manager that is down stays: it comes back with its data, as the manager does.
    patience_s = limits.join_patience_s if seen.learner else limits.down_patience_s
    if seen.down_for_s >= patience_s and (seen.learner or planned.node_id in managers.alive):
        return f"it has not answered for {seen.down_for_s:.0f} s"
    return ""


def _learner(health: EtcdHealth) -> EtcdStep | None:
    for member in health.members:
        if member.learner:
            return Promote(member.member_id) if member.healthy else Wait("a learner is starting")
    return None


def _missing(plan: EtcdPlan, managers: Managers, health: EtcdHealth, limits: Limits) -> EtcdStep | None:
    """etcd 3.4 takes one learner at a time, and only while every member is connected."""
    if len(plan.members) >= limits.max_members:
        return None
    candidates = sorted(
        node_id
        for node_id in _candidates(managers)
        if plan.member(node_id) is None
        and managers.failed_for_s.get(node_id, limits.retry_failed_after_s) >= limits.retry_failed_after_s
    )
    if not candidates:
        return None
    if not all(m.healthy for m in health.members):
        return Wait("a member is down; etcd takes no new one until it is back or removed")
    member = _new_member(plan, managers, candidates[0])
    new = EtcdPlan(plan.generation, (*plan.members, member), plan.sealed, member.incarnation)
    return AddLearner(member, new)
