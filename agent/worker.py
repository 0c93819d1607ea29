"""All tasks of this node: turns assignments into task managers, and removes what is nobody's."""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from pyswarm.agent.dataplane import DataPlane
from pyswarm.agent.engine import ContainerInfo, Engine, EngineEvent
from pyswarm.agent.files import TaskFiles, key_of
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.networks import NetworkKeeper
from pyswarm.agent.reports import StatusReports
from pyswarm.agent.task_manager import Surroundings, TaskManager
from pyswarm.agent.taskdb import Contents, DropNetwork, Journal, PutNetwork, PutTask, TaskRecord
from pyswarm.agent.transitions import stopped
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Config, Network, Secret, Task, TaskState, TaskStatus, timestamp

log = get_logger("agent")

#: For a container whose task, and with it the grace period, is not known.
_GRACE_S = 10.0


class Removal(msgspec.Struct, frozen=True):
    """An object this node no longer has to know."""

    kind: str
    id: str


Assignment = Task | Network | Secret | Config | Removal


class Worker:
    """Until the first full set of assignments it only watches: what runs goes on running."""

    def __init__(
        self,
        *,
        node_id: str,
        engine: Engine,
        overlay: DataPlane,
        journal: Journal,
        clock: Clock,
        tasks: TaskGroupOwner,
        metrics: AgentMetrics,
        reports: StatusReports,
        files: TaskFiles,
    ) -> None:
        self._node_id = node_id
        self._engine = engine
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._metrics = metrics
        self._reports = reports
        self._managers: dict[str, TaskManager] = {}
        self._known_networks: set[str] = set()
        self._allowed = False
        self._engine_up = asyncio.Event()
        self._putting_in_order = asyncio.Lock()
        self._networks = NetworkKeeper(engine, overlay, clock, tasks)
        self._files = files
        self._around = Surroundings(
            engine=engine,
            networks=self._networks,
            files=files,
            journal=journal,
            clock=clock,
            metrics=metrics,
            wait_engine=self._wait_engine,
            on_status=self._status_changed,
            on_forgotten=self._forgotten,
        )

    @property
    def statuses(self) -> dict[str, TaskStatus]:
        """What was last observed of each task."""
        return {task_id: manager.record.status for task_id, manager in self._managers.items()}

    def lent_ports(self) -> set[tuple[str, int]]:
        """The ports of this host, as (protocol, number), that tasks have or are about to have."""
        ports = [port for m in self._managers.values() for port in (*m.task.ports, *m.record.status.port_status)]
        return {(p.protocol, p.published_port) for p in ports if p.publish_mode == "host"}

    # --- from the database ---

    def load(self, contents: Contents) -> None:
        """Take up what an earlier agent left. Nothing is started or stopped before ``complete``."""
        for network in contents.networks:
            self._known_networks.add(network.id)
            self._networks.know(network)
        for record in contents.records:
            self._manage(record)
            if not record.reported:
                self._reports.put(record.task.id, record.status)

    # --- from the leader ---

    async def complete(self, assignments: Iterable[Assignment]) -> None:
        """The full set: what is not in it has no place here."""
        objects = list(assignments)
        tasks = {item.id for item in objects if isinstance(item, Task)}
        networks = {item.id for item in objects if isinstance(item, Network)}
        removals = [Removal("task", task_id) for task_id in self._managers if task_id not in tasks]
        removals += [Removal("network", network_id) for network_id in self._known_networks - networks]
        files = {key_of(item) for item in objects if isinstance(item, (Secret, Config))}
        removals += [Removal(*key) for key in self._files.known - files]
        await self._apply([*objects, *removals])
        first, self._allowed = not self._allowed, True
        if first:
            log.info("first full set of assignments", tasks=len(tasks), networks=len(networks))
        if self._engine_up.is_set():
            # Not awaited: assignments must keep flowing while an engine is slow.
            self._tasks.spawn(self._put_in_order(), "put-in-order")
        else:
            self._allow()

    async def incremental(self, assignments: Iterable[Assignment]) -> None:
        """Changes since the last set."""
        await self._apply(assignments)

    async def _apply(self, assignments: Iterable[Assignment]) -> None:
        mark = 0
        new: list[TaskRecord] = []
        for item in assignments:
            match item:
                case Network():
                    self._known_networks.add(item.id)
                    self._networks.know(item)
                    mark = self._journal.save(PutNetwork(item))
                case Secret() | Config():
                    self._files.know(item)  # and the journal knows nothing of it
                case Task() if item.id in self._managers:
                    mark = self._journal.save(PutTask(self._reassign(item)))
                case Task():
                    new.append(TaskRecord(task=item, status=item.status, reported=True))
                    mark = self._journal.save(PutTask(new[-1]))
                case Removal("task", task_id):
                    self._reports.forget(task_id)
                    if (manager := self._managers.get(task_id)) is not None:
                        manager.drop()
                case Removal("network", network_id):
                    self._known_networks.discard(network_id)
                    self._networks.forget(network_id)
                    mark = self._journal.save(DropNetwork(network_id))
                case Removal("secret" | "config" as kind, object_id):
                    self._files.forget(kind, object_id)
                case Removal():
                    log.warning("unknown kind of assignment", kind=item.kind)
        # On disk before anything is done about it: a container must never be one the agent does not know.
        await self._journal.durable(mark)
        for record in new:
            self._manage(record)

    def _reassign(self, task: Task) -> TaskRecord:
        """What was observed here goes before what the managers know; they may have heard less."""
        manager = self._managers[task.id]
        manager.assign(task)
        if task.status.state.rank < manager.state.rank:
            self._reports.put(task.id, manager.record.status)
        return manager.record

    def _manage(self, record: TaskRecord) -> None:
        manager = TaskManager(record, self._around, allowed=self._allowed)
        self._managers[record.task.id] = manager
        self._count()
        self._tasks.spawn(manager.run(), f"task-{record.task.id}")

    # --- from the engine ---

    async def engine_up(self) -> None:
        """The engine is there, perhaps again: everything may have changed."""
        self._engine_up.set()
        await self._put_in_order()
        for manager in self._managers.values():
            manager.look()

    def engine_down(self) -> None:
        """The engine does not answer."""
        self._engine_up.clear()

    async def _wait_engine(self) -> None:
        await self._engine_up.wait()

    def engine_event(self, event: EngineEvent) -> None:
        """Something happened to a container."""
        if (manager := self._managers.get(event.task_id)) is not None:
            manager.look()

    async def _put_in_order(self) -> None:
        """Networks of what runs first; then, if the leader has spoken, remove what is nobody's."""
        async with self._putting_in_order:
            try:
                await self._networks.restore()
                if self._allowed:
                    self._allow()
                    await self.audit()
                    await self._networks.sweep()
            except PyswarmError as exc:
                # The engine went away; its return starts this anew.
                log.warning("cannot put this node's containers in order yet", reason=str(exc))
                self._allow()

    def _allow(self) -> None:
        if self._allowed:
            for manager in self._managers.values():
                manager.allow()

    async def audit(self) -> None:
        """Compare the containers there are with what is known of them; raises when the engine does not answer.

        Events can be lost, and a container may appear after its task was given up.
        """
        found = await self._engine.containers(self._node_id)
        there = {container.task_id: container.running for container in found}
        for task_id, manager in self._managers.items():
            if manager.state is TaskState.RUNNING and not there.get(task_id, False):
                manager.look()
        if not self._allowed:
            return
        # A container that runs keeps its files, even if it should not run.
        await self._files.sweep({container.task_id for container in found if container.running})
        for container in found:
            task = self._managers.get(container.task_id)
            if task is None:
                log.info("removing a container of no task", container=container.name, task=container.task_id)
                self._tasks.spawn(self._remove(container), f"remove-{container.name}")
            elif container.running and task.state.ended:
                # Such as one whose task was given up for orphaned while this host was away.
                log.info("stopping a container of an ended task", container=container.name)
                self._tasks.spawn(self._stop(container), f"stop-{container.name}")

    async def _remove(self, container: ContainerInfo) -> bool:
        if not await self._stop(container):
            return False
        try:
            await self._engine.remove(container.id)
        except PyswarmError as exc:
            log.warning("cannot remove a container", container=container.name, reason=str(exc))
            return False
        return True

    async def _stop(self, container: ContainerInfo) -> bool:
        try:
            await self._engine.stop(container.id, _GRACE_S)
        except PyswarmError as exc:
            log.warning("cannot stop a container", container=container.name, reason=str(exc))
            return False
        return True

    # --- from the task managers ---

    def _status_changed(self, task_id: str) -> None:
        self._reports.put(task_id, self._managers[task_id].record.status)
        self._count()

    def _forgotten(self, task_id: str) -> None:
        self._managers.pop(task_id, None)
        self._reports.forget(task_id)
        self._count()

    def _count(self) -> None:
        self._metrics.count_tasks(manager.state for manager in self._managers.values())

    def acknowledged(self, batch: Sequence[tuple[str, TaskStatus]]) -> None:
        """A manager has these statuses."""
        for task_id, status in batch:
            manager = self._managers.get(task_id)
            if manager is not None and manager.record.status is status:
                manager.record = msgspec.structs.replace(manager.record, reported=True)
                self._journal.save(PutTask(manager.record))

    # --- leaving ---

    async def remove_everything(self) -> list[str]:
        """Stop and remove all containers and networks of this node, for good; the names of those that stay."""
        self._allowed = False
        containers = await self._engine.containers(self._node_id)
        removed = await asyncio.gather(*(self._remove(container) for container in containers))
        await self._networks.leave_all()
        return [container.name for container, gone in zip(containers, removed, strict=True) if not gone]

    async def remove_files(self) -> None:
        """Remove secrets and configs from this host, whatever still uses them."""
        await self._files.remove_all()

    async def leave_overlay(self) -> None:
        """What can be removed without the engine: the devices of the overlay."""
        await self._networks.leave_overlay()

    def final_statuses(self) -> dict[str, TaskStatus]:
        """What is to be said of each task once its container was removed."""
        now = timestamp(self._clock.now())
        return {task_id: stopped(status, None, now) for task_id, status in self.statuses.items()}
