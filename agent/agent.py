"""The agent of a node: its session, its tasks, its engine, put together."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from pyswarm.agent.applied import AppliedMark
from pyswarm.agent.dataplane import DataPlane
from pyswarm.agent.engine import DockerEngine, Engine, EngineEvent
from pyswarm.agent.files import FOLDER, FolderDoor, TaskFiles
from pyswarm.agent.goodbye import say_goodbye
from pyswarm.agent.health import EngineHealth
from pyswarm.agent.listening import ListeningPorts
from pyswarm.agent.logs import LogFeed
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.reports import StatusReports
from pyswarm.agent.session import Session
from pyswarm.agent.taskdb import Journal, TaskDB
from pyswarm.agent.tmpfs import TmpfsFolders
from pyswarm.agent.worker import Worker
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import NodeDescription, Platform, TaskStatus
from pyswarm.proto.v1 import dispatcher_pb2

log = get_logger("agent")

DATABASE = "tasks.db"
WITHDRAWN_LIMIT_S = 2.0
LINGER_S = 0.2
_LATER = "joining or initialising a swarm on this host removes them"


class Agent:
    """Runs this node's share of the cluster's tasks. Stopping it leaves the containers running."""

    def __init__(
        self,
        *,
        identity: TLSIdentity,
        managers: Sequence[str],
        engine: Engine,
        overlay: DataPlane,
        data_dir: str,
        run_dir: str,
        clock: Clock,
        registry: CollectorRegistry,
        underlay_addr: str,
        on_session: Callable[[dispatcher_pb2.SessionMessage], None],
        folders: FolderDoor | None = None,
    ) -> None:
        self._identity = identity
        self._overlay = overlay
        self._clock = clock
        self._metrics = AgentMetrics(registry)
        if isinstance(engine, DockerEngine):
            engine.set_observer(self._metrics.observe_call)
        # The journal has its own owner: it writes until all who use it have stopped.
        self._tasks = TaskGroupOwner("agent")
        self._writing = TaskGroupOwner("agent")
        self._journal = Journal(TaskDB(Path(data_dir) / DATABASE), clock, self._writing)
        self._reports = StatusReports()
        self._applied = AppliedMark()
        self._worker = Worker(
            node_id=identity.node_id,
            engine=engine,
            overlay=overlay,
            journal=self._journal,
            clock=clock,
            tasks=self._tasks,
            metrics=self._metrics,
            reports=self._reports,
            files=TaskFiles(folders or TmpfsFolders(Path(run_dir) / FOLDER), self._tasks),
        )
        self._logs = LogFeed(engine, clock)
        self._health = EngineHealth(
            engine,
            clock,
            self._metrics,
            description=_first_description(),
            on_up=self._engine_up,
            audit=self._worker.audit,
            on_down=self._worker.engine_down,
            on_event=self._engine_event,
            on_description=self._description_changed,
        )
        self._session = Session(
            identity=identity,
            managers=managers,
            underlay_addr=underlay_addr,
            describe=lambda: self.description,
            worker=self._worker,
            reports=self._reports,
            applied=self._applied,
            clock=clock,
            metrics=self._metrics,
            on_session=on_session,
            alongside=self._logs.serve,
        )
        self._listening = ListeningPorts(clock, self._worker.lent_ports, self._description_changed)
        self._started = False

    async def start(self) -> None:
        """Take up what an earlier agent left, then look for engine and leader."""
        self._worker.load(await self._journal.open())
        self._started = True
        self._tasks.spawn(self._health.run(), "engine")
        self._tasks.spawn(self._listening.run(), "listening")
        self._tasks.spawn(self._run_session(), "session")

    async def _run_session(self) -> None:
        # The first thing the leader hears should be what this host has.
        await self._health.asked()
        await self._listening.look()
        await self._session.run()

    async def stop(self) -> None:
        """End the session and close the database. Containers and networks stay as they are."""
        await self._tasks.stop()
        await self._writing.stop()
        if self._started:
            self._started = False
            await self._journal.close()
            self._metrics.close()

    async def leave(self, managers: Sequence[str]) -> str:
        """On leaving the cluster: stop and remove this node's containers and networks, and tell ``managers``.

        The agent ends with it. Returns what to warn the user of: what could not be removed, and why.
        """
        await self.stop()
        heard = await self._withdraw(managers)
        warning, statuses = "", {}
        try:
            staying = await self._worker.remove_everything()
            if staying:
                warning = f"these containers could not be removed: {', '.join(staying)}; {_LATER}"
            else:
                statuses = self._worker.final_statuses()
        except PyswarmError as exc:
            log.warning("left without removing the containers of this node", reason=str(exc))
            warning = f"containers and networks of the swarm stay on this host ({exc}); {_LATER}"
            await self._leave_overlay()
        await self._worker.remove_files()
        if heard and (reason := await say_goodbye(self._identity, managers, statuses)):
            log.warning("left without telling the managers", reason=reason)
        return warning

    async def _withdraw(self, managers: Sequence[str]) -> bool:
        """Have nobody led to this node's tasks any more before they are stopped; whether a manager heard of it."""
        if not managers:
            return False
        if reason := await say_goodbye(self._identity, managers, {}):
            log.warning("left without telling the managers", reason=reason)
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAWN_LIMIT_S):
                await self._overlay.until_withdrawn()
                # Other hosts are told at the same moment, and requests may be on their way.
                await self._clock.sleep(LINGER_S)
        return True

    async def _leave_overlay(self) -> None:
        try:
            await self._worker.leave_overlay()
        except PyswarmError as exc:
            log.warning("left without removing the overlay's devices", reason=str(exc))

    def set_identity(self, identity: TLSIdentity) -> None:
        """Use a renewed certificate."""
        self._identity = identity
        self._session.set_identity(identity)

    def applied(self, fence: tuple[int, int], *, asked: bool) -> None:
        """The data plane has in force what the leader wrote up to ``fence``; ``asked``: it wants to hear that."""
        self._applied.put(fence, asked=asked)

    @property
    def connected(self) -> bool:
        """Whether the leader hears this node."""
        return self._session.connected

    @property
    def error(self) -> str:
        """Why there is no session, or empty."""
        return self._session.error

    @property
    def description(self) -> NodeDescription:
        """What this node says about itself."""
        return msgspec.structs.replace(self._health.description, listening=self._listening.ports)

    @property
    def statuses(self) -> dict[str, TaskStatus]:
        """What was last observed of each task."""
        return self._worker.statuses

    async def _engine_up(self) -> None:
        self._logs.engine_up()
        await self._worker.engine_up()

    def _engine_event(self, event: EngineEvent) -> None:
        self._logs.engine_event(event)
        self._worker.engine_event(event)

    def _description_changed(self) -> None:
        self._session.description_changed()


def _first_description() -> NodeDescription:
    """What is known of the host without its engine."""
    system = os.uname()
    return NodeDescription(
        hostname=system.nodename,
        platform=Platform(architecture=system.machine, os=system.sysname.lower()),
        engine_error="the engine has not answered yet",
    )
