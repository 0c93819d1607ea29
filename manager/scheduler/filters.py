"""Which nodes may run a task, and in words, why others may not. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pyswarm.common.types import NodeAvailability, NodeState, Task
from pyswarm.manager.scheduler.nodes import NodeLoad, host_ports


class Filter(ABC):
    """One condition. ``explain`` is its part of what ``service ps`` shows, for the nodes it ruled out."""

    @abstractmethod
    def check(self, load: NodeLoad, task: Task) -> bool:
        """Whether the node may run a task like this one."""

    @abstractmethod
    def explain(self, nodes: int) -> str:
        """Why that many nodes may not."""


class ReadyFilter(Filter):
    """The node is heard of and takes new tasks."""

    def check(self, load: NodeLoad, task: Task) -> bool:
        node = load.node
        return node.status.state is NodeState.READY and node.spec.availability is NodeAvailability.ACTIVE

    def explain(self, nodes: int) -> str:
        return f"{_count(nodes)} not available for new tasks"


class EngineFilter(Filter):
    """The node's engine works."""

    def check(self, load: NodeLoad, task: Task) -> bool:
        return not load.node.description.engine_error

    def explain(self, nodes: int) -> str:
        return f"Docker Engine not available on {_count(nodes)}"


class ResourceFilter(Filter):
    """What the task reserves is not reserved by others. Limits do not count."""

    def check(self, load: NodeLoad, task: Task) -> bool:
        wanted, free = task.spec.resources.reservations, load.free
        return wanted.nano_cpus <= max(free.nano_cpus, 0) and wanted.memory_bytes <= max(free.memory_bytes, 0)

    def explain(self, nodes: int) -> str:
        return f"insufficient resources on {_count(nodes)}"


class HostPortFilter(Filter):
    """The ports that the task publishes in mode ``host`` are free: no other task has them there, and the host does
    not listen on them itself."""

    def check(self, load: NodeLoad, task: Task) -> bool:
        listening = load.node.description.listening
        return all(not load.host_ports[key] and f"{key[0]}/{key[1]}" not in listening for key in host_ports(task))

    def explain(self, nodes: int) -> str:
        return f"host-mode port already in use on {_count(nodes)}"


def _count(nodes: int) -> str:
    return f"{nodes} node" if nodes == 1 else f"{nodes} nodes"


FILTERS: tuple[Filter, ...] = (ReadyFilter(), EngineFilter(), ResourceFilter(), HostPortFilter())


class Pipeline:
    """All filters in turn, counting for tasks like ``task`` whom each ruled out."""

    def __init__(self, task: Task, filters: Sequence[Filter] = FILTERS) -> None:
        self._task = task
        self._filters = filters
        self._ruled_out = [0] * len(filters)

    def check(self, load: NodeLoad) -> bool:
        """Whether the node passes; counted if not."""
        for index, condition in enumerate(self._filters):
            if not condition.check(load, self._task):
                self._ruled_out[index] += 1
                return False
        return True

    def explain(self) -> str:
        """Docker's words, the most frequent cause first."""
        found = [(count, f) for count, f in zip(self._ruled_out, self._filters, strict=True) if count]
        if not found:
            return "no suitable node"
        found.sort(key=lambda entry: entry[0], reverse=True)
        return f"no suitable node ({'; '.join(f.explain(count) for count, f in found)})"
