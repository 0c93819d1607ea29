"""The cluster itself: settings, join tokens, certificate authority."""

from datetime import datetime

from pyswarm.common.types.base import EPOCH, Object, Version
from pyswarm.common.types.service import SECOND_NS


class ClusterSpec(Object, frozen=True):
    """Settings a user may change; defaults are Docker's but for the heartbeat, which is 1 s."""

    name: str = "default"
    labels: dict[str, str] = {}
    task_history_limit: int = 5
    heartbeat_period_ns: int = 1 * SECOND_NS
    node_cert_expiry_ns: int = 90 * 24 * 3600 * SECOND_NS


class JoinTokens(Object, frozen=True):
    """What a node shows to become a member."""

    worker: str = ""
    manager: str = ""

    def __repr__(self) -> str:
        return "JoinTokens(...)"


class Cluster(Object, frozen=True):
    """The one cluster object. Its key material is kept out of ``repr``, so that no log line can hold it."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: ClusterSpec = ClusterSpec()
    join_tokens: JoinTokens = JoinTokens()
    root_ca_cert: bytes = b""
    root_ca_key: bytes = b""
    default_addr_pool: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    data_path_port: int = 4789
    #: When each removed node was removed: its certificate is refused from then on.
    removed_nodes: dict[str, datetime] = {}
    #: The etcd members the managers run, as ``overlay.registry`` encodes them; empty before the first.
    etcd_plan: bytes = b""
    #: Endpoints of an etcd the user runs; when given, managers run none of their own.
    etcd_endpoints: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Cluster(id={self.id!r}, version={self.version.index})"
