"""Checks of what ``swarm init`` and ``swarm join`` are given, pure: text in, value or one clear line out."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import NodeAvailability

DEFAULT_POOL = ("10.0.0.0/8",)
DEFAULT_SUBNET_SIZE = 24
MAX_SUBNET_SIZE = 29
MIN_DATA_PATH_PORT, MAX_DATA_PATH_PORT = 1024, 49151


def check_availability(value: str) -> NodeAvailability:
    """``active``, ``pause`` or ``drain``."""
    try:
        return NodeAvailability(value or "active")
    except ValueError as exc:
        raise InvalidArgument(
            f'invalid availability "{value}": only active, pause and drain are supported'
        ) from exc


def check_etcd_endpoints(endpoints: Sequence[str]) -> tuple[str, ...]:
    """URLs of an etcd the user runs; raises InvalidArgument. Without a scheme it would mean a manager's member."""
    for endpoint in endpoints:
        parts = urlsplit(endpoint)
        try:
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise InvalidArgument(
                f'invalid --etcd-endpoints "{endpoint}": it must look like https://192.0.2.1:2379'
            )
    return tuple(endpoints)


def check_init_data_path_port(port: int) -> None:
    """The UDP port of VXLAN; 0 means the default. Raises InvalidArgument."""
    if port and not MIN_DATA_PATH_PORT <= port <= MAX_DATA_PATH_PORT:
        raise InvalidArgument(
            f"invalid --data-path-port {port}: it must be between {MIN_DATA_PATH_PORT} and {MAX_DATA_PATH_PORT}"
        )


def check_pools(pools: Sequence[str], subnet_size: int) -> tuple[tuple[str, ...], int]:
    """Address pools for overlay networks and the prefix length each gets; empty and 0 mean the defaults."""
    size = subnet_size or DEFAULT_SUBNET_SIZE
    if not 0 < size <= MAX_SUBNET_SIZE:
        raise InvalidArgument(
            f"invalid --default-addr-pool-mask-length {size}: it must be between 1 and {MAX_SUBNET_SIZE}"
        )
    parsed: list[ipaddress.IPv4Network] = []
    for pool in pools or DEFAULT_POOL:
        try:
            network = ipaddress.IPv4Network(pool)
        except ValueError as exc:
            raise InvalidArgument(f'invalid --default-addr-pool "{pool}": {exc}') from exc
        if network.prefixlen > size:
            raise InvalidArgument(
                f'invalid --default-addr-pool "{pool}": it has no room for a subnet of /{size} '
                "(--default-addr-pool-mask-length)"
            )
        other = next((p for p in parsed if p.overlaps(network)), None)
        if other is not None:
            raise InvalidArgument(f'invalid --default-addr-pool "{pool}": it overlaps with {other}')
        parsed.append(network)
    return tuple(str(p) for p in parsed), size
