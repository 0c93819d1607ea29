"""Owned, named asyncio tasks: nothing runs unsupervised, and everything that runs can be stopped."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger

log = get_logger("tasks")


async def until_first_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all at once; the first to end ends the others, and what it raised is raised.

    Unlike ``asyncio.TaskGroup``, it does not lose a cancellation that comes while a part fails, with which whoever
    handles the failure would go on for ever.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    ended.result()


async def wait_at_most(event: asyncio.Event, clock: Clock, delay_s: float) -> None:
    """Wait until ``event`` is set, or for ``delay_s`` seconds of the clock."""
    waiting = asyncio.ensure_future(event.wait())
    sleeping = asyncio.ensure_future(clock.sleep(delay_s))
    try:
        await asyncio.wait([waiting, sleeping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()


class TaskGroupOwner:
    """Holds the background tasks of one component.

    ``on_failure`` is called once for each task that ends with an exception nobody awaited; without it the
    failure is logged with its traceback. ``stop()`` cancels all, waits for all, naming those stuck.
    """

    def __init__(self, name: str, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``coro`` as a task of this owner."""
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)
        elif not self._stopping:
            log.error("background task failed", task=task.get_name(), exc_info=error)

    async def stop(self, patience_s: float = 10.0) -> None:
        """Cancel every task and wait for all of them, at most ``patience_s`` seconds."""
        self._stopping = True
        current = asyncio.current_task()
        waiting = [t for t in self._tasks if t is not current]
        for task in waiting:
            task.cancel()
        if not waiting:
            return
        _, stuck = await asyncio.wait(waiting, timeout=patience_s)
        for task in stuck:
            log.error("task does not stop", task=task.get_name())
