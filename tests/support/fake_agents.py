"""Nodes with agents that run tasks in memory, for tests of the leader's loops in virtual time."""

import heapq
import itertools
from collections import Counter

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.types import (
    ContainerStatus,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeState,
    NodeStatus,
    Resources,
    Task,
    TaskState,
    timestamp,
)
from pyswarm.manager.state import MAX_CHANGES, Event, Store, StoreLoop, Transaction, View


class FakeAgents(StoreLoop):
    """All agents of a cluster. What a container does is said by its image: ``crash`` fails when started, ``once``
    completes, ``missing`` is rejected, anything else runs until it is told to stop.

    ``containers`` are those that really run, whatever the store says; two of them with one address fail the test.
    """

    name = "agents"

    def __init__(self, store: Store, clock: Clock, *, start_s: float = 0.0, stop_s: float = 0.0) -> None:
        super().__init__(store, clock)
        self.start_s = start_s
        self.stop_s = stop_s
        self.cut: set[str] = set()
        self.containers: dict[str, Task] = {}
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self._addresses: dict[tuple[str, str], str] = {}
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._since: dict[str, tuple[TaskState, float]] = {}

    async def add_node(self, name: str, *, memory_bytes: int = 0) -> Node:
        """A ready node."""
        node = Node(
            id=f"node-{name}",
            description=NodeDescription(hostname=name, resources=Resources(memory_bytes=memory_bytes)),
            status=NodeStatus(state=NodeState.READY),
        )
        await self.store.update(lambda tx: tx.create(node))
        return node

    async def set_state(self, node_id: str, state: NodeState) -> None:
        """As the dispatcher would, when heartbeats stop or come back."""

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.find(node_id)
            tx.update(msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, state=state)))

        await self.store.update(build)

    async def set_availability(self, node_id: str, availability: NodeAvailability) -> None:
        """As ``node update --availability``."""

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.find(node_id)
            spec = msgspec.structs.replace(node.spec, availability=availability)
            tx.update(msgspec.structs.replace(node, spec=spec))

        await self.store.update(build)

    async def lose(self, node_id: str) -> None:
        """The network to the node is cut: its containers go on, nobody hears of them, and it is found down."""
        self.cut.add(node_id)
        await self.set_state(node_id, NodeState.DOWN)

    async def heal(self, node_id: str) -> None:
        """The node is back."""
        self.cut.discard(node_id)
        await self.set_state(node_id, NodeState.READY)

    async def begin(self, view: View) -> None:
        for task in list(view.tasks.values()):
            self._look_at(task)

    def handle(self, event: Event) -> None:
        if isinstance(event.obj, Task):
            if event.new is None:
                assert event.obj.id not in self.containers or event.obj.node_id not in self.cut, (
                    f"task {event.obj.id} was forgotten while it ran on a node that is cut off"
                )
                self.stop(event.obj.id)
            else:
                self._look_at(event.obj)
        elif isinstance(event.obj, Node) and event.new is not None:
            for task in self.store.view.tasks.by_node(event.obj.id):
                self._look_at(task)

    def _look_at(self, task: Task) -> None:
        if task.node_id and not task.status.state.ended:
            heapq.heappush(self._due, (self.clock.now(), next(self._order), task.id))

    async def tick(self) -> None:
        reports: dict[str, TaskState] = {}
        while self._due and self._due[0][0] <= self.clock.now():
            task = self.store.view.tasks.get(heapq.heappop(self._due)[2])
            if task is None or task.node_id in self.cut or task.status.state.ended:
                continue
            state = self._next(task)
            if state is not None and state is not task.status.state:
                reports[task.id] = state
            if len(reports) >= MAX_CHANGES:
                await self.report(reports)
                reports = {}
            await self.slices.pause()
        if reports:
            await self.report(reports)
        if self._due:
            self.wake_in(self._due[0][0] - self.clock.now())

    def _next(self, task: Task) -> TaskState | None:
        if task.desired_state.rank > TaskState.RUNNING.rank:
            if not self._elapsed(task, TaskState.SHUTDOWN, self.stop_s if task.id in self.containers else 0.0):
                return None
            self.stop(task.id)
            return TaskState.SHUTDOWN
        image = task.spec.container_spec.image
        if image == "missing":
            return TaskState.REJECTED
        if task.desired_state is TaskState.READY:
            return TaskState.READY
        if task.id not in self.containers:
            if not self._elapsed(task, TaskState.RUNNING, self.start_s):
                return None
            if image == "crash":
                return TaskState.FAILED
            self._start(task)
            return TaskState.RUNNING
        if image == "once":
            self.stop(task.id)
            return TaskState.COMPLETE
        return TaskState.RUNNING

    def _start(self, task: Task) -> None:
        self.containers[task.id] = task
        for attached in task.networks:
            key = (attached.network_id, attached.addr)
            holder = self._addresses.setdefault(key, task.id)
            assert holder == task.id, f"{attached.addr} is on the overlay twice: {holder} and {task.id}"
        self.running[task.service_id] += 1
        self.most_running[task.service_id] = max(self.most_running[task.service_id], self.running[task.service_id])

    def stop(self, task_id: str) -> None:
        """A container is no more."""
        task = self.containers.pop(task_id, None)
        if task is not None:
            self.running[task.service_id] -= 1
            for attached in task.networks:
                del self._addresses[attached.network_id, attached.addr]

    async def fail(self, task_id: str) -> None:
        """A container dies, and its agent says so."""
        self.stop(task_id)
        await self.report({task_id: TaskState.FAILED})

    def _elapsed(self, task: Task, towards: TaskState, needed_s: float) -> bool:
        now_s = self.clock.now()
        known = self._since.get(task.id)
        if known is None or known[0] is not towards:
            known = self._since[task.id] = (towards, now_s)
        if now_s - known[1] >= needed_s - 1e-9:
            return True
        heapq.heappush(self._due, (known[1] + needed_s, next(self._order), task.id))
        return False

    async def report(self, reports: dict[str, TaskState]) -> None:
        """Commit what agents say of their tasks."""
        now = timestamp(self.clock.now())

        def build(tx: Transaction) -> None:
            for task_id, state in reports.items():
                task = tx.view.tasks.get(task_id)
                if task is None or state.rank <= task.status.state.rank:
                    continue
                failed = state in (TaskState.FAILED, TaskState.REJECTED)
                status = msgspec.structs.replace(
                    task.status,
                    timestamp=now,
                    state=state,
                    err=f"it {state.value}" if failed else "",
                    container_status=ContainerStatus(exit_code=1 if failed else 0),
                )
                tx.update(msgspec.structs.replace(task, status=status))

        await self.store.update(build)
