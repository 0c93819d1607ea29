"""What the overlay's registry should hold, worked out from the store. Pure."""

from pyswarm.common.types import Network, Node, NodeState, Service, Task, TaskState
from pyswarm.manager.state import View
from pyswarm.overlay.registry.model import (
    EndpointEntry,
    NetworkEntry,
    NodeEntry,
    OverlayState,
    PublishedPort,
    ServiceEntry,
    ServiceNetwork,
)


def overlay_state(view: View) -> OverlayState:
    """Nodes, networks, and the endpoint of every task that may run on a node that is heard of.

    A task's endpoint is there from its assignment, so that other hosts know the way before its first packet. The
    endpoints of a node that is down are left out: nothing answers there, and its replacement tasks have addresses
    of their own, the old ones staying reserved.
    """
    nodes = {n.id: _node(n) for n in view.nodes.values() if n.underlay_addr}
    networks = {n.id: _network(n) for n in view.networks.values()}
    endpoints: dict[tuple[str, str], EndpointEntry] = {}
    for node in view.nodes.values():
        if node.id not in nodes or node.status.state is NodeState.DOWN:
            continue
        for task in view.tasks.by_node(node.id):
            if TaskState.ASSIGNED.rank <= task.status.state.rank <= TaskState.RUNNING.rank:
                endpoints.update(_endpoints(task, networks))
    services = {service.id: _service(service) for service in view.services.values()}
    return OverlayState(nodes=nodes, networks=networks, endpoints=endpoints, services=services)


def _node(node: Node) -> NodeEntry:
    return NodeEntry(
        node_id=node.id,
        hostname=node.description.hostname,
        underlay_addr=node.underlay_addr,
        mesh_index=node.mesh_index,
    )


def _service(service: Service) -> ServiceEntry:
    vips = {vip.network_id: vip.addr.partition("/")[0] for vip in service.endpoint.virtual_ips}
    attached = service.spec.task_template.networks
    return ServiceEntry(
        service_id=service.id,
        name=service.spec.name,
        networks=tuple(
            ServiceNetwork(network_id=n.target, vip=vips.get(n.target, ""), aliases=n.aliases) for n in attached
        ),
        ports=tuple(
            PublishedPort(protocol=p.protocol, published=p.published_port, target=p.target_port)
            for p in service.endpoint.ports
            if p.publish_mode == "ingress"
        ),
        mesh_network_id=service.endpoint.mesh_network_id,
    )


def _network(network: Network) -> NetworkEntry:
    return NetworkEntry(
        network_id=network.id,
        name=network.spec.name,
        vni=network.vni,
        subnet=network.subnet,
        gateway=network.gateway,
        mtu=network.mtu,
    )


def _endpoints(task: Task, networks: dict[str, NetworkEntry]) -> dict[tuple[str, str], EndpointEntry]:
    return {
        (attached.network_id, task.id): EndpointEntry(
            endpoint_id=task.id,
            network_id=attached.network_id,
            addr=attached.addr.partition("/")[0],
            mac=attached.mac,
            node_id=task.node_id,
            service_id=task.service_id,
            service_name=task.service_name,
            slot=task.slot,
            # A task that is told to end leaves names before it is stopped.
            ready=task.status.state is TaskState.RUNNING and task.desired_state.rank <= TaskState.RUNNING.rank,
        )
        for attached in task.networks
        if attached.network_id in networks and attached.addr
    }
