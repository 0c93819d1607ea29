"""Published ports in their short form: ``8080:80``, ``9000``, ``3000-3002:80-82/udp``, ``127.0.0.1:53:53/udp``."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORT = 65535


class ShortPort(NamedTuple):
    """A short form taken apart; ``ip`` is the address it names, for which swarm services have no use."""

    ip: str
    published: str
    target: str
    protocol: str


def taken_apart(text: str) -> ShortPort:
    """The parts of a short form; raises ValueError."""
    ports, separator, protocol = text.partition("/")
    if separator and protocol.lower() not in _PROTOCOLS:
        raise ValueError(f"invalid protocol: {protocol!r} is none of {', '.join(_PROTOCOLS)}")
    head, _, target = ports.rpartition(":")
    ip, published = "", head
    if ":" in head:
        ip, _, published = head.rpartition(":")
    if not target:
        raise ValueError(f"no port specified: {text}")
    return ShortPort(ip.strip("[]"), published, target, protocol.lower() or "tcp")


def check_address(ip: str) -> None:
    """Raise ValueError for what is no address."""
    if ip:
        ipaddress.ip_address(ip)


def check_port(port: int) -> int:
    """A port that may be published, 0 for any; raises ValueError."""
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"invalid port {port}: ports are numbers from 1 to {MAX_PORT}")
    return port


def check_target(port: int) -> int:
    """A port of a container; raises ValueError."""
    if port == 0:
        raise ValueError(f"invalid port 0: ports are numbers from 1 to {MAX_PORT}")
    return check_port(port)


def _port_range(text: str, check: Callable[[int], int]) -> range:
    first, separator, last = text.partition("-")
    numbers = (first, last) if separator else (first, first)
    if not all(re.fullmatch(r"[0-9]{1,10}", number) for number in numbers):
        raise ValueError(
            f"invalid port {text!r}: ports are numbers from 1 to {MAX_PORT}, or ranges like 8000-8009"
        )
    found = range(check(int(numbers[0])), check(int(numbers[1])) + 1)
    if not found:
        raise ValueError(f"invalid port range {text}: it ends before it begins")
    return found


def from_short(given: str | int | float) -> list[dict[str, Any]]:
    """The long forms that a short one stands for; raises ValueError."""
    text = given if isinstance(given, str) else f"{given:g}"
    short = taken_apart(text)
    check_address(short.ip)
    targets = _port_range(short.target, check_target)
    if not short.published:
        return [_long(target, 0, short.protocol) for target in targets]
    published = _port_range(short.published, check_port)
    if len(targets) == 1:
        # Several published ports may lead to one.
        return [_long(targets[0], port, short.protocol) for port in published]
    if len(targets) != len(published):
        raise ValueError(
            f"invalid ranges specified for container and host Ports: {short.target} and {short.published}"
        )
    return [_long(*pair, short.protocol) for pair in zip(targets, published, strict=True)]


def _long(target: int, published: int, protocol: str) -> dict[str, Any]:
    port: dict[str, Any] = {"mode": "ingress", "target": target}
    if published:
        port["published"] = published
    return {**port, "protocol": protocol}
