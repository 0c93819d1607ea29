"""Published ports: which a service may have, and which it is given where it asked for any. Pure.

A port is refused while the service is created or changed, because nothing would say so afterwards: in ``ingress``
mode every host leads it to the service, whatever else listens there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.types import Cluster, Node, NodeState, PortConfig, Service
from pyswarm.manager.allocator.ingress import ingress_network, ingress_ports
from pyswarm.manager.state.view import View

#: As in Docker.
FIRST_DYNAMIC: Final = 30_000
LAST_DYNAMIC: Final = 32_767

PortKey = tuple[str, int]
"""(protocol, published port)"""

#: Ports of pyswarm's own, on every host, whether its role needs them at present or not.
_OWN: Final = {
    ("tcp", 2377): "managers",
    ("tcp", 2378): "joining nodes",
    ("tcp", 2379): "etcd",
    ("tcp", 2380): "etcd",
    ("tcp", 9323): "metrics",
}


def allocate_ports(view: View, service: Service) -> tuple[tuple[PortConfig, ...], str]:
    """The ports a service is given, and the id of the network on which those of mode ``ingress`` reach its tasks.

    What it has already is kept without being looked at: it may be what makes a host listen. Raises InvalidArgument
    for a port that cannot be had, FailedPrecondition when there is none left to choose from.
    """
    spec = service.spec.endpoint_spec
    if spec is None or not spec.ports:
        return (), ""
    before = view.services.get(service.id)
    held = before.endpoint.ports if before is not None else ()
    known = {(_key(port), port.publish_mode) for port in held}
    others = [other for other in view.services.values() if other.id != service.id]
    # A host that is down, or has left, listens on nothing.
    nodes = [node for node in view.nodes.values() if node.status.state is not NodeState.DOWN]
    for port in spec.ports:
        if port.published_port and (_key(port), port.publish_mode) not in known:
            _check_free(port, others, nodes, view.cluster)
            _check_not_lent(port, view, others)
    taken = {_key(port) for other in others for port in other.endpoint.ports} | own_ports(view.cluster).keys()
    return _choose(spec.ports, held, taken, nodes), _mesh_network(view, service)


def _mesh_network(view: View, service: Service) -> str:
    if not ingress_ports(service.spec):
        return ""
    if attached := service.spec.task_template.networks:
        return attached[0].target
    network = ingress_network(view)
    if network is None:
        raise FailedPrecondition("service needs ingress network, but no ingress network is present")
    return network.id


def _check_free(
    port: PortConfig, others: Iterable[Service], nodes: Iterable[Node], cluster: Cluster | None
) -> None:
    number = port.published_port
    owner = own_ports(cluster).get((port.protocol, number))
    if owner is not None:
        raise _refused(f"port '{number}' is used by pyswarm itself ({owner}, {port.protocol})")
    for other in others:
        for held in other.endpoint.ports:
            if _conflict(port, held):
                kind = "a host-published" if held.publish_mode == "host" else "an ingress"
                raise _refused(
                    f"port '{number}' is already in use by service '{other.spec.name}' ({other.id}) as {kind} port"
                )
    if port.publish_mode == "host":
        return  # the scheduler looks for a node where it is free
    for node in nodes:
        if f"{port.protocol}/{number}" in node.description.listening:
            name = node.description.hostname or node.id
            raise _refused(
                f"port '{number}' is already in use on host '{name}', which listens on it ({port.protocol})"
            )


def _check_not_lent(port: PortConfig, view: View, others: Iterable[Service]) -> None:
    """A port of mode ``host`` whose number an engine chose is known by its task only."""
    if port.publish_mode == "host":
        return
    for other in others:
        if not any(p.publish_mode == "host" and not p.published_port for p in other.endpoint.ports):
            continue
        for task in view.tasks.by_service(other.id):
            if not task.status.state.ended and any(_key(lent) == _key(port) for lent in task.status.port_status):
                raise _refused(
                    f"port '{port.published_port}' is already in use by service '{other.spec.name}' ({other.id}) "
                    f"as a host-published port of task {task.name}"
                )


def _refused(reason: str) -> InvalidArgument:
    return InvalidArgument(f"rpc error: code = InvalidArgument desc = {reason}")


def _conflict(port: PortConfig, held: PortConfig) -> bool:
    """Services may share a port in ``host`` mode: their tasks run on different nodes then."""
    if _key(port) != _key(held):
        return False
    return "ingress" in (port.publish_mode, held.publish_mode)


def _key(port: PortConfig) -> PortKey:
    return port.protocol, port.published_port


def own_ports(cluster: Cluster | None) -> dict[PortKey, str]:
    """The ports pyswarm itself uses on the hosts, and what for."""
    return {**_OWN, ("udp", cluster.data_path_port if cluster is not None else 4789): "overlay networks"}


def _choose(
    wanted: Sequence[PortConfig], held: Sequence[PortConfig], taken: set[PortKey], nodes: Iterable[Node]
) -> tuple[PortConfig, ...]:
    """In place of each ``ingress`` port 0 a number: the one it had, or the first that is free. In ``host`` mode
    the engine of each task's host chooses."""
    dynamic = [port for port in wanted if port.publish_mode == "ingress" and not port.published_port]
    if not dynamic:
        return tuple(wanted)
    taken = taken | {_key(port) for port in wanted if port.published_port}
    kept = [port for port in held if _in_range(port) and _key(port) not in taken]
    taken |= {_key(port) for port in kept}
    listening = {text for node in nodes for text in node.description.listening}
    chosen: list[PortConfig] = []
    for port in wanted:
        if port in dynamic:
            former = next((p for p in kept if replace(p, published_port=0) == port), None)
            if former is not None:
                kept.remove(former)
                number = former.published_port
            else:
                number = next(_free_numbers(port.protocol, taken, listening), 0)
            if not number:
                raise FailedPrecondition(
                    f"no free port is left from {FIRST_DYNAMIC} to {LAST_DYNAMIC} ({port.protocol}) to publish"
                )
            taken.add((port.protocol, number))
            port = replace(port, published_port=number)
        chosen.append(port)
    return tuple(chosen)


def _in_range(port: PortConfig) -> bool:
    return port.publish_mode == "ingress" and FIRST_DYNAMIC <= port.published_port <= LAST_DYNAMIC


def _free_numbers(protocol: str, taken: set[PortKey], listening: set[str]) -> Iterator[int]:
    for number in range(FIRST_DYNAMIC, LAST_DYNAMIC + 1):
        if (protocol, number) not in taken and f"{protocol}/{number}" not in listening:
            yield number
