"""Many small transactions, few log entries: while one proposal is on its way, the next one fills."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from pyswarm.common.errors import OutcomeUnknown, PyswarmError, Unavailable
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.manager.state.entry import Outcome, decode_outcomes, encode_entry

#: Above this an entry is closed, even if more transactions wait. One larger record still travels alone.
MAX_ENTRY_BYTES = 256_000
MAX_QUEUED = 10_000

Propose = Callable[[bytes], Awaitable[bytes]]


class Batcher:
    """Sends records to Raft, one proposal at a time, and gives each its own outcome."""

    def __init__(self) -> None:
        self._propose: Propose | None = None
        self._queue: deque[tuple[bytes, asyncio.Future[Outcome]]] = deque()
        self._owner = TaskGroupOwner("store")
        self._draining = False

    def bind(self, propose: Propose) -> None:
        """Where proposals go."""
        self._propose = propose

    async def submit(self, record: bytes) -> Outcome:
        """Propose ``record``; raises what the proposal raises."""
        if self._propose is None:
            raise Unavailable("the manager is still starting")
        if len(self._queue) >= MAX_QUEUED:
            raise Unavailable(f"the manager is overloaded: {len(self._queue)} changes are waiting")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((record, future))
        if not self._draining:
            self._draining = True
            self._owner.spawn(self._drain(self._propose), "batcher")
        return await future

    async def _drain(self, propose: Propose) -> None:
        try:
            while self._queue:
                await self._send(propose, self._take())
                # Let those whose transaction met a conflict build it again, to be in the next entry already.
                await asyncio.sleep(0)
        finally:
            self._draining = False

    def _take(self) -> list[tuple[bytes, asyncio.Future[Outcome]]]:
        taken: list[tuple[bytes, asyncio.Future[Outcome]]] = []
        size = 0
        while self._queue and (not taken or size + len(self._queue[0][0]) <= MAX_ENTRY_BYTES):
            record, future = self._queue.popleft()
            if future.cancelled():
                continue
            taken.append((record, future))
            size += len(record)
        return taken

    async def _send(self, propose: Propose, taken: list[tuple[bytes, asyncio.Future[Outcome]]]) -> None:
        if not taken:
            return
        try:
            outcomes = decode_outcomes(await propose(encode_entry([record for record, _ in taken])))
        except BaseException as exc:
            failure = exc
            if not isinstance(exc, Exception):
                # Stopped while the proposal was on its way: it may be in the log by now.
                failure = OutcomeUnknown("the manager is stopping; the change may be stored")
            for _, future in taken:
                if not future.done():
                    future.set_exception(failure)
            if isinstance(exc, PyswarmError):
                return
            raise
        if len(outcomes) != len(taken):
            # An entry nobody could read has one answer for all of it.
            outcomes = outcomes[:1] * len(taken)
        for (_, future), outcome in zip(taken, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    async def close(self) -> None:
        """Stop proposing; whoever still waits is told so."""
        await self._owner.stop()
        while self._queue:
            _, future = self._queue.popleft()
            if not future.done():
                future.set_exception(Unavailable("the manager is stopping"))
