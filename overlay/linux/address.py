"""An address of the host's own, on its loopback device."""

import ipaddress
import socket

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError

_EEXIST, _EADDRNOTAVAIL = 17, 99


def put_local_addr(addr: str) -> None:
    """Have ``addr`` on the loopback device; there already is fine. Blocking."""
    if not ipaddress.ip_address(addr).is_loopback:
        _change("add", addr, _EEXIST)


def remove_local_addr(addr: str) -> None:
    """Have it there no more; not there is fine. Blocking."""
    _change("del", addr, _EADDRNOTAVAIL)


def _change(what: str, addr: str, fine: int) -> None:
    try:
        with IPRoute() as ipr:
            ipr.addr(what, index=socket.if_nametoindex("lo"), address=addr, prefixlen=32)
    except NetlinkError as exc:
        if exc.code != fine:
            raise OverlayError(f"cannot change the address {addr} of the loopback device: {exc}") from exc
    except OSError as exc:
        raise OverlayError(f"netlink failed: {exc}") from exc
