"""The door to the kernel's memory of flows (conntrack), in the network namespace of the calling thread."""

import socket
from collections.abc import Collection
from typing import Any

from pyroute2 import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from pyswarm.overlay.errors import OverlayError

_GONE = 2  # ENOENT: it ended by itself meanwhile


def forget_udp(translated: Collection[tuple[str, str]]) -> int:
    """Forget the UDP flows whose destination was turned from the first address of a pair into the second, so that
    their next packet is led anew; how many there were. Raises OverlayError."""
    forgotten = 0
    try:
        with NFCTSocket() as conntrack:
            for asked_addr in {asked for asked, _ in translated}:
                # The kernel picks them out: reading all flows of a busy client would take seconds.
                wanted = NFCTAttrTuple(family=socket.AF_INET, daddr=asked_addr, proto=socket.IPPROTO_UDP)
                for flow in list(conntrack.dump(tuple_orig=wanted)):
                    forgotten += _forget(conntrack, flow, translated)
    except (OSError, NetlinkError) as exc:
        raise OverlayError(f"cannot read or change the flows of a network namespace: {exc}") from exc
    return forgotten


def _forget(conntrack: NFCTSocket, flow: Any, translated: Collection[tuple[str, str]]) -> int:
    asked, answering = (
        NFCTAttrTuple.from_netlink(socket.AF_INET, flow.get_attr(side))
        for side in ("CTA_TUPLE_ORIG", "CTA_TUPLE_REPLY")
    )
    if asked.proto != socket.IPPROTO_UDP or (asked.daddr, answering.saddr) not in translated:
        return 0  # a kernel before 5.8 picks out nothing
    try:
        conntrack.entry("del", tuple_orig=asked)
    except NetlinkError as exc:
        if exc.code != _GONE:
            raise
        return 0
    return 1
