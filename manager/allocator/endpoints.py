"""What a service is given to be reached by, in the transaction that stores its spec. Pure."""

from msgspec.structs import replace

from pyswarm.common.types import Endpoint, Service
from pyswarm.manager.allocator.vips import virtual_ips
from pyswarm.manager.state.view import View


def allocate_endpoint(view: View, service: Service) -> Service:
    """The service with the endpoint that its spec calls for; what it already has, and may keep, is kept. ``view``
    may hold an older state of the service. Raises PyswarmError when something cannot be had."""
    return replace(service, endpoint=Endpoint(virtual_ips=virtual_ips(view, service)))
