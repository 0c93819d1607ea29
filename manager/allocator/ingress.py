"""The network through which services are reached that publish ports and have no network of their own. Pure."""

from typing import Final

from pyswarm.common.types import Network, NetworkSpec, PortConfig, ServiceSpec
from pyswarm.manager.allocator.subnets import allocate_network
from pyswarm.manager.state.transaction import Transaction
from pyswarm.manager.state.view import View

INGRESS: Final = NetworkSpec(name="ingress", ingress=True)


def ingress_network(view: View) -> Network | None:
    """The cluster's ingress network; there is at most one."""
    return next((network for network in view.networks.values() if network.spec.ingress), None)


def ingress_ports(spec: ServiceSpec) -> list[PortConfig]:
    """What a service publishes on every node."""
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()
    return [port for port in ports if port.publish_mode == "ingress"]


def ensure_ingress(tx: Transaction, spec: ServiceSpec, network_id: str) -> None:
    """Have the ingress network, if a service of this spec needs it: a cluster founded by an earlier release has
    none, and a user may have removed it. A new one gets ``network_id``."""
    if ingress_ports(spec) and not spec.task_template.networks and ingress_network(tx.view) is None:
        tx.create(allocate_network(tx.view, Network(id=network_id, spec=INGRESS)))
