"""This node's membership: initialising a cluster, joining one, leaving, and being what it is after a restart."""

import asyncio
import shutil
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import version

import grpc.aio
import msgspec
from prometheus_client import CollectorRegistry

from pyswarm.agent.engine import DockerEngine
from pyswarm.agent.files import remove_leftover_files
from pyswarm.agent.leftovers import remove_leftovers
from pyswarm.common.clock import Clock
from pyswarm.common.errors import FailedPrecondition, PyswarmError, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.metrics import CurrentFigures
from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeInfo
from pyswarm.common.tls import TLSIdentity, write_durably
from pyswarm.daemon.addresses import check_listen_addr, choose_advertise_addr, host_addresses
from pyswarm.daemon.children import Child
from pyswarm.daemon.initoptions import (
    check_availability,
    check_etcd_endpoints,
    check_init_data_path_port,
    check_pools,
)
from pyswarm.daemon.joinclient import join_cluster
from pyswarm.daemon.member import Member
from pyswarm.daemon.newcluster import new_cluster
from pyswarm.daemon.preflight import (
    check_data_path_port,
    check_local_address,
    check_ports,
    check_programs,
    check_root,
)
from pyswarm.daemon.renewal import CertificateRenewal
from pyswarm.daemon.state import Folders, Membership, load_membership, save_membership
from pyswarm.manager.control.validate import check_cluster
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc, raft_pb2, raft_pb2_grpc

log = get_logger("node")

#: Looked up once: it is read from a file, and every request to the API asks what this node is.
_VERSION = version("pyswarm")
READY_TIMEOUT_S = 30.0
POLL_S = 0.1

_ALREADY_MEMBER = (
    'This node is already part of a swarm. Use "pyswarm swarm leave" to leave this swarm and join another one.'
)


class AlreadyMember(FailedPrecondition):
    """Docker answers 503 when a node that is in a swarm is told to initialise or join one."""

    http_status = 503


