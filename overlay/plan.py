"""From the desired state of the cluster and the state of this kernel to the operations that close the gap.

Pure, and without memory: each call looks at everything. Deltas alone would be cheaper and wrong, because an entry
that was missed once (a stale neighbour, a mapping of a container that moved) black-holes its address for good.

What a network is in the kernel, and who owns it:

* ``pswb<vni>``, a bridge, made and removed by the engine. Ours on it: the permanent neighbours, and that it is up
  and does not send frames through iptables.
* ``pswv<vni>``, the bridge's VXLAN port. Wholly ours, with every FDB entry on it.
* Each container of another host is three entries: where its MAC is (FDB ``self``), that the bridge sends the MAC
  out of this port (FDB ``master``, as the port is never flooded), and which MAC its address has (neighbour, from
  which the bridge answers ARP, so that no ARP crosses the wire).

A network the registry says nothing about (no state yet, or a registry being refilled) keeps the entries it has:
knowing nothing is no reason to cut containers off.
"""

import functools
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pyswarm.overlay.objects import (
    ALIAS_PREFIX,
    AnyOp,
    BridgeLink,
    ClearBridgeNf,
    CreateVxlan,
    DeleteLink,
    DelFdbMaster,
    DelFdbSelf,
    DelNeighbour,
    DesiredNetwork,
    Entries,
    EntryEvent,
    KernelNetwork,
    LocalNetwork,
    PutFdbMaster,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    SetPortFlags,
    Underlay,
    VxlanLink,
    VxlanParams,
    bridge_name,
    is_vxlan_device,
    vxlan_name,
)
from pyswarm.overlay.registry.model import EndpointEntry, OverlayState


@functools.lru_cache(maxsize=65536)
def normal_mac(mac: str) -> str | None:
    """A unicast MAC in lower case with colons, or None if it is not one."""
    digits = mac.lower().replace("-", ":").split(":")
    if len(digits) != 6 or not all(re.fullmatch("[0-9a-f]{2}", d) for d in digits):
        return None
    return None if int(digits[0], 16) & 1 or not any(int(d, 16) for d in digits) else ":".join(digits)


@functools.lru_cache(maxsize=65536)
def normal_addr(addr: str) -> str | None:
    """An IP address in its usual form, or None if it is not one."""
    try:
        return str(ipaddress.ip_address(addr))
    except ValueError:
        return None


@functools.lru_cache(maxsize=65536)
def normal_host(addr: str, like: str) -> str | None:
    """A host's underlay address, or None if no tunnel from ``like`` can lead there."""
    normal = normal_addr(addr)
    if normal is None or (":" in normal) != (":" in like):
        return None
    parsed = ipaddress.ip_address(normal)
    return None if parsed.is_multicast or parsed.is_unspecified else normal


@functools.lru_cache(maxsize=65536)
def _in_subnet(addr: str, subnet: str) -> bool:
    return ipaddress.ip_address(addr) in ipaddress.ip_network(subnet, strict=False)


def _holders(endpoints: Iterable[EndpointEntry], subnet: str) -> dict[str, tuple[EndpointEntry, str]]:
    """Who holds each address, with its MAC.

    Two endpoints with one address must not happen; while it does (a registry between two writes), a ready one
    goes first, and among equals the same one is chosen on every host.
    """
    holders: dict[str, tuple[EndpointEntry, str]] = {}
    for endpoint in endpoints:
        addr, mac = normal_addr(endpoint.addr), normal_mac(endpoint.mac)
        if addr is None or mac is None or ":" in addr or not _in_subnet(addr, subnet):
            continue  # an entry that no kernel would take must not keep the others out
        rival = holders.get(addr)
        if rival is None or (endpoint.ready, endpoint.endpoint_id) > (rival[0].ready, rival[0].endpoint_id):
            holders[addr] = (endpoint, mac)
    return holders


