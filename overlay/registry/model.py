"""The objects that the registry (etcd) holds, and the whole desired state that they make together.

Pure data: nothing here knows how it is stored or carried. Values travel as JSON, so every field is a plain type,
and every new field needs a default, because hosts of two versions read the same keys during an upgrade.
"""

import msgspec

MAX_MESH_INDEX = 4094
"""Hosts are numbered from 1 in the routing mesh; the number has twelve bits in packets' marks."""


class NodeEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host of the cluster and the address at which its VXLAN port is reached."""

    node_id: str
    hostname: str
    underlay_addr: str
    #: The host's number in the routing mesh, from 1; 0 while it has none.
    mesh_index: int = 0


class NetworkEntry(msgspec.Struct, frozen=True):
    """A cluster network: its VNI on the wire and its subnet, the same on every host."""

    network_id: str
    name: str
    vni: int
    subnet: str
    gateway: str
    mtu: int


class EndpointEntry(msgspec.Struct, frozen=True):
    """One container's place on one network: its address, its MAC, and the host it lives on.

    `endpoint_id` is the task's id. `addr` has no mask.
    """

    endpoint_id: str
    network_id: str
    addr: str
    mac: str
    node_id: str
    service_id: str = ""
    service_name: str = ""
    slot: int = 0
    ready: bool = False


class ServiceNetwork(msgspec.Struct, frozen=True):
    """A service on one network: its virtual IP there (no mask; empty with ``dnsrr``) and its other names."""

    network_id: str
    vip: str = ""
    aliases: tuple[str, ...] = ()


class PublishedPort(msgspec.Struct, frozen=True):
    """``published`` on every host leads to ``target`` of the service's ready tasks."""

    protocol: str
    published: int
    target: int


class ServiceEntry(msgspec.Struct, frozen=True):
    """What a service is reached by. ``ports`` are the ingress ones, which lead to the tasks' addresses on
    ``mesh_network_id``."""

    service_id: str
    name: str
    networks: tuple[ServiceNetwork, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    mesh_network_id: str = ""


EndpointKey = tuple[str, str]
"""(network_id, endpoint_id)"""

Fence = tuple[int, int]
"""(term, index) of the leader when it wrote: never goes back, whatever becomes of etcd."""


class SyncMark(msgspec.Struct, frozen=True):
    """Up to where the leader had written when the state was whole. ``asked``: every host is to say when it has the
    state in force, because something is to be stopped that must not be found any more."""

    fence: Fence
    asked: bool = False


class OverlayState(msgspec.Struct, frozen=True):
    """The desired state of the whole cluster's overlay, as one snapshot.

    The mappings are shared between snapshots' readers and must not be changed by any of them.
    """

    nodes: dict[str, NodeEntry] = {}
    networks: dict[str, NetworkEntry] = {}
    endpoints: dict[EndpointKey, EndpointEntry] = {}
    services: dict[str, ServiceEntry] = {}
    mark: SyncMark | None = None
