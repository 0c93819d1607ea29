"""A child process's figures on a unix socket, for the daemon to add to its own ``/metrics``."""

from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest


def new_registry(component: str) -> CollectorRegistry:
    """A registry that already has this process's CPU, memory and file figures, named after the component."""
    registry = CollectorRegistry()
    ProcessCollector(namespace=f"pyswarm_{component}", registry=registry)
    return registry


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