def remote_entries(
    state: OverlayState,
    endpoints: Iterable[EndpointEntry],
    network: LocalNetwork,
    node_id: str,
    underlay_addr: str,
) -> Entries | None:
    """The entries a host needs for ``network``: one per container on another, known host."""
    if network.network_id not in state.networks:
        return None
    hosts = {
        node.node_id: addr
        for node in state.nodes.values()
        if node.node_id != node_id and (addr := normal_host(node.underlay_addr, underlay_addr)) is not None
    }
    fdb: dict[str, str] = {}
    neighbours: dict[str, str] = {}
    local_macs: set[str] = set()
    for addr, (endpoint, mac) in _holders(endpoints, network.subnet).items():
        if endpoint.node_id == node_id:
            local_macs.add(mac)
        elif (host := hosts.get(endpoint.node_id)) is not None:
            # One MAC behind two hosts cannot be: the choice must at least not depend on the order of arrival.
            fdb[mac] = min(fdb.get(mac, host), host)
            neighbours[addr] = mac
    for mac in local_macs:
        fdb.pop(mac, None)
    return Entries(fdb, neighbours)


def desired_networks(
    state: OverlayState | None, attached: Iterable[LocalNetwork], node_id: str, underlay: Underlay, port: int
) -> list[DesiredNetwork]:
    """What this host shall have of each attached network. Without a state, devices but no word on entries."""
    networks = sorted(attached, key=lambda n: n.vni)
    by_network: dict[str, list[EndpointEntry]] = {n.network_id: [] for n in networks}
    if state is not None:
        for endpoint in state.endpoints.values():
            if (group := by_network.get(endpoint.network_id)) is not None:
                group.append(endpoint)
    return [
        DesiredNetwork(
            network=n,
            vxlan=VxlanParams(n.vni, underlay.addr, port, underlay.index),
            # The kernel clamps silently; asking for more than fits would never compare equal again.
            mtu=min(n.mtu, underlay.overlay_mtu()),
            entries=None
            if state is None
            else remote_entries(state, by_network[n.network_id], n, node_id, underlay.addr),
        )
        for n in networks
    ]


def plan_network(want: DesiredNetwork, have: KernelNetwork) -> list[AnyOp]:
    """The operations that bring one network to its desired state; none when it is there.

    Without the engine's bridge there is nothing to build on, and nothing is done.
    """
    if have.bridge is None:
        return []
    bridge, vxlan = have.bridge, have.vxlan
    links, fresh = _plan_links(want, bridge, vxlan)
    if vxlan is not None and vxlan.master_index != bridge.index:
        # What another bridge knows of our port does not move with it.
        have = msgspec.structs.replace(have, fdb_master={})
    if want.entries is None:
        return [*links, *_carried_over(want, have, fresh)]
    if fresh:
        have = KernelNetwork(neighbours=have.neighbours)
    return [*links, *_plan_entries(want, want.entries, have)]


def _plan_links(want: DesiredNetwork, bridge: BridgeLink, vxlan: VxlanLink | None) -> tuple[list[AnyOp], bool]:
    """Operations on the devices, and whether the VXLAN device is made anew (with an empty FDB)."""
    ops: list[AnyOp] = []
    if bridge.nf_call:
        ops.append(ClearBridgeNf(want.bridge))
    if not bridge.up:
        ops.append(SetLink(want.bridge, up=True))
    if vxlan is None or vxlan.params != want.vxlan:
        if vxlan is not None:
            ops.append(DeleteLink(want.device))
        ops += (
            CreateVxlan(want.device, want.vxlan, want.mtu, want.alias),
            SetLink(want.device, master=want.bridge),
            # Before it is up, or the first frames would be flooded and learned from.
            SetPortFlags(want.device, want.flags),
            SetLink(want.device, up=True),
        )
        return ops, True
    enslave = vxlan.master_index != bridge.index
    if enslave:
        ops.append(SetLink(want.device, master=want.bridge))
    if enslave or vxlan.flags != want.flags:
        ops.append(SetPortFlags(want.device, want.flags))
    mtu = want.mtu if vxlan.mtu != want.mtu else None
    alias = want.alias if vxlan.alias != want.alias else None
    up = None if vxlan.up else True
    if mtu is not None or alias is not None or up is not None:
        ops.append(SetLink(want.device, mtu=mtu, alias=alias, up=up))
    return ops, False


