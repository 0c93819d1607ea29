"""Clients that read and write registers wherever they find a leader, and report what they were told."""

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from pyswarm.common.errors import OutcomeUnknown, PyswarmError
from pyswarm.common.types import Config, ConfigSpec, timestamp
from pyswarm.manager.state.entry import decode_outcomes, encode_entry, encode_record
from pyswarm.manager.state.transaction import Transaction
from sim.checks import Checks, value_of
from sim.cluster import PATIENCE_S, PROPOSE_TIMEOUT_S, Cluster, Gone, Machine
from sim.linearizable import ANY, Operation

_READ_TIMEOUT_S = 1.0
_KEYS = 4
#: Registers are left behind after so long: the history of one must stay short to be checked.
_EPOCH_S = 2.0
_RETRIES = 6
_PAUSE_S = 0.1


class Workload:
    """All clients."""

    def __init__(self, cluster: Cluster, checks: Checks, rng: random.Random, now: Callable[[], float]) -> None:
        self._cluster = cluster
        self._checks = checks
        self._rng = rng
        self._now = now
        self._moments = itertools.count()
        self._values = itertools.count(1)
        self.counts: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.running = True
        self._newest_key = ""

    async def client(self) -> None:
        """One client: one operation after the other."""
        kinds = (self._read, self._write, self._write_pair, self._write_insisting)
        while self.running:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            machine = self._choose()
            if machine is not None and self.running:
                (kind,) = self._rng.choices(kinds, weights=(38, 40, 7, 15))
                await kind(machine)

    def _choose(self) -> Machine | None:
        """A leader, if there is one; sometimes anybody."""
        candidates = self._cluster.leaders()
        if not candidates or self._rng.random() < 0.05:
            candidates = self._cluster.up()
        return self._rng.choice(candidates) if candidates else None

    def _patience(self) -> float:
        """Some clients soon turn elsewhere: to a new leader, while the old one believes that it still leads."""
        return self._rng.choice((0.2, 0.2, 1.0, PATIENCE_S))

    def _moment(self) -> float:
        """Before and after, finer than any clock."""
        return float(next(self._moments))

    def _value(self) -> str:
        """Never used before."""
        return str(next(self._values))

    def _key(self) -> str:
        key = f"r{int(self._now() / _EPOCH_S)}.{self._rng.randrange(_KEYS)}"
        self.keys.add(key)
        self._newest_key = key
        return key

    def _key_to_read(self) -> str:
        """Mostly one that was just written: that is what a reader could miss."""
        return self._newest_key if self._newest_key and self._rng.random() < 0.6 else self._key()

    # -- reading ------------------------------------------------------------------------------------------

    async def _read(self, machine: Machine) -> None:
        try:
            await self.read(machine, self._key_to_read())
        except (PyswarmError, Gone):
            self.counts["reads refused"] += 1

    async def read(self, machine: Machine, key: str) -> str | None:
        """A linearizable read."""
        manager = machine.manager
        if manager is None:
            raise Gone("nobody is there")

        async def act() -> str | None:
            await manager.node.read_barrier(timeout_s=_READ_TIMEOUT_S)
            return value_of(manager.store.view.configs.get(key))

        invoked_at = self._moment()
        value = await self._cluster.call(machine, act, self._patience())
        self._checks.record(key, Operation("read", value, invoked_at, self._moment()))
        self.counts["reads"] += 1
        return value

    # -- writing ------------------------------------------------------------------------------------------

    async def _write(self, machine: Machine) -> None:
        await self.write(machine, self._key())

    async def write(self, machine: Machine, key: str) -> bool:
        """Write one register; whether it was acknowledged."""
        return await self._transaction(machine, {key: self._value()})

    async def _write_pair(self, machine: Machine) -> None:
        values = {self._key(): self._value(), self._key(): self._value()}
        if len(values) == 2:
            one, other = values.items()
            self._checks.pair(one, other)
        await self._transaction(machine, values)

    async def _transaction(self, machine: Machine, values: dict[str, str]) -> bool:
        manager = machine.manager
        if manager is None:
            return False

        async def act() -> dict[str, str | None]:
            return await manager.store.update(lambda tx: _put_all(tx, values), reason="simulation")

        return await self._outcome(values, lambda: self._cluster.call(machine, act, self._patience()))

    async def _outcome(
        self, values: dict[str, str], write: Callable[[], Awaitable[dict[str, str | None] | None]]
    ) -> bool:
        """Write, and record what came of it. ``write`` returns what was replaced, None for a conflict."""
        invoked_at = self._moment()
        before: dict[str, str | None] | None = None
        unknown = False
        try:
            before = await write()
        except (OutcomeUnknown, Gone):
            unknown = True
        except PyswarmError as exc:
            if exc.code == "internal":
                self._checks.fail(f"a write failed with {exc!r}")
        returned_at = self._moment()
        for key, value in values.items():
            if before is not None:
                self._checks.acknowledge(key, value)
                self._checks.record(key, Operation("write", value, invoked_at, returned_at, before[key]))
            elif unknown:
                self._checks.record(key, Operation("write", value, invoked_at, math.inf, ANY))
            else:
                self._checks.deny(key, value)
        outcome = "acknowledged" if before is not None else "of unknown outcome" if unknown else "refused"
        self.counts[f"writes {outcome}"] += 1
        return before is not None

    async def _write_insisting(self, machine: Machine) -> None:
        """Propose the very same record until its outcome is known: it must count once."""
        manager = machine.manager
        if manager is None:
            return
        values = {self._key(): self._value()}
        tx = Transaction(manager.store.view, timestamp(machine.clock.now()))
        before = _put_all(tx, values)
        record = tx.record(f"insisting-{self._value()}")
        assert record is not None
        entry = encode_entry([encode_record(record)])

        async def insist() -> dict[str, str | None] | None:
            doubtful, answer = False, ""
            for attempt in range(_RETRIES):
                target = machine if attempt == 0 else self._choose()
                try:
                    if target is not None:
                        first, answer = answer, await self._propose(target, entry)
                        if first and first != answer:
                            self._checks.fail(f"{values} was answered {first!r}, then {answer!r}")
                        # Once more, although the answer is known: as after an answer that got lost.
                        if first or self._rng.random() < 0.7:
                            break
                except (OutcomeUnknown, Gone):
                    doubtful = True
                except PyswarmError:
                    if attempt == _RETRIES - 1 and not doubtful and not answer:
                        raise
                await asyncio.sleep(self._rng.expovariate(1 / 0.2))
            if not answer:
                raise Gone("it never came to an end")
            return before if answer == "ok" else None

        await self._outcome(values, insist)

    async def _propose(self, machine: Machine, entry: bytes) -> str:
        manager = machine.manager
        if manager is None:
            raise Gone("nobody is there")
        self.counts["proposals of the same record"] += 1
        answer = await self._cluster.call(
            machine, lambda: manager.node.propose(entry, timeout_s=PROPOSE_TIMEOUT_S)
        )
        (outcome,) = decode_outcomes(answer)
        return outcome.status


def _put_all(tx: Transaction, values: dict[str, str]) -> dict[str, str | None]:
    """Write registers; returns what they contained."""
    before: dict[str, str | None] = {}
    for key, value in values.items():
        current = tx.view.configs.get(key)
        before[key] = value_of(current)
        spec = ConfigSpec(name=key, data=value.encode(), labels={"padding": "x" * (int(value) * 37 % 400)})
        if current is None:
            tx.create(Config(id=key, spec=spec))
        else:
            tx.update(msgspec.structs.replace(current, spec=spec))
    return before
