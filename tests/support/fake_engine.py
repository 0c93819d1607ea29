"""Engines that exist only in memory: one that works, one that blocks, one that fails now and then."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from pyswarm.agent.engine import (
    Attachment,
    ContainerInfo,
    EngineError,
    EngineEvent,
    EngineUnavailable,
    FileMount,
    LogQuery,
    LogsUnreadable,
    NameConflict,
    NoSuchContainer,
    NoSuchImage,
)
from pyswarm.common.ids import new_id
from pyswarm.common.logframes import STDERR, STDOUT, epoch_text, frame, time_text
from pyswarm.common.types import EngineDescription, NodeDescription, Platform, PortConfig, Resources, Task
from pyswarm.overlay.api import LocalNetwork


class FakeEngine:
    """Keeps containers and networks as an engine does. ``calls`` is what was asked, in order."""

    def __init__(self) -> None:
        self.images = {"busybox:latest"}
        self.found: dict[str, ContainerInfo] = {}
        self.networks: dict[str, LocalNetwork] = {}
        self.node_of: dict[str, str] = {}
        self.attachments: dict[str, Sequence[Attachment]] = {}
        self.egress: dict[str, bool] = {}
        self.mounts: dict[str, Sequence[FileMount]] = {}
        #: What a container has once it runs: its address on the way out, and the ports its host lends it.
        self.egress_addr = ""
        self.lend: tuple[PortConfig, ...] = ()
        self.calls: list[str] = []
        self.up = True
        self.start_errors: dict[str, EngineError] = {}
        self.said: dict[str, list[tuple[int, bytes, bytes]]] = {}
        self.unreadable: set[str] = set()
        self._tick = 0
        self._log_bell = asyncio.Event()
        self._streams: list[asyncio.Queue[EngineEvent | None]] = []
        self._pids = iter(range(1000, 100000))

    async def _asked(self, call: str, about: str = "") -> None:
        self.calls.append(f"{call} {about}".strip())
        await asyncio.sleep(0)
        if not self.up:
            raise EngineUnavailable("cannot connect to the Docker Engine")

    def count(self, call: str) -> int:
        """How often something was asked."""
        return Counter(made.partition(" ")[0] for made in self.calls)[call]

    # --- what a test does to it ---

    def go_down(self) -> None:
        """Stop answering; containers go on."""
        self.up = False
        self._log_changed()
        for stream in self._streams:
            stream.put_nowait(None)

    def come_back(self) -> None:
        """Answer again."""
        self.up = True

    def exit(self, name: str, code: int = 0, *, error: str = "", oom_killed: bool = False) -> None:
        """The container's process ends."""
        info = self.found[name]
        self.found[name] = msgspec.structs.replace(
            info, running=False, started=True, pid=0, exit_code=code, error=error, oom_killed=oom_killed
        )
        self._happened(info.task_id, "die")

    def add(self, name: str, task_id: str, node_id: str, **state: object) -> None:
        """A container made earlier."""
        self.found[name] = ContainerInfo(id=new_id(), name=name, task_id=task_id, **state)  # type: ignore[arg-type]
        self.node_of[name] = node_id

    def say(self, name: str, text: str, stream: int = STDOUT, tick: int | None = None) -> None:
        """The container writes a line; ``tick`` is its time in ms of 2026, by default after all earlier ones."""
        self._tick = self._tick + 1 if tick is None else max(self._tick, tick)
        time = time_text(1_767_225_600 + (self._tick if tick is None else tick) / 1000)
        self.said.setdefault(name, []).append((stream, time, f"{text}\n".encode()))
        self._log_changed()

    def _log_changed(self) -> None:
        changed, self._log_bell = self._log_bell, asyncio.Event()
        changed.set()

    def _happened(self, task_id: str, action: str) -> None:
        self._log_changed()
        for stream in self._streams:
            stream.put_nowait(EngineEvent(task_id, action))

    def _name(self, reference: str) -> str:
        for name, info in self.found.items():
            if reference in (name, info.id):
                return name
        raise NoSuchContainer(reference)

    # --- the protocol ---

    async def describe(self) -> NodeDescription:
        """A host of two cores."""
        await self._asked("describe")
        return NodeDescription(
            hostname="h1",
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=2_000_000_000, memory_bytes=1 << 30),
            engine=EngineDescription(engine_version="20.10.24"),
        )

    async def ensure_image(self, image: str) -> None:
        """Only what ``images`` has."""
        await self._asked("image", image)
        if image not in self.images:
            raise NoSuchImage(image, "no route to the registry")

    async def ensure_network(self, network: LocalNetwork) -> None:
        """Remember."""
        await self._asked("network", network.name)
        self.networks[network.network_id] = network

    async def remove_network(self, network_id: str) -> None:
        """Forget."""
        await self._asked("network-remove", network_id)
        self.networks.pop(network_id, None)

    async def remove_egress(self) -> None:
        """Nothing to remove."""
        await self._asked("egress-remove")

    async def network_ids(self) -> Sequence[str]:
        """All."""
        await self._asked("networks")
        return list(self.networks)

    async def create(
        self, task: Task, attachments: Sequence[Attachment], *, egress: bool, mounts: Sequence[FileMount] = ()
    ) -> ContainerInfo:
        """Create or adopt."""
        name = task.container_name
        await self._asked("create", name)
        if name not in self.found:
            self.add(name, task.id, task.node_id)
        elif self.found[name].task_id != task.id:
            raise NameConflict(f"the container name {name} is taken")
        self.attachments[name], self.egress[name], self.mounts[name] = attachments, egress, mounts
        return self.found[name]

    async def start(self, name: str) -> None:
        """Start; what ``start_errors`` has for the name's service and slot is raised."""
        await self._asked("start", name)
        if (error := self.start_errors.get(name.rpartition(".")[0])) is not None:
            raise error
        info = self.found[self._name(name)]
        self.found[name] = msgspec.structs.replace(
            info,
            running=True,
            started=True,
            pid=next(self._pids),
            egress_addr=self.egress_addr,
            ports=self.lend,
        )
        self._happened(info.task_id, "start")

    async def inspect(self, name: str) -> ContainerInfo:
        """As it is."""
        await self._asked("inspect", name)
        return self.found[self._name(name)]

    async def stop(self, name: str, grace_s: float) -> None:
        """Ends at once, as asked."""
        await self._asked("stop", name)
        try:
            found = self._name(name)
        except NoSuchContainer:
            return
        if self.found[found].running:
            self.exit(found, 143)

    async def remove(self, name: str) -> None:
        """Gone."""
        await self._asked("remove", name)
        try:
            found = self._name(name)
        except NoSuchContainer:
            return
        info = self.found.pop(found)
        self._happened(info.task_id, "destroy")

    async def containers(self, node_id: str) -> Sequence[ContainerInfo]:
        """The node's."""
        await self._asked("containers")
        return [info for name, info in self.found.items() if self.node_of[name] == node_id]

    async def logs(self, name: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """What was said, and when following what is, until the container ends or the engine goes down."""
        await self._asked("logs", f"{name} tail={query.tail} follow={query.follow}")
        found = self._name(name)
        if found in self.unreadable:
            raise LogsUnreadable("configured logging driver does not support reading")
        said = self.said.setdefault(found, [])
        position = 0 if query.tail < 0 else max(len(said) - query.tail, 0)
        while True:
            bell = self._log_bell
            if not self.up:
                raise EngineUnavailable("the connection to the engine broke")
            new, position = said[position:], len(said)
            wanted = {s for s, asked in ((STDOUT, query.stdout), (STDERR, query.stderr)) if asked}
            frames = b"".join(
                frame(stream, time + (b"  " if query.details else b" ") + text)
                for stream, time, text in new
                if stream in wanted and (not query.since or epoch_text(time) >= query.since)
            )
            if frames:
                yield frames
                continue
            info = self.found.get(found)
            if not query.follow or info is None or not info.running:
                return
            await bell.wait()

    async def events(self, since_s: float) -> AsyncIterator[EngineEvent]:
        """Until it goes down."""
        await self._asked("events")
        stream: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._streams.append(stream)
        try:
            while (event := await stream.get()) is not None:
                yield event
        finally:
            self._streams.remove(stream)
        raise EngineUnavailable("the engine's events ended")

    async def close(self) -> None:
        """Nothing to close."""


class BlockedEngine(FakeEngine):
    """Calls named in ``blocked`` do not return until they are released."""

    def __init__(self, *blocked: str) -> None:
        super().__init__()
        self.blocked = set(blocked)
        self.waiting = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let everything through."""
        self.blocked.clear()
        self._released.set()

    async def _asked(self, call: str, about: str = "") -> None:
        await super()._asked(call, about)
        if call in self.blocked:
            self.waiting.set()
            await self._released.wait()


class FlakyEngine(FakeEngine):
    """Every call of a task fails ``times`` times for want of a connection before it works."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times
        self._failed: Counter[str] = Counter()

    async def _asked(self, call: str, about: str = "") -> None:
        await super()._asked(call, about)
        key = f"{call} {about}"
        if about and self._failed[key] < self._times:
            self._failed[key] += 1
            raise EngineUnavailable("the connection to the engine broke")