def _carried_over(want: DesiredNetwork, have: KernelNetwork, fresh: bool) -> Iterator[AnyOp]:
    """Without knowledge of the entries, those there were go on, also onto a device or bridge made anew."""
    for mac, dst in have.fdb_self.items():
        if fresh and not dst.startswith("?"):
            yield PutFdbSelf(want.device, mac, dst)
    # The bridge's own entries are lost with the device, and also when the engine makes the bridge anew.
    for mac, dst in have.fdb_self.items():
        if not dst.startswith("?") and (fresh or not have.fdb_master.get(mac, False)):
            yield PutFdbMaster(want.device, mac)


def _plan_entries(want: DesiredNetwork, entries: Entries, have: KernelNetwork) -> Iterator[AnyOp]:
    """First what must go, address before place, so that nothing is answered that cannot be reached; then the rest,
    place before address, for the same reason."""
    bridge, device = want.bridge, want.device
    for addr in have.neighbours.keys() - entries.neighbours.keys():
        yield DelNeighbour(bridge, addr)
    for mac in have.fdb_master.keys() - entries.fdb.keys():
        yield DelFdbMaster(device, mac)
    for mac in have.fdb_self.keys() - entries.fdb.keys():
        yield DelFdbSelf(device, mac)
    for mac, dst in entries.fdb.items():
        if have.fdb_self.get(mac) != dst:
            yield PutFdbSelf(device, mac, dst)
        if not have.fdb_master.get(mac, False):
            yield PutFdbMaster(device, mac)
    for addr, mac in entries.neighbours.items():
        if have.neighbours.get(addr) != mac:
            yield PutNeighbour(bridge, addr, mac)


def plan_removal(network_vni: int, have: KernelNetwork) -> list[AnyOp]:
    """Take one network's data plane away; the bridge is the engine's to remove."""
    bridge = bridge_name(network_vni)
    ops: list[AnyOp] = [DelNeighbour(bridge, addr) for addr in have.neighbours] if have.bridge is not None else []
    if have.vxlan is not None:
        ops.append(DeleteLink(have.vxlan.name))
    return ops


def stray_devices(
    links: Iterable[VxlanLink], attached: Iterable[LocalNetwork], keep_network_ids: Iterable[str]
) -> list[DeleteLink]:
    """Our VXLAN devices that belong to no network this host takes part in."""
    names = {vxlan_name(n.vni) for n in attached}
    aliases = {ALIAS_PREFIX + network_id for network_id in keep_network_ids}
    return [
        DeleteLink(link.name)
        for link in links
        # Name and mark both: a device somebody else called pswv7 is not ours to remove.
        if is_vxlan_device(link.name)
        and link.alias.startswith(ALIAS_PREFIX)
        and link.name not in names
        and link.alias not in aliases
    ]


def count_repairs(ops: Iterable[AnyOp], before: DesiredNetwork | None, want: DesiredNetwork) -> int:
    """How many operations undo what somebody else did, given what was in place when we last looked.

    A put of something that was in place was removed by another hand, and a removal of something that was not in
    place was added by one. Devices, once in place, change only by another hand or with the underlay. A device made
    anew is one repair, not one for each entry it held.
    """
    if before is None:
        return 0
    ops = list(ops)
    if any(isinstance(op, CreateVxlan) for op in ops):
        return int(before.vxlan == want.vxlan)
    if before.entries is None:
        return 0
    same_device = before.vxlan == want.vxlan and before.mtu == want.mtu
    return sum(1 for op in ops if _is_repair(op, before.entries, same_device))


def _is_repair(op: AnyOp, entries: Entries, same_device: bool) -> bool:
    match op:
        case PutFdbSelf(mac=mac, dst=dst):
            return entries.fdb.get(mac) == dst
        case PutFdbMaster(mac=mac):
            return mac in entries.fdb
        case PutNeighbour(addr=addr, mac=mac):
            return entries.neighbours.get(addr) == mac
        case DelFdbSelf(mac=mac) | DelFdbMaster(mac=mac):
            return mac not in entries.fdb
        case DelNeighbour(addr=addr):
            return addr not in entries.neighbours
        case _:
            return same_device


def contradicts(event: EntryEvent, want: Mapping[str, str]) -> bool:
    """Whether what happened is not what we want, so that there is something to repair.

    Our own changes come back as events too, and agree with what is wanted.
    """
    wanted = want.get(event.key)
    if not event.present:
        return wanted is not None
    return wanted is None or (event.kind != "master" and wanted != event.value)
