"""The HTTP application: version prefix, Docker's headers on every answer, errors as JSON, and all routes."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.gateway import (
    routes_events,
    routes_files,
    routes_logs,
    routes_networks,
    routes_nodes,
    routes_prune,
    routes_services,
    routes_swarm,
    routes_system,
)
from pyswarm.gateway.backend import API_VERSION, BACKEND, MIN_API_VERSION, VERSION, Backend, error_response

log = get_logger("gateway")

_VERSIONED = re.compile(r"^/v(\d+)\.(\d+)(/.*)$")
_MAX_BODY_BYTES = 4 * 1024 * 1024
#: As the engine: builds have their arguments in the path, and credentials of all registries in one header.
_MAX_HEAD_BYTES = 1024 * 1024
#: First path elements the engine serves; anything else is nobody's.
_ENGINE_PATHS = frozenset(
    {
        "auth", "build", "commit", "containers", "distribution", "events", "exec", "grpc", "images", "info",
        "networks", "plugins", "session", "system", "volumes",
    }
)  # fmt: skip
_HEADERS = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"pyswarm/{VERSION} (linux)",
}

#: Everything that is served here.
_ROUTES = (
    routes_system,
    routes_swarm,
    routes_nodes,
    routes_services,
    routes_logs,
    routes_events,
    routes_networks,
    routes_prune,
    routes_files,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(backend: Backend) -> web.Application:
    """The application, answering through ``backend``."""
    # The prefix is taken off before routing, so the inner application knows each path once.
    app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY_BYTES)
    app[BACKEND] = backend
    app.on_response_prepare.append(_headers)
    for routes in _ROUTES:
        for route in routes.ROUTES:
            app.router.add_route(route.method, route.path, route.handler)
            app.router.add_route(route.method, "/v{api_major:\\d+}.{api_minor:\\d+}" + route.path, route.handler)
    app.router.add_route("*", "/{tail:.*}", _elsewhere)
    return app


def make_runner(app: web.Application, shutdown_s: float) -> web.AppRunner:
    """Serves the application; a client that goes ends its request, and bodies are passed on as they are."""
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=shutdown_s,
        auto_decompress=False,
        max_line_size=_MAX_HEAD_BYTES,
        max_field_size=_MAX_HEAD_BYTES,
    )


async def _headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        refusal = _refuse_version(request.path)
        return refusal or await handler(request)
    except PyswarmError as exc:
        return error_response(exc.http_status, str(exc))
    except web.HTTPNotFound:
        return error_response(404, "page not found")
    except web.HTTPException as exc:
        return error_response(exc.status, exc.text or exc.reason)
    except (ConnectionError, TimeoutError) as exc:
        return error_response(503, f"the request could not be completed: {exc or type(exc).__name__}")
    except Exception as exc:
        # The door to users: whatever goes wrong behind it is logged here and told without its inside.
        log.exception("request failed", method=request.method, path=request.path)
        return error_response(500, f"internal error: {type(exc).__name__}; see the log of pyswarmd")


def _refuse_version(path: str) -> web.Response | None:
    match = _VERSIONED.match(path)
    if match is None:
        return None
    asked = (int(match[1]), int(match[2]))
    shown = f"{match[1]}.{match[2]}"
    if asked > _parts(API_VERSION):
        text = f"client version {shown} is too new. Maximum supported API version is {API_VERSION}"
        return error_response(400, text)
    if asked < _parts(MIN_API_VERSION):
        return error_response(
            400,
            f"client version {shown} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version",
        )
    return None


def _parts(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    """What is not the cluster's is the engine's."""
    match = _VERSIONED.match(request.path)
    path = match[3] if match else request.path
    if path.split("/")[1] not in _ENGINE_PATHS:
        return error_response(404, "page not found")
    return await request.app[BACKEND].forward(request)
