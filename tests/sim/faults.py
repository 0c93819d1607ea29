"""What goes wrong, and when: one kind of trouble after the other, by chance."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from pyswarm.common.errors import PyswarmError
from sim.cluster import Cluster, Gone, Machine
from sim.loop import SimLoop
from sim.network import Quality

_CHANGE_TIMEOUT_S = 3.0
_MOST_MACHINES = 7


class Faults:
    """The troubles of one world. Each has its own selection, so that some are rare and some are all there is."""

    def __init__(self, loop: SimLoop, cluster: Cluster, rng: random.Random, note: Callable[[str], None]) -> None:
        self._loop = loop
        self._cluster = cluster
        self._rng = rng
        self._note = note
        self.counts: Counter[str] = Counter()
        self.running = True
        kinds: list[Callable[[], Awaitable[None] | None]] = [
            self._crash_soon,
            self._crash_now,
            self._crash_all,
            self._restart,
            self._isolate_leader,
            self._split,
            self._one_way,
            self._break_streams,
            self._pause,
            self._stall,
            self._fill_disk,
            self._slow_disk,
            self._break_disk,
            self._worsen_network,
            self._jump_clock,
            self._transfer,
            self._add_member,
            self._remove_member,
        ]
        # Some worlds dwell on changes of the members, or on two leaders at once.
        dwell = rng.choice((None, None, (self._add_member, self._remove_member), (self._isolate_leader,)))
        chosen = rng.sample(kinds, rng.randint(3, len(kinds)))
        self._kinds = [(kind, rng.choice((1, 1, 2, 4))) for kind in chosen]
        self._kinds += [(kind, 6) for kind in dwell or ()]
        self._pace_s = rng.choice((0.15, 0.5, 1.0))

    async def run(self) -> None:
        """Until told to stop."""
        kinds, weights = zip(*self._kinds, strict=True)
        while self.running:
            await asyncio.sleep(self._rng.expovariate(1 / self._pace_s))
            if not self.running:
                return
            (kind,) = self._rng.choices(kinds, weights=weights)
            self.counts[kind.__name__.strip("_").replace("_", " ")] += 1
            doing = kind()
            if doing is not None:
                await doing

    async def restart_the_dead(self) -> None:
        """Somebody brings machines back, sooner or later."""
        while self.running:
            await asyncio.sleep(self._rng.expovariate(1 / 0.5))
            dead = [m for m in self._cluster.machines.values() if m.process is None]
            if dead and self.running:
                self._cluster.start(self._rng.choice(dead))

    def heal(self) -> None:
        """Everything works again."""
        self.running = False
        for machine in self._cluster.machines.values():
            self._mend_disk(machine)
            machine.platter.arm(0, lambda: None)
            machine.platter.broken = False
            self._resume(machine)
            self._cluster.start(machine)
        self._cluster.busy_odds = 0.0
        self._cluster.network.quality = Quality()
        self._cluster.network.heal(list(self._cluster.machines))

    # -- choosing -----------------------------------------------------------------------------------------

    def _later(self, mean_s: float, what: Callable[..., None], *args: object) -> None:
        self._loop.call_later(self._rng.expovariate(1 / mean_s), what, *args)

    def _any_up(self) -> Machine | None:
        """Mostly the leader: that is where it hurts."""
        leader = self._cluster.leader()
        if leader is not None and self._rng.random() < 0.4:
            return leader
        up = self._cluster.up()
        return self._rng.choice(up) if up else None

    def _names(self) -> list[str]:
        return list(self._cluster.machines)

    # -- crashes ------------------------------------------------------------------------------------------

    def _crash_soon(self) -> None:
        machine = self._any_up()
        if machine is not None:
            power = self._rng.random() < 0.6
            machine.platter.arm(self._rng.randint(1, 25), lambda: self._cluster.crash(machine, power))

    def _crash_now(self) -> None:
        machine = self._any_up()
        if machine is not None:
            self._cluster.crash(machine, self._rng.random() < 0.6)

    def _crash_all(self) -> None:
        power = self._rng.random() < 0.8
        for machine in list(self._cluster.machines.values()):
            if machine.process is not None:
                self._cluster.crash(machine, power)

    async def _restart(self) -> None:
        machine = self._any_up()
        if machine is not None:
            await self._cluster.stop(machine)
            self._cluster.start(machine)

    # -- the network --------------------------------------------------------------------------------------

    def _cut(self, some: set[str], one_way: bool) -> None:
        others = set(self._names()) - some
        self._note(f"cut {sorted(some)} {'->' if one_way else '<->'} {sorted(others)}")
        self._cluster.network.separate(some, others, one_way=one_way)
        self._later(1.2, self._cluster.network.heal, self._names())

    def _isolate_leader(self) -> None:
        leader = self._cluster.leader()
        if leader is not None:
            self._cut({leader.name}, False)

    def _split(self) -> None:
        names = self._names()
        self._cut(set(self._rng.sample(names, self._rng.randint(1, len(names) - 1))), False)

    def _one_way(self) -> None:
        names = self._names()
        self._cut(set(self._rng.sample(names, self._rng.randint(1, len(names) - 1))), True)

    def _break_streams(self) -> None:
        names = self._names()
        for _ in range(self._rng.randint(1, 4)):
            one, other = self._rng.sample(names, 2)
            self._cluster.network.reconnect(one, other)

    def _worsen_network(self) -> None:
        rng = self._rng
        self._cluster.network.quality = Quality(
            rng.choice((0.0005, 0.002, 0.02, 0.1)),
            rng.choice((0.0, 0.02, 0.2)),
            rng.choice((0.0, 0.05, 0.3)),
            rng.choice((0.0, 0.05, 0.3)),
        )

    # -- processes and clocks -----------------------------------------------------------------------------

    def _pause(self) -> None:
        machine = self._any_up()
        if machine is not None and machine.process is not None and not machine.process.paused:
            self._note(f"{machine.name}: stands still")
            machine.process.paused = True
            self._later(1.0, self._resume, machine)

    def _resume(self, machine: Machine) -> None:
        if machine.process is not None and machine.process.paused:
            self._note(f"{machine.name}: goes on")
            self._loop.resume(machine.process)

    def _stall(self) -> None:
        machine = self._any_up()
        if machine is not None and machine.manager is not None:
            machine.manager.driver.stall(self._rng.expovariate(1 / 0.7))

    def _jump_clock(self) -> None:
        machine = self._any_up()
        if machine is not None:
            machine.clock.offset_s += self._rng.choice((-86_400.0, -3.0, 3.0, 86_400.0))

    # -- disks --------------------------------------------------------------------------------------------

    def _fill_disk(self) -> None:
        machine = self._any_up()
        if machine is not None:
            self._note(f"{machine.name}: disk full")
            machine.platter.full = True
            self._later(1.0, self._mend_disk, machine)

    def _slow_disk(self) -> None:
        machine = self._any_up()
        if machine is not None:
            machine.platter.slow_s = self._rng.choice((0.01, 0.1, 0.5))
            self._later(1.5, self._mend_disk, machine)

    def _mend_disk(self, machine: Machine) -> None:
        machine.platter.full = False
        machine.platter.slow_s = 0.0

    def _break_disk(self) -> None:
        machine = self._any_up()
        if machine is not None:
            self._note(f"{machine.name}: disk broken")
            machine.platter.broken = True

    # -- membership ---------------------------------------------------------------------------------------

    async def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is not None and leader.manager is not None:
            node = leader.manager.node
            await self._ask(leader, "hands over", lambda: node.transfer_leadership(_CHANGE_TIMEOUT_S))

    async def _add_member(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.manager is None:
            return
        node, members = leader.manager.node, leader.manager.node.members
        outside = [n for n in self._names() if n not in {m.node_id for m in members}]
        if outside and (self._rng.random() < 0.5 or len(self._cluster.machines) >= _MOST_MACHINES):
            machine = self._cluster.machines[self._rng.choice(outside)]
        elif len(self._cluster.machines) < _MOST_MACHINES:
            machine = self._cluster.add_machine(f"n{len(self._cluster.machines) + 1}", members)
        else:
            return
        self._cluster.start(machine)
        await self._ask(leader, f"adds {machine.name}", lambda: node.add_member(machine.member, _CHANGE_TIMEOUT_S))

    async def _remove_member(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.manager is None or len(leader.manager.node.members) < 3:
            return
        node = leader.manager.node
        name = self._rng.choice([m.node_id for m in node.members])
        await self._ask(leader, f"removes {name}", lambda: node.remove_member(name, _CHANGE_TIMEOUT_S))

    async def _ask(self, leader: Machine, what: str, action: Callable[[], Awaitable[object]]) -> None:
        async def act() -> object:
            return await action()

        self._note(f"{leader.name}: {what}")
        try:
            await self._cluster.call(leader, act)
        except (PyswarmError, Gone) as exc:
            self._note(f"{leader.name}: {what}: {type(exc).__name__}: {exc}")
        else:
            self._note(f"{leader.name}: {what}: done")
            self.counts[f"{what.split()[0]} done"] += 1
