"""What every handler works with, and the small things they share."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import InvalidArgument
from pyswarm.common.nodecontrol import NodeControl, NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.gateway.cluster import ClusterAccess
from pyswarm.gateway.engine import Engine
from pyswarm.gateway.ports import Control

#: The newest API that both this gateway and Debian's engine (20.10) speak.
API_VERSION = "1.41"
MIN_API_VERSION = "1.24"

try:
    VERSION = package_version("pyswarm")
except PackageNotFoundError:
    VERSION = "unknown"

T = TypeVar("T")


class Route(NamedTuple):
    """One endpoint, without version prefix."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]


class Backend:
    """The daemon, the manager and the engine, as handlers reach them."""

    def __init__(
        self, access: ClusterAccess, engine: Engine, tasks: TaskGroupOwner, clock: Clock | None = None
    ) -> None:
        self._access = access
        self._tasks = tasks
        self.engine = engine
        self.clock = clock or SystemClock()

    @property
    def node(self) -> NodeControl:
        """The daemon."""
        return self._access.node

    async def control(self, info: NodeInfo | None = None) -> Control:
        """The local manager; raises NotAManager."""
        return await self._access.control(info)

    async def reader(self, request: web.Request, info: NodeInfo | None = None) -> Control:
        """The local manager for a list; with ``stale`` in the query it answers even if nobody leads."""
        control = await self.control(info)
        return control.reading(stale=True) if flag(request, "stale") else control

    async def leave(self, force: bool) -> str:
        """Take this node out of its cluster; a warning of what could not be removed, or nothing."""
        try:
            return await self.node.leave(force)
        finally:
            self._access.forget()

    async def forward(self, request: web.Request, body: bytes | None = None) -> web.StreamResponse:
        """Let the engine answer."""
        info = await self.node.info()
        return await self.engine.forward(request, info.engine, body)

    async def to_the_end(self, coro: Coroutine[Any, Any, T], name: str) -> T:
        """Run ``coro`` even if the client goes away meanwhile: half a join is worse than an unwatched one."""
        task: asyncio.Task[T] = self._tasks.spawn(coro, name)
        return await asyncio.shield(task)


BACKEND = web.AppKey("backend", Backend)

_encode = msgspec.json.Encoder().encode


def json_response(value: Any, status: int = 200) -> web.Response:
    """Docker's JSON, which ends in a newline."""
    return web.Response(body=_encode(value) + b"\n", status=status, content_type="application/json")


def error_response(status: int, message: str) -> web.Response:
    """An error in Docker's form."""
    return json_response({"message": message}, status)


def flag(request: web.Request, name: str) -> bool:
    """A boolean of the query, as Docker reads it."""
    return request.query.get(name, "").lower() not in ("", "0", "no", "false", "none")


def version_of(request: web.Request) -> int:
    """The ``version`` that every update must name."""
    text = request.query.get("version", "")
    # Eighteen digits fit into what carries it to the manager.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidArgument(f"invalid version number '{text}'" if text else "the object's version is missing")
    return int(text)
