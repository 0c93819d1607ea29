"""``/metrics`` of a node: the daemon's own figures, and those of its manager and gateway beside them."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pyswarm.common.errors import Unavailable
from pyswarm.common.log import get_logger

log = get_logger("metrics")

METRICS_PORT = 9323
CHILD_TIMEOUT_S = 2.0


class MetricsServer:
    """Answers on TCP. ``children`` names the sockets of the processes whose figures are added while they run.

    No metric name is shared between processes, each being prefixed with its component, so the texts are joined.
    """

    def __init__(self, registry: CollectorRegistry, children: Callable[[], Mapping[str, Path]]) -> None:
        self._registry = registry
        self._children = children
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int = METRICS_PORT) -> None:
        """Listen; raises Unavailable when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as exc:
            await runner.cleanup()
            raise Unavailable(f"cannot serve metrics on {host}:{port}: {exc.strerror or exc}") from exc
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, _request: web.Request) -> web.Response:
        texts = [generate_latest(self._registry)]
        texts += await asyncio.gather(*(self._child(path) for path in self._children().values()))
        return web.Response(body=b"".join(texts), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _child(self, socket_path: Path) -> bytes:
        if not socket_path.exists():
            return b""
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(socket_path)),
                    timeout=aiohttp.ClientTimeout(total=CHILD_TIMEOUT_S),
                ) as session,
                session.get("http://child/metrics") as response,
            ):
                return await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, OSError, TimeoutError):
            return b""  # it is restarting: its figures are absent, as its `up` would say
