"""The data plane as data: names, what a network shall be, what the kernel has, and the operations between them.

Pure, shared by the plan that decides and by the kernel door that reads and acts.
"""

import re

import msgspec

VXLAN_OVERHEAD_BYTES = 50
"""Outer IPv4, UDP and VXLAN headers and the inner Ethernet header."""

VXLAN_OVERHEAD_V6_BYTES = 70
"""The same over an IPv6 underlay."""

ALIAS_PREFIX = "pyswarm:"
"""Each VXLAN device carries ``pyswarm:<network id>`` as its alias, so that it is known again after a restart."""

_VXLAN_NAME = re.compile(r"pswv[1-9][0-9]{0,7}")
_BRIDGE_NAME = re.compile(r"pswb[1-9][0-9]{0,7}")


class LocalNetwork(msgspec.Struct, frozen=True):
    """A cluster network that this host takes part in."""

    network_id: str
    name: str
    vni: int
    subnet: str
    gateway: str
    mtu: int


def bridge_name(vni: int) -> str:
    """The bridge that the engine makes for the network with this VNI."""
    return f"pswb{vni}"


def vxlan_name(vni: int) -> str:
    """The VXLAN device of the network with this VNI."""
    return f"pswv{vni}"


def is_overlay_bridge(name: str) -> bool:
    """Whether a bridge of this name belongs to a cluster network."""
    return _BRIDGE_NAME.fullmatch(name) is not None


def is_vxlan_device(name: str) -> bool:
    """Whether a VXLAN device of this name is one of ours."""
    return _VXLAN_NAME.fullmatch(name) is not None


# --- desired ---


class Underlay(msgspec.Struct, frozen=True):
    """How this host reaches the others. ``index`` is 0 when the address sits on no usable device (loopback)."""

    addr: str
    index: int
    mtu: int

    def overlay_mtu(self) -> int:
        """The largest frame payload that fits into one packet between hosts."""
        return self.mtu - (VXLAN_OVERHEAD_V6_BYTES if ":" in self.addr else VXLAN_OVERHEAD_BYTES)


class VxlanParams(msgspec.Struct, frozen=True):
    """What is fixed when a VXLAN device is made; a device that differs must be made anew."""

    vni: int
    local: str
    port: int
    link_index: int
    learning: bool = False


class PortFlags(msgspec.Struct, frozen=True):
    """The settings of the VXLAN device as a bridge port: nothing is learned from or flooded onto the wire."""

    learning: bool = False
    flood: bool = False
    mcast_flood: bool = False
    bcast_flood: bool = False
    neigh_suppress: bool = True


class Entries(msgspec.Struct, frozen=True):
    """The addresses of a network's containers on other hosts."""

    fdb: dict[str, str]  # MAC -> underlay address of its host
    neighbours: dict[str, str]  # address -> MAC


class DesiredNetwork(msgspec.Struct, frozen=True):
    """One attached network as it shall be. ``entries`` is None when nothing is known: leave them as they are."""

    network: LocalNetwork
    vxlan: VxlanParams
    mtu: int
    entries: Entries | None
    flags: PortFlags = PortFlags()

    @property
    def bridge(self) -> str:
        """Name of the engine's bridge."""
        return bridge_name(self.network.vni)

    @property
    def device(self) -> str:
        """Name of our VXLAN device."""
        return vxlan_name(self.network.vni)

    @property
    def alias(self) -> str:
        """The mark that tells whose the VXLAN device is."""
        return ALIAS_PREFIX + self.network.network_id


# --- kernel ---


NF_TABLES = ("iptables", "ip6tables")
"""The firewalls that a bridge can send its frames through."""


class BridgeLink(msgspec.Struct, frozen=True):
    """A bridge as the kernel has it. ``nf_call`` are the tables its frames pass (`NF_TABLES`)."""

    name: str
    index: int
    up: bool
    nf_call: frozenset[str] = frozenset()


class VxlanLink(msgspec.Struct, frozen=True):
    """A VXLAN device as the kernel has it. ``flags`` is None when it is no bridge port."""

    name: str
    index: int
    params: VxlanParams
    mtu: int
    up: bool
    alias: str
    master_index: int
    flags: PortFlags | None
    mac: str = ""


class KernelNetwork(msgspec.Struct, frozen=True):
    """What the kernel has of one network.

    An FDB destination that is not exactly as we would make it begins with ``?``.
    """

    bridge: BridgeLink | None = None
    vxlan: VxlanLink | None = None
    fdb_self: dict[str, str] = {}  # MAC -> destination
    fdb_master: dict[str, bool] = {}  # MAC the bridge sends out of our port -> static, as we make it, or learned
    neighbours: dict[str, str] = {}  # permanent ones on the bridge


class Flow(msgspec.Struct, frozen=True):
    """A flow that a network namespace remembers: where its first packet was sent, and where it is led to.

    ``protocol`` is IP's number of it; ``key`` tells the kernel which flow it is.
    """

    protocol: int
    sent_to: str
    led_to: str
    answered: bool
    key: bytes = b""


# --- operations ---


class Op(msgspec.Struct, frozen=True):
    """One change. Devices are given by name: an index is known only once the device is made."""


class DeleteLink(Op, frozen=True, tag=True):
    """Remove a VXLAN device, and with it its FDB."""

    device: str


class CreateVxlan(Op, frozen=True, tag=True):
    """Make a VXLAN device, not yet a port of anything and not yet up."""

    device: str
    params: VxlanParams
    mtu: int
    alias: str
    mac: str = ""  # any, when empty


class SetLink(Op, frozen=True, tag=True):
    """Set what is not None of a device."""

    device: str
    mtu: int | None = None
    alias: str | None = None
    master: str | None = None
    up: bool | None = None


class SetPortFlags(Op, frozen=True, tag=True):
    """Set the bridge port settings of a device."""

    device: str
    flags: PortFlags


class ClearBridgeNf(Op, frozen=True, tag=True):
    """Keep an overlay bridge's frames out of iptables."""

    device: str


class PutFdbSelf(Op, frozen=True, tag=True):
    """A MAC is behind that host."""

    device: str
    mac: str
    dst: str


class DelFdbSelf(Op, frozen=True, tag=True):
    """A MAC is behind no host we know."""

    device: str
    mac: str


class PutFdbMaster(Op, frozen=True, tag=True):
    """The bridge reaches a MAC through our port."""

    device: str
    mac: str


class DelFdbMaster(Op, frozen=True, tag=True):
    """The bridge does not reach a MAC through our port."""

    device: str
    mac: str


class PutNeighbour(Op, frozen=True, tag=True):
    """An address has that MAC."""

    device: str
    addr: str
    mac: str


class DelNeighbour(Op, frozen=True, tag=True):
    """An address is on no other host."""

    device: str
    addr: str


LinkOp = DeleteLink | CreateVxlan | SetLink | SetPortFlags | ClearBridgeNf
EntryOp = PutFdbSelf | DelFdbSelf | PutFdbMaster | DelFdbMaster | PutNeighbour | DelNeighbour
AnyOp = LinkOp | EntryOp


class EntryEvent(msgspec.Struct, frozen=True):
    """The kernel's word that an entry of one of our devices came or went.

    ``key`` is a MAC for the two FDBs and an address for neighbours, ``value`` where it leads.
    """

    kind: str  # "self", "master" or "neighbour"
    present: bool
    key: str
    value: str
