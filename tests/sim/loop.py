"""An event loop whose time is simulated, and on which whole processes can die or stand still.

What a process schedules carries its context, so that a crash is one flag: nothing of a dead process runs any more,
not even a ``finally``. Time jumps to the next thing that is due; every look at the clock moves it a little, as
code that waits for time to pass expects.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_S = 1e-6


class PowerCut(BaseException):
    """Ends whatever a process that just died was doing."""


class Process:
    """What lives and dies together. ``paused`` is what SIGSTOP does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.backlog: list[SimHandle] = []
        self.context = contextvars.Context()
        self.context.run(_PROCESS.set, self)


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
#: The world's own callbacks: nobody's process.
NOBODY = contextvars.Context()


class SimHandle(asyncio.TimerHandle):
    """A callback that knows whose it is."""

    def __init__(
        self, when: float, callback: Callable[..., Any], args: Any, loop: "SimLoop", context: contextvars.Context
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.process: Process | None = context.get(_PROCESS)
        self.call = context.run
        self.work = (callback, *args)


class SimLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order of their time, then of their scheduling."""

    def __init__(self, executor_delay: Callable[[], float]) -> None:
        self._executor_delay = executor_delay
        self._now = 0.0
        self._ready: deque[SimHandle] = deque()
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._count = 0
        self._ended = False
        self._tasks: list[asyncio.Task[Any]] = []
        self.errors: list[str] = []

    # -- time ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now

    def look(self) -> float:
        """The time, for code that may look until it has changed."""
        self._now += _LOOK_S
        return self._now

    def pass_time(self, seconds: float) -> None:
        """What runs at the moment takes longer."""
        self._now += seconds

    # -- scheduling ---------------------------------------------------------------------------------------

    def _handle(
        self, when: float, callback: Callable[..., Any], args: Any, context: contextvars.Context | None
    ) -> SimHandle:
        return SimHandle(when, callback, args, self, contextvars.copy_context() if context is None else context)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """Run next, after what is already waiting."""
        handle = self._handle(self._now, callback, args, context)
        if not self._ended:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Run ``delay`` seconds from now."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Run at a time of this loop's clock."""
        handle = self._handle(when, callback, args, context)
        self._count += 1
        if not self._ended:
            heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when they come up."""

    def create_future(self) -> "asyncio.Future[Any]":
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> "asyncio.Task[Any]":
        """A task; kept until the world ends, so that no collection of garbage ever runs a dead one's code."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # the way to say that it may be left
        self._tasks.append(task)
        return task

    def spawn(self, process: Process | None, coro: Coroutine[Any, Any, T], name: str = "") -> "asyncio.Task[T]":
        """Run ``coro`` in a process, or as the world's own."""
        context = NOBODY if process is None else process.context
        return self.create_task(coro, name=name or None, context=context.copy())

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """What a thread would do happens at one moment, somewhat later."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 - handed on
                future.set_exception(exc)
            else:
                future.set_result(result)

        self.call_later(self._executor_delay(), run)
        return future

    # -- running ------------------------------------------------------------------------------------------

    def resume(self, process: Process) -> None:
        """End a process's pause."""
        process.paused = False
        self._ready.extend(process.backlog)
        process.backlog.clear()

    def _next(self) -> SimHandle | None:
        timers = self._timers
        if not self._ready and timers:
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])
        return self._ready.popleft() if self._ready else None

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the world until ``main`` has ended."""
        asyncio._set_running_loop(self)
        try:
            task = self.spawn(None, main, "main")
            while not task.done():
                handle = self._next()
                if handle is None:
                    raise RuntimeError("nothing is left to happen, but the world has not ended")
                process = handle.process
                if handle._cancelled or (process is not None and not process.alive):
                    continue
                if process is not None and process.paused:
                    process.backlog.append(handle)
                    continue
                try:
                    handle.call(*handle.work)
                except PowerCut:
                    continue
            return task.result()
        finally:
            self._end()
            asyncio._set_running_loop(None)

    def _end(self) -> None:
        """Close what was left in the middle, while nothing can come of it any more."""
        self._ended = True
        for task in self._tasks:
            if not task.done():
                try:
                    task.get_coro().close()  # type: ignore[union-attr]
                except (Exception, PowerCut):  # noqa: BLE001, S112 - of no consequence: the world has ended
                    continue

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception nobody took; of interest only while the world runs."""
        error = context.get("exception")
        if not self._ended and not isinstance(error, PowerCut):
            self.errors.append(f"{context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Until the world ends."""
        return not self._ended

    def is_closed(self) -> bool:
        """Never: late callbacks are accepted, and not run."""
        return False
