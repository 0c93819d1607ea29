"""What each node carries, kept up to date change by change. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from pyswarm.common.types import Node, Resources, Task, TaskState

#: A node on which a service failed this often lately is used last for it.
FAILURES_TO_AVOID = 5
FAILURE_MEMORY_S = 300.0


def host_ports(task: Task) -> list[tuple[str, int]]:
    """The ports of its host, as (protocol, number), that a task must have for itself."""
    return [(p.protocol, p.published_port) for p in task.ports if p.publish_mode == "host" and p.published_port]


class NodeLoad:
    """A node, what is free on it, and how many tasks are to run there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tasks = 0
        self.by_service: Counter[str] = Counter()
        #: How many tasks publish each (protocol, port) in mode ``host``, those that still stop included.
        self.host_ports: Counter[tuple[str, int]] = Counter()
        self._reserved_cpus = 0
        self._reserved_memory_bytes = 0
        self._failures: dict[str, deque[float]] = {}

    @property
    def free(self) -> Resources:
        """What of the node's resources no task reserves; may be negative after the node shrank."""
        total = self.node.description.resources
        return Resources(
            nano_cpus=total.nano_cpus - self._reserved_cpus,
            memory_bytes=total.memory_bytes - self._reserved_memory_bytes,
        )

    def avoided_for(self, service_id: str, now_s: float) -> bool:
        """Tasks of the service failed here too often lately."""
        failures = self._failures.get(service_id)
        if failures is None:
            return False
        return sum(1 for at_s in failures if at_s >= now_s - FAILURE_MEMORY_S) >= FAILURES_TO_AVOID

    def note_failure(self, service_id: str, at_s: float) -> None:
        """A task of the service failed here."""
        self._failures.setdefault(service_id, deque(maxlen=FAILURES_TO_AVOID)).append(at_s)

    def add(self, task: Task, sign: int = 1) -> None:
        """Count a task, or with ``sign=-1`` no longer."""
        if not task.status.state.ended:
            reserved = task.spec.resources.reservations
            self._reserved_cpus += sign * reserved.nano_cpus
            self._reserved_memory_bytes += sign * reserved.memory_bytes
            for key in host_ports(task):
                self.host_ports[key] += sign
            if task.desired_state.rank <= TaskState.COMPLETE.rank:
                self.tasks += sign
                self.by_service[task.service_id] += sign


class ClusterLoad:
    """All nodes. Tasks of a node that is not there are kept in mind until it is."""

    def __init__(self, nodes: Iterable[Node] = (), tasks: Iterable[Task] = ()) -> None:
        self._loads: dict[str, NodeLoad] = {}
        self._tasks: dict[str, dict[str, Task]] = {}
        for node in nodes:
            self.observe_node(node.id, node)
        for task in tasks:
            self.observe_task(None, task)

    @property
    def loads(self) -> Mapping[str, NodeLoad]:
        """By node id."""
        return self._loads

    def observe_node(self, node_id: str, node: Node | None) -> None:
        """A node was added, changed or removed."""
        if node is None:
            self._loads.pop(node_id, None)
            return
        load = self._loads.get(node_id)
        if load is not None:
            load.node = node
            return
        load = self._loads[node_id] = NodeLoad(node)
        for task in self._tasks.get(node_id, {}).values():
            load.add(task)

    def observe_task(self, old: Task | None, new: Task | None) -> None:
        """A task was made, changed or removed."""
        counted = self._forget(old.node_id, old.id) if old is not None and old.node_id else None
        if new is None or not new.node_id:
            return
        load = self._loads.get(new.node_id)
        self._tasks.setdefault(new.node_id, {})[new.id] = new
        if load is None:
            return
        load.add(new)
        failed = new.status.state in (TaskState.FAILED, TaskState.REJECTED)
        if failed and (counted is None or not counted.status.state.ended):
            load.note_failure(new.service_id, new.updated_at.timestamp())

    def place(self, task: Task, node_id: str) -> None:
        """Count a task that is about to be assigned to a node."""
        self._tasks.setdefault(node_id, {})[task.id] = task
        self._loads[node_id].add(task)

    def _forget(self, node_id: str, task_id: str) -> Task | None:
        tasks = self._tasks.get(node_id)
        counted = tasks.pop(task_id, None) if tasks is not None else None
        if tasks is not None and not tasks:
            del self._tasks[node_id]
        load = self._loads.get(node_id)
        if counted is not None and load is not None:
            load.add(counted, -1)
        return counted

    def unplace(self, task_id: str, node_id: str) -> None:
        """The assignment was not stored after all."""
        self._forget(node_id, task_id)