class NodeService:
    """Implements ``common.nodecontrol.NodeControl``. One change of membership at a time."""

    def __init__(
        self,
        *,
        folders: Folders,
        engine_url: str,
        clock: Clock,
        registry: CollectorRegistry,
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self._folders = folders
        self._engine_url = engine_url
        self._on_failure = on_failure
        self._engine = DockerEngine(engine_url)
        self._clock = clock
        self._figures = CurrentFigures(registry)
        self._changing = asyncio.Lock()
        self._membership: Membership | None = None
        self._member: Member | None = None
        self._manager: Child | None = None
        self._renewal: CertificateRenewal | None = None
        self._error = ""
        self._pending = False

    async def start(self) -> None:
        """Resume the membership on disk, if any."""
        self._membership = load_membership(self._folders)
        if self._membership is not None:
            await self._run(self._membership)
        else:
            await asyncio.to_thread(remove_leftover_files, self._folders.run)

    async def stop(self) -> None:
        """Stop what runs; containers and the data plane stay."""
        await self._halt()
        await self._engine.close()

    async def info(self) -> NodeInfo:
        """What this node is at the moment."""
        membership = self._membership
        here = NodeInfo(
            local_state="pending" if self._pending else "inactive",
            engine=self._engine_url,
            version=_VERSION,
            error=self._error,
        )
        if membership is None:
            return here
        return msgspec.structs.replace(
            here,
            local_state="error" if self._error else "active",
            node_id=membership.node_id,
            cluster_id=membership.cluster_id,
            role=membership.role,
            addr=membership.advertise_addr,
            manager_addrs=membership.managers,
            certs_dir=str(self._folders.certs),
        )

    async def init(self, options: InitOptions) -> str:
        """Start a new cluster with this node as its first manager."""
        async with self._changing:
            if options.force_new_cluster:
                raise FailedPrecondition("--force-new-cluster is not supported by this version of pyswarm")
            self._refuse_member()
            check_root()
            own_etcd = not check_etcd_endpoints(options.etcd_endpoints)
            check_programs(manager=True, own_etcd=own_etcd)
            addr = choose_advertise_addr(options.advertise_addr, host_addresses())
            listen = check_listen_addr(options.listen_addr)
            check_local_address(addr, "--advertise-addr")
            check_local_address(listen.rpartition(":")[0], "--listen-addr")
            availability = check_availability(options.availability)
            check_cluster(options.spec)
            check_init_data_path_port(options.data_path_port)
            pools, subnet_size = check_pools(options.default_addr_pool, options.subnet_size)
            data_path_port = options.data_path_port or 4789
            check_ports(manager=True, own_etcd=own_etcd)
            await self._clean_host(data_path_port)
            membership, identity, bootstrap = new_cluster(
                addr, listen, availability, pools, subnet_size, data_path_port, options
            )
            self._folders.manager.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._folders.bootstrap, msgspec.msgpack.encode(bootstrap))
            await self._begin(membership, identity, founding=True)
            return membership.node_id

    async def join(self, options: JoinOptions) -> NodeInfo:
        """Join the cluster the token belongs to."""
        async with self._changing:
            self._refuse_member()
            check_root()
            addr = choose_advertise_addr(options.advertise_addr, host_addresses())
            listen = check_listen_addr(options.listen_addr)
            check_local_address(addr, "--advertise-addr")
            check_local_address(listen.rpartition(":")[0], "--listen-addr")
            check_availability(options.availability)
            # The role is in the token's secret, which only the managers can read: what a manager needs beyond a
            # worker is checked after joining would be too late, so every node must have it.
            check_programs(manager=True)
            check_ports(manager=True)
            await self._clean_host(4789)
            self._pending = True
            try:
                joined = await join_cluster(
                    options.remote_addrs,
                    options.token,
                    hostname=socket.gethostname(),
                    addr=addr,
                    availability=options.availability,
                )
            finally:
                self._pending = False
            reply = joined.reply
            membership = Membership(
                node_id=reply.node_id,
                cluster_id=reply.cluster_id,
                role=reply.role,
                advertise_addr=addr,
                listen_addr=listen,
                managers=tuple(m.addr for m in reply.managers),
                data_path_port=reply.data_path_port,
            )
            await self._begin(membership, joined.identity, founding=False)
            return await self.info()

    async def leave(self, force: bool) -> str:
        """Leave the cluster: stop its tasks here and forget it. Returns what to warn the user of."""
        async with self._changing:
            membership = self._membership
            if membership is None:
                raise AlreadyMember("This node is not part of a swarm")
            if membership.role == "manager":
                if not force:
                    raise AlreadyMember(
                        "You are attempting to leave the swarm on a node that is participating as a manager. "
                        "Removing this node leaves the swarm with one manager fewer; the last manager takes the "
                        "whole swarm with it. Use `--force` to leave all the same."
                    )
                await self._leave_raft(membership)
            warning = ""
            if self._member is not None:
                others = [addr for addr in membership.managers if addr != membership.manager_addr]
                warning = await self._member.agent.leave(others)
            await self._halt()
            self._forget()
            log.info("left the swarm", node=membership.node_id, cluster=membership.cluster_id)
            return warning

    async def _clean_host(self, data_path_port: int) -> None:
        """Remove what an earlier membership left, so that it is not in the way of a new one."""
        await self._engine.check_usable()
        await remove_leftovers(self._engine, self._folders.run)
        check_data_path_port(data_path_port)

    def _refuse_member(self) -> None:
        if self._membership is not None:
            raise AlreadyMember(_ALREADY_MEMBER)

    async def _begin(self, membership: Membership, identity: TLSIdentity, *, founding: bool) -> None:
        """Make the new membership durable, run it, and take it back when it does not start.

        A cluster that is being founded is nobody's loss; a node that was admitted to one goes on trying.
        """
        identity.save(self._folders.certs)
        save_membership(self._folders, membership)
        self._membership = membership
        try:
            await self._run(membership)
            async with asyncio.timeout(READY_TIMEOUT_S):
                if membership.role == "manager":
                    await self._manager_ready(membership, identity)
                await self._session_ready()
        except TimeoutError as exc:
            if not founding:
                raise Unavailable(
                    "Timeout was reached before node joined. The attempt to join the swarm will continue in the "
                    'background. Use the "pyswarm info" command to see the current swarm status of your node.'
                ) from exc
            await self._take_back()
            raise Unavailable(
                f"the manager did not become ready within {READY_TIMEOUT_S:g} s; the daemon's log says why"
            ) from exc
        except PyswarmError:
            await self._take_back()
            raise

    async def _take_back(self) -> None:
        await self._halt()
        self._forget()

    async def _run(self, membership: Membership) -> None:
        identity = TLSIdentity.load(self._folders.certs)
        self._error = ""
        if membership.role == "manager":
            self._manager = Child(
                "manager",
                "pyswarm.manager",
                self._manager_args,
                self._folders.run / "manager.pid",
                on_fatal=self._fatal,
            )
            self._manager.start()
        self._figures.registry = CollectorRegistry()
        self._member = Member(
            identity=identity,
            membership=membership,
            folders=self._folders,
            engine=self._engine,
            clock=self._clock,
            registry=self._figures.registry,
            on_managers=self._managers_changed,
            on_failure=self._on_failure,
        )
        await self._member.start()
        self._renewal = CertificateRenewal(
            folders=self._folders,
            managers=lambda: self._membership.managers if self._membership else (),
            clock=self._clock,
            on_renewed=self._renewed,
        )
        self._renewal.start()

    async def _halt(self) -> None:
        if self._renewal is not None:
            await self._renewal.stop()
            self._renewal = None
        if self._member is not None:
            await self._member.stop()
            self._member = None
            self._figures.registry = None
        if self._manager is not None:
            await self._manager.stop()
            self._manager = None

    def _forget(self) -> None:
        self._membership = None
        self._error = ""
        self._folders.membership.unlink(missing_ok=True)
        for folder in (self._folders.certs, self._folders.manager, self._folders.etcd, self._folders.agent):
            shutil.rmtree(folder, ignore_errors=True)

    def _manager_args(self) -> Sequence[str]:
        membership = self._membership
        if membership is None:
            return ()
        return (
            "--data-dir", str(self._folders.manager),
            "--certs-dir", str(self._folders.certs),
            "--listen", membership.listen_addr,
            "--advertise", membership.manager_addr,
            "--metrics-socket", str(self._folders.run / "manager-metrics.sock"),
            *(arg for addr in membership.managers for arg in ("--peer", addr)),
        )  # fmt: skip

    async def _manager_ready(self, membership: Membership, identity: TLSIdentity) -> None:
        async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            while True:
                if self._error:
                    raise Unavailable(self._error)
                try:
                    await stub.Get(control_pb2.GetRequest(kind="cluster"), timeout=5.0)
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(POLL_S)

    async def _session_ready(self) -> None:
        while self._member is None or not self._member.agent.connected:
            if self._error:
                raise Unavailable(self._error)
            await asyncio.sleep(POLL_S)

    async def _leave_raft(self, membership: Membership) -> None:
        """Ask the others to count this manager out, so that it does not stand in their quorum. Best effort."""
        if self._manager is None:
            return
        identity = TLSIdentity.load(self._folders.certs)
        try:
            async with identity.channel(membership.manager_addr, expect=membership.node_id) as channel:
                await raft_pb2_grpc.RaftStub(channel).Leave(raft_pb2.RaftLeaveRequest(force=True), timeout=10.0)
        except grpc.aio.AioRpcError as exc:
            log.warning("left without telling the other managers", reason=exc.details())

    def _managers_changed(self, managers: Sequence[str]) -> None:
        membership = self._membership
        if membership is None or membership.managers == tuple(managers):
            return
        self._membership = msgspec.structs.replace(membership, managers=tuple(managers))
        save_membership(self._folders, self._membership)

    def _renewed(self, identity: TLSIdentity) -> None:
        if self._member is not None:
            self._member.set_identity(identity)
        if self._manager is not None:
            # Its listeners show the certificate they were started with. Managers renew at random moments, so that
            # the others go on meanwhile.
            self._manager.restart()

    def _fatal(self, text: str) -> None:
        self._error = text
