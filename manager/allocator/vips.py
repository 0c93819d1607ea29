"""A service's own address on each of its networks. Pure.

Tasks get their addresses from the beginning of a network's range; virtual IPs come from its end, so that the two,
which are chosen at different moments, seldom want the same one. Nor should services that are created at the same
moment, nor one that is created just when another's address is free again while clients may still know that by its
former name: so each service begins to look at a place of its own.
"""

import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from pyswarm.common.errors import FailedPrecondition
from pyswarm.common.types import Network, Service, VirtualIP
from pyswarm.manager.state.view import View

#: The last addresses of a subnet, which the engines keep for what they would allocate themselves, come last.
_ENGINE_SLICE = 4
#: Among how many addresses the places where services begin to look are spread.
_SPREAD = 256


def virtual_ips(view: View, service: Service) -> tuple[VirtualIP, ...]:
    """One for each network of the service, none with ``dnsrr``. What it has on a network already, it keeps. Raises
    FailedPrecondition when a network has no address left."""
    if not service.has_vips:
        return ()
    present = {vip.network_id: vip for vip in service.endpoint.virtual_ips}
    found = []
    for attachment in service.spec.task_template.networks:
        network = view.networks.get(attachment.target)
        if network is None or not network.subnet:
            continue
        vip = present.get(network.id)
        if vip is None or not _may_keep(view, service, network, vip):
            vip = VirtualIP(network_id=network.id, addr=_free_address(view, network, service.id))
        found.append(vip)
    return tuple(found)


def _may_keep(view: View, service: Service, network: Network, vip: VirtualIP) -> bool:
    holder = view.services.by_vip(network.id, vip.addr)
    if holder is not None and holder.id != service.id:
        return False
    if view.tasks.by_address(network.id, vip.addr) is not None:
        return False
    return IPv4Address(vip.addr.partition("/")[0]) in IPv4Network(network.subnet)


def _free_address(view: View, network: Network, service_id: str) -> str:
    subnet = IPv4Network(network.subnet)
    for number in _candidates(network, subnet, service_id):
        addr = f"{IPv4Address(number)}/{subnet.prefixlen}"
        if (
            view.tasks.by_address(network.id, addr) is None
            and view.services.by_vip(network.id, addr) is None
            and addr.partition("/")[0] != network.gateway
        ):
            return addr
    raise FailedPrecondition(
        f"no address left in network {network.spec.name} ({network.subnet}) for the service's virtual IP"
    )


def _candidates(network: Network, subnet: IPv4Network, service_id: str) -> Iterator[int]:
    """Every address, each once: downwards from the service's own place in the last quarter, then the rest of that
    quarter, then what lies before it, and at last what the engines keep."""
    config = network.spec.ipam[0] if network.spec.ipam else None
    span = IPv4Network(config.ip_range) if config is not None and config.ip_range else subnet
    first = max(int(span.network_address), int(subnet.network_address) + 1)
    last = min(int(span.broadcast_address), int(subnet.broadcast_address) - 1)
    slice_begins = int(subnet.broadcast_address) - _ENGINE_SLICE + 1
    top = min(last, slice_begins - 1)
    if top >= first:
        spread = max(1, min(_SPREAD, (top - first + 1) // 4))
        begin = top - zlib.crc32(service_id.encode()) % spread
        yield from range(begin, top - spread, -1)
        yield from range(top, begin, -1)
        yield from range(top - spread, first - 1, -1)
    yield from range(last, max(first, slice_begins) - 1, -1)
