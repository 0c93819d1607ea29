"""What a node runs while it belongs to a cluster: agent, overlay, the registry's watch, and etcd on a manager."""

from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry

from pyswarm.agent.agent import Agent
from pyswarm.agent.engine import DockerEngine
from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import Node
from pyswarm.daemon.state import Folders, Membership
from pyswarm.overlay.api import Overlay
from pyswarm.overlay.registry.channel import RegistryTLS
from pyswarm.overlay.registry.client import EtcdClient
from pyswarm.overlay.registry.keeper import EtcdAssignment
from pyswarm.overlay.registry.runner import EtcdRunner
from pyswarm.overlay.registry.watcher import RegistryWatcher
from pyswarm.proto.v1 import dispatcher_pb2

log = get_logger("member")


class Member:
    """Runs from joining, or the daemon's start, until leaving; stops without touching containers."""

    def __init__(
        self,
        *,
        identity: TLSIdentity,
        membership: Membership,
        folders: Folders,
        engine: DockerEngine,
        clock: Clock,
        registry: CollectorRegistry,
        on_managers: Callable[[Sequence[str]], None],
        on_role: Callable[[str], None],
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self._identity = identity
        self._membership = membership
        self._on_managers = on_managers
        self._on_role = on_role
        self._overlay = Overlay(
            node_id=membership.node_id,
            underlay_addr=membership.advertise_addr,
            clock=clock,
            registry=registry,
            vxlan_port=membership.data_path_port,
            on_applied=lambda fence, asked: self._agent.applied(fence, asked=asked),
            on_failure=on_failure,
        )
        self._watcher = RegistryWatcher(
            EtcdClient((), RegistryTLS.of_identity(identity)), self._overlay.update, clock=clock, metrics=registry
        )
        self._agent = Agent(
            identity=identity,
            managers=membership.managers,
            engine=engine,
            overlay=self._overlay,
            data_dir=str(folders.agent),
            run_dir=str(folders.run),
            clock=clock,
            registry=registry,
            underlay_addr=membership.advertise_addr,
            on_session=self._session,
        )
        self._etcd = EtcdRunner(
            certs_dir=folders.certs,
            data_dir=folders.etcd,
            addr=membership.advertise_addr,
            pid_file=folders.run / "etcd.pid",
            node_id=membership.node_id,
            cluster_id=membership.cluster_id,
        )

    @property
    def agent(self) -> Agent:
        """The node's agent."""
        return self._agent

    async def start(self) -> None:
        """Start everything; the data plane first, so that containers that run already go on being reachable."""
        await self._overlay.start()
        self._watcher.start()
        await self._agent.start()

    async def stop(self) -> None:
        """Stop everything but the containers and the data plane."""
        await self._agent.stop()
        await self._watcher.stop()
        await self._overlay.stop()
        await self._etcd.stop()

    def set_identity(self, identity: TLSIdentity) -> None:
        """Use a renewed certificate from now on."""
        self._agent.set_identity(identity)
        self._watcher.set_identity(identity)

    def _session(self, message: dispatcher_pb2.SessionMessage) -> None:
        self._on_role(msgspec.msgpack.decode(message.node, type=Node).spec.role.value)
        managers = tuple(peer.addr for peer in message.managers)
        if managers:
            self._on_managers(managers)
        self._watcher.set_endpoints(tuple(message.etcd_endpoints))
        if self._membership.role == "manager":
            assignment = (
                msgspec.msgpack.decode(message.etcd_assignment, type=EtcdAssignment)
                if message.etcd_assignment
                else None
            )
            self._etcd.apply(assignment)
