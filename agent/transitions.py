"""What to do next for a task, and what becomes of its status. Pure: one step per call, and no way back.

A task is one attempt to run one container. It passes its states in order; what the managers want of it
(its desired state) only decides how far it may go and when it has to end.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from pyswarm.agent.engine import ContainerInfo
from pyswarm.common.types import ContainerStatus, TaskState, TaskStatus

_MESSAGES = {
    TaskState.ACCEPTED: "accepted",
    TaskState.PREPARING: "preparing",
    TaskState.READY: "prepared",
    TaskState.STARTING: "starting",
    TaskState.RUNNING: "started",
    TaskState.COMPLETE: "finished",
    TaskState.SHUTDOWN: "shutdown",
}
_ADVANCES = {
    TaskState.ACCEPTED: TaskState.PREPARING,
    TaskState.READY: TaskState.STARTING,
}


class Action(StrEnum):
    """What the task manager does in one step."""

    WAIT = "wait"  # until something changes
    MARK = "mark"  # take the next state; there is nothing to be done for it
    PREPARE = "prepare"  # image, networks, container
    START = "start"
    STOP = "stop"
    REMOVE = "remove"  # the container
    FORGET = "forget"  # the task itself


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the next step depends on.

    ``allowed`` is false until the current leader has said what this node shall run: until then containers
    are only watched. ``dropped``: the managers no longer know the task. ``removed``: its container is gone.
    """

    state: TaskState
    desired: TaskState
    allowed: bool
    dropped: bool = False
    removed: bool = False


class Step(msgspec.Struct, frozen=True):
    """An action; ``state`` is the one to take, for MARK."""

    action: Action
    state: TaskState = TaskState.NEW


def must_end(desired: TaskState, *, dropped: bool) -> bool:
    """Whether the managers want the task to end."""
    return dropped or desired.rank >= TaskState.SHUTDOWN.rank


def next_step(now: Situation) -> Step:
    """The one thing to do next."""
    if not now.allowed:
        return Step(Action.WAIT)
    if now.state.ended:
        if (now.dropped or now.desired is TaskState.REMOVE) and not now.removed:
            return Step(Action.REMOVE)
        return Step(Action.FORGET if now.dropped else Action.WAIT)
    if must_end(now.desired, dropped=now.dropped):
        if now.state.rank < TaskState.STARTING.rank:
            return Step(Action.MARK, TaskState.SHUTDOWN)
        return Step(Action.STOP)
    if now.state.rank < TaskState.ACCEPTED.rank:
        return Step(Action.MARK, TaskState.ACCEPTED)
    if now.state is TaskState.PREPARING:
        return Step(Action.PREPARE)
    if now.state is TaskState.READY and now.desired.rank < TaskState.RUNNING.rank:
        return Step(Action.WAIT)  # held until its predecessor in the slot has ended
    if now.state in _ADVANCES:
        return Step(Action.MARK, _ADVANCES[now.state])
    return Step(Action.START if now.state is TaskState.STARTING else Action.WAIT)


def entered(
    status: TaskStatus, state: TaskState, now: datetime, container: ContainerInfo | None = None
) -> TaskStatus:
    """The status on entering ``state``; unchanged if the task is beyond it already."""
    if state.rank <= status.state.rank:
        return status
    return TaskStatus(
        timestamp=now,
        state=state,
        message=_MESSAGES.get(state, state.value),
        container_status=status.container_status if container is None else _container_status(container),
        # Only a running container has its ports; what it had is of no use to anybody afterwards.
        port_status=container.ports if container is not None and state is TaskState.RUNNING else (),
    )


def failed(status: TaskStatus, error: str, now: datetime, *, detail: str = "") -> TaskStatus:
    """The status after an attempt that cannot succeed: REJECTED if nothing was started yet, else FAILED."""
    if status.state.ended:
        return status
    began = status.state.rank >= TaskState.STARTING.rank
    return msgspec.structs.replace(
        status,
        timestamp=now,
        state=TaskState.FAILED if began else TaskState.REJECTED,
        message=detail or status.message,
        err=error,
        port_status=(),
    )


def observed(status: TaskStatus, container: ContainerInfo | None, name: str, now: datetime) -> TaskStatus:
    """The status after a look at the container; ``None`` is that there is none.

    Only what was told to start can have run or ended, so other states stay as they are.
    """
    if status.state not in (TaskState.STARTING, TaskState.RUNNING):
        return status
    if container is None:
        return failed(status, f"No such container: {name}", now)
    if container.running:
        return entered(status, TaskState.RUNNING, now, container)
    return finished(status, container, now) if container.started else status


def finished(status: TaskStatus, container: ContainerInfo, now: datetime) -> TaskStatus:
    """The status after the container ended by itself, with its own exit code."""
    if container.exit_code == 0 and not container.error:
        return entered(status, TaskState.COMPLETE, now, container)
    error = container.error or f"task: non-zero exit ({container.exit_code})"
    detail = "killed: the container was out of memory" if container.oom_killed else ""
    ended = failed(status, error, now, detail=detail)
    return msgspec.structs.replace(ended, container_status=_container_status(container))


def stopped(status: TaskStatus, container: ContainerInfo | None, now: datetime) -> TaskStatus:
    """The status after the container was made to end."""
    return entered(status, TaskState.SHUTDOWN, now, container)


def _container_status(container: ContainerInfo) -> ContainerStatus:
    return ContainerStatus(container_id=container.id, pid=container.pid, exit_code=container.exit_code)
