"""``/swarm``: this node's membership and the cluster's settings and tokens."""

import asyncio

from aiohttp import web

from pyswarm.common.errors import InvalidArgument, PyswarmError
from pyswarm.common.nodecontrol import InitOptions, JoinOptions
from pyswarm.gateway import views
from pyswarm.gateway.backend import BACKEND, Backend, Route, error_response, flag, json_response, version_of
from pyswarm.gateway.cluster import tls_info
from pyswarm.gateway.fields import convert, decode_json, is_empty, not_supported
from pyswarm.gateway.specs import (
    SWARM_HARMLESS,
    SwarmInitRequest,
    SwarmJoinRequest,
    cluster_spec,
    to_cluster_spec,
)

_LISTEN_ADDR = "0.0.0.0:2377"
#: A manager that just started finds its leader within this time, or something is wrong that later calls will tell.
_SETTLE_S = 10.0


async def inspect(request: web.Request) -> web.Response:
    """The cluster, with its join tokens."""
    control = await request.app[BACKEND].control()
    cluster = await control.get_cluster()
    return json_response(views.swarm(cluster, tls_info(cluster.root_ca_cert)))


async def init(request: web.Request) -> web.Response:
    """Start a cluster on this node."""
    backend = request.app[BACKEND]
    raw = decode_json(await request.read())
    if isinstance(raw, dict) and not is_empty(raw.get("AutoLockManagers")):
        raise not_supported("AutoLockManagers")
    harmless = {f"Spec.{path}": accept for path, accept in SWARM_HARMLESS.items()}
    given = convert(raw, SwarmInitRequest, "swarm init request", harmless)
    options = InitOptions(
        advertise_addr=given.advertise_addr,
        listen_addr=given.listen_addr or _LISTEN_ADDR,
        default_addr_pool=given.default_addr_pool,
        subnet_size=given.subnet_size,
        data_path_port=given.data_path_port,
        availability=given.availability or "active",
        force_new_cluster=given.force_new_cluster,
        spec=to_cluster_spec(given.spec),
        etcd_endpoints=given.etcd_endpoints,
    )

    async def run() -> str:
        node_id = await backend.node.init(options)
        await _settled(backend)
        return node_id

    return json_response(await backend.to_the_end(run(), "swarm-init"))


async def join(request: web.Request) -> web.Response:
    """Make this node a member of a cluster."""
    backend = request.app[BACKEND]
    given = convert(decode_json(await request.read()), SwarmJoinRequest, "swarm join request")
    if not given.remote_addrs:
        raise InvalidArgument("invalid swarm join request: RemoteAddrs must name at least one manager")
    options = JoinOptions(
        remote_addrs=given.remote_addrs,
        token=given.join_token,
        advertise_addr=given.advertise_addr,
        listen_addr=given.listen_addr or _LISTEN_ADDR,
        availability=given.availability or "active",
    )

    async def run() -> None:
        await backend.node.join(options)
        await _settled(backend)

    await backend.to_the_end(run(), "swarm-join")
    return web.Response()


async def _settled(backend: Backend) -> None:
    """Wait, within limits, until this node's manager answers, so that the client's next question is answered."""
    info = await backend.node.info()
    if not info.is_manager:
        return
    try:
        async with asyncio.timeout(_SETTLE_S):
            while True:
                try:
                    await (await backend.control(info)).get_cluster()
                    return
                except PyswarmError as exc:
                    if not exc.retryable:
                        return
                await asyncio.sleep(0.1)
    except TimeoutError:
        return


async def leave(request: web.Request) -> web.Response:
    """Take this node out of its cluster."""
    backend = request.app[BACKEND]
    warning = await backend.to_the_end(backend.leave(flag(request, "force")), "swarm-leave")
    return json_response({"Warnings": [warning]}) if warning else web.Response()


async def update(request: web.Request) -> web.Response:
    """Change settings, or make new join tokens."""
    control = await request.app[BACKEND].control()
    if flag(request, "rotateManagerUnlockKey"):
        raise not_supported("rotateManagerUnlockKey")
    spec = cluster_spec(decode_json(await request.read()))
    await control.update_cluster(
        version=version_of(request),
        spec=spec,
        rotate_worker_token=flag(request, "rotateWorkerToken"),
        rotate_manager_token=flag(request, "rotateManagerToken"),
    )
    return web.Response()


async def unlock_key(request: web.Request) -> web.Response:
    """There is no automatic locking yet, hence never a key."""
    await request.app[BACKEND].control()
    return json_response({"UnlockKey": ""})


async def unlock(_request: web.Request) -> web.Response:
    """Nothing is ever locked."""
    return error_response(409, "swarm is not locked")


ROUTES = (
    Route("GET", "/swarm", inspect),
    Route("POST", "/swarm/init", init),
    Route("POST", "/swarm/join", join),
    Route("POST", "/swarm/leave", leave),
    Route("POST", "/swarm/update", update),
    Route("GET", "/swarm/unlockkey", unlock_key),
    Route("POST", "/swarm/unlock", unlock),
)
