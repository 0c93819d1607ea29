"""One seed's world: a cluster, its clients and its troubles; then it is healed and looked over."""

import asyncio
import gc
import random
import zlib
from collections import Counter, deque
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from pyswarm.common.errors import PyswarmError
from pyswarm.manager.raft import Member
from sim.checks import ALARMS, COUNTED, Checks, Violation, canonical
from sim.cluster import Cluster, Gone, Machine
from sim.faults import Faults
from sim.loop import SimLoop
from sim.workload import Workload

_TROUBLE_S = (6.0, 14.0)
_CLIENTS = 4
#: After healing, this long at most until writes are stored and all members are equal.
_PROGRESS_S = 20.0
_TRANSCRIPT_LINES = 20_000


class Report(msgspec.Struct):
    """What became of one seed."""

    seed: int
    violations: list[str]
    transcript: list[str]
    counts: Counter[str]
    #: The same for the same seed and the same code.
    digest: int


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self._rng = random.Random(seed)
        # The engine draws its election timeouts from here.
        random.seed(seed)
        self._lines: deque[str] = deque(maxlen=_TRANSCRIPT_LINES)
        executor_rng = random.Random(rng.random())
        self.loop = SimLoop(lambda: executor_rng.expovariate(1 / 0.002))
        self.checks = Checks(self.note)
        size = rng.choice((3, 3, 3, 5))
        self._settings: dict[str, Any] = {
            "snapshot_every_entries": rng.choice((10, 30, 30, 100)),
            "trailing_entries": rng.choice((0, 3, 10, 40)),
            "segment_bytes": rng.choice((1024, 4096, 16384)),
            "append_batch_bytes": rng.choice((600, 4096, 512 * 1024)),
            "append_window_bytes": rng.choice((2000, 4 * 1024 * 1024)),
            "snapshot_chunk_bytes": rng.choice((300, 2000)),
            "snapshot_window_chunks": rng.choice((1, 4)),
            "snapshot_resend_s": 0.3,
        }
        self.cluster = Cluster(self.loop, random.Random(rng.random()), self.checks, self.note, self._settings)
        self.cluster.busy_odds = rng.choice((0.0, 0.0, 0.001))
        members = tuple(Member(f"n{i + 1}", f"n{i + 1}:2377") for i in range(size))
        for member in members:
            self.cluster.add_machine(member.node_id, members)
        self.workload = Workload(self.cluster, self.checks, random.Random(rng.random()), self.loop.time)
        self.faults = Faults(self.loop, self.cluster, random.Random(rng.random()), self.note)
        self.note(f"seed {seed}: {size} managers, {self._settings}")

    def note(self, text: str) -> None:
        """A line of the transcript."""
        self._lines.append(f"{self.loop.time():10.6f} {text}")

    def run(self) -> Report:
        """Run to the end, or to the first violation."""
        gc.disable()
        structlog.configure(processors=[self._logged], wrapper_class=structlog.make_filtering_bound_logger(20))
        try:
            self.loop.run(self._main())
        except Violation:
            self.note("the world ends here")
        finally:
            structlog.reset_defaults()
            gc.enable()
        return Report(self.seed, self.checks.violations, list(self._lines), self._counts(), self._digest())

    def _logged(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        text = event.pop("event")
        self.note(f"  log {method}: {text} {event}")
        if text in COUNTED:
            self.cluster.counts[COUNTED[text]] += 1
        if text in ALARMS:
            self.checks.violations.append(f"logged: {text} {event}")
        if event.get("exc_info") and text == "raft stopped":
            self.note(structlog.processors.format_exc_info(None, method, {**event}).get("exception", ""))
        raise structlog.DropEvent

    async def _main(self) -> None:
        rng, spawn = self._rng, self.loop.spawn
        for machine in list(self.cluster.machines.values()):
            self.cluster.start(machine)
        clients = [spawn(None, self.workload.client(), f"client {i}") for i in range(_CLIENTS)]
        troubles = [spawn(None, self.faults.run()), spawn(None, self.faults.restart_the_dead())]
        await self._go_on(rng.uniform(*_TROUBLE_S), clients + troubles)
        self.note("-- healed --")
        self.faults.heal()
        await self._look_over(clients + troubles)

    async def _go_on(self, seconds: float, tasks: "list[asyncio.Task[None]]") -> None:
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(0.05)
            self._stop_if_wrong(tasks)

    def _stop_if_wrong(self, tasks: "list[asyncio.Task[None]]") -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()
        if self.loop.errors:
            self.checks.fail(self.loop.errors[0])
        if self.checks.violations:
            raise Violation(self.checks.violations[0])

    # -- the end ------------------------------------------------------------------------------------------

    async def _look_over(self, tasks: "list[asyncio.Task[None]]") -> None:
        deadline = self.loop.time() + _PROGRESS_S
        key = "last"
        while True:
            leader = self.cluster.leader()
            if leader is not None and await self.workload.write(leader, key):
                break
            await self._wait("no write is stored after healing", deadline, tasks)
        self.workload.running = False
        while not all(task.done() for task in tasks):
            await self._wait("clients do not come to an end", deadline, tasks)
        final = await self._final(deadline, tasks)
        self._compare(await self._equal(deadline, tasks))
        self.checks.finish(final)

    async def _wait(self, what: str, deadline: float, tasks: "list[asyncio.Task[None]]") -> None:
        if self.loop.time() > deadline:
            self.checks.fail(f"{what}, {_PROGRESS_S:g} s after everything was healed: {self._situation()}")
        await asyncio.sleep(0.05)
        self._stop_if_wrong(tasks)

    def _situation(self) -> str:
        return "; ".join(
            f"{m.name} term {n.term} commit {n.commit_index} applied {n.applied_index} "
            f"leader {n.leader.node_id if n.leader else None} members {[x.node_id for x in n.members]}"
            for m in self.cluster.machines.values()
            if m.manager is not None
            for n in [m.manager.node]
        )

    async def _final(self, deadline: float, tasks: "list[asyncio.Task[None]]") -> dict[str, str | None]:
        """What a reader gets to see at the end."""
        final: dict[str, str | None] = {}
        for key in sorted(self.workload.keys | {"last"}):
            while key not in final:
                leader = self.cluster.leader()
                try:
                    if leader is not None:
                        final[key] = await self.workload.read(leader, key)
                        continue
                except (PyswarmError, Gone):
                    pass
                await self._wait("reads fail", deadline, tasks)
        return final

    async def _equal(self, deadline: float, tasks: "list[asyncio.Task[None]]") -> list[Machine]:
        """The members, once all of them have applied the same."""
        while True:
            leader = self.cluster.leader()
            if leader is not None and leader.manager is not None:
                names = [m.node_id for m in leader.manager.node.members]
                machines = [self.cluster.machines[name] for name in names]
                nodes = [m.manager.node for m in machines if m.manager is not None]
                applied = {n.applied_index for n in nodes} | {leader.manager.node.commit_index}
                if len(nodes) == len(names) and len(applied) == 1:
                    return machines
            await self._wait("not all members are up to date", deadline, tasks)

    def _compare(self, machines: list[Machine]) -> None:
        states = {m.name: m.manager.store for m in machines if m.manager is not None}
        contents = {name: canonical(store.snapshot()()) for name, store in states.items()}
        first = next(iter(contents))
        for name, store in states.items():
            self.checks.valid(name, store)
            if contents[name] != contents[first]:
                self.checks.fail(f"the stores of {first} and {name} differ at the end")

    def _counts(self) -> Counter[str]:
        counts = self.cluster.counts + self.workload.counts + self.faults.counts
        counts["terms with a leader"] = self.checks.terms_led
        counts["messages"] = self.cluster.network.sent
        counts["virtual seconds"] = round(self.loop.time())
        counts["entries applied first"] = self.checks.highest_applied
        return counts

    def _digest(self) -> int:
        return zlib.crc32("\n".join(self._lines).encode(), self.cluster.network.digest)
