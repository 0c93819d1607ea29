"""The store: the cluster's objects, replicated by Raft, read in memory, changed by optimistic transactions.

It belongs to one asyncio loop, on which Raft also calls ``apply`` and ``restore``. Reads cost nothing and see what
this manager applied. A change is built on the present state, proposed with the versions it read, and checked again
where it counts, at apply; when someone else was faster, it is built once more on what they left.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pyswarm.common.clock import Clock
from pyswarm.common.errors import FailedPrecondition, Unavailable, error_from_code
from pyswarm.common.ids import new_id
from pyswarm.common.log import get_logger
from pyswarm.common.types import timestamp
from pyswarm.manager.state.batcher import Batcher, Propose
from pyswarm.manager.state.entry import encode_record
from pyswarm.manager.state.machine import Machine
from pyswarm.manager.state.transaction import MAX_RECORD_BYTES, Transaction
from pyswarm.manager.state.view import View
from pyswarm.manager.state.watch import MAX_PENDING_EVENTS, Watch

log = get_logger("store")

T = TypeVar("T")
ItemT = TypeVar("ItemT")

MAX_ATTEMPTS = 10


class ChangeTooLarge(FailedPrecondition):
    """One transaction with all this would make too long a log entry; nothing was changed."""


class Store:
    """Also the state machine that Raft drives: ``apply``, ``snapshot``, ``restore``."""

    def __init__(self, clock: Clock, make_request_id: Callable[[], str] = new_id) -> None:
        self._clock = clock
        self._make_request_id = make_request_id
        self._machine = Machine()
        self._batcher = Batcher()
        self._watches: set[Watch] = set()

    def bind(self, propose: Propose) -> None:
        """Say how changes are proposed; until then ``update`` raises Unavailable."""
        self._batcher.bind(propose)

    @property
    def view(self) -> View:
        """The present state; take it again after an ``await``."""
        return self._machine.view

    async def update(self, build: Callable[[Transaction], T], *, reason: str = "") -> T:
        """Run ``build`` on the present state, commit what it changed, and return what it returned.

        ``build`` runs at once, without waiting, and may run again: it must have no effect but on its transaction.
        What it raises is passed on and nothing happens. Raises NotLeader and Unavailable when nothing was changed,
        OutcomeUnknown when that cannot be known. ``reason`` stands in errors and logs.
        """
        for _ in range(MAX_ATTEMPTS):
            tx = Transaction(self._machine.view, timestamp(self._clock.now()))
            result = build(tx)
            record = tx.record(self._make_request_id())
            if record is None:
                return result
            encoded = encode_record(record)
            if len(encoded) > MAX_RECORD_BYTES:
                raise ChangeTooLarge(
                    f"this change is too large: {len(encoded)} bytes, at most {MAX_RECORD_BYTES} are allowed"
                )
            outcome = await self._batcher.submit(encoded)
            if outcome.status == "ok":
                return result
            if outcome.status == "error":
                if outcome.code == "internal":
                    log.error("a change was refused", reason=reason, error=outcome.message)
                raise error_from_code(outcome.code, outcome.message)
        raise Unavailable(f"{reason or 'the change'}: others keep changing the same objects; try again")

    async def update_each(
        self, items: Sequence[ItemT], carry_out: Callable[[Transaction, ItemT], bool], *, reason: str
    ) -> list[ItemT]:
        """Carry out independent changes, as many in one transaction as its size allows; returns those for which
        ``carry_out`` said that they do not hold any more. Raises as ``update``; what was committed stays."""

        def build(tx: Transaction) -> list[ItemT]:
            return [item for item in items if not carry_out(tx, item)]

        try:
            return await self.update(build, reason=reason) if items else []
        except ChangeTooLarge:
            if len(items) == 1:
                raise
        middle = len(items) // 2
        void = await self.update_each(items[:middle], carry_out, reason=reason)
        return void + await self.update_each(items[middle:], carry_out, reason=reason)

    def watch(self, max_pending: int = MAX_PENDING_EVENTS) -> Watch:
        """Every change from now on. ``view`` and ``watch`` without an ``await`` between leave no gap."""
        watch = Watch(self._watches.discard, max_pending)
        self._watches.add(watch)
        return watch

    def apply(self, index: int, command: bytes) -> bytes:
        """For Raft: apply a committed entry. Never raises."""
        result, events = self._machine.apply(index, command)
        if events:
            for watch in self._watches:
                watch.push(events)
        return result

    def snapshot(self) -> Callable[[], bytes]:
        """For Raft: capture the state cheaply; the function returned serialises it and may run on any thread."""
        return self._machine.snapshot()

    def restore(self, data: bytes, index: int) -> None:
        """For Raft: replace everything. Watchers have to start over. Raises StateDamaged, changing nothing."""
        self._machine.restore(data, index)
        for watch in self._watches:
            watch.break_off()

    def validate(self) -> None:
        """Raises AssertionError unless every invariant of the state holds."""
        self._machine.validate()

    async def close(self) -> None:
        """End what still waits for an answer."""
        await self._batcher.close()
