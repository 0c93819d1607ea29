"""The leader's loop that keeps the overlay's registry equal to the store."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.manager.overlayplan import overlay_state
from pyswarm.manager.state import ResyncRequired, Store, Watch
from pyswarm.overlay.registry.errors import RegistryError, RegistryFenced
from pyswarm.overlay.registry.model import Fence
from pyswarm.overlay.registry.writer import RegistryWriter

log = get_logger("overlaysync")

#: Changes of one moment (a scaled service) become one write.
DEBOUNCE_S = 0.01
#: Wait this many times as long as the last one took, so that changes in a stream take a third of a core at most.
BUSY_FACTOR = 2.0
MAX_PAUSE_S = 0.5
RETRY_S = 0.5
#: etcd takes seconds to be founded, or to elect; only what lasts longer may need a hand.
WARN_AFTER_S = 10.0
#: However quiet the store is, what etcd holds is compared with it this often.
FULL_SYNC_S = 60.0


class OverlaySyncMetrics:
    """What the leader reports about the registry; made once per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up_to_date = Gauge(
            "pyswarm_overlaysync_up_to_date", "1 while etcd holds what the store says", registry=registry
        )
        self.entries = Counter("pyswarm_overlaysync_entries", "Entries written to etcd", ["op"], registry=registry)


class OverlaySync:
    """``fence`` is this leadership's (term, index): a deposed leader's writes are refused by etcd. ``on_synced``
    hears the store's index that etcd is level with, and the mark that hosts see when they are."""

    def __init__(
        self,
        store: Store,
        writer: RegistryWriter,
        fence: Callable[[], Fence],
        clock: Clock,
        metrics: OverlaySyncMetrics,
        on_synced: Callable[[int, Fence], None] = lambda _index, _fence: None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._fence = fence
        self._clock = clock
        self._metrics = metrics
        self._on_synced = on_synced
        self._mark: Fence | None = None
        self._ready: frozenset[tuple[str, str]] | None = None
        self._failing_since_s: float | None = None
        self._warned = False
        self._last_sync_s = 0.0

    async def run(self) -> None:
        """Write the difference, then wait for the next change of the store."""
        self._writer.invalidate()
        self._mark = self._ready = None
        while True:
            watch = self._store.watch()
            try:
                await self._sync_until_done()
                await self._follow(watch)
            except ResyncRequired:
                continue
            finally:
                watch.close()

    async def _follow(self, watch: Watch) -> None:
        changes = aiter(watch)
        while True:
            try:
                async with asyncio.timeout(FULL_SYNC_S):
                    await anext(changes)
            except TimeoutError:
                self._writer.invalidate()
            await self._clock.sleep(min(max(DEBOUNCE_S, BUSY_FACTOR * self._last_sync_s), MAX_PAUSE_S))
            watch.drain()
            await self._sync_until_done()

    async def _sync_until_done(self) -> None:
        while not await self._sync():
            await self._clock.sleep(RETRY_S)

    async def _sync(self) -> bool:
        began_s = self._clock.monotonic()
        view = self._store.view
        index, fence, state = view.index, self._fence(), overlay_state(view)
        ready = frozenset(key for key, endpoint in state.endpoints.items() if endpoint.ready)
        # Of a leader before this one it is not known what it was about to stop.
        ask = self._ready is None or not self._ready <= ready
        try:
            result = await self._writer.sync(state, fence, ask=ask)
        except RegistryFenced:
            raise
        except RegistryError as exc:
            self._metrics.up_to_date.set(0)
            now_s = self._clock.monotonic()
            if self._failing_since_s is None:
                self._failing_since_s = now_s
            if not self._warned and now_s - self._failing_since_s > WARN_AFTER_S:
                log.warning("etcd cannot be written; hosts keep what they have", reason=str(exc))
                self._warned = True
            return False
        if self._warned:
            log.info("etcd is written again")
        self._last_sync_s = self._clock.monotonic() - began_s
        self._failing_since_s, self._warned = None, False
        self._ready = ready
        if result.marked:
            self._mark = fence
        if self._mark is not None:
            self._on_synced(index, self._mark)
        self._metrics.up_to_date.set(1)
        self._metrics.entries.labels("put").inc(result.puts)
        self._metrics.entries.labels("delete").inc(result.deletes)
        return True
