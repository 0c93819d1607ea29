"""Overlay networks."""

from datetime import datetime

from pyswarm.common.types.base import EPOCH, Object, Version


class IPAMConfig(Object, frozen=True):
    """A subnet the user asked for."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""


class NetworkSpec(Object, frozen=True):
    """What the user asked for."""

    name: str = ""
    labels: dict[str, str] = {}
    driver: str = "overlay"
    internal: bool = False
    attachable: bool = False
    #: The one network through which tasks without a network of their own are published.
    ingress: bool = False
    ipam: tuple[IPAMConfig, ...] = ()
    options: dict[str, str] = {}


class Network(Object, frozen=True):
    """A network as stored. ``subnet`` and ``gateway`` (no mask) and ``vni`` come from the allocator."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: NetworkSpec = NetworkSpec()
    subnet: str = ""
    gateway: str = ""
    vni: int = 0
    mtu: int = 1450
