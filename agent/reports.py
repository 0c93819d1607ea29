"""Statuses on their way to the leader: the newest of each task, in batches, until acknowledged."""

import asyncio

from pyswarm.common.types import TaskStatus

#: Long enough for a task's quick steps to become one report, short enough for nobody to notice.
BATCH_WINDOW_S = 0.05
BATCH_SIZE = 500


class StatusReports:
    """What has not been acknowledged yet. One sender takes from it."""

    def __init__(self) -> None:
        self._pending: dict[str, TaskStatus] = {}
        self._any = asyncio.Event()

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Report this status; it takes the place of an older one that still waits."""
        self._pending[task_id] = status
        self._any.set()

    def forget(self, task_id: str) -> None:
        """The managers do not know the task any more."""
        self._pending.pop(task_id, None)

    async def some(self) -> None:
        """Wait until there is something to report."""
        while not self._pending:
            self._any.clear()
            await self._any.wait()

    def batch(self, size: int = BATCH_SIZE) -> list[tuple[str, TaskStatus]]:
        """The oldest of what waits."""
        return list(self._pending.items())[:size]

    def acknowledged(self, batch: list[tuple[str, TaskStatus]]) -> None:
        """These need no further report, unless they have changed since."""
        for task_id, status in batch:
            if self._pending.get(task_id) is status:
                del self._pending[task_id]
