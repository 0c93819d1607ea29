"""What the gateway needs of the node it runs on: the daemon implements it, the gateway is given it."""

from typing import Protocol

import msgspec

from pyswarm.common.types import ClusterSpec


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``local_state`` is Docker's LocalNodeState: inactive, pending, active or error."""

    local_state: str = "inactive"
    node_id: str = ""
    cluster_id: str = ""
    role: str = ""
    addr: str = ""
    error: str = ""
    manager_addrs: tuple[str, ...] = ()
    engine: str = ""
    certs_dir: str = ""
    version: str = ""

    @property
    def is_manager(self) -> bool:
        """Whether cluster commands can be answered through this node."""
        return self.local_state == "active" and self.role == "manager"


class InitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``swarm init``."""

    advertise_addr: str = ""
    listen_addr: str = "0.0.0.0:2377"
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    data_path_port: int = 0
    availability: str = "active"
    force_new_cluster: bool = False
    spec: ClusterSpec = ClusterSpec()
    etcd_endpoints: tuple[str, ...] = ()


class JoinOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``swarm join``."""

    remote_addrs: tuple[str, ...]
    token: str
    advertise_addr: str = ""
    listen_addr: str = "0.0.0.0:2377"
    availability: str = "active"

    def __repr__(self) -> str:
        return f"JoinOptions(remote_addrs={self.remote_addrs!r})"


class NodeControl(Protocol):
    """This node's membership. Each raises a ``PyswarmError`` whose text is for the user."""

    async def info(self) -> NodeInfo:
        """What this node is at the moment."""
        ...

    async def init(self, options: InitOptions) -> str:
        """Start a new cluster with this node as its first manager; returns the node's id."""
        ...

    async def join(self, options: JoinOptions) -> NodeInfo:
        """Join the cluster the token belongs to; returns once certified and started."""
        ...

    async def leave(self, force: bool) -> str:
        """Leave the cluster and forget it; a manager leaves only with ``force``.

        Returns a warning of what could not be removed from this host, or nothing.
        """
        ...
