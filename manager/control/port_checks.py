"""What a spec may say of published ports, as far as that needs no look at the cluster. Pure; texts are Docker's
where Docker has one."""

from collections.abc import Sequence
from typing import Final

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import PortConfig

#: A slip of the keyboard (``-p 1-65535:1-65535``) is not made into rules on every host.
MAX_PORTS: Final = 1_000
_LAST_PORT: Final = 65_535


def check_ports(ports: Sequence[PortConfig], mode: str) -> None:
    """Raises InvalidArgument unless a service of this endpoint mode may ask for these ports."""
    if len(ports) > MAX_PORTS:
        raise InvalidArgument(f"EndpointSpec: {len(ports)} ports are given, at most {MAX_PORTS} are allowed")
    published: set[tuple[str, int]] = set()
    for port in ports:
        _check_port(port)
        if mode == "dnsrr" and port.publish_mode == "ingress":
            raise InvalidArgument("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
        key = (port.protocol, port.published_port)
        if port.published_port and key in published:
            raise InvalidArgument(
                f"EndpointSpec: duplicate published ports provided: {port.published_port}/{port.protocol}"
            )
        published.add(key)


def _check_port(port: PortConfig) -> None:
    if port.publish_mode not in ("ingress", "host"):
        raise InvalidArgument(
            f"invalid publish mode value ({port.publish_mode[:64]}): must be either 'ingress' or 'host'"
        )
    if port.protocol == "sctp":
        raise InvalidArgument(
            "publishing ports of protocol sctp is not supported by this version of pyswarm: tcp and udp are"
        )
    if port.protocol not in ("tcp", "udp"):
        raise InvalidArgument(f"invalid protocol value '{port.protocol[:64]}': must be 'tcp' or 'udp'")
    if not 1 <= port.target_port <= _LAST_PORT:
        raise InvalidArgument(f"invalid target port {port.target_port}: it must be from 1 to {_LAST_PORT}")
    if not 0 <= port.published_port <= _LAST_PORT:
        raise InvalidArgument(
            f"invalid published port {port.published_port}: it must be from 1 to {_LAST_PORT}, or 0 for any"
        )
