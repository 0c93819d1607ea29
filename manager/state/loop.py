"""What the leader's loops have in common: read everything once, then follow the changes.

snapshot -> subscribe -> reconcile all -> handle(event) -> tick. A gap in the subscription starts it over; the loss
of leadership ends it, quietly, because whoever runs the loop is told by another way and stops it anyway.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from pyswarm.common.clock import Clock
from pyswarm.common.errors import NotLeader, OutcomeUnknown, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.manager.state.event import Event
from pyswarm.manager.state.store import Store
from pyswarm.manager.state.view import View
from pyswarm.manager.state.watch import ResyncRequired, Watch

log = get_logger("loop")

RETRY_DELAY_S = 0.2
#: How long a planner may keep the loop to itself.
SLICE_S = 0.01


class Slices:
    """Measures the processor time of a planner, so that it gives way every 10 ms. The machine's own clock on
    purpose: this is about the event loop, not about the cluster's time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = time.monotonic()

    async def pause(self) -> None:
        """Let others run, if this slice is used up."""
        if time.monotonic() - self._began_s >= SLICE_S:
            await self._clock.sleep(0)
            self._began_s = time.monotonic()


class WakeTimer:
    """Calls ``wake`` once at the earliest time it was set to."""

    def __init__(self, name: str, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._owner = TaskGroupOwner(f"{name}.timer")
        self._due_s: float | None = None
        self._sleeping: asyncio.Task[None] | None = None

    def set_in(self, delay_s: float) -> None:
        """Wake in ``delay_s`` seconds, unless it is to wake earlier anyway."""
        due_s = self._clock.monotonic() + max(delay_s, 0.0)
        if self._due_s is not None and self._due_s <= due_s:
            return
        self._due_s = due_s
        if self._sleeping is not None:
            self._sleeping.cancel()
        self._sleeping = self._owner.spawn(self._sleep(delay_s), "sleep")

    async def _sleep(self, delay_s: float) -> None:
        await self._clock.sleep(max(delay_s, 0.0))
        self._due_s = self._sleeping = None
        self._wake()

    async def stop(self) -> None:
        """Forget what it was set to."""
        await self._owner.stop()


class StoreLoop(ABC):
    """A component that runs on the leader. Subclasses decide; this class keeps them fed."""

    name = "loop"

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.slices = Slices(clock)
        self._timer: WakeTimer | None = None

    async def run(self) -> None:
        """Reconcile everything, then follow the store, until cancelled or no longer leader."""
        while True:
            try:
                await self._run_once()
            except ResyncRequired:
                continue
            except (NotLeader, OutcomeUnknown):
                return
            except Unavailable as exc:
                log.warning("the store cannot be changed at the moment", part=self.name, reason=str(exc))
                await self.clock.sleep(RETRY_DELAY_S)

    async def _run_once(self) -> None:
        watch = self.store.watch()
        timer = self._timer = WakeTimer(self.name, self.clock, watch.poke)
        try:
            await self.begin(self.store.view)
            await self.tick()
            await self._follow(watch)
        finally:
            watch.close()
            self._timer = None
            await timer.stop()

    async def _follow(self, watch: Watch) -> None:
        async for batch in watch:
            for event in (*batch, *watch.drain()):
                self.handle(event)
                await self.slices.pause()
            await self.tick()

    def wake_in(self, delay_s: float) -> None:
        """Call ``tick`` again after this time, even if nothing changes."""
        if self._timer is not None:
            self._timer.set_in(delay_s)

    @abstractmethod
    async def begin(self, view: View) -> None:
        """Forget everything and take in the present state. ``view`` belongs to the subscription's first moment:
        copy what is needed of it before the first ``await``."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take in one change."""

    @abstractmethod
    async def tick(self) -> None:
        """Do what is to be done now."""
