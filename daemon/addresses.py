"""Which address a node advertises, when the user names none or names an interface."""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec

from pyswarm.common.errors import InvalidArgument

#: Interfaces that containers or the overlay bring: no other host reaches this one through them.
_LOCAL_PREFIXES = ("docker", "br-", "veth", "psw", "virbr", "lxc", "cni", "flannel")


class HostAddress(msgspec.Struct, frozen=True):
    """An IPv4 address and the interface it is on."""

    interface: str
    addr: str


def host_addresses() -> tuple[HostAddress, ...]:
    """The IPv4 addresses of this host that others may reach."""
    output = subprocess.run(
        ["ip", "-j", "-4", "addr", "show", "up"], capture_output=True, check=True, timeout=10, text=True
    ).stdout
    return candidates(json.loads(output or "[]"))


def candidates(links: Sequence[dict[str, Any]]) -> tuple[HostAddress, ...]:
    """The usable addresses in the output of ``ip -j addr``, in its order."""
    return tuple(
        HostAddress(link["ifname"], info["local"])
        for link in links
        if link.get("ifname") and not link["ifname"].startswith(_LOCAL_PREFIXES)
        for info in link.get("addr_info", ())
        if info.get("family") == "inet" and not _unreachable(info["local"])
    )


def _unreachable(addr: str) -> bool:
    ip = ipaddress.ip_address(addr)
    return ip.is_loopback or ip.is_link_local


def choose_advertise_addr(wanted: str, found: Sequence[HostAddress]) -> str:
    """The address to advertise: ``wanted`` (an address, an interface, either with ``:port``) or the only one.

    Raises InvalidArgument, with the candidates, in the words Docker uses.
    """
    if wanted:
        return _named(wanted, found)
    if len(found) == 1:
        return found[0].addr
    if not found:
        raise InvalidArgument(
            "could not find an address to advertise: this host has no IPv4 address other hosts can reach - "
            "specify one with --advertise-addr"
        )
    listing = " and ".join(f"{a.addr} on {a.interface}" for a in found)
    where = "on different interfaces" if len({a.interface for a in found}) > 1 else "on one interface"
    raise InvalidArgument(
        f"could not choose an IP address to advertise since this system has multiple addresses {where} "
        f"({listing}) - specify one with --advertise-addr"
    )


def _named(wanted: str, found: Sequence[HostAddress]) -> str:
    host, colon, port = wanted.rpartition(":")
    if colon and ":" not in host:
        if port != "2377":
            raise InvalidArgument(f'invalid --advertise-addr "{wanted}": the port is always 2377')
        wanted = host
    on_interface = [a.addr for a in found if a.interface == wanted]
    if len(on_interface) == 1:
        return on_interface[0]
    if on_interface:
        raise InvalidArgument(
            f"interface {wanted} has more than one IPv4 address ({', '.join(on_interface)}) - "
            "specify one of them with --advertise-addr"
        )
    try:
        ip = ipaddress.IPv4Address(wanted)
    except ValueError as exc:
        known = ", ".join(f"{a.addr} ({a.interface})" for a in found) or "none"
        raise InvalidArgument(
            f'invalid --advertise-addr "{wanted}": it must be an IPv4 address or an interface of this host; '
            f"this host has: {known}"
        ) from exc
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise InvalidArgument(f'invalid --advertise-addr "{wanted}": other hosts cannot reach that address')
    return str(ip)


def check_listen_addr(listen_addr: str) -> str:
    """A listen address as ``ip:port``; raises InvalidArgument."""
    if not listen_addr:
        return "0.0.0.0:2377"
    host, colon, port = listen_addr.rpartition(":")
    if not colon:
        host, port = listen_addr, "2377"
    try:
        ipaddress.IPv4Address(host)
    except ValueError as exc:
        raise InvalidArgument(
            f'invalid --listen-addr "{listen_addr}": it must be ADDRESS or ADDRESS:2377'
        ) from exc
    if port != "2377":
        raise InvalidArgument(f'invalid --listen-addr "{listen_addr}": the port is always 2377')
    return f"{host}:{port}"
