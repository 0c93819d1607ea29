"""The leader's care for etcd: looks, asks ``plan.next_step`` what to do, and does it."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.log import get_logger
from pyswarm.overlay.registry.admin import EtcdAdmin, Member
from pyswarm.overlay.registry.channel import Identity, RegistryTLS
from pyswarm.overlay.registry.client import EtcdClient
from pyswarm.overlay.registry.codec import PREFIX, Keys
from pyswarm.overlay.registry.errors import RegistryError, RegistryUnavailable
from pyswarm.overlay.registry.plan import (
    AddLearner,
    Bootstrap,
    EtcdAssignment,
    EtcdHealth,
    EtcdPlan,
    EtcdStep,
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
from pyswarm.overlay.registry.server import QUOTA_BYTES
from pyswarm.overlay.registry.users import UserDirectory

__all__ = [
    "EtcdAssignment",
    "EtcdKeeper",
    "EtcdPlan",
    "Managers",
    "assignment_for",
    "decode_plan",
    "encode_plan",
]
log = get_logger("registry")
_STEPS_PER_TICK = 8
_STATUS_TIMEOUT_S = 1.5


class KeeperMetrics:
    """What one leadership's keeper reports, to a registry that lasts as long."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reachable = Gauge("pyswarm_etcd_reachable", "1 while etcd has a quorum", registry=registry)
        self.members = Gauge("pyswarm_etcd_members", "Members that vote", registry=registry)
        self.generation = Gauge("pyswarm_etcd_generation", "Times etcd was founded", registry=registry)
        self.steps = Counter(
            "pyswarm_etcd_steps", "Changes made to etcd's membership", ["step"], registry=registry
        )


