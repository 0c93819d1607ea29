"""A worker with its engine watched, but no session: the test gives assignments, and moves the clock."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from pyswarm.agent.agent import DATABASE
from pyswarm.agent.files import TaskFiles
from pyswarm.agent.health import EngineHealth
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.reports import StatusReports
from pyswarm.agent.taskdb import Journal, TaskDB
from pyswarm.agent.worker import Assignment, Worker
from pyswarm.common.ids import new_id
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import NodeDescription, Task, TaskState
from support.agents import RememberingOverlay
from support.fake_engine import FakeEngine
from support.fake_folders import FakeFolders
from support.virtual_clock import VirtualClock

S = TaskState
NODE = new_id()


class Bench:
    """A worker with its engine watched, but no session; time passes only when a test says so."""

    def __init__(
        self, folder: Path, engine: FakeEngine, overlay: RememberingOverlay, folders: FakeFolders
    ) -> None:
        self.engine = engine
        self.folders = folders
        self.overlay = overlay
        self.clock = VirtualClock()
        self.registry = CollectorRegistry()
        self.reports = StatusReports()
        self._tasks = TaskGroupOwner("test")
        self._writing = TaskGroupOwner("test")
        self._journal = Journal(TaskDB(folder / DATABASE), self.clock, self._writing)
        metrics = AgentMetrics(self.registry)
        self.worker = Worker(
            node_id=NODE,
            engine=engine,
            overlay=overlay,
            journal=self._journal,
            clock=self.clock,
            tasks=self._tasks,
            metrics=metrics,
            reports=self.reports,
            files=TaskFiles(folders, self._tasks),
        )
        self.health = EngineHealth(
            engine,
            self.clock,
            metrics,
            description=NodeDescription(),
            on_up=self.worker.engine_up,
            audit=self.worker.audit,
            on_down=self.worker.engine_down,
            on_event=self.worker.engine_event,
            on_description=lambda: None,
        )

    async def start(self) -> None:
        self.worker.load(await self._journal.open())
        self._tasks.spawn(self.health.run(), "engine")

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._writing.stop()
        await self._journal.close()

    def state(self, task: Task) -> S | None:
        status = self.worker.statuses.get(task.id)
        return status.state if status else None

    def err(self, task: Task) -> str:
        return self.worker.statuses[task.id].err

    async def reaches(self, task: Task, state: S | None, *, passing: bool = True) -> None:
        """Wait until a task is in a state; ``passing``: let time pass meanwhile."""

        def there() -> bool:
            return self.state(task) is state

        for _ in range(200):
            if there():
                return
            if passing:
                await self.clock.advance(0.1)
            await asyncio.sleep(0.005)
        pytest.fail(f"{task.name} is {self.state(task)}, not {state}")


@asynccontextmanager
async def bench(
    folder: Path,
    engine: FakeEngine | None = None,
    *,
    overlay: RememberingOverlay | None = None,
    folders: FakeFolders | None = None,
    assigned: Iterable[Assignment] | None = None,
) -> AsyncIterator[Bench]:
    made = Bench(folder, engine or FakeEngine(), overlay or RememberingOverlay(), folders or FakeFolders())
    await made.start()
    try:
        if assigned is not None:
            await made.worker.complete(list(assigned))
        yield made
    finally:
        await made.stop()


def wanted(task: Task, desired: S) -> Task:
    """The task with another desired state."""
    return msgspec.structs.replace(task, desired_state=desired)
