"""What the agent asks of an engine: a small protocol, so that tests put a double in its place."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

import msgspec

from pyswarm.common.types import NodeDescription, PortConfig, Task
from pyswarm.overlay.api import LocalNetwork

NODE_LABEL = "com.docker.swarm.node.id"
TASK_LABEL = "com.docker.swarm.task.id"
NETWORK_LABEL = "com.pyswarm.network.id"
#: Docker's own swarm labels its containers too; this one tells which are pyswarm's.
OURS_LABEL = "com.pyswarm.task"


class Attachment(msgspec.Struct, frozen=True):
    """An address of a container in a network: ``addr`` without mask; ``mac`` may be empty."""

    network: LocalNetwork
    addr: str
    mac: str = ""


class FileMount(msgspec.Struct, frozen=True):
    """A file or folder of this host that the container sees at ``target``, and cannot change."""

    source: str
    target: str


class ContainerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the engine last knew it. ``started``: its process has run, or was tried, at least once.

    ``egress_addr`` is its address on the way out of the host, from which it asks for names; empty without one.
    ``ports`` are those the host lends it, while it runs.
    """

    id: str
    name: str
    task_id: str
    running: bool = False
    started: bool = False
    pid: int = 0
    egress_addr: str = ""
    ports: tuple[PortConfig, ...] = ()
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""


class EngineEvent(msgspec.Struct, frozen=True):
    """Something happened to a container of a task."""

    task_id: str
    action: str


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What of a log is wanted. Times are seconds[.nanoseconds] of the epoch, or empty; ``tail`` -1 is all."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since: str = ""
    until: str = ""
    tail: int = -1
    details: bool = False
    tty: bool = False


class Engine(Protocol):
    """A Docker Engine. Each call raises ``EngineError``; a retryable one when the engine cannot be reached."""

    async def describe(self) -> NodeDescription:
        """What the host is, as far as the engine knows it; also how to ask whether the engine is there."""
        ...

    async def ensure_image(self, image: str) -> None:
        """Have the image on this host; asks a registry only when it is not. Raises NoSuchImage."""
        ...

    async def ensure_network(self, network: LocalNetwork) -> None:
        """Have the local bridge network of a cluster network. Raises NameConflict."""
        ...

    async def remove_network(self, network_id: str) -> None:
        """Remove the local network of a cluster network; none is fine. Fails while a container runs on it."""
        ...

    async def remove_egress(self) -> None:
        """Remove the way out of the host, which the next container that needs it brings back; none is fine."""
        ...

    async def network_ids(self) -> Sequence[str]:
        """The cluster networks that have a local network here."""
        ...

    async def create(
        self, task: Task, attachments: Sequence[Attachment], *, egress: bool, mounts: Sequence[FileMount] = ()
    ) -> ContainerInfo:
        """Have the task's container, attached to its networks and not started; adopts the one of an earlier try.

        ``egress``: also attach it to the way out of the host, if it has overlay networks. Raises NameConflict
        when the name belongs to a container of something else.
        """
        ...

    async def start(self, name: str) -> None:
        """Start a container. At most a few start at the same time."""
        ...

    async def inspect(self, name: str) -> ContainerInfo:
        """The container as it is now. Raises NoSuchContainer."""
        ...

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask it to end, and end it after ``grace_s`` seconds. One that does not run or exist is fine."""
        ...

    async def remove(self, name: str) -> None:
        """Remove a container, running or not; none is fine."""
        ...

    async def containers(self, node_id: str) -> Sequence[ContainerInfo]:
        """Every container made for a task of this node: which, and whether it runs; no exit codes."""
        ...

    def events(self, since_s: float) -> AsyncIterator[EngineEvent]:
        """What happens to tasks' containers, from ``since_s`` (epoch) on. Raises EngineUnavailable at its end."""
        ...

    def logs(self, name: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """A container's log in frames, to its present end or, when following, until the container ends.

        Raises NoSuchContainer, LogsUnreadable, and EngineUnavailable when the connection breaks.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
