"""Subnets and VNIs of networks: what a user may ask for, and what is chosen otherwise. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Final, NamedTuple

import msgspec

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.types import Cluster, IPAMConfig, Network, NetworkSpec
from pyswarm.manager.state.invariants import network_of
from pyswarm.manager.state.view import View

#: Left to the ingress network, as in Docker.
INGRESS_VNI: Final = 4096
FIRST_VNI: Final = 4097
LAST_VNI: Final = (1 << 24) - 1
MTU_OPTION: Final = "com.docker.network.driver.mtu"
#: A /29 has five addresses for tasks; smaller ones are hardly a network.
LONGEST_PREFIX: Final = 30
SHORTEST_PREFIX: Final = 8

_OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"


class NetworkAllocation(NamedTuple):
    """What a network is given."""

    subnet: str
    gateway: str
    vni: int


def allocate_network(view: View, network: Network) -> Network:
    """The network with its subnet, gateway, VNI and MTU; what it already has is kept. Raises InvalidArgument for a
    subnet that cannot be had, FailedPrecondition when there is none left. At most as many VNIs or subnets as there
    are networks are looked at."""
    allocation = choose_allocation(view, network.spec)
    mtu = network.spec.options.get(MTU_OPTION, "")
    return msgspec.structs.replace(
        network,
        subnet=network.subnet or allocation.subnet,
        gateway=network.gateway or allocation.gateway,
        vni=network.vni or allocation.vni,
        mtu=int(mtu) if mtu.isdecimal() else network.mtu,
    )


def choose_allocation(view: View, spec: NetworkSpec) -> NetworkAllocation:
    """What a new network of this spec would be given now; raises as ``allocate_network`` does."""
    if len(spec.ipam) > 1:
        raise InvalidArgument("a network has one subnet; more than one is not supported")
    config = spec.ipam[0] if spec.ipam else IPAMConfig()
    if config.subnet:
        subnet = check_subnet(view, config)
    elif config.gateway or config.ip_range:
        raise InvalidArgument("a gateway or an address range needs a subnet")
    else:
        subnet = _free_subnet(view, ingress=spec.ingress)
    gateway = config.gateway or str(subnet.network_address + 1)
    return NetworkAllocation(str(subnet), gateway, INGRESS_VNI if spec.ingress else _free_vni(view))


def check_subnet(view: View, config: IPAMConfig) -> IPv4Network:
    """The subnet a user asked for. Raises InvalidArgument if it, its gateway or range is malformed or taken."""
    subnet = parse_subnet(config.subnet)
    if config.ip_range:
        chosen = parse_subnet(config.ip_range, "address range", LONGEST_PREFIX + 2)
        if not chosen.subnet_of(subnet):
            raise InvalidArgument(f"invalid address range {config.ip_range}: it is not within {subnet}")
    if config.gateway:
        _check_gateway(config.gateway, subnet)
    for network in view.networks.values():
        if network.subnet and subnet.overlaps(network_of(network.subnet)):
            raise InvalidArgument(f"{_OVERLAP}: {subnet} overlaps {network.subnet} of network {network.spec.name}")
    for node in view.nodes.values():
        for addr in _addresses_of(node.underlay_addr, node.status.addr):
            if addr in subnet:
                name = node.description.hostname or node.id
                raise InvalidArgument(f"{_OVERLAP}: {subnet} contains {addr}, the address of node {name}")
    return subnet


def parse_subnet(text: str, what: str = "subnet", longest: int = LONGEST_PREFIX) -> IPv4Network:
    """An IPv4 subnet in CIDR form. Raises InvalidArgument saying what is wrong with it."""
    try:
        subnet = ip_network(text, strict=False)
    except ValueError as exc:
        raise InvalidArgument(f"invalid {what} {text}: expected an address and prefix like 10.0.9.0/24") from exc
    if not isinstance(subnet, IPv4Network):
        raise InvalidArgument(f"invalid {what} {text}: IPv6 is not supported")
    if "/" not in text:
        raise InvalidArgument(f"invalid {what} {text}: the prefix length is missing, as in {text}/24")
    if str(ip_address(text.partition("/")[0])) != str(subnet.network_address):
        raise InvalidArgument(f"invalid {what} {text}: it does not begin there; did you mean {subnet}?")
    if not SHORTEST_PREFIX <= subnet.prefixlen <= longest:
        raise InvalidArgument(
            f"invalid {what} {text}: the prefix length must be from {SHORTEST_PREFIX} to {longest}"
        )
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.network_address.is_reserved:
        raise InvalidArgument(f"invalid {what} {text}: not a range for hosts")
    return subnet


def _check_gateway(text: str, subnet: IPv4Network) -> None:
    try:
        gateway = IPv4Address(text)
    except ValueError as exc:
        raise InvalidArgument(f"invalid gateway {text}: expected an IPv4 address") from exc
    if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgument(f"invalid gateway {text}: it is not an address for a host in {subnet}")


def _free_vni(view: View) -> int:
    used = {network.vni for network in view.networks.values()}
    for vni in range(FIRST_VNI, LAST_VNI + 1):
        if vni not in used:
            return vni
    raise FailedPrecondition("no VNI is left: the cluster has as many networks as it can")


def keeps_first_subnet(cluster: Cluster | None) -> bool:
    """Whether the very first subnet of the pools is left to the ingress network, as in Docker: not where it is the
    only one of its pool."""
    pools, prefix = _pools(cluster)
    return IPv4Network(pools[0]).prefixlen < prefix


def _pools(cluster: Cluster | None) -> tuple[tuple[str, ...], int]:
    """The address pools, and the prefix length of the subnets taken from them."""
    return (("10.0.0.0/8",), 24) if cluster is None else (cluster.default_addr_pool, cluster.subnet_size)


def _free_subnet(view: View, *, ingress: bool) -> IPv4Network:
    """The first free subnet of the address pools; the very first only for the ingress network."""
    pools, prefix = _pools(view.cluster)
    taken = [network_of(n.subnet) for n in view.networks.values() if n.subnet]
    for node in view.nodes.values():
        taken += [network_of(str(addr)) for addr in _addresses_of(node.underlay_addr, node.status.addr)]
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    skip_first = keeps_first_subnet(view.cluster) and not ingress
    for text in pools:
        pool = IPv4Network(text)
        size = 1 << (32 - max(prefix, pool.prefixlen))
        start = int(pool.network_address)
        if skip_first:
            start += size
        skip_first = False
        found = _first_gap(start, int(pool.broadcast_address), size, spans)
        if found is not None:
            return IPv4Network((found, max(prefix, pool.prefixlen)))
    raise FailedPrecondition(
        f"could not find an available, non-overlapping IPv4 address pool among the defaults "
        f"({', '.join(pools)} in subnets of /{prefix}) to assign to the network"
    )


def _first_gap(start: int, last: int, size: int, spans: Iterable[tuple[int, int]]) -> int | None:
    """The first aligned run of ``size`` numbers in ``start``..``last`` that meets none of the sorted ``spans``."""
    candidate = start
    for low, high in spans:
        if high < candidate:
            continue
        if low >= candidate + size:
            break
        candidate = (high // size + 1) * size
    return candidate if candidate + size - 1 <= last else None


def _addresses_of(*texts: str) -> list[IPv4Address]:
    found: list[IPv4Address] = []
    for text in texts:
        host = text.rpartition(":")[0] if text.count(":") == 1 else text
        try:
            addr = ip_address(host)
        except ValueError:
            continue
        if isinstance(addr, IPv4Address) and not addr.is_unspecified:
            found.append(addr)
    return found
