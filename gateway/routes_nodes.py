"""``/nodes``."""

from aiohttp import web

from pyswarm.gateway import filters, views
from pyswarm.gateway.backend import BACKEND, Route, flag, json_response, version_of
from pyswarm.gateway.cluster import tls_info
from pyswarm.gateway.fields import decode_json
from pyswarm.gateway.specs import node_spec


async def listing(request: web.Request) -> web.Response:
    """All nodes."""
    wanted = filters.parse(request.query.get("filters"), filters.NODES)
    control = await request.app[BACKEND].reader(request)
    tls = tls_info((await control.get_cluster()).root_ca_cert)
    return json_response([views.node(node, tls) for node in await control.list_nodes(wanted)])


async def inspect(request: web.Request) -> web.Response:
    """One node."""
    control = await request.app[BACKEND].control()
    node = await control.get_node(request.match_info["ref"])
    return json_response(views.node(node, tls_info((await control.get_cluster()).root_ca_cert)))


async def update(request: web.Request) -> web.Response:
    """Change availability, labels or role."""
    control = await request.app[BACKEND].control()
    spec = node_spec(decode_json(await request.read()))
    await control.update_node(request.match_info["ref"], version_of(request), spec)
    return web.Response()


async def remove(request: web.Request) -> web.Response:
    """Forget a node; its certificate is refused from then on."""
    control = await request.app[BACKEND].control()
    await control.remove_node(request.match_info["ref"], flag(request, "force"))
    return web.Response()


ROUTES = (
    Route("GET", "/nodes", listing),
    Route("GET", "/nodes/{ref}", inspect),
    Route("DELETE", "/nodes/{ref}", remove),
    Route("POST", "/nodes/{ref}/update", update),
)
