"""What must hold of published ports and of the hosts' numbers in the routing mesh, in every state. Pure."""

from collections.abc import Iterator

from pyswarm.common.types import Node, Service
from pyswarm.manager.state.entry import Outcome
from pyswarm.manager.state.view import View


def port_clash(view: View, service: Service) -> Outcome | None:
    """Why a service cannot be published as it is to be: two were given one port at the same moment, or its network
    went away."""
    network_id = service.endpoint.mesh_network_id
    if network_id and network_id not in view.networks:
        return Outcome("conflict", message=f"network {network_id} is gone")
    ports = {(p.protocol, p.published_port): p.publish_mode for p in service.endpoint.ports if p.published_port}
    if not ports:
        return None
    for other in view.services.values():
        if other.id == service.id:
            continue
        for held in other.endpoint.ports:
            mode = ports.get((held.protocol, held.published_port))
            # In host mode tasks of several services may have one port, each on a host of its own.
            if mode is not None and "ingress" in (mode, held.publish_mode):
                return Outcome(
                    "conflict",
                    message=f"port {held.published_port}/{held.protocol} is taken by service {other.spec.name}",
                )
    return None


def mesh_index_clash(view: View, node: Node) -> Outcome | None:
    """Why a node cannot have its number: another one has it."""
    before = view.nodes.get(node.id)
    if not node.mesh_index or (before is not None and before.mesh_index == node.mesh_index):
        return None
    for other in view.nodes.values():
        if other.id != node.id and other.mesh_index == node.mesh_index:
            return Outcome("conflict", message=f"mesh index {node.mesh_index} is that of node {other.id}")
    return None


def mesh_problems(view: View) -> Iterator[str]:
    """Every invariant of these that does not hold, as a sentence."""
    for service in view.services.values():
        clash = port_clash(view, service)
        if clash is not None:
            yield f"service {service.spec.name}: {clash.message}"
    indexes: dict[int, str] = {}
    for node in view.nodes.values():
        if node.mesh_index and node.mesh_index in indexes:
            yield f"mesh index {node.mesh_index} is that of nodes {indexes[node.mesh_index]} and {node.id}"
        indexes[node.mesh_index] = node.id
