"""Statuses on their way to the leader: the newest of each task, in batches, until acknowledged."""

import asyncio
from collections.abc import Iterable

import msgspec

from pyswarm.common.types import TaskState, TaskStatus

#: Long enough for a task's quick steps to become one report, short enough for nobody to notice.
BATCH_WINDOW_S = 0.05
#: That a task runs, or has ended, is what others wait for.
URGENT_WINDOW_S = 0.01
BATCH_SIZE = 500
#: Well below what a manager takes in one message.
BATCH_BYTES = 1024 * 1024
#: Managers refuse what they cannot store; what a task is may be stored later, when it or they have changed.
REFUSED_AGAIN_S = 30.0
#: Beside the status: the task's id and the message's own fields.
_OVERHEAD_BYTES = 64


def fitting(items: Iterable[tuple[str, TaskStatus]], count: int = BATCH_SIZE) -> list[tuple[str, TaskStatus]]:
    """As many of ``items``, from the first on, as one message may carry; at least one."""
    batch: list[tuple[str, TaskStatus]] = []
    size = 0
    for task_id, status in items:
        size += len(msgspec.msgpack.encode(status)) + len(task_id) + _OVERHEAD_BYTES
        if batch and (size > BATCH_BYTES or len(batch) >= count):
            break
        batch.append((task_id, status))
    return batch


class StatusReports:
    """What has not been acknowledged yet. One sender takes from it."""

    def __init__(self) -> None:
        self._pending: dict[str, TaskStatus] = {}
        self._refused: dict[str, TaskStatus] = {}
        self._any = asyncio.Event()

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Report this status; it takes the place of an older one that still waits."""
        self._refused.pop(task_id, None)
        self._pending[task_id] = status
        self._any.set()

    def forget(self, task_id: str) -> None:
        """The managers do not know the task any more."""
        self._pending.pop(task_id, None)
        self._refused.pop(task_id, None)

    async def some(self) -> None:
        """Wait until there is something to report."""
        while not self._pending:
            self._any.clear()
            await self._any.wait()

    @property
    def window_s(self) -> float:
        """How long to gather before the next report."""
        urgent = any(status.state.rank >= TaskState.RUNNING.rank for status in self._pending.values())
        return URGENT_WINDOW_S if urgent else BATCH_WINDOW_S

    def batch(self, size: int = BATCH_SIZE) -> list[tuple[str, TaskStatus]]:
        """The oldest of what waits."""
        return fitting(self._pending.items(), size)

    def refused(self, task_id: str, status: TaskStatus) -> None:
        """The leader does not take this one: it is kept for ``again``, unless it has changed since."""
        if self._pending.get(task_id) is status:
            del self._pending[task_id]
            self._refused[task_id] = status

    def again(self) -> None:
        """Report what was refused once more."""
        refused, self._refused = self._refused, {}
        for task_id, status in refused.items():
            self.put(task_id, status)

    def acknowledged(self, batch: list[tuple[str, TaskStatus]]) -> None:
        """These need no further report, unless they have changed since."""
        for task_id, status in batch:
            if self._pending.get(task_id) is status:
                del self._pending[task_id]
