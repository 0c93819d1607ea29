"""``/services`` and ``/tasks``."""

from collections import defaultdict
from collections.abc import Iterable

from aiohttp import web

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.types import Network, Task
from pyswarm.gateway import filters, views
from pyswarm.gateway.backend import BACKEND, Route, flag, json_response, version_of
from pyswarm.gateway.fields import decode_json
from pyswarm.gateway.ports import Control
from pyswarm.gateway.specs import service_spec


async def listing(request: web.Request) -> web.Response:
    """All services; with ``status`` also how many of their tasks run."""
    wanted = filters.parse(request.query.get("filters"), filters.SERVICES)
    control = await request.app[BACKEND].reader(request)
    services = await control.list_services(wanted)
    if not flag(request, "status"):
        return json_response([views.service(service) for service in services])
    tasks: dict[str, list[Task]] = defaultdict(list)
    for task in await control.list_tasks({"desired-state": ["running"]}):
        tasks[task.service_id].append(task)
    return json_response([views.service(s, views.service_status(s, tasks[s.id])) for s in services])


async def create(request: web.Request) -> web.Response:
    """A new service."""
    control = await request.app[BACKEND].control()
    service = await control.create_service(service_spec(decode_json(await request.read())))
    return json_response({"ID": service.id}, 201)


async def inspect(request: web.Request) -> web.Response:
    """One service."""
    control = await request.app[BACKEND].control()
    service = await control.get_service(request.match_info["ref"])
    return json_response(views.service(service, defaults=flag(request, "insertDefaults")))


async def update(request: web.Request) -> web.Response:
    """Replace a service's spec, or go back to the previous one."""
    control = await request.app[BACKEND].control()
    rollback = request.query.get("rollback", "")
    if rollback not in ("", "previous"):
        raise InvalidArgument(f"unrecognized rollback option {rollback}")
    version = version_of(request)
    spec = service_spec(decode_json(await request.read()))
    if rollback:
        service = await control.get_service(request.match_info["ref"])
        if service.previous_spec is None:
            raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
    await control.update_service(request.match_info["ref"], version, spec, rollback=bool(rollback))
    return json_response({"Warnings": None})


async def remove(request: web.Request) -> web.Response:
    """End a service and its tasks."""
    control = await request.app[BACKEND].control()
    await control.remove_service(request.match_info["ref"])
    return web.Response()


async def tasks(request: web.Request) -> web.Response:
    """Tasks; a filter may name this node ``self``."""
    backend = request.app[BACKEND]
    wanted = filters.parse(request.query.get("filters"), filters.TASKS)
    info = await backend.node.info()
    control = await backend.reader(request, info)
    if "node" in wanted:
        wanted["node"] = [info.node_id if ref == "self" else ref for ref in wanted["node"]]
    found = await control.list_tasks(wanted)
    networks = await _networks(control, found)
    return json_response([views.task(task, networks) for task in found])


async def task(request: web.Request) -> web.Response:
    """One task."""
    control = await request.app[BACKEND].control()
    found = await control.get_task(request.match_info["ref"])
    return json_response(views.task(found, await _networks(control, [found])))


async def _networks(control: Control, found: Iterable[Task]) -> dict[str, Network]:
    if not any(task.networks for task in found):
        return {}
    return {network.id: network for network in await control.list_networks()}


ROUTES = (
    Route("GET", "/services", listing),
    Route("POST", "/services/create", create),
    Route("GET", "/services/{ref}", inspect),
    Route("POST", "/services/{ref}/update", update),
    Route("DELETE", "/services/{ref}", remove),
    Route("GET", "/tasks", tasks),
    Route("GET", "/tasks/{ref}", task),
)
