"""What must hold in every state: checked for each new object at apply, and for all of them by tests. Pure."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, ip_address, ip_interface

from pyswarm.common.types import Config, Network, Node, Secret, Service, Task, TaskState
from pyswarm.manager.state.entry import Outcome, Stored, kind_of
from pyswarm.manager.state.mesh import mesh_index_clash, mesh_problems, port_clash
from pyswarm.manager.state.naming import has_unique_name, name_of, taken_message
from pyswarm.manager.state.references import missing_files, users_of
from pyswarm.manager.state.tables import AddressKey, held_addresses, virtual_addresses
from pyswarm.manager.state.view import LiveView, View


def clash_of(view: LiveView, obj: Stored) -> Outcome | None:
    """Why ``obj`` cannot be stored beside the others; None when it can.

    A taken name is the caller's error. Two proposers that chose the same address, subnet, VNI or port at the same
    moment is nobody's: the second is told of a conflict, and chooses again.
    """
    if has_unique_name(obj) and any(
        holder.id != obj.id for holder in view.tables[kind_of(obj)].named(name_of(obj))
    ):
        return Outcome("error", code="already_exists", message=taken_message(obj))
    if isinstance(obj, Task):
        return _address_clash(view, obj.id, held_addresses(obj))
    if isinstance(obj, Service):
        return _service_clash(view, obj)
    if isinstance(obj, Network):
        current = view.networks.get(obj.id)
        if current is None or (current.subnet, current.vni) != (obj.subnet, obj.vni):
            return _network_clash(view, obj)
    elif isinstance(obj, Node):
        return mesh_index_clash(view, obj)
    return None


def _service_clash(view: LiveView, service: Service) -> Outcome | None:
    for use in missing_files(view, service.spec):
        return Outcome("conflict", message=f"{use.kind} {use.id} is gone")
    before = view.services.get(service.id)
    if before is not None and before.endpoint == service.endpoint:
        return None
    return _address_clash(view, service.id, virtual_addresses(service)) or port_clash(view, service)


def removal_clash_of(view: LiveView, obj: Stored) -> Outcome | None:
    """Why ``obj`` cannot be removed; None when it can. A service that began to use it at the same moment wins."""
    if isinstance(obj, (Secret, Config)):
        for service in users_of(view, obj):
            return Outcome("conflict", message=f"{kind_of(obj)} {obj.id} is in use by service {service.id}")
    return None


def _address_clash(view: LiveView, object_id: str, wanted: Iterable[AddressKey]) -> Outcome | None:
    for network_id, addr in wanted:
        for holder in (view.tasks.by_address(network_id, addr), view.services.by_vip(network_id, addr)):
            if holder is not None and holder.id != object_id:
                kind = "task" if isinstance(holder, Task) else "service"
                return Outcome("conflict", message=f"address {addr} is held by {kind} {holder.id}")
    return None


def _network_clash(view: View, network: Network) -> Outcome | None:
    subnet = _subnet(network)
    for other in view.networks.values():
        if other.id == network.id:
            continue
        if network.vni and other.vni == network.vni:
            return Outcome("conflict", message=f"VNI {network.vni} is taken by network {other.spec.name}")
        other_subnet = _subnet(other)
        if subnet is not None and other_subnet is not None and subnet.overlaps(other_subnet):
            return Outcome("conflict", message=f"subnet {subnet} overlaps that of network {other.spec.name}")
    return None


def _subnet(network: Network) -> IPv4Network | None:
    return network_of(network.subnet) if network.subnet else None


@lru_cache(maxsize=16_384)
def network_of(text: str) -> IPv4Network:
    """A stored subnet, parsed once: every new network is compared with all others."""
    return IPv4Network(text)


def problems_of(view: LiveView) -> Iterator[str]:
    """Every invariant that does not hold, as a sentence."""
    for table in view.tables.values():
        yield from table.problems()
        for obj in table.values():
            if not 0 < obj.version.index <= view.index:
                yield f"{table.kind} {obj.id} has version {obj.version.index} at index {view.index}"
            if has_unique_name(obj) and len(table.named(name_of(obj))) > 1:
                yield f"{table.kind} name {name_of(obj)} is not unique"
    if len(view.clusters) > 1:
        yield f"there are {len(view.clusters)} cluster objects"
    for network in view.networks.values():
        clash = _network_clash(view, network)
        if clash is not None:
            yield f"network {network.spec.name}: {clash.message}"
    for service in view.services.values():
        for use in missing_files(view, service.spec):
            yield f"service {service.spec.name} names {use.kind} {use.id}, which is not there"
    yield from mesh_problems(view)
    yield from _address_problems(view)


def _address_problems(view: LiveView) -> Iterator[str]:
    holders: dict[tuple[str, str], str] = {}
    for task in view.tasks.values():
        state = task.status.state
        if not task.node_id and TaskState.ASSIGNED.rank <= state.rank <= TaskState.RUNNING.rank:
            yield f"task {task.id} is {state.value} on no node"
        for key in held_addresses(task):
            network_id, addr = key
            if key in holders:
                yield f"address {addr} is held by {holders[key]} and task {task.id}"
            holders[key] = f"task {task.id}"
            yield from _place_problems(view, network_id, addr, f"task {task.id}")
    for service in view.services.values():
        for key in virtual_addresses(service):
            if key in holders:
                yield f"address {key[1]} is held by {holders[key]} and service {service.id}"
            holders[key] = f"service {service.id}"
            yield from _place_problems(view, *key, f"service {service.id}")


def _place_problems(view: LiveView, network_id: str, addr: str, holder: str) -> Iterator[str]:
    network = view.networks.get(network_id)
    if network is None:
        return
    host = ip_interface(addr).ip
    if network.subnet and host not in network_of(network.subnet):
        yield f"address {addr} of {holder} is outside network {network.spec.name}"
    if network.gateway and host == ip_address(network.gateway):
        yield f"address {addr} of {holder} is the gateway of network {network.spec.name}"
