"""The loop that keeps every replicated service's tasks as its spec wants them."""

import asyncio
import heapq

from pyswarm.common.clock import Clock
from pyswarm.common.types import Node, NodeAvailability, NodeState, Service, Task, TaskState
from pyswarm.manager.orchestrator.actions import Plan, Step
from pyswarm.manager.orchestrator.commit import commit_steps, service_ids
from pyswarm.manager.orchestrator.plan import plan_removed, plan_service
from pyswarm.manager.orchestrator.plan_slots import RunTime
from pyswarm.manager.state import MAX_CHANGES, Event, Store, StoreLoop, View

#: Planning a service with more tasks than this would hold up the event loop; it is done beside it.
LARGE_SERVICE_TASKS = 1_000


class ReplicatedOrchestrator(StoreLoop):
    """Marks services that may need something, plans each once, and commits the steps of many together."""

    name = "orchestrator"

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._dirty: dict[str, None] = {}
        self._wakes: list[tuple[float, str]] = []
        self._run_times: dict[str, RunTime] = {}

    async def begin(self, view: View) -> None:
        tasks = list(view.tasks.values())
        self._dirty = dict.fromkeys(service.id for service in view.services.values())
        self._wakes = []
        # What ran before this leader is known by its last change only, which is never too early.
        self._run_times = {
            t.id: RunTime(t.updated_at.timestamp()) for t in tasks if t.status.state is TaskState.RUNNING
        }
        self._dirty.update(dict.fromkeys(t.service_id for t in tasks))

    def handle(self, event: Event) -> None:
        old, new = event.old, event.new
        if isinstance(event.obj, Service):
            self._dirty[event.obj.id] = None
        elif isinstance(event.obj, Task):
            self._note_run_time(event.obj.id, new if isinstance(new, Task) else None)
            if self._matters(old if isinstance(old, Task) else None, new if isinstance(new, Task) else None):
                self._dirty[event.obj.service_id] = None
        elif isinstance(event.obj, Node):
            fit = isinstance(new, Node) and _is_fit(new)
            if not fit or (isinstance(old, Node) and not _is_fit(old)):
                self._dirty.update(
                    dict.fromkeys(t.service_id for t in self.store.view.tasks.by_node(event.obj.id))
                )

    async def tick(self) -> None:
        now_s = self.clock.now()
        while self._wakes and self._wakes[0][0] <= now_s:
            self._dirty[heapq.heappop(self._wakes)[1]] = None
        while self._dirty:
            await self._commit(await self._plan_some())
        if self._wakes:
            self.wake_in(self._wakes[0][0] - self.clock.now())

    async def _plan_some(self) -> list[Step]:
        """The steps of as many services as make one transaction, or of one large one."""
        steps: list[Step] = []
        while self._dirty and len(steps) < MAX_CHANGES:
            service_id = next(iter(self._dirty))
            del self._dirty[service_id]
            plan = await self._plan(service_id)
            if plan.wake_at_s is not None:
                heapq.heappush(self._wakes, (plan.wake_at_s, service_id))
            steps.extend(plan.steps)
            await self.slices.pause()
        return steps

    async def _plan(self, service_id: str) -> Plan:
        view = self.store.view
        service = view.services.get(service_id)
        tasks = view.tasks.by_service(service_id)
        if service is None:
            return plan_removed(tasks)
        # Only the nodes it is on: a copy of all of them for each of many services would be most of the work.
        places = ((task.node_id, view.nodes.get(task.node_id)) for task in tasks)
        nodes = {node_id: node for node_id, node in places if node is not None}
        now_s = self.clock.now()
        if max(len(tasks), service.spec.replicas) <= LARGE_SERVICE_TASKS:
            return plan_service(service, tasks, nodes, now_s, self._run_times)
        # A pure function of immutable objects and private copies may run on any thread.
        return await asyncio.to_thread(plan_service, service, tasks, nodes, now_s, self._run_times.copy())

    async def _commit(self, steps: list[Step]) -> None:
        # What a step built on may have changed in a way that by itself needs no plan: plan again what was void.
        for step in await commit_steps(self.store, steps, "orchestrator"):
            self._dirty.update(dict.fromkeys(service_ids(step)))

    def _note_run_time(self, task_id: str, new: Task | None) -> None:
        if new is None:
            self._run_times.pop(task_id, None)
            return
        known = self._run_times.get(task_id)
        if new.status.state is TaskState.RUNNING and known is None:
            self._run_times[task_id] = RunTime(new.updated_at.timestamp())
        elif new.status.state.ended and known is not None and known.ended_s is None:
            self._run_times[task_id] = RunTime(known.since_s, new.updated_at.timestamp())

    def _matters(self, old: Task | None, new: Task | None) -> bool:
        """Most changes of tasks are steps on their way up, of which no decision depends."""
        if old is None or new is None or old.desired_state is not new.desired_state:
            return True
        if old.status.state.ended is not new.status.state.ended:
            return True
        if old.node_id != new.node_id:
            node = self.store.view.nodes.get(new.node_id)
            return node is None or not _is_fit(node)
        if new.status.state is TaskState.RUNNING and old.status.state is not TaskState.RUNNING:
            # Only an update waits for tasks to run.
            service = self.store.view.services.get(new.service_id)
            return service is None or service.update_status is not None
        return False


def _is_fit(node: Node) -> bool:
    return node.status.state is not NodeState.DOWN and node.spec.availability is not NodeAvailability.DRAIN
