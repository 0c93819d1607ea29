"""What one agent has been told, and what it has to be told next. Pure.

The same comparison makes the first, complete set and every later change: a change is what differs between the
store now and what was sent. A task is sent again only when what its agent acts on differs; a status that the agent
itself reported is not echoed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyswarm.common.files import FileKey, file_keys
from pyswarm.common.types import Config, Network, Secret, Task, TaskState
from pyswarm.manager.state import View
from pyswarm.manager.state.references import file_object

Assigned = Task | Network | Secret | Config


@dataclass(frozen=True)
class Change:
    """``kind`` (task, network, secret or config) ``id`` is now ``new``, or gone when that is None."""

    kind: str
    id: str
    new: Assigned | None


def relevant(task: Task) -> tuple[object, ...]:
    """What an agent acts on."""
    return (task.desired_state, task.networks, task.spec)


def needed_files(task: Task) -> frozenset[FileKey]:
    """The secrets and configs a task's node must have: none before it has a node, none once the task has ended."""
    if task.status.state.rank < TaskState.ASSIGNED.rank or task.status.state.ended:
        return frozenset()
    return file_keys(task.spec.container_spec)


def _shape(network: Network) -> tuple[object, ...]:
    return (network.subnet, network.gateway, network.vni, network.mtu, network.spec)


@dataclass
class AssignmentSet:
    """The state of one agent's stream: versions sent, and what may have changed since."""

    node_id: str
    tasks: dict[str, Task] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    #: Secrets and configs sent; their payloads never change.
    files: set[FileKey] = field(default_factory=set)
    #: What each of the node's tasks needs of them, for those that need any.
    files_of: dict[str, frozenset[FileKey]] = field(default_factory=dict)
    dirty_tasks: set[str] = field(default_factory=set)
    #: Compare everything: at the start, and when events were missed.
    dirty_all: bool = True

    def next_changes(self, view: View, shown: Callable[[Task], Task] = lambda task: task) -> list[Change]:
        """What to send now; it counts as sent. What tasks need comes before them, what they needed goes after.
        ``shown`` is each task as the agent is to see it now."""
        if self.dirty_all:
            suspects: Iterable[str] = {task.id for task in view.tasks.by_node(self.node_id)} | set(self.tasks)
        else:
            suspects = self.dirty_tasks
        task_updates, task_removals = [], []
        for task_id in sorted(suspects):
            task, sent = view.tasks.get(task_id), self.tasks.get(task_id)
            self._note_files(task_id, task)
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
        file_updates, file_removals = self._file_changes(view)
        self.dirty_all = False
        self.dirty_tasks = set()
        updates = [*network_updates, *file_updates, *task_updates]
        return [*updates, *task_removals, *file_removals, *network_removals]

    def _note_files(self, task_id: str, task: Task | None) -> None:
        needed = needed_files(task) if task is not None and task.node_id == self.node_id else None
        if needed:
            self.files_of[task_id] = needed
        else:
            self.files_of.pop(task_id, None)

    def _file_changes(self, view: View) -> tuple[list[Change], list[Change]]:
        """A secret is nowhere longer than it is needed, even if a next task of its service is about to come."""
        needed = {key for keys in self.files_of.values() for key in keys}
        stored = {(kind, id): obj for kind, id in needed if (obj := file_object(view, kind, id)) is not None}
        updates = [Change(*key, stored[key]) for key in sorted(stored.keys() - self.files)]
        removals = [Change(*key, None) for key in sorted(self.files - stored.keys())]
        self.files = set(stored)
        return updates, removals

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
