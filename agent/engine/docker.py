"""A real Docker Engine behind the agent's protocol."""

import asyncio
import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from pyswarm.agent.engine import networks
from pyswarm.agent.engine.api import (
    NODE_LABEL,
    OURS_LABEL,
    TASK_LABEL,
    Attachment,
    ContainerInfo,
    EngineEvent,
    FileMount,
    LogQuery,
)
from pyswarm.agent.engine.client import EngineClient, EngineRefusal, Observe
from pyswarm.agent.engine.config import container_config, endpoint, lent_ports
from pyswarm.agent.engine.errors import (
    EngineError,
    EngineUnavailable,
    NameConflict,
    NativeSwarmActive,
    NoSuchContainer,
    NoSuchImage,
)
from pyswarm.agent.engine.logs import EngineLogs
from pyswarm.common.types import EngineDescription, NodeDescription, Platform, Resources, Task
from pyswarm.overlay.api import LocalNetwork

#: More at once only fight over the host's cores, and every one of them becomes late.
PARALLEL_STARTS = 4
PING_LIMIT_S = 5.0
START_LIMIT_S = 120.0
STOP_EXTRA_S = 30.0
#: A pull ends when nothing arrives for this long, however long it takes in all.
PULL_SILENCE_S = 30.0
_NEVER = "0001-01-01T00:00:00Z"


