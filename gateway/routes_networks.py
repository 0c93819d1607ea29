"""``/networks``: the cluster's and the engine's in one list.

On each host a cluster network is also a bridge of the local engine, with a label naming the cluster network.
Those bridges are hidden behind the network they stand for, so that it shows once.
"""

from typing import Any
from urllib.parse import quote

from aiohttp import web

from pyswarm.common.errors import InvalidArgument, NotAManager, NotFound, PermissionDenied, PyswarmError
from pyswarm.common.types import Network
from pyswarm.gateway import filters, views
from pyswarm.gateway.backend import BACKEND, Backend, Route, flag, json_response
from pyswarm.gateway.fields import decode_json, not_supported
from pyswarm.gateway.ports import Control
from pyswarm.gateway.specs import network_spec

NETWORK_ID_LABEL = "com.pyswarm.network.id"
_PREDEFINED = ("bridge", "host", "none")


def standing_for(local: dict[str, Any]) -> str:
    """The id of the cluster network behind an engine's network, or empty."""
    return str((local.get("Labels") or {}).get(NETWORK_ID_LABEL, ""))


async def _control(backend: Backend) -> Control | None:
    """The manager, or None on a node that is none: then only what this host has is shown."""
    try:
        return await backend.control()
    except NotAManager:
        return None


async def _local(backend: Backend, query: str = "") -> list[dict[str, Any]]:
    info = await backend.node.info()
    found = await backend.engine.get_json(info.engine, f"/networks{query}")
    return list(found or [])


def _as_cluster(local: dict[str, Any]) -> dict[str, Any]:
    """How a worker, which cannot ask the cluster, shows the network a bridge stands for."""
    labels = {k: v for k, v in (local.get("Labels") or {}).items() if not k.startswith("com.pyswarm.")}
    return {**local, "Id": standing_for(local), "Scope": "swarm", "Driver": "overlay", "Labels": labels}


async def listing(request: web.Request) -> web.Response:
    """All networks."""
    backend = request.app[BACKEND]
    text = request.query.get("filters")
    wanted = filters.parse(text, filters.NETWORKS)
    control = await _control(backend)
    if control is not None and flag(request, "stale"):
        control = control.reading(stale=True)
    found: list[dict[str, Any]] = []
    if control is not None and "dangling" not in wanted:
        found = [views.network(n) for n in await control.list_networks(wanted)]
    query = f"?filters={quote(text)}" if text else ""
    try:
        local = await _local(backend, query)
    except PyswarmError as exc:
        if control is None or exc.http_status == 400:
            raise
        # Without its engine a manager still answers for the cluster.
        local = []
    if control is None:
        return json_response([_as_cluster(n) if standing_for(n) else n for n in local])
    return json_response([n for n in local if not standing_for(n)] + found)


async def create(request: web.Request) -> web.StreamResponse:
    """An overlay network is the cluster's, any other the engine's."""
    backend = request.app[BACKEND]
    body = await request.read()
    raw = decode_json(body)
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid network: it must be an object")
    driver, scope, name = raw.get("Driver") or "bridge", raw.get("Scope") or "", raw.get("Name") or ""
    if driver != "overlay":
        if scope == "swarm":
            raise not_supported(f"a network of scope swarm with driver {driver}")
        return await backend.forward(request, body)
    if scope not in ("", "swarm"):
        raise InvalidArgument(f"an overlay network has scope swarm, not {scope}")
    if name in _PREDEFINED:
        raise PermissionDenied(f"operation is not permitted on predefined {name} network")
    control = await backend.control()
    network = await control.create_network(network_spec(raw))
    return json_response({"Id": network.id, "Warning": ""}, 201)


async def _find(backend: Backend, ref: str, control: Control | None) -> Network | None:
    """The cluster network ``ref`` means, or None when it is the engine's or nobody's."""
    if control is None:
        return None
    try:
        network = await control.get_network(ref)
    except NotFound:
        return None
    if ref in (network.id, network.spec.name):
        return network
    # A prefix: an engine's network of exactly that name comes first.
    try:
        local = await _local(backend)
    except PyswarmError:
        return network
    return None if any(n["Name"] == ref for n in local) else network


