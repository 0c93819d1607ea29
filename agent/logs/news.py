"""What happens at the engine, for those who wait for a container to start or for the engine to be back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class EngineNews:
    """Wakes by task, or everybody."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def about(self, task_id: str) -> None:
        """Something happened to the task's container, or to the task."""
        for listener in self._listeners.get(task_id, ()):
            listener.set()

    def anything(self) -> None:
        """Something may have happened to every container."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.set()

    @contextmanager
    def listening(self, task_id: str) -> Iterator[asyncio.Event]:
        """Set whenever there is something to look at; the listener clears it before it looks."""
        listener = asyncio.Event()
        listeners = self._listeners.setdefault(task_id, set())
        listeners.add(listener)
        try:
            yield listener
        finally:
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(task_id, None)
