"""Time as a parameter, so that tests run on a clock of their own."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What a component may know of time."""

    def now(self) -> float:
        """Seconds since the epoch, for what is shown to people and stored."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back, for intervals."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds of this clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait without blocking the loop."""
        await asyncio.sleep(delay_s)
