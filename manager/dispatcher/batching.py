"""When to act on things that arrive one by one: at once when it was quiet, else together."""

import asyncio

from pyswarm.common.clock import Clock

QUIET_DELAY_S = 0.01
BATCH_S = 0.1
#: The same for what others wait for.
URGENT_BATCH_S = 0.03
MAX_BATCH = 100


class Batcher:
    """``ring()`` says that there is something; ``wait()`` returns when it is time to act on all of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bell = asyncio.Event()
        self._waiting = 0
        self._urgent = False
        self._last_s = clock.monotonic() - BATCH_S

    def ring(self, *, urgent: bool = False) -> None:
        """One more thing to act on; ``urgent``: others wait for it."""
        self._waiting += 1
        self._urgent = self._urgent or urgent
        self._bell.set()

    async def wait(self) -> None:
        """After a quiet time 10 ms, so that what comes together goes together; then one batch in 100 ms, sooner if
        it is an urgent or a large one."""
        await self._bell.wait()
        begun_s = self._clock.monotonic()
        while self._waiting < MAX_BATCH:
            pause_s = URGENT_BATCH_S if self._urgent else BATCH_S
            left_s = max(begun_s + QUIET_DELAY_S, self._last_s + pause_s) - self._clock.monotonic()
            if left_s <= 0:
                break
            await self._clock.sleep(min(left_s, QUIET_DELAY_S))
        self._bell.clear()
        self._waiting, self._urgent = 0, False
        self._last_s = self._clock.monotonic()
