"""``/networks/prune``: what nobody uses, of this host and of the cluster.

The engine sees bridges without containers in what stands for a cluster network and in the tasks' way out; only the
cluster knows whether tasks are on their way to them, so those are kept out of the engine's pruning.
"""

from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from pyswarm.common.errors import NotAManager, PyswarmError
from pyswarm.common.types import Network
from pyswarm.gateway import filters
from pyswarm.gateway.backend import BACKEND, Backend, Route, json_response
from pyswarm.gateway.ports import Control
from pyswarm.gateway.routes_networks import NETWORK_ID_LABEL

#: Of the bridges that the agent makes and removes.
_AGENTS_LABELS = (NETWORK_ID_LABEL, "com.pyswarm.egress")


async def networks(request: web.Request) -> web.Response:
    """Remove unused networks; a worker removes its host's alone. With ``until`` those of the cluster stay."""
    backend = request.app[BACKEND]
    wanted = filters.parse(request.query.get("filters"), filters.NETWORKS_PRUNE)
    deleted: list[str] = []
    if "until" not in wanted:
        try:
            deleted = await _of_cluster(await backend.control(), wanted)
        except NotAManager:
            deleted = []
    return json_response({"NetworksDeleted": deleted + await _of_host(backend, wanted) or None})


async def _of_host(backend: Backend, wanted: dict[str, list[str]]) -> list[str]:
    kept_out = {**wanted, "label!": [*wanted.get("label!", []), *_AGENTS_LABELS]}
    query = quote(msgspec.json.encode(kept_out))
    info = await backend.node.info()
    answer: Any = await backend.engine.ask_json(info.engine, "POST", f"/networks/prune?filters={query}")
    return list((answer or {}).get("NetworksDeleted") or [])


async def _of_cluster(control: Control, wanted: dict[str, list[str]]) -> list[str]:
    used = {
        attachment.target
        for service in await control.list_services()
        for attachment in service.spec.task_template.networks
    } | {
        attachment.network_id
        for task in await control.list_tasks()
        if not task.status.state.ended
        for attachment in task.networks
    }
    deleted = []
    for network in await control.list_networks():
        if network.id in used or network.spec.ingress or not _has_labels(network, wanted):
            continue
        try:
            await control.remove_network(network.id)
        except PyswarmError:
            # Taken into use, or removed by somebody else, since the look above.
            continue
        deleted.append(network.spec.name)
    return deleted


def _has_labels(network: Network, wanted: dict[str, list[str]]) -> bool:
    labels = network.spec.labels
    return all(_has(labels, text) for text in wanted.get("label", [])) and not any(
        _has(labels, text) for text in wanted.get("label!", [])
    )


def _has(labels: dict[str, str], text: str) -> bool:
    key, has_value, value = text.partition("=")
    return key in labels and (not has_value or labels[key] == value)


ROUTES = (Route("POST", "/networks/prune", networks),)
