"""``/_ping``, ``/version`` and ``/info``: the engine's answers with the cluster's part added."""

import asyncio
import platform
from typing import Any

from aiohttp import web

from pyswarm.common.errors import PyswarmError
from pyswarm.common.nodecontrol import NodeInfo
from pyswarm.common.types import Cluster, Node
from pyswarm.gateway import views
from pyswarm.gateway.backend import (
    API_VERSION,
    BACKEND,
    MIN_API_VERSION,
    VERSION,
    Backend,
    Route,
    flag,
    json_response,
)
from pyswarm.gateway.cluster import tls_info

#: ``/info`` is what people look at when something is wrong, so it does not wait long for what is.
_CLUSTER_TIMEOUT_S = 3.0


async def ping(request: web.Request) -> web.Response:
    """Every client's first question."""
    body = None if request.method == "HEAD" else "OK"
    response = web.Response(text=body, content_type="text/plain", charset="utf-8")
    response.headers["Cache-Control"] = "no-cache, no-store, must-revalidate"
    response.headers["Pragma"] = "no-cache"
    return response


async def version(request: web.Request) -> web.Response:
    """The engine's version, with pyswarm's among the components."""
    backend = request.app[BACKEND]
    info = await backend.node.info()
    try:
        answer = dict(await backend.engine.get_json(info.engine, "/version"))
    except PyswarmError:
        answer = {
            "Version": "unknown (the engine does not answer)",
            "Os": "linux",
            "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "KernelVersion": platform.release(),
        }
    details = {"ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION}
    component = {"Name": "pyswarm", "Version": info.version or VERSION, "Details": details}
    answer["Components"] = [*answer.get("Components", []), component]
    answer["ApiVersion"] = API_VERSION
    answer["MinAPIVersion"] = MIN_API_VERSION
    return json_response(answer)


async def info(request: web.Request) -> web.Response:
    """The engine's state with the cluster's in place of its own swarm mode."""
    backend = request.app[BACKEND]
    node = await backend.node.info()
    engine, swarm = await asyncio.gather(
        _engine_info(backend, node), _swarm_info(backend, node, stale=flag(request, "stale"))
    )
    return json_response({**engine, "Swarm": swarm})


async def _engine_info(backend: Backend, node: NodeInfo) -> dict[str, Any]:
    try:
        return dict(await backend.engine.get_json(node.engine, "/info"))
    except PyswarmError as exc:
        return {"OSType": "linux", "Warnings": [f"WARNING: {exc}"]}


async def _swarm_info(backend: Backend, node: NodeInfo, *, stale: bool) -> dict[str, Any]:
    swarm: dict[str, Any] = {
        "NodeID": node.node_id,
        "NodeAddr": node.addr,
        "LocalNodeState": node.local_state,
        "ControlAvailable": node.is_manager,
        "Error": node.error,
        "RemoteManagers": [{"NodeID": "", "Addr": addr} for addr in node.manager_addrs] or None,
    }
    if not node.is_manager:
        return swarm
    try:
        cluster, nodes = await _cluster_and_nodes(backend, node, stale)
    except (PyswarmError, TimeoutError) as exc:
        swarm["Error"] = node.error or str(exc) or "the cluster does not answer"
        if stale:
            return swarm
        try:
            cluster, nodes = await _cluster_and_nodes(backend, node, stale=True)
        except (PyswarmError, TimeoutError):
            return swarm
    managers = [n for n in nodes if n.manager_status is not None]
    swarm["RemoteManagers"] = [
        {"NodeID": n.id, "Addr": n.manager_status.addr} for n in managers if n.manager_status is not None
    ]
    swarm["Nodes"] = len(nodes)
    swarm["Managers"] = len(managers)
    swarm["Cluster"] = views.cluster_info(cluster, tls_info(cluster.root_ca_cert))
    return swarm


async def _cluster_and_nodes(backend: Backend, node: NodeInfo, stale: bool) -> tuple[Cluster, list[Node]]:
    async with asyncio.timeout(_CLUSTER_TIMEOUT_S):
        control = (await backend.control(node)).reading(stale=stale, timeout_s=_CLUSTER_TIMEOUT_S)
        return await asyncio.gather(control.get_cluster(), control.list_nodes())


ROUTES = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
)
