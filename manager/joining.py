"""The joining listener: hands out the root certificate, and first certificates to holders of a join token."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from pyswarm.common.clock import Clock
from pyswarm.common.errors import InvalidArgument, NotLeader, PermissionDenied, PyswarmError, Unavailable
from pyswarm.common.ids import new_id
from pyswarm.common.joining import (
    CERTIFICATE_PATH,
    ROOT_PATH,
    CertificateReply,
    CertificateRequest,
    ErrorReply,
    ManagerAddress,
    RootReply,
)
from pyswarm.common.jointoken import same_token
from pyswarm.common.log import get_logger
from pyswarm.common.text import is_hostname, one_line
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    Cluster,
    ManagerStatus,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeStatus,
)
from pyswarm.manager.allocator.meshindex import free_mesh_index
from pyswarm.manager.ca import sign_node_certificate
from pyswarm.manager.dispatcher.underlay import check_underlay_addr
from pyswarm.manager.state import Store, Transaction

log = get_logger("joining")

MAX_BODY_BYTES = 64 * 1024


class RateLimit:
    """A token bucket per client address: guessing a token is slow, a rack of hosts joining at once is not.

    At most ``max_clients`` addresses are remembered; the oldest is forgotten first.
    """

    def __init__(self, clock: Clock, per_s: float = 5.0, burst: float = 50.0, max_clients: int = 10_000) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._max_clients = max_clients
        self._buckets: dict[str, tuple[float, float]] = {}

    def allow(self, client: str) -> bool:
        """Take one from ``client``'s bucket; False when it is empty."""
        now = self._clock.monotonic()
        level, at = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        allowed = level >= 1.0
        self._buckets[client] = (level - 1.0 if allowed else level, now)
        if len(self._buckets) > self._max_clients:
            del self._buckets[next(iter(self._buckets))]
        return allowed


@dataclass(frozen=True)
class Leadership:
    """What the listener must know of Raft: whether this manager leads, and else who does (``ip:2377``)."""

    is_leader: Callable[[], bool]
    leader_addr: Callable[[], str]


class JoinServer:
    """Serves ``port``, the one after the cluster's, with this manager's certificate."""

    def __init__(self, *, identity: TLSIdentity, store: Store, leadership: Leadership, clock: Clock) -> None:
        self._identity = identity
        self._store = store
        self._leadership = leadership
        self._limit = RateLimit(clock)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises Unavailable when the port is taken."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_get(ROOT_PATH, self._root)
        app.router.add_post(CERTIFICATE_PATH, self._certificate)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(
                runner, host, port, ssl_context=self._identity.joining_context(), reuse_address=True
            ).start()
        except OSError as exc:
            await runner.cleanup()
            raise Unavailable(f"cannot listen for joining nodes on {host}:{port}: {exc.strerror or exc}") from exc
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not self._limit.allow(request.remote or ""):
            return _reply(ErrorReply("unavailable", "too many attempts from this address; wait a moment"), 429)
        try:
            return await asyncio.wait_for(asyncio.ensure_future(handler(request)), timeout=20.0)
        except NotLeader as exc:
            return _reply(ErrorReply(exc.code, str(exc), exc.leader_addr), exc.http_status)
        except PyswarmError as exc:
            return _reply(ErrorReply(exc.code, str(exc)), exc.http_status)
        except TimeoutError:
            return _reply(ErrorReply("unavailable", "the swarm could not store the new node in time"), 503)

    async def _root(self, _request: web.Request) -> web.Response:
        return _reply(RootReply(self._identity.ca_pem.decode()))

    async def _certificate(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=CertificateRequest)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidArgument("the joining request cannot be read") from exc
        if not self._leadership.is_leader():
            raise NotLeader(_join_addr(self._leadership.leader_addr()))
        cluster = self._store.view.cluster
        if cluster is None:
            raise Unavailable("this manager is still starting; try again in a moment")
        role = role_of_token(cluster, wanted.token)
        reply = await self._admit(cluster, role, wanted)
        log.info("node admitted", node=reply.node_id, role=role, hostname=wanted.hostname, addr=wanted.addr)
        return _reply(reply)

    async def _admit(self, cluster: Cluster, role: NodeRole, wanted: CertificateRequest) -> CertificateReply:
        node = new_member(wanted, role)
        # Signed before anything is stored: a request that cannot be certified must not leave a node behind.
        certificate = sign_node_certificate(
            root_cert_pem=cluster.root_ca_cert,
            root_key_pem=cluster.root_ca_key,
            csr_pem=wanted.csr_pem.encode(),
            node_id=node.id,
            role=role.value,
            cluster_id=cluster.id,
            life_s=cluster.spec.node_cert_expiry_ns / 1e9,
            addr=wanted.addr,
        )

        def add(tx: Transaction) -> None:
            tx.create(msgspec.structs.replace(node, mesh_index=free_mesh_index(tx.view)))

        await self._store.update(add, reason="node joins")
        managers = tuple(
            ManagerAddress(n.id, n.manager_status.addr)
            for n in self._store.view.nodes.managers()
            if n.manager_status is not None and n.id != node.id
        )
        return CertificateReply(
            node_id=node.id,
            role=role.value,
            cluster_id=cluster.id,
            certificate_pem=certificate.decode(),
            root_ca_pem=cluster.root_ca_cert.decode(),
            managers=managers,
            data_path_port=cluster.data_path_port,
        )


def role_of_token(cluster: Cluster, token: str) -> NodeRole:
    """Which role a join token grants; raises PermissionDenied when it grants none."""
    if same_token(token, cluster.join_tokens.manager):
        return NodeRole.MANAGER
    if same_token(token, cluster.join_tokens.worker):
        return NodeRole.WORKER
    raise PermissionDenied(
        "a valid join token is necessary to join this cluster: this one is not, or no longer, valid; "
        "print the present one with 'pyswarm swarm join-token worker' on a manager"
    )


def new_member(wanted: CertificateRequest, role: NodeRole) -> Node:
    """The node object of a host that joins; raises InvalidArgument when its name, its address, or the availability
    it is to have is none."""
    if not is_hostname(wanted.hostname):
        raise InvalidArgument(f'the joining host has no valid host name: "{one_line(wanted.hostname, 64)}"')
    check_underlay_addr(wanted.addr)
    try:
        availability = NodeAvailability(wanted.availability)
    except ValueError as exc:
        given = one_line(wanted.availability, 64)
        raise InvalidArgument(
            f'invalid availability "{given}": only active, pause and drain are supported'
        ) from exc
    return Node(
        id=new_id(),
        spec=NodeSpec(role=role, availability=availability),
        description=NodeDescription(hostname=wanted.hostname),
        status=NodeStatus(addr=wanted.addr),
        manager_status=ManagerStatus(addr=f"{wanted.addr}:2377") if role is NodeRole.MANAGER else None,
        underlay_addr=wanted.addr,
    )


def _join_addr(manager_addr: str) -> str:
    host, _, port = manager_addr.rpartition(":")
    return f"{host}:{int(port) + 1}" if host else ""


def _reply(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
