"""This node's membership: initialising a cluster, joining one, leaving, and being what it is after a restart."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import version

import msgspec
from prometheus_client import CollectorRegistry

from pyswarm.agent.engine import DockerEngine
from pyswarm.agent.files import remove_leftover_files
from pyswarm.agent.leftovers import remove_leftovers
from pyswarm.common.clock import Clock
from pyswarm.common.durable import write_durably
from pyswarm.common.errors import FailedPrecondition, NotAManager, PyswarmError, Unavailable
from pyswarm.common.ids import new_id
from pyswarm.common.log import get_logger
from pyswarm.common.metrics import CurrentFigures
from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.daemon.addresses import check_listen_addr, choose_advertise_addr, host_addresses
from pyswarm.daemon.children import Child
from pyswarm.daemon.initoptions import (
    check_availability,
    check_etcd_endpoints,
    check_init_data_path_port,
    check_pools,
)
from pyswarm.daemon.joinclient import join_cluster
from pyswarm.daemon.managerprocess import POLL_S, leave_raft, leave_refusal, managers_by_reach, until_ready
from pyswarm.daemon.member import Member
from pyswarm.daemon.newcluster import new_cluster, rescued_membership
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
from pyswarm.manager.rescue import RescueOrder, has_begun

log = get_logger("node")

#: Looked up once: it is read from a file, and every request to the API asks what this node is.
_VERSION = version("pyswarm")
READY_TIMEOUT_S = 30.0
ROLE_RETRY_S = 1.0

_ALREADY_MEMBER = (
    'This node is already part of a swarm. Use "pyswarm swarm leave" to leave this swarm and join another one.'
)
_WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
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
        self._roles = TaskGroupOwner("role")
        self._wanted_role = ""
        self._following_role = False

    async def start(self) -> None:
        """Resume the membership on disk, if any."""
        self._membership = load_membership(self._folders)
        if self._membership is not None:
            await self._run(self._membership)
        else:
            await asyncio.to_thread(remove_leftover_files, self._folders.run)

    async def stop(self) -> None:
        """Stop what runs; containers and the data plane stay."""
        await self._roles.stop()
        await self._halt()
        await self._engine.close()

    async def info(self) -> NodeInfo:
        """What this node is at the moment."""
        membership = self._membership
        trouble = self._manager.trouble if self._manager is not None else ""
        here = NodeInfo(
            local_state="pending" if self._pending else "inactive",
            engine=self._engine_url,
            version=_VERSION,
            error=self._error or (f"the manager does not run: {trouble}" if trouble else ""),
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
            if options.force_new_cluster and self._membership is not None:
                return await self._force_new_cluster(self._membership, options)
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
                    identity = TLSIdentity.load(self._folders.certs)
                    raise AlreadyMember(leave_refusal(await managers_by_reach(identity, membership)))
                if self._manager is not None:
                    await leave_raft(TLSIdentity.load(self._folders.certs), membership)
            warning = ""
            if self._member is not None:
                others = [addr for addr in membership.managers if addr != membership.manager_addr]
                warning = await self._member.agent.leave(others)
            await self._halt()
            self._forget()
            log.info("left the swarm", node=membership.node_id, cluster=membership.cluster_id)
            return warning

    async def _force_new_cluster(self, membership: Membership, options: InitOptions) -> str:
        """Make this manager the only one of its swarm. Interrupted at any point, it can be asked for again."""
        if membership.role != "manager":
            raise NotAManager(_WORKER)
        rescued = rescued_membership(membership, options)
        order = RescueOrder(id=new_id(), addr=rescued.advertise_addr)
        try:
            write_durably(self._folders.rescue_order, msgspec.msgpack.encode(order))
        except OSError as exc:
            raise Unavailable(
                f"cannot write {self._folders.rescue_order}: {exc.strerror}; nothing was changed"
            ) from exc
        log.warning("making this manager the only one of its swarm", node=membership.node_id)
        await self._halt()
        try:
            save_membership(self._folders, rescued)
            self._membership = rescued
            await self._run(rescued)
            await self._rescued(membership, rescued)
        except (OSError, PyswarmError) as exc:
            if not has_begun(self._folders.manager / "raft", order):
                await self._give_up_rescue(membership)
            if isinstance(exc, OSError):
                raise Unavailable(f"cannot write {exc.filename}: {exc.strerror}; nothing was changed") from exc
            raise
        return membership.node_id

    async def _give_up_rescue(self, membership: Membership) -> None:
        """A rescue that never began leaves the node as it was: it may be one of a swarm that is well."""
        await self._halt()
        with contextlib.suppress(OSError):
            self._folders.rescue_order.unlink(missing_ok=True)
            save_membership(self._folders, membership)
        self._membership = membership
        await self._run(membership)

    async def _rescued(self, membership: Membership, rescued: Membership) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await until_ready(TLSIdentity.load(self._folders.certs), rescued, lambda: self._error)
                if rescued.advertise_addr != membership.advertise_addr and self._renewal is not None:
                    # etcd's members know one another by the address in the certificate.
                    await self._renewal.renew()
                await self._session_ready()
        except TimeoutError as exc:
            raise Unavailable(
                f"the manager did not become ready within {READY_TIMEOUT_S:g} s; it goes on trying, and the "
                "daemon's log says why"
            ) from exc

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
                    await until_ready(identity, membership, lambda: self._error)
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
                failure_file=self._folders.manager_failure,
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
            on_role=self._role_told,
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
            "--failure-file", str(self._folders.manager_failure),
            *(arg for addr in membership.managers for arg in ("--peer", addr)),
        )  # fmt: skip

    async def _session_ready(self) -> None:
        while self._member is None or not self._member.agent.connected:
            if self._error:
                raise Unavailable(self._error)
            await asyncio.sleep(POLL_S)

    def _managers_changed(self, managers: Sequence[str]) -> None:
        membership = self._membership
        if membership is None or membership.managers == tuple(managers):
            return
        self._membership = msgspec.structs.replace(membership, managers=tuple(managers))
        try:
            save_membership(self._folders, self._membership)
        except OSError as exc:
            # Kept in memory; a full disk is no reason to give up the session that brought the list.
            log.warning("the list of managers is not saved", reason=exc.strerror)

    def _renewed(self, identity: TLSIdentity) -> None:
        if self._member is not None:
            self._member.set_identity(identity)
        if self._manager is not None and identity.role == "manager":
            # Its listeners show the certificate they were started with. Managers renew at random moments, so that
            # the others go on meanwhile.
            self._manager.restart()

    def _role_told(self, role: str) -> None:
        """The leader says what this node is; a role is changed by promoting and demoting."""
        self._wanted_role = role
        if self._membership is not None and self._membership.role != role and not self._following_role:
            self._following_role = True
            self._roles.spawn(self._follow_role(), "follow")

    async def _follow_role(self) -> None:
        try:
            while not await self._settle_role():
                await self._clock.sleep(ROLE_RETRY_S)
        finally:
            self._following_role = False

    async def _settle_role(self) -> bool:
        """Become what the leader said, with a certificate that says it too. False: to be tried again."""
        async with self._changing:
            membership, role = self._membership, self._wanted_role
            if membership is None or membership.role == role or self._renewal is None:
                return True
            try:
                if role == "manager":
                    check_programs(manager=True)
                    check_ports(manager=True)
                if not await self._renewal.renew(role):
                    return False
                await self._become(msgspec.structs.replace(membership, role=role))
            except PyswarmError as exc:
                log.warning("the role does not change yet", role=role, reason=str(exc))
                return False
            log.info("the role has changed", role=role)
            return True

    async def _become(self, membership: Membership) -> None:
        """Run with another role. A manager's data is never taken up again: its log goes on without it."""
        await self._halt()
        if membership.role == "manager":
            self._remove_manager_data()
        save_membership(self._folders, membership)
        self._membership = membership
        if membership.role != "manager":
            self._remove_manager_data()
        await self._run(membership)

    def _remove_manager_data(self) -> None:
        for folder in (self._folders.manager, self._folders.etcd):
            shutil.rmtree(folder, ignore_errors=True)

    def _fatal(self, text: str) -> None:
        self._error = text
