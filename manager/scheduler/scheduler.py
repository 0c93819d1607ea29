"""The loop that gives tasks their nodes."""

from collections.abc import Sequence

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.types import Node, Task, TaskState
from pyswarm.manager.scheduler.nodes import ClusterLoad
from pyswarm.manager.scheduler.plan import Placement, is_waiting, plan_placements
from pyswarm.manager.state import MAX_CHANGES, Event, Store, StoreLoop, Transaction, View

#: Placing many tasks at once spreads them better than one by one: wait this long for more of them,
DEBOUNCE_S = 0.05
#: but never longer than this in all.
MAX_DEBOUNCE_S = 1.0


class Scheduler(StoreLoop):
    """PENDING -> ASSIGNED. A task no node is fit for says why, and is tried again when something changes."""

    name = "scheduler"

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._cluster = ClusterLoad()
        self._waiting: dict[str, Task] = {}
        self._first_s: float | None = None
        self._last_s = 0.0

    async def begin(self, view: View) -> None:
        nodes, tasks = list(view.nodes.values()), list(view.tasks.values())
        self._cluster = ClusterLoad(nodes)
        self._waiting = {}
        for task in tasks:
            self._cluster.observe_task(None, task)
            if is_waiting(task):
                self._waiting[task.id] = task
            await self.slices.pause()
        self._ring()

    def handle(self, event: Event) -> None:
        old, new = event.old, event.new
        if isinstance(event.obj, Task):
            self._observe_task(old if isinstance(old, Task) else None, new if isinstance(new, Task) else None)
        elif isinstance(event.obj, Node):
            self._cluster.observe_node(event.obj.id, new if isinstance(new, Node) else None)
            self._ring()

    def _observe_task(self, old: Task | None, new: Task | None) -> None:
        if new is not None and new.node_id and (old is None or not old.node_id):
            # This scheduler's own placement, counted already when it was planned.
            self._cluster.unplace(new.id, new.node_id)
        self._cluster.observe_task(old, new)
        task = new if new is not None else old
        if task is None:
            return
        if new is not None and is_waiting(new):
            if new.id not in self._waiting or old is None or old.status.err == new.status.err:
                self._ring()
            self._waiting[new.id] = new
            return
        self._waiting.pop(task.id, None)
        if self._waiting and task.node_id and (new is None or new.status.state.ended):
            self._ring()

    def _ring(self) -> None:
        self._last_s = self.clock.monotonic()
        if self._first_s is None:
            self._first_s = self._last_s

    async def tick(self) -> None:
        if self._first_s is None:
            return
        due_s = min(self._last_s + DEBOUNCE_S, self._first_s + MAX_DEBOUNCE_S)
        left_s = due_s - self.clock.monotonic()
        if left_s > 0:
            self.wake_in(left_s)
            return
        self._first_s = None
        batch: list[Placement] = []
        waiting = list(self._waiting.values())
        for placement in plan_placements(waiting, self._cluster, self.clock.now()):
            batch.append(placement)
            if len(batch) >= MAX_CHANGES:
                await self._commit(batch)
                batch = []
            await self.slices.pause()
        if batch:
            await self._commit(batch)

    async def _commit(self, batch: Sequence[Placement]) -> None:
        for placement in await self.store.update_each(batch, _carry_out, reason="scheduler"):
            if placement.node_id:
                self._cluster.unplace(placement.task.id, placement.node_id)
                self._ring()


def _carry_out(tx: Transaction, placement: Placement) -> bool:
    task = tx.view.tasks.get(placement.task.id)
    if task is None or task.version != placement.task.version or not is_waiting(task):
        return False
    if not placement.node_id:
        status = msgspec.structs.replace(task.status, timestamp=tx.now, err=placement.err)
        tx.update(msgspec.structs.replace(task, status=status))
        return True
    if tx.view.nodes.get(placement.node_id) is None:
        return False
    status = msgspec.structs.replace(
        task.status,
        timestamp=tx.now,
        state=TaskState.ASSIGNED,
        message="scheduler assigned task to node",
        err="",
    )
    tx.update(msgspec.structs.replace(task, node_id=placement.node_id, status=status))
    return True
