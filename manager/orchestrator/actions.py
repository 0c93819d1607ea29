"""What plans consist of: steps that are carried out whole or not at all. Pure."""

from typing import Final

import msgspec

from pyswarm.common.types import Service, Task, TaskState, UpdateStatus

# Why a task was made.
SCALE: Final = "scale"
RESTART: Final = "restart"
UPDATE: Final = "update"
# Why a task was told to end; the first three are also why its replacement was made.
NODE_DOWN: Final = "node down"
NODE_DRAINED: Final = "node drained"
NODE_REMOVED: Final = "node removed"
SCALED_DOWN: Final = "scaled down"
SERVICE_REMOVED: Final = "service removed"
SURPLUS: Final = "another task has this slot"
ENDED: Final = "ended"
#: Begins the reason of a task that ended and stays in its slot as it is.
NOT_RESTARTED: Final = "not restarted: "


class CreateTask(msgspec.Struct, frozen=True):
    """Make a task of the service's present spec; wanted READY it is held until it is told to run."""

    slot: int
    desired: TaskState
    reason: str


class ChangeTask(msgspec.Struct, frozen=True):
    """Want something else of a task. ``task`` is as the plan saw it."""

    task: Task
    desired: TaskState
    stop_reason: str = ""


class DeleteTask(msgspec.Struct, frozen=True):
    """Forget a task that has ended."""

    task: Task


class OrphanTask(msgspec.Struct, frozen=True):
    """Give up a task whose node is no longer in the cluster."""

    task: Task


class SetUpdateStatus(msgspec.Struct, frozen=True):
    """Say how the service's update is doing."""

    status: UpdateStatus


Action = CreateTask | ChangeTask | DeleteTask | OrphanTask | SetUpdateStatus


class Step(msgspec.Struct, frozen=True):
    """Actions that belong together. Void if anything they build on has changed since."""

    service: Service | None
    actions: tuple[Action, ...]


class Plan(msgspec.Struct, frozen=True):
    """What to do now, and when to look again even if nothing changes."""

    steps: tuple[Step, ...]
    wake_at_s: float | None = None
