"""Drives one task, one step after the other, as ``transitions`` decides."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

import msgspec

from pyswarm.agent import transitions
from pyswarm.agent.engine import (
    ContainerInfo,
    Engine,
    EngineError,
    EngineUnavailable,
    NoSuchContainer,
    NoSuchImage,
    grace_s,
)
from pyswarm.agent.files import TaskFiles
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.networks import NetworkKeeper
from pyswarm.agent.taskdb import DropTask, Journal, PutTask, TaskRecord
from pyswarm.agent.transitions import Action, Situation, Step
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.types import Task, TaskState, TaskStatus, timestamp

log = get_logger("agent")

RETRY_FIRST_S = 0.2
RETRY_MAX_S = 10.0
ATTACH_TRIES = 4


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What all task managers of a node share."""

    engine: Engine
    networks: NetworkKeeper
    files: TaskFiles
    journal: Journal
    clock: Clock
    metrics: AgentMetrics
    wait_engine: Callable[[], Awaitable[None]]
    on_status: Callable[[str], None]
    on_forgotten: Callable[[str], None]


class TaskManager:
    """One task. Commands only note what is wanted and wake the loop; only the loop acts."""

    def __init__(self, record: TaskRecord, around: Surroundings, *, allowed: bool) -> None:
        self.record = record
        self._around = around
        self._allowed = allowed
        self._dropped = False
        self._removed = False
        self._look = not record.status.state.ended
        self._changed = asyncio.Event()
        self._retry_s = RETRY_FIRST_S
        self._complaint = ""
        if self.uses_networks:
            around.networks.use(record.task)
        if not record.status.state.ended:
            around.files.use(record.task)

    # --- commands ---

    @property
    def task(self) -> Task:
        """The task as last assigned."""
        return self.record.task

    @property
    def state(self) -> TaskState:
        """The state last observed."""
        return self.record.status.state

    @property
    def uses_networks(self) -> bool:
        """Whether there is, or may be, a container on its networks."""
        return TaskState.PREPARING.rank <= self.state.rank and not self.state.ended

    def assign(self, task: Task) -> None:
        """The managers' newest word on the task."""
        self.record = msgspec.structs.replace(self.record, task=task)
        self._dropped = False
        self._changed.set()

    def drop(self) -> None:
        """The managers no longer know the task."""
        self._dropped = True
        self._changed.set()

    def allow(self) -> None:
        """The current leader has spoken: act."""
        self._allowed = True
        self._changed.set()

    def look(self) -> None:
        """Something happened to the container, perhaps."""
        self._look = True
        self._changed.set()

    # --- the loop ---

    async def run(self) -> None:
        """Until the task is forgotten."""
        while True:
            self._changed.clear()
            situation = self._situation()
            if self._look and self.state in (TaskState.STARTING, TaskState.RUNNING):
                self._look = False
                await self._guarded(None, self._observe())
                continue
            step = transitions.next_step(situation)
            if step.action is Action.FORGET:
                self._around.journal.save(DropTask(self.task.id))
                self._around.on_forgotten(self.task.id)
                return
            if step.action is Action.WAIT:
                await self._changed.wait()
            else:
                await self._guarded(step, self._act(step))

    def _situation(self) -> Situation:
        return Situation(
            state=self.state,
            desired=self.task.desired_state,
            allowed=self._allowed,
            dropped=self._dropped,
            removed=self._removed,
        )

    async def _guarded(self, step: Step | None, work: Coroutine[Any, Any, None]) -> None:
        """Do a step; a refusal ends the attempt, and what may pass is tried again."""
        try:
            await work
            self._retry_s, self._complaint = RETRY_FIRST_S, ""
            return
        except PyswarmError as exc:
            if not exc.retryable and step is not None and step.action in (Action.PREPARE, Action.START):
                await self._fail(exc)
                return
            # An absent engine is logged once, not for every task.
            reason = self._complaint if isinstance(exc, EngineUnavailable) else str(exc)
        except Exception as exc:
            log.exception("task manager failed", task=self.task.id)
            reason = f"internal error of the agent: {exc!r}"
            if step is not None and step.action in (Action.PREPARE, Action.START):
                await self._fail(EngineError(reason))
                return
        if step is None:
            self._look = True
        if reason != self._complaint:
            self._complaint = reason
            log.warning("task waits", task=self.task.id, state=self.state.value, reason=reason)
        await self._unless_ended(self._pause())

    async def _pause(self) -> None:
        delay_s, self._retry_s = self._retry_s, min(self._retry_s * 2, RETRY_MAX_S)
        await self._around.clock.sleep(delay_s)
        await self._around.wait_engine()

    async def _unless_ended(self, work: Awaitable[None]) -> bool:
        """Await ``work``, but only until the task has to end before it was started; whether it was finished."""
        working = asyncio.ensure_future(work)
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait([working, changed], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if working.done():
                    working.result()
                    return True
                self._changed.clear()
                unstarted = self.state.rank < TaskState.STARTING.rank
                if unstarted and transitions.must_end(self.task.desired_state, dropped=self._dropped):
                    return False
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _act(self, step: Step) -> None:
        match step.action:
            case Action.MARK:
                mark = self._enter(step.state)
                if step.state is TaskState.STARTING:
                    # On disk before it is done: a restart must not start a container a second time.
                    await self._around.journal.durable(mark)
            case Action.PREPARE:
                await self._prepare()
            case Action.START:
                await self._start()
            case Action.STOP:
                await self._stop()
            case Action.REMOVE:
                await self._around.engine.remove(self.task.container_name)
                self._removed = True

    async def _prepare(self) -> None:
        task, around = self.task, self._around
        around.networks.use(task)
        if not await self._unless_ended(around.engine.ensure_image(task.spec.container_spec.image)):
            return
        await self._bring_up(task)
        mounts = await around.files.place(task)
        container = await around.engine.create(
            task, around.networks.attachments(task), egress=around.networks.needs_egress(task), mounts=mounts
        )
        self._enter(TaskState.READY, container)

    async def _bring_up(self, task: Task) -> None:
        """The overlay may need a moment, such as right after the engine made a bridge."""
        delay_s = RETRY_FIRST_S
        for tries_left in range(ATTACH_TRIES - 1, -1, -1):
            try:
                await self._around.networks.bring_up(task)
                return
            except EngineError:
                raise
            except PyswarmError as exc:
                if not tries_left:
                    raise EngineError(str(exc)) from exc
            await self._around.clock.sleep(delay_s)
            delay_s *= 2

    async def _start(self) -> None:
        name = self.task.container_name
        container = await self._around.engine.inspect(name)
        self._around.networks.introduce(self.task, container)
        if not container.started:  # else by an agent that ended before it could write that down
            # They are gone if the host was restarted after the container was made.
            await self._around.files.place(self.task)
            try:
                await self._around.engine.start(name)
            except EngineUnavailable:
                raise
            except EngineError as exc:
                raise EngineError(f"starting container failed: {exc}") from exc
            self._around.metrics.container_starts.inc()
            container = await self._around.engine.inspect(name)
        self._around.networks.introduce(self.task, container)
        # Before anybody hears that it runs.
        await self._around.networks.let_in(self.task, container)
        self._set(transitions.observed(self.record.status, container, name, self._now()))

    async def _observe(self) -> None:
        container = await self._container()
        if container is not None and container.running:
            self._around.networks.introduce(self.task, container)
        self._set(transitions.observed(self.record.status, container, self.task.container_name, self._now()))

    async def _stop(self) -> None:
        container = await self._container()
        if container is not None and container.started and not container.running:
            self._set(transitions.finished(self.record.status, container, self._now()))
            return
        if container is not None:
            await self._around.engine.stop(container.name, grace_s(self.task.spec.container_spec))
            container = await self._container()
        self._set(transitions.stopped(self.record.status, container, self._now()))

    async def _container(self) -> ContainerInfo | None:
        try:
            return await self._around.engine.inspect(self.task.container_name)
        except NoSuchContainer:
            return None

    async def _fail(self, exc: PyswarmError) -> None:
        detail = f"preparing: {exc.reason}" if isinstance(exc, NoSuchImage) and exc.reason else ""
        log.info("task failed", task=self.task.id, state=self.state.value, reason=str(exc), detail=detail)
        self._set(transitions.failed(self.record.status, str(exc), self._now(), detail=detail))

    # --- status ---

    def _now(self) -> datetime:
        return timestamp(self._around.clock.now())

    def _enter(self, state: TaskState, container: ContainerInfo | None = None) -> int:
        return self._set(transitions.entered(self.record.status, state, self._now(), container))

    def _set(self, status: TaskStatus) -> int:
        """Take a status, to be written and reported; returns the journal's mark."""
        if status == self.record.status:
            return 0
        self.record = msgspec.structs.replace(self.record, status=status, reported=False)
        mark = self._around.journal.save(PutTask(self.record))
        if status.state.ended:
            self._around.networks.release(self.task)
            self._around.files.release(self.task)
        self._around.on_status(self.task.id)
        return mark
