"""What a service is given to be reached by, in the transaction that stores its spec. Pure."""

from msgspec.structs import replace

from pyswarm.common.types import Endpoint, Service
from pyswarm.manager.allocator.ports import allocate_ports
from pyswarm.manager.allocator.vips import virtual_ips
from pyswarm.manager.state.view import View


def allocate_endpoint(view: View, service: Service) -> Service:
    """The service with the endpoint that its spec calls for; what it already has, and may keep, is kept. ``view``
    may hold an older state of the service. Raises PyswarmError when something cannot be had."""
    ports, mesh_network_id = allocate_ports(view, service)
    vips = virtual_ips(view, service)
    return replace(service, endpoint=Endpoint(ports=ports, virtual_ips=vips, mesh_network_id=mesh_network_id))
