"""Machines, each with a disk that outlives its processes, and the managers' stores that run on them."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from pyswarm.common.errors import PyswarmError
from pyswarm.manager.raft import Member, RaftConfig, RaftNode
from pyswarm.manager.raft.driver import BEFORE_SYNC, Pause
from pyswarm.manager.raft.types import StorageFullError
from pyswarm.manager.state import Store
from sim.checks import Checks, Observed
from sim.disk import Platter, SimDisk
from sim.loop import NOBODY, Process, SimLoop
from sim.network import Network, SimSender

T = TypeVar("T")

PROPOSE_TIMEOUT_S = 2.0
#: More than the loop's share of time for applying entries.
_BUSY_S = 0.006
#: A client turns to another manager when one says nothing for so long.
PATIENCE_S = 4.0


class Gone(Exception):
    """The process that was asked died or stays silent: anything may have become of the request."""


class SimDriver:
    """Steps a node on the simulated loop. Making things durable takes as long as the disk says."""

    def __init__(self, loop: SimLoop, rng: random.Random, platter: Platter) -> None:
        self._loop = loop
        self._rng = rng
        self._platter = platter
        self._work: Iterator[Pause] = iter(())
        self._timer: Any = None
        self._idle = False
        self._woken = False
        self._ended: asyncio.Future[None] = loop.create_future()
        self._stalled_until = 0.0
        #: Steps taken.
        self.steps = 0

    def start(self, work: Iterator[Pause]) -> None:
        """Begin at once."""
        self._work = work
        self._advance()

    def wake(self) -> None:
        """End an idle pause soon."""
        self._woken = True
        if self._idle and self._timer is not None:
            self._idle = False
            self._timer.cancel()
            self._after(self._rng.expovariate(1 / 0.00005))

    def stall(self, seconds: float) -> None:
        """The thread does not get to run."""
        self._stalled_until = self._loop.time() + seconds

    def _after(self, seconds: float) -> None:
        at = max(self._loop.time() + seconds, self._stalled_until)
        self._timer = self._loop.call_at(at, self._advance)

    def _advance(self) -> None:
        self._idle = False
        pause = next(self._work, None)
        if pause is None:
            if not self._ended.done():
                self._ended.set_result(None)
        elif pause is BEFORE_SYNC:
            self.steps += 1
            self._after(self._platter.sync_delay())
        elif pause.until_woken:
            self._idle = not self._woken
            self._after(0.0 if self._woken else pause.seconds)
            self._woken = False
        else:
            self._after(pause.seconds)

    async def stopped(self) -> None:
        """Wait for the end."""
        await self._ended


class WallClock:
    """A machine's own idea of the date, which may jump; intervals are everybody's."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.offset_s = 1_700_000_000.0

    def now(self) -> float:
        """Seconds since the epoch, as this machine believes."""
        return self.offset_s + self._loop.look()

    def monotonic(self) -> float:
        """Seconds since the world began."""
        return self._loop.look()

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the simulated clock."""
        await asyncio.sleep(delay_s)


class Manager:
    """One process: a node and its store."""

    def __init__(self, process: Process, store: Store, node: RaftNode, driver: SimDriver) -> None:
        self.process = process
        self.store = store
        self.node = node
        self.driver = driver
        self.calls: list[asyncio.Future[Any]] = []


class Machine:
    """A place for one manager at a time."""

    def __init__(self, name: str, platter: Platter, clock: WallClock, joined_with: tuple[Member, ...]) -> None:
        self.name = name
        self.platter = platter
        self.clock = clock
        self.joined_with = joined_with
        #: What clients and peers can reach; None before it has started.
        self.manager: Manager | None = None
        self.process: Process | None = None
        self.incarnation = 0

    @property
    def member(self) -> Member:
        """How Raft knows it."""
        return Member(self.name, f"{self.name}:2377")


class Cluster:
    """All machines, and what can be done to them."""

    def __init__(
        self,
        loop: SimLoop,
        rng: random.Random,
        checks: Checks,
        note: Callable[[str], None],
        settings: dict[str, Any],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._checks = checks
        self._note = note
        self._settings = settings
        self._ids = random.Random(rng.random())
        self.counts: Counter[str] = Counter()
        self.busy_odds = 0.0
        self.machines: dict[str, Machine] = {}
        self.network = Network(loop, random.Random(rng.random()), self._arrive, checks.message, self._connected)

    # -- machines -----------------------------------------------------------------------------------------

    def add_machine(self, name: str, joined_with: tuple[Member, ...]) -> Machine:
        """A machine with an empty disk."""
        platter = Platter(random.Random(self._rng.random()))
        machine = self.machines[name] = Machine(name, platter, WallClock(self._loop), joined_with)
        return machine

    def up(self) -> list[Machine]:
        """Machines whose manager runs."""
        return [m for m in self.machines.values() if m.manager is not None]

    def leaders(self) -> list[Machine]:
        """Those that say they lead."""
        return [m for m in self.up() if m.manager is not None and m.manager.node.is_leader]

    def leader(self) -> Machine | None:
        """The one that leads in the newest term."""
        leaders = self.leaders()
        return max(leaders, key=lambda m: m.manager.node.term if m.manager else 0) if leaders else None

    def start(self, machine: Machine) -> None:
        """Start or restart a manager from what is on its disk."""
        if machine.process is not None:
            return
        machine.incarnation += 1
        machine.process = process = Process(f"{machine.name}.{machine.incarnation}")
        rng = random.Random(self._rng.random())
        driver = SimDriver(self._loop, rng, machine.platter)
        store = Store(machine.clock, self._new_request_id)
        node = RaftNode(
            RaftConfig(f"/{machine.name}", machine.name, machine.member.addr, **self._settings),
            Observed(machine.name, store, self._checks),
            SimSender(self.network, machine.name),
            initial_members=machine.joined_with,
            on_failure=lambda exc: self._failed(machine, manager, exc),
            disk=SimDisk(machine.platter, process),
            driver=driver,
            monotonic=lambda: self._look(rng),
        )
        manager = Manager(process, store, node, driver)
        store.bind(lambda command: node.propose(command, timeout_s=PROPOSE_TIMEOUT_S))
        node.on_leadership(lambda leads, term: self._leadership(machine, node, leads, term))
        self._note(f"{machine.name}: starts")
        self.counts["starts"] += 1
        self._loop.spawn(process, self._start(machine, manager))

    def _look(self, rng: random.Random) -> float:
        """A look at the clock; now and then the machine was busy with something else meanwhile."""
        if rng.random() < self.busy_odds:
            self._loop.pass_time(_BUSY_S)
        return self._loop.look()

    async def _start(self, machine: Machine, manager: Manager) -> None:
        try:
            await manager.node.start()
        except (PyswarmError, StorageFullError) as exc:
            manager.process.alive = False
            machine.process = None
            if machine.platter.full or machine.platter.broken:
                self._note(f"{machine.name}: cannot start: {exc}")
            else:
                self._checks.fail(f"{machine.name} refuses to start: {exc}")
            return
        machine.manager = manager

    def _new_request_id(self) -> str:
        return f"{self._ids.getrandbits(128):032x}"

    def _leadership(self, machine: Machine, node: RaftNode, leads: bool, term: int) -> None:
        self._note(f"{machine.name}: {'leads' if leads else 'no longer leads'} in term {term}")
        if leads:
            self.counts["leaderships"] += 1
            self._checks.leads(machine.name, term, node.applied_index)

    def _failed(self, machine: Machine, manager: Manager, exc: Exception) -> None:
        self._note(f"{machine.name}: failed: {exc!r}")
        if not machine.platter.broken:
            self._checks.fail(f"{machine.name} stopped by itself: {exc!r}")
        # The disk is exchanged: what it held in its cache only is gone.
        self._loop.call_soon(self.crash, machine, True, context=NOBODY)

    # -- what is done to them -----------------------------------------------------------------------------

    def crash(self, machine: Machine, power: bool) -> None:
        """End whatever runs there at this very moment; with ``power``, lose what was not synced."""
        manager, process = machine.manager, machine.process
        machine.manager = machine.process = None
        self.counts["power cuts" if power else "kills"] += 1
        self._note(f"{machine.name}: {'loses power' if power else 'is killed'}")
        if process is not None:
            process.alive = False
        machine.platter.arm(0, lambda: None)
        if power:
            machine.platter.lose_power()
            machine.platter.broken = False
        if manager is not None:
            self._hang_up(manager)

    def _hang_up(self, manager: Manager) -> None:
        for call in manager.calls:
            if not call.done():
                call.set_exception(Gone("the process died"))

    async def stop(self, machine: Machine) -> None:
        """Stop a manager in order; one that has not ended in time is killed, as on any machine."""
        manager = machine.manager
        if manager is None:
            return
        self._note(f"{machine.name}: stops")

        async def stop() -> None:
            await manager.node.stop()
            await manager.store.close()

        try:
            await self.call(machine, stop)
        except Gone:
            if machine.manager is manager:
                self.crash(machine, power=False)
            return
        if machine.manager is manager:
            machine.manager = machine.process = None
            manager.process.alive = False
            self._hang_up(manager)

    async def call(
        self, machine: Machine, action: Callable[[], Coroutine[Any, Any, T]], patience_s: float = PATIENCE_S
    ) -> T:
        """Do something in a machine's process; raises Gone when no answer comes."""
        manager = machine.manager
        if manager is None:
            raise Gone("nobody is there")
        answer: asyncio.Future[T] = self._loop.create_future()

        async def act() -> None:
            try:
                result = await action()
            except Exception as exc:  # noqa: BLE001 - handed on
                if not answer.done():
                    answer.set_exception(exc)
            else:
                if not answer.done():
                    answer.set_result(result)

        manager.calls = [c for c in manager.calls if not c.done()]
        manager.calls.append(answer)
        self._loop.spawn(manager.process, act())
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError as exc:
            raise Gone("no answer") from exc

    # -- messages -----------------------------------------------------------------------------------------

    def _arrive(self, sender: str, to: str, payload: bytes) -> None:
        manager = self._manager_of(to)
        if manager is not None:
            self._loop.call_soon(manager.node.deliver, sender, payload, context=manager.process.context)

    def _connected(self, sender: str, to: str) -> None:
        manager = self._manager_of(sender)
        if manager is not None:
            self._loop.call_soon(manager.node.peer_connected, to, context=manager.process.context)

    def _manager_of(self, name: str) -> Manager | None:
        machine = self.machines.get(name)
        return None if machine is None else machine.manager
