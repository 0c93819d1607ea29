"""Subscriptions to the store's changes."""

import asyncio
from collections import deque
from collections.abc import Callable

from pyswarm.common.errors import PyswarmError
from pyswarm.manager.state.event import Event

#: A watcher that is this many changes behind starts over from the view instead.
MAX_PENDING_EVENTS = 50_000


class ResyncRequired(PyswarmError):
    """The subscription has a gap: the watcher fell too far behind, or a snapshot was installed. Read the view
    again and open a new subscription."""

    code = "resync_required"
    retryable = True


class Watch:
    """All changes since it was opened, one batch for each applied entry that changed something.

    ``async for batch in watch``; a wait may be cancelled without losing a batch. Close it when done.
    """

    def __init__(self, on_close: Callable[["Watch"], None], max_pending: int = MAX_PENDING_EVENTS) -> None:
        self._on_close = on_close
        self._max_pending = max_pending
        self._batches: deque[tuple[Event, ...]] = deque()
        self._pending = 0
        self._wake = asyncio.Event()
        self._gap = False
        self._closed = False

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        while True:
            if self._gap:
                raise ResyncRequired("changes were missed; starting over from the present state")
            if self._batches:
                return self._pop()
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    def drain(self) -> tuple[Event, ...]:
        """What else has arrived already, without waiting."""
        events: list[Event] = []
        while self._batches and not self._gap:
            events.extend(self._pop())
        return tuple(events)

    def poke(self) -> None:
        """Wake the reader with an empty batch, unless one is waiting anyway: how timers reach a loop."""
        if not self._batches:
            self._batches.append(())
            self._wake.set()

    def close(self) -> None:
        """Receive nothing more; what is queued can still be read."""
        self._closed = True
        self._wake.set()
        self._on_close(self)

    def push(self, batch: tuple[Event, ...]) -> None:
        """For the store: one more batch."""
        if self._gap or self._closed:
            return
        if self._pending + len(batch) > self._max_pending:
            self.break_off()
            return
        self._pending += len(batch)
        self._batches.append(batch)
        self._wake.set()

    def break_off(self) -> None:
        """For the store: this subscription has a gap now."""
        self._gap = True
        self._batches.clear()
        self._wake.set()

    def _pop(self) -> tuple[Event, ...]:
        batch = self._batches.popleft()
        self._pending -= len(batch)
        return batch