class DockerEngine:
    """The engine at ``url``. Connects at the first call; a restarted engine needs no new object."""

    def __init__(self, url: str, *, pull_silence_s: float = PULL_SILENCE_S) -> None:
        self._client = EngineClient(url)
        self._logs = EngineLogs(self._client)
        self._pull_silence_s = pull_silence_s
        self._starting = asyncio.Semaphore(PARALLEL_STARTS)
        self._creating = asyncio.Semaphore(PARALLEL_STARTS)
        self._networks = networks.LocalNetworks(self._client)
        self._pulls: dict[str, asyncio.Lock] = {}

    def set_observer(self, observe: Observe) -> None:
        """Have each call's name and seconds told to ``observe``."""
        self._client.observe = observe

    async def describe(self) -> NodeDescription:
        """Host and engine. The name is the host's own, as in Docker."""
        await self._client.negotiate(limit_s=PING_LIMIT_S)
        info = await self._info()
        return NodeDescription(
            hostname=os.uname().nodename,
            platform=Platform(architecture=str(info.get("Architecture", "")), os=str(info.get("OSType", "linux"))),
            resources=Resources(
                nano_cpus=int(info.get("NCPU", 0)) * 1_000_000_000, memory_bytes=int(info.get("MemTotal", 0))
            ),
            engine=EngineDescription(
                engine_version=str(info.get("ServerVersion", "")),
                labels=dict(label.partition("=")[::2] for label in info.get("Labels") or ()),
            ),
        )

    async def check_usable(self) -> None:
        """Raise, in words for the user, when this engine cannot serve a pyswarm node."""
        await self._client.negotiate(limit_s=PING_LIMIT_S)
        info = await self._info()
        state = (info.get("Swarm") or {}).get("LocalNodeState", "inactive")
        if state not in ("", "inactive"):
            raise NativeSwarmActive(
                f"the engine on this host is part of Docker's own swarm (state {state}); "
                "leave it first with 'docker swarm leave' on that engine, then try again"
            )

    async def _info(self) -> Mapping[str, Any]:
        async with self._client.call("info", limit_s=PING_LIMIT_S):
            return await self._client.docker.system.info()

    # --- images ---

    async def ensure_image(self, image: str) -> None:
        """Look first; ask a registry only if it is not there. One pull of an image at a time."""
        async with self._pulls.setdefault(image, asyncio.Lock()):
            if await self._has_image(image):
                return
            try:
                await self._pull(image)
            except EngineRefusal as exc:
                raise NoSuchImage(image, str(exc)) from exc
            if not await self._has_image(image):
                raise NoSuchImage(image, "the registry gave something else")

    async def _has_image(self, image: str) -> bool:
        try:
            async with self._client.call("image_inspect"):
                await self._client.docker.images.inspect(image)
        except EngineRefusal as exc:
            if exc.status == 404:
                return False
            raise
        return True

    async def _pull(self, image: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._client.call("image_pull", limit_s=24 * 3600.0):
                async with asyncio.timeout(self._pull_silence_s) as silence:
                    async for _progress in self._client.docker.images.pull(image, stream=True):
                        silence.reschedule(loop.time() + self._pull_silence_s)
        except EngineUnavailable as exc:
            if isinstance(exc.__cause__, TimeoutError):
                reason = f"no answer from the registry for {self._pull_silence_s:g} s"
                raise NoSuchImage(image, reason) from exc
            raise

    # --- networks ---

    async def ensure_network(self, network: LocalNetwork) -> None:
        """Have the local bridge network of a cluster network."""
        await self._networks.ensure(network)

    async def remove_network(self, network_id: str) -> None:
        """Remove it; none is fine."""
        await self._networks.remove(network_id)

    async def remove_egress(self) -> None:
        """Remove the bridge that leads out of the host; none is fine."""
        await self._networks.remove_egress()

    async def network_ids(self) -> Sequence[str]:
        """The cluster networks that have a local network here."""
        return await self._networks.ids()

    # --- containers ---

    async def create(
        self, task: Task, attachments: Sequence[Attachment], *, egress: bool, mounts: Sequence[FileMount] = ()
    ) -> ContainerInfo:
        """Create, connect in order; the way out comes last."""
        name = task.container_name
        async with self._creating:
            try:
                await self._create(task, attachments, mounts)
                created = True
            except EngineRefusal as exc:
                if exc.status == 404 and "no such image" in str(exc).lower():
                    raise NoSuchImage(task.spec.container_spec.image) from exc
                if exc.status != 409:
                    raise
                created = False
            shown = await self._show(name)
            if not created and _info_of(shown).task_id != task.id:
                raise NameConflict(f"the container name {name} is taken by a container of something else")
            info = _info_of(shown)
            if info.started:
                return info  # from an earlier try: its networks were complete before it was started
            try:
                await self._connect(info.id, set(shown["NetworkSettings"]["Networks"]), attachments, egress)
            except EngineUnavailable:
                raise
            except EngineError:
                await self.remove(name)
                raise
            return info

    async def _create(self, task: Task, attachments: Sequence[Attachment], mounts: Sequence[FileMount]) -> None:
        async with self._client.call("container_create"):
            config = container_config(task, attachments, self._client.api, mounts)
            await self._client.docker.containers.create(config, name=task.container_name)

    async def _connect(
        self, container_id: str, present: set[str], attachments: Sequence[Attachment], egress: bool
    ) -> None:
        for attachment in attachments:
            if attachment.network.name not in present:
                settings = endpoint(attachment, self._client.api)
                await self._networks.connect(attachment.network.name, container_id, settings)
        if attachments and egress and networks.EGRESS not in present:
            await self._networks.ensure_egress()
            await self._networks.connect(networks.EGRESS, container_id, {})

    def _container(self, name: str) -> DockerContainer:
        return self._client.docker.containers.container(name)

    async def start(self, name: str) -> None:
        """Start a container, when it is its turn."""
        async with self._starting:
            try:
                async with self._client.call("container_start", limit_s=START_LIMIT_S):
                    await self._container(name).start()
            except EngineRefusal as exc:
                raise _container_error(exc, name) from exc

    async def _show(self, name: str) -> Mapping[str, Any]:
        try:
            async with self._client.call("container_inspect"):
                return await self._container(name).show()
        except EngineRefusal as exc:
            raise _container_error(exc, name) from exc

    async def inspect(self, name: str) -> ContainerInfo:
        """The container as it is now."""
        return _info_of(await self._show(name))

    async def stop(self, name: str, grace_s: float) -> None:
        """Its stop signal, then after the grace period SIGKILL; returns when it has ended."""
        try:
            async with self._client.call("container_stop", limit_s=grace_s + STOP_EXTRA_S):
                await self._container(name).stop(t=math.ceil(grace_s))
        except EngineRefusal as exc:
            if exc.status != 404:
                raise

    async def remove(self, name: str) -> None:
        """Remove with its anonymous volumes."""
        try:
            async with self._client.call("container_remove"):
                await self._container(name).delete(force=True, v=True)
        except EngineRefusal as exc:
            # 409: another removal of it is under way.
            if exc.status not in (404, 409):
                raise

    async def containers(self, node_id: str) -> Sequence[ContainerInfo]:
        """Listed by label. The list tells who runs, but no exit codes."""
        return await self._listed(f"{NODE_LABEL}={node_id}", TASK_LABEL)

    async def all_of_ours(self) -> Sequence[ContainerInfo]:
        """Every container pyswarm made for a task, of whichever node: on a host in no swarm, what is left over."""
        return await self._listed(OURS_LABEL, TASK_LABEL)

    async def _listed(self, *labels: str) -> Sequence[ContainerInfo]:
        filters = {"label": list(labels)}
        async with self._client.call("container_list"):
            found = await self._client.docker.containers.list(all=True, filters=json.dumps(filters))
        return [_info_of_listed(container) for container in found]

    async def events(self, since_s: float) -> AsyncIterator[EngineEvent]:
        """The engine's own event stream, narrowed to what ends, starts or removes a task's container."""
        names = ["die", "start", "destroy", "oom"]
        filters = {"type": ["container"], "event": names, "label": [TASK_LABEL]}
        stream = self._client.docker.events
        subscriber: Any = stream.subscribe(create_task=False)  # type: ignore[no-untyped-call]
        running = asyncio.ensure_future(stream.run(filters=json.dumps(filters), since=f"{since_s:.6f}"))
        try:
            while (event := await subscriber.get()) is not None:
                actor = event.get("Actor") or {}
                task_id = (actor.get("Attributes") or {}).get(TASK_LABEL, "")
                if task_id:
                    yield EngineEvent(task_id, str(event.get("Action", "")))
            await running
        except DockerError as exc:
            raise EngineUnavailable(f"the engine's events ended: {exc.message}") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise EngineUnavailable("the engine's events broke off; is the engine running?") from exc
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        raise EngineUnavailable("the engine's events ended")

    def logs(self, name: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """On connections of their own."""
        return self._logs.read(name, query)

    async def close(self) -> None:
        """Close every connection."""
        await self._logs.close()
        await self._client.close()


def _container_error(exc: EngineRefusal, name: str) -> EngineError:
    if exc.status == 404 and "no such container" in str(exc).lower():
        return NoSuchContainer(name)
    return exc


def _info_of(shown: Mapping[str, Any]) -> ContainerInfo:
    state = shown.get("State") or {}
    network = shown.get("NetworkSettings") or {}
    attached = network.get("Networks") or {}
    return ContainerInfo(
        id=str(shown.get("Id", "")),
        name=str(shown.get("Name", "")).lstrip("/"),
        task_id=str(((shown.get("Config") or {}).get("Labels") or {}).get(TASK_LABEL, "")),
        running=bool(state.get("Running")),
        # A failed start leaves the status "created" with an exit code and an error.
        started=state.get("StartedAt", _NEVER) != _NEVER or bool(state.get("Error")),
        pid=int(state.get("Pid") or 0),
        egress_addr=str((attached.get(networks.EGRESS) or {}).get("IPAddress") or ""),
        ports=lent_ports(network.get("Ports") or {}),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
    )


def _info_of_listed(container: DockerContainer) -> ContainerInfo:
    names: Sequence[str] = container["Names"] or ("",)
    return ContainerInfo(
        id=container.id,
        name=names[0].lstrip("/"),
        task_id=str(container["Labels"].get(TASK_LABEL, "")),
        running=container["State"] in ("running", "paused", "restarting"),
    )