async def inspect(request: web.Request) -> web.StreamResponse:
    """One network; a cluster's with the containers that this host's engine has on it."""
    backend = request.app[BACKEND]
    ref, scope = request.match_info["ref"], request.query.get("scope", "")
    control = await _control(backend)
    network = None if scope == "local" else await _find(backend, ref, control)
    if network is not None and control is not None:
        containers = await _containers(backend, network)
        return json_response(views.network(network, containers, await _peers(control, network)))
    if scope == "swarm":
        raise NotFound(f"network {ref} not found")
    if control is None:
        for local in await _local(backend):
            if standing_for(local) and (local["Name"] == ref or standing_for(local).startswith(ref)):
                info = await backend.node.info()
                whole = await backend.engine.get_json(info.engine, f"/networks/{local['Id']}")
                return json_response(_as_cluster(whole))
    return await backend.forward(request)


async def _containers(backend: Backend, network: Network) -> dict[str, Any] | None:
    """Containers of this host on the network; None when the host has no part in it."""
    info = await backend.node.info()
    wanted = quote(f'{{"label":["{NETWORK_ID_LABEL}={network.id}"]}}')
    try:
        for local in await _local(backend, f"?filters={wanted}"):
            if standing_for(local) != network.id:
                continue
            whole = await backend.engine.get_json(info.engine, f"/networks/{local['Id']}")
            return dict(whole.get("Containers") or {})
    except PyswarmError:
        # An engine that is away takes its containers' addresses with it, not the network.
        return None
    return None


async def _peers(control: Control, network: Network) -> list[dict[str, Any]]:
    """Nodes with a task on the network."""
    ids = {
        task.node_id
        for task in await control.list_tasks({"desired-state": ["running"]})
        if task.node_id and any(n.network_id == network.id for n in task.networks)
    }
    nodes = [node for node in await control.list_nodes() if node.id in ids]
    return [{"Name": node.id[:12], "IP": node.underlay_addr or node.status.addr} for node in nodes]


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a network."""
    backend = request.app[BACKEND]
    control = await _control(backend)
    network = await _find(backend, request.match_info["ref"], control)
    if network is None or control is None:
        await _refuse_bridge(backend, request.match_info["ref"])
        return await backend.forward(request)
    await control.remove_network(network.id)
    return web.Response(status=204)


async def _refuse_bridge(backend: Backend, ref: str) -> None:
    """A bridge that stands for a cluster network is the agent's to make and remove."""
    for local in await _local(backend):
        if standing_for(local) and (local["Name"] == ref or local["Id"].startswith(ref)):
            # Reached on a worker, or for what a manager's network left behind.
            await backend.control()
            raise PermissionDenied(f"network {ref} belongs to this node's part of a cluster network")


async def attach(request: web.Request) -> web.StreamResponse:
    """Connect or disconnect a container; not on a cluster network, whose addresses the engine may not give."""
    backend = request.app[BACKEND]
    ref = request.match_info["ref"]
    if await is_cluster_network(backend, ref):
        raise not_supported(f"network {request.match_info['action']} on cluster network {ref}")
    return await backend.forward(request)


async def is_cluster_network(backend: Backend, ref: str) -> bool:
    """Whether ``ref`` means a cluster network, to a manager or to the engine that has a bridge for it."""
    if await _find(backend, ref, await _control(backend)) is not None:
        return True
    return any(
        standing_for(local) and (local["Name"] == ref or local["Id"].startswith(ref))
        for local in await _local(backend)
    )


def _object(raw: dict[str, Any], field: str) -> dict[str, Any]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid container config: {field} must be an object")
    return value


async def create_container(request: web.Request) -> web.StreamResponse:
    """The engine's, unless it would put the container on a cluster network with an address of its own choice."""
    backend = request.app[BACKEND]
    body = await request.read()
    raw = decode_json(body)
    if isinstance(raw, dict):
        endpoints = _object(_object(raw, "NetworkingConfig"), "EndpointsConfig")
        mode = _object(raw, "HostConfig").get("NetworkMode") or ""
        if not isinstance(mode, str):
            raise InvalidArgument("invalid container config: NetworkMode must be a string")
        for name in {mode, *endpoints} - {"", "default", *_PREDEFINED}:
            if not name.startswith("container:") and await is_cluster_network(backend, name):
                raise not_supported(f"a container outside a service on cluster network {name}")
    return await backend.forward(request, body)


ROUTES = (
    Route("GET", "/networks", listing),
    Route("POST", "/networks/create", create),
    Route("GET", "/networks/{ref}", inspect),
    Route("DELETE", "/networks/{ref}", remove),
    Route("POST", "/networks/{ref}/{action:connect|disconnect}", attach),
    Route("POST", "/containers/create", create_container),
)
