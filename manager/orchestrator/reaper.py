"""The loop that forgets tasks nobody needs a record of."""

from pyswarm.common.clock import Clock
from pyswarm.common.types import Cluster, ClusterSpec, Node, Service, Task
from pyswarm.manager.orchestrator.actions import Step
from pyswarm.manager.orchestrator.commit import commit_steps, tasks_of
from pyswarm.manager.orchestrator.plan_reaper import plan_reap
from pyswarm.manager.state import MAX_CHANGES, Event, Store, StoreLoop, View


class TaskReaper(StoreLoop):
    """Looks at the slots in which something ended, was given up, or became history."""

    name = "reaper"

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._dirty: dict[tuple[str, int], None] = {}

    async def begin(self, view: View) -> None:
        self._dirty = {}
        self._mark(list(view.tasks.values()))

    def handle(self, event: Event) -> None:
        obj, old, new = event.obj, event.old, event.new
        if isinstance(obj, Task):
            if not isinstance(old, Task) or not isinstance(new, Task) or _ending(old) != _ending(new):
                self._mark([obj])
        elif isinstance(obj, Service) and new is None:
            self._mark(self.store.view.tasks.by_service(obj.id))
        elif isinstance(obj, Node) and new is None:
            self._mark(self.store.view.tasks.by_node(obj.id))
        elif isinstance(obj, Cluster) and (not isinstance(old, Cluster) or _limit(old) != _limit(obj)):
            self._mark(list(self.store.view.tasks.values()))

    async def tick(self) -> None:
        while self._dirty:
            for step in await commit_steps(self.store, await self._plan_some(), "task reaper"):
                self._mark(tasks_of(step))

    async def _plan_some(self) -> list[Step]:
        steps: list[Step] = []
        while self._dirty and len(steps) < MAX_CHANGES:
            key = next(iter(self._dirty))
            del self._dirty[key]
            view = self.store.view
            service_id, slot = key
            tasks = view.tasks.by_slot(service_id, slot)
            steps.extend(plan_reap(tasks, view.services.get(service_id), view.nodes, _limit(view.cluster)))
            await self.slices.pause()
        return steps

    def _mark(self, tasks: list[Task]) -> None:
        self._dirty.update(dict.fromkeys((t.service_id, t.slot) for t in tasks))


def _ending(task: Task) -> tuple[object, ...]:
    return (task.desired_state, task.status.state.ended, task.node_id)


def _limit(cluster: Cluster | None) -> int:
    return (cluster.spec if cluster is not None else ClusterSpec()).task_history_limit
