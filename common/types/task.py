"""Tasks: one attempt to run one container. Never restarted, never moved; a replacement is a new task."""

from datetime import datetime
from enum import StrEnum

from pyswarm.common.types.base import EPOCH, Object, Version
from pyswarm.common.types.service import PortConfig, TaskSpec


class TaskState(StrEnum):
    """States in the order a task passes them; an observed state never goes back."""

    NEW = "new"
    PENDING = "pending"
    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    PREPARING = "preparing"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETE = "complete"
    SHUTDOWN = "shutdown"
    FAILED = "failed"
    REJECTED = "rejected"
    REMOVE = "remove"
    ORPHANED = "orphaned"

    @property
    def rank(self) -> int:
        """Position in the order above."""
        return _RANK[self]

    @property
    def ended(self) -> bool:
        """No process of this task runs any more, or ever will."""
        return self.rank > TaskState.RUNNING.rank


_RANK = {state: rank for rank, state in enumerate(TaskState)}


class ContainerStatus(Object, frozen=True):
    """The container behind a task, once there is one."""

    container_id: str = ""
    pid: int = 0
    exit_code: int = 0


class TaskStatus(Object, frozen=True):
    """What was last observed. ``message`` is for people; ``err`` is why it waits or failed."""

    timestamp: datetime = EPOCH
    state: TaskState = TaskState.NEW
    message: str = ""
    err: str = ""
    container_status: ContainerStatus | None = None
    #: The ports its host lends it: those of mode ``host``, with the number the engine gave.
    port_status: tuple[PortConfig, ...] = ()


class TaskNetwork(Object, frozen=True):
    """An address of a task: ``addr`` carries its mask (``10.0.1.3/24``)."""

    network_id: str
    addr: str = ""
    mac: str = ""


class Task(Object, frozen=True):
    """A task as stored. ``reason`` says why it was made; ``stop_reason`` why it was told to end."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    service_id: str = ""
    service_name: str = ""
    service_labels: dict[str, str] = {}
    slot: int = 0
    node_id: str = ""
    spec: TaskSpec = TaskSpec()
    status: TaskStatus = TaskStatus()
    desired_state: TaskState = TaskState.RUNNING
    networks: tuple[TaskNetwork, ...] = ()
    #: The service's published ports when the task was made.
    ports: tuple[PortConfig, ...] = ()
    #: The network on which those of mode ``ingress`` reach it; empty without such ports.
    mesh_network_id: str = ""
    reason: str = ""
    stop_reason: str = ""

    @property
    def published(self) -> tuple[tuple[PortConfig, ...], str]:
        """As ``Endpoint.published`` of its service when it was made."""
        return self.ports, self.mesh_network_id

    @property
    def network_ids(self) -> tuple[str, ...]:
        """The networks it joins: those of its spec, in order, and the one it is published on."""
        targets = [attachment.target for attachment in self.spec.networks]
        return tuple(dict.fromkeys([*targets, self.mesh_network_id] if self.mesh_network_id else targets))

    @property
    def name(self) -> str:
        """``web.3``: the slot's name, shared by the tasks that follow one another in it."""
        return f"{self.service_name}.{self.slot}"

    @property
    def container_name(self) -> str:
        """``web.3.<id>``: the engine's name for its container, the same however often it is worked out."""
        return f"{self.name}.{self.id}"