class EtcdKeeper:
    """One instance per leadership. ``client`` follows the plan and is what the writer uses."""

    def __init__(
        self,
        identity: Identity,
        persist: Callable[[EtcdPlan], Awaitable[None]],
        *,
        prefix: str = PREFIX,
        clock: Clock | None = None,
        limits: Limits | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._persist = persist
        self._keys = Keys(prefix)
        self._prefix = prefix
        self._clock: Clock = clock or SystemClock()
        self._limits = limits or Limits()
        self._metrics = KeeperMetrics(registry or CollectorRegistry())
        self.client = EtcdClient((), RegistryTLS.of_identity(identity), timeout_s=2.0)
        self._admin = EtcdAdmin(self.client)
        self._generation = -1
        self._users: UserDirectory | None = None
        self._secured = False
        self._refusal = ""
        self._fruitless_foundings = 0
        self._lost_at: float | None = None
        self._down_since: dict[str, float] = {}

    async def close(self) -> None:
        """Close the connections, when leadership ends."""
        await self.client.close()

    async def set_identity(self, identity: Identity) -> None:
        """Use a renewed certificate."""
        await self.client.set_tls(RegistryTLS.of_identity(identity))

    async def tick(self, plan: EtcdPlan, managers: Managers, roles: Mapping[str, str]) -> EtcdStep:
        """Do what is to be done now, and return the last step: Settled, or why it goes on later.

        ``roles`` are all nodes of the cluster (node id -> ``manager`` or ``worker``). To be called again after a
        second or so, and whenever managers or nodes changed. Raises what ``persist`` raises.
        """
        step: EtcdStep = Settled()
        for _ in range(_STEPS_PER_TICK):
            await self._adopt(plan)
            health = await self._look(plan)
            step = next_step(plan, managers, health, self._patience())
            try:
                # Before anything that may take long: a node without a user has no data plane.
                if health.reachable and not plan.sealed and self._users is not None:
                    await self._users.ensure(roles)
                if isinstance(step, Settled | Wait):
                    return step
                plan = await self._do(step, plan, roles)
            except RegistryError as exc:
                self._note(f"{type(step).__name__}: {exc}")
                return Wait(str(exc))
            self._metrics.steps.labels(type(step).__name__).inc()
            if isinstance(step, Bootstrap | StorePlan):
                return step  # daemons have to start or restart etcd before there is anything new to see
        return step

    def _patience(self) -> Limits:
        """More of it after each founding that nothing came of: a slow machine must not be founded to death."""
        factor = 2 ** min(self._fruitless_foundings, 4)
        return dataclasses.replace(self._limits, broken_after_s=self._limits.broken_after_s * factor)

    def _note(self, refusal: str) -> None:
        """Say once why a step does not work yet."""
        if refusal != self._refusal:
            log.debug("etcd does not take this step yet", reason=refusal)
        self._refusal = refusal

    async def _adopt(self, plan: EtcdPlan) -> None:
        """Follow a plan that changed, perhaps by another leader."""
        await self.client.set_endpoints(plan.client_endpoints)
        if plan.generation != self._generation:
            self._generation = plan.generation
            self._users = UserDirectory(self._admin, self._prefix)
            self._secured = False
            self._lost_at = None
            self._down_since = {}
            self._metrics.generation.set(plan.generation)

    async def _look(self, plan: EtcdPlan) -> EtcdHealth:
        now = self._clock.monotonic()
        members: tuple[Member, ...] = ()
        try:
            if not plan.members:
                raise RegistryUnavailable("no etcd member is planned")
            await self.client.get(self._keys.fence)
            members = await self._admin.members()
        except RegistryError as exc:
            if self._lost_at is None:
                self._lost_at = now
                if not isinstance(exc, RegistryUnavailable):
                    log.warning("etcd refuses the leader", reason=str(exc))
            self._metrics.reachable.set(0)
            return EtcdHealth(False, unreachable_for_s=now - self._lost_at)
        self._lost_at = None
        self._fruitless_foundings = 0
        seen = await asyncio.gather(*(self._look_at(plan, m, now) for m in members))
        self._metrics.reachable.set(1)
        self._metrics.members.set(sum(not m.learner for m in members))
        return EtcdHealth(
            True,
            members=tuple(health for health, _ in seen),
            no_space=any(no_space for _, no_space in seen),
            secured=self._secured,
        )

    async def _look_at(self, plan: EtcdPlan, member: Member, now: float) -> tuple[MemberHealth, bool]:
        """(health, whether its disk quota is used up) of one member."""
        peer_url = member.peer_urls[0] if member.peer_urls else ""
        healthy, no_space = False, False
        planned = next((m for m in plan.members if m.peer_url == peer_url), None)
        if planned is not None:
            try:
                status = await self._admin.status(planned.client_endpoint, _STATUS_TIMEOUT_S)
                healthy = status.member_id == member.member_id and status.leader_id != 0
                if any("NOSPACE" in error for error in status.errors):
                    # Any node may raise this alarm in etcd 3.4; only a size that fits it makes it true.
                    no_space = status.db_size_bytes > QUOTA_BYTES // 2
                    if not no_space:
                        log.warning("etcd's alarm of missing space is false; clearing it", node=planned.node_id)
                        await self._clear_alarm()
            except RegistryError:
                healthy = False
        if healthy:
            self._down_since.pop(peer_url, None)
        down_for_s = 0.0 if healthy else now - self._down_since.setdefault(peer_url, now)
        return MemberHealth(member.member_id, peer_url, member.learner, healthy, down_for_s), no_space

    async def _clear_alarm(self) -> None:
        try:
            await self._admin.clear_no_space()
        except RegistryError as exc:
            log.warning("the alarm was not cleared", reason=str(exc))

    async def _do(self, step: EtcdStep, plan: EtcdPlan, roles: Mapping[str, str]) -> EtcdPlan:
        """Do ``step``; the plan that is stored after it.

        etcd is changed before the plan: a leader lost in between leaves a member that the plan does not know, and
        the next leader removes it.
        """
        match step:
            case Bootstrap(new, reason):
                if plan.members:
                    log.warning("founding etcd anew", reason=reason)
                else:
                    log.info("founding etcd", reason=reason)
                await self._persist(new)
                self._fruitless_foundings += 1
                return new
            case Secure():
                assert self._users is not None  # noqa: S101 - _adopt has made it
                await self._users.secure(roles)
                self._secured = True
            case StorePlan(new, reason):
                log.info("etcd plan changed", reason=reason)
                await self._persist(new)
                return new
            case AddLearner(member, new):
                await self._admin.add_learner(member.peer_url)
                await self._persist(new)
                log.info("etcd member added", node=member.node_id)
                return new
            case Promote(member_id):
                await self._admin.promote(member_id)
            case Remove(member_id, new, reason):
                await self._admin.remove(member_id)
                if new != plan:
                    await self._persist(new)
                log.warning("etcd member removed", reason=reason)
                return new
            case Wait() | Settled():
                pass
        return plan
