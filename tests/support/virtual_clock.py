"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import itertools

#: How many rounds of the event loop count as "everything has reacted": a change crosses the batcher, the store,
#: watches and loops, each a few rounds. Rounds take microseconds.
SETTLE_ROUNDS = 60


class VirtualClock:
    """Implements ``Clock``. ``advance`` wakes sleepers in order, letting all that follows from one happen before
    the next."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._start_s = start_s
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._start_s + self._elapsed_s

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until the test has moved the clock this far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, next(self._order), future))
        await future

    async def settle(self) -> None:
        """Let everything that can happen without time passing happen."""
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move the clock, waking whoever sleeps until then."""
        target_s = self._elapsed_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._elapsed_s = max(self._elapsed_s, due_s)
            future.set_result(None)
            await self.settle()
        self._elapsed_s = target_s
        await self.settle()
