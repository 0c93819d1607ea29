"""Figures for Prometheus: a registry per process, and how a child's reach the daemon's ``/metrics``."""

from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest


def new_registry(component: str) -> CollectorRegistry:
    """A registry that already has this process's CPU, memory and file figures, named after the component."""
    registry = CollectorRegistry()
    ProcessCollector(namespace=f"pyswarm_{component}", registry=registry)
    return registry


class CurrentFigures:
    """Exports the figures of what comes and goes (a leadership, a membership), each with a registry of its own."""

    def __init__(self, parent: CollectorRegistry) -> None:
        self.registry: CollectorRegistry | None = None
        parent.register(self)

    def collect(self) -> Iterable[Metric]:
        """What Prometheus sees; nothing while there is nothing."""
        return self.registry.collect() if self.registry is not None else ()


async def serve_child_metrics(registry: CollectorRegistry, socket_path: str) -> web.AppRunner:
    """Serve a child's figures on a unix socket, for the daemon to add to its own."""
    app = web.Application()

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry))

    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    Path(socket_path).unlink(missing_ok=True)
    await web.UnixSite(runner, socket_path).start()
    return runner
