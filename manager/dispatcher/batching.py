"""When to act on things that arrive one by one: at once when it was quiet, else together."""

import asyncio

from pyswarm.common.clock import Clock

QUIET_DELAY_S = 0.01
BATCH_S = 0.1
MAX_BATCH = 100


class Batcher:
    """``ring()`` says that there is something; ``wait()`` returns when it is time to act on all of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bell = asyncio.Event()
        self._waiting = 0
        self._last_s = clock.monotonic() - BATCH_S

    def ring(self) -> None:
        """One more thing to act on."""
        self._waiting += 1
        self._bell.set()

    async def wait(self) -> None:
        """After a quiet time 10 ms, so that what comes together goes together; then one batch in 100 ms, sooner if
        it is a large one."""
        await self._bell.wait()
        due_s = max(self._clock.monotonic() + QUIET_DELAY_S, self._last_s + BATCH_S)
        while self._waiting < MAX_BATCH and (left_s := due_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left_s, QUIET_DELAY_S))
        self._bell.clear()
        self._waiting = 0
        self._last_s = self._clock.monotonic()
