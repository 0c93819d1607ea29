"""Where the other hosts' VXLAN reaches a node: the address it names is checked before others send to it."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.text import one_line
from pyswarm.common.types import Node, NodeState


def check_underlay_addr(addr: str) -> None:
    """Raises InvalidArgument unless other hosts could send to ``addr``."""
    try:
        parsed = IPv4Address(addr)
    except AddressValueError as exc:
        raise InvalidArgument(
            f'invalid underlay address "{one_line(addr, 64)}": it must be an IPv4 address'
        ) from exc
    # Reserved includes the broadcast address; the loopback serves a swarm of one host.
    if parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved or int(parsed) >> 24 == 0:
        raise InvalidArgument(f"invalid underlay address {addr}: it is not the address of one host")


def check_free(nodes: Iterable[Node], node: Node, addr: str, peer_host: str) -> None:
    """Raise FailedPrecondition when ``addr`` is another node's: its traffic would go astray.

    A host that joined anew, without having left, has the address of its earlier self, which is down. For a node
    that is away nobody else can take its address: the connection must come from there.
    """
    for other in nodes:
        # One that never had a session may be what a failed attempt to join left.
        if other.id == node.id or other.underlay_addr != addr or other.status.state is NodeState.UNKNOWN:
            continue
        if other.status.state is NodeState.DOWN and addr in (peer_host, node.underlay_addr):
            continue
        raise FailedPrecondition(
            f"the underlay address {addr} is that of node {other.id} ({other.description.hostname}); "
            "every node needs one of its own"
        )
