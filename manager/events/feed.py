"""Follows the store, remembers the last events, and passes new ones on to whoever watches.

Every manager has its own, leader or not. A manager that starts tells nothing of what it catches up with; one that
missed changes tells what is different now.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import chain

from prometheus_client import CollectorRegistry, Gauge

from pyswarm.common.clock import Clock
from pyswarm.common.errors import Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import until_first_ends
from pyswarm.common.types import ClusterEvent
from pyswarm.manager.events.plan import Told, described, leader_changed
from pyswarm.manager.leadership import RaftLeadership
from pyswarm.manager.state import ResyncRequired, Store, View
from pyswarm.manager.state.entry import Stored
from pyswarm.manager.state.watch import Watch

log = get_logger("events")

REMEMBERED = 1000
MAX_WATCHERS = 256
#: A watcher that is this many events behind has to come again, from the time of the last one that it got.
MAX_BEHIND = 1000
LEADER_POLL_S = 0.2
START_POLL_S = 0.05


class EventFeed:
    """``run`` it for as long as the manager runs. ``caught_up`` tells whether the store is current."""

    def __init__(
        self,
        store: Store,
        raft: RaftLeadership,
        *,
        caught_up: Callable[[], bool],
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._store = store
        self._raft = raft
        self._caught_up = caught_up
        self._clock = clock
        self._ring: deque[ClusterEvent] = deque(maxlen=REMEMBERED)
        self._watchers: set[_Watcher] = set()
        self._known: dict[str, Told] = {}
        self._leader_id = ""
        gauge = Gauge("pyswarm_event_watchers", "Clients that watch events", registry=registry)
        gauge.set_function(lambda: len(self._watchers))

    async def run(self) -> None:
        """Until cancelled."""
        while not self._caught_up():
            await self._clock.sleep(START_POLL_S)
        self._leader_id = self._present_leader()
        watch = self._store.watch()
        self._known = _objects(self._store.view)
        while True:
            try:
                await until_first_ends(self._follow(watch), self._follow_leader())
            except ResyncRequired:
                log.warning("fell behind the store; comparing everything")
            finally:
                watch.close()
            watch = self._store.watch()
            self._compare(self._store.view)

    # --- what happens ---

    async def _follow(self, watch: Watch) -> None:
        async for batch in watch:
            for event in batch:
                self._changed(event.obj.id, event.old, event.new)

    def _compare(self, view: View) -> None:
        now = _objects(view)
        for object_id in self._known.keys() | now.keys():
            old, new = self._known.get(object_id), now.get(object_id)
            if old is not new:
                self._changed(object_id, old, new)

    def _changed(self, object_id: str, old: Stored | None, new: Stored | None) -> None:
        event = described(old, new, self._now_ns())
        if new is None:
            self._known.pop(object_id, None)
        elif isinstance(new, Told):
            self._known[object_id] = new
        self._tell(event)

    async def _follow_leader(self) -> None:
        while True:
            await self._clock.sleep(LEADER_POLL_S)
            leader_id = self._present_leader()
            if not leader_id or leader_id == self._leader_id:
                continue
            nodes = self._store.view.nodes
            for node_id, leads in ((self._leader_id, False), (leader_id, True)):
                node = nodes.get(node_id)
                if node is not None:
                    self._tell(leader_changed(node, leads=leads, now_ns=self._now_ns()))
            self._leader_id = leader_id

    def _present_leader(self) -> str:
        leader = self._raft.leader
        return leader.node_id if leader is not None else ""

    def _now_ns(self) -> int:
        return round(self._clock.now() * 1_000_000) * 1000

    def _tell(self, event: ClusterEvent | None) -> None:
        if event is None:
            return
        self._ring.append(event)
        for watcher in self._watchers:
            watcher.put(event)

    # --- who watches ---

    async def watch(self, since_ns: int) -> AsyncGenerator[list[ClusterEvent], None]:
        """First what is remembered since then (0: nothing), perhaps an empty list; then what happens."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} clients watch events already, which is as many as there may be")
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield [event for event in self._ring if since_ns and event.time_ns >= since_ns]
            while True:
                yield await watcher.get()
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """What one client was not told yet."""

    def __init__(self) -> None:
        self._waiting: list[ClusterEvent] = []
        self._bell = asyncio.Event()
        self._lost = False

    def put(self, event: ClusterEvent) -> None:
        """One more."""
        if len(self._waiting) >= MAX_BEHIND:
            self._lost = True
        else:
            self._waiting.append(event)
        self._bell.set()

    async def get(self) -> list[ClusterEvent]:
        """All there is, at least one. Raises Unavailable when some were lost."""
        while not self._waiting and not self._lost:
            self._bell.clear()
            await self._bell.wait()
        if not self._waiting:
            raise Unavailable("too far behind the events; ask again for those since the last one")
        events, self._waiting = self._waiting, []
        return events


def _objects(view: View) -> dict[str, Told]:
    """Everything of which there are events, by id."""
    objects: Iterable[Told] = chain(
        view.services.values(),
        view.nodes.values(),
        view.networks.values(),
        view.secrets.values(),
        view.configs.values(),
    )
    return {obj.id: obj for obj in objects}
