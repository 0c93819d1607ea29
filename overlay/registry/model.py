"""The objects that the registry (etcd) holds, and the whole desired state that they make together.

Pure data: nothing here knows how it is stored or carried. Values travel as JSON, so every field is a plain type,
and every new field needs a default, because hosts of two versions read the same keys during an upgrade.
"""

import msgspec


class NodeEntry(msgspec.Struct, frozen=True):
    """A host of the cluster and the address at which its VXLAN port is reached."""

    node_id: str
    hostname: str
    underlay_addr: str


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


EndpointKey = tuple[str, str]
"""(network_id, endpoint_id)"""


class OverlayState(msgspec.Struct, frozen=True):
    """The desired state of the whole cluster's overlay, as one snapshot.

    The mappings are shared between snapshots' readers and must not be changed by any of them.
    """

    nodes: dict[str, NodeEntry] = {}
    networks: dict[str, NetworkEntry] = {}
    endpoints: dict[EndpointKey, EndpointEntry] = {}
