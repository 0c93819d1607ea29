"""What one agent has been told, and what it has to be told next. Pure.

The same comparison makes the first, complete set and every later change: a change is what differs between the
store now and what was sent. A task is sent again only when what its agent acts on differs; a status that the agent
itself reported is not echoed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyswarm.common.types import Network, Task, TaskState
from pyswarm.manager.state import View


@dataclass(frozen=True)
class Change:
    """``task`` or ``network`` ``id`` is now ``new``, or gone when that is None."""

    kind: str
    id: str
    new: Task | Network | None


def relevant(task: Task) -> tuple[object, ...]:
    """What an agent acts on."""
    return (task.desired_state, task.networks, task.spec)


def _shape(network: Network) -> tuple[object, ...]:
    return (network.subnet, network.gateway, network.vni, network.mtu, network.spec)


@dataclass
class AssignmentSet:
    """The state of one agent's stream: versions sent, and what may have changed since."""

    node_id: str
    tasks: dict[str, Task] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    dirty_tasks: set[str] = field(default_factory=set)
    #: Compare everything: at the start, and when events were missed.
    dirty_all: bool = True

    def next_changes(self, view: View, shown: Callable[[Task], Task] = lambda task: task) -> list[Change]:
        """What to send now, networks before the tasks that need them and gone ones after; counts as sent.
        ``shown`` is each task as the agent is to see it now."""
        if self.dirty_all:
            suspects: Iterable[str] = {task.id for task in view.tasks.by_node(self.node_id)} | set(self.tasks)
        else:
            suspects = self.dirty_tasks
        task_updates, task_removals = [], []
        for task_id in sorted(suspects):
            task, sent = view.tasks.get(task_id), self.tasks.get(task_id)
            task = shown(task) if task is not None else None
            if task is None or task.node_id != self.node_id:
                if sent is not None:
                    del self.tasks[task_id]
                    task_removals.append(Change("task", task_id, None))
            elif task.status.state.rank < TaskState.ASSIGNED.rank:
                continue
            elif sent is None or relevant(sent) != relevant(task):
                self.tasks[task_id] = task
                task_updates.append(Change("task", task_id, task))
        network_updates, network_removals = self._network_changes(view)
        self.dirty_all = False
        self.dirty_tasks = set()
        return [*network_updates, *task_updates, *task_removals, *network_removals]

    def _network_changes(self, view: View) -> tuple[list[Change], list[Change]]:
        """A network is kept as long as any record of a task here names it: between a task's end and its
        replacement's start the data plane is not torn down and built up again."""
        needed = {attached.network_id for task in self.tasks.values() for attached in task.networks}
        updates, removals = [], []
        for network_id in sorted(needed):
            network, sent = view.networks.get(network_id), self.networks.get(network_id)
            if network is not None and (sent is None or _shape(sent) != _shape(network)):
                self.networks[network_id] = network
                updates.append(Change("network", network_id, network))
        for network_id in sorted(self.networks):
            if network_id not in needed or view.networks.get(network_id) is None:
                del self.networks[network_id]
                removals.append(Change("network", network_id, None))
        return updates, removals
