"""The door to containers' tables of virtual IPs. Blocking, for one worker thread."""

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.flows import forget_udp
from pyswarm.overlay.linux.netns import entered
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.vips import plan
from pyswarm.overlay.vips.plan import VipTable

_OWN = "/proc/self/ns/net"


class NamespaceGone(OverlayError):
    """The container has ended."""


class Namespace:
    """A container's network namespace. It is found by a process id each time, and checked to be still the same: a
    descriptor held for each container would use up those that libnftables can work with.
    """

    def __init__(self, pid: int, addrs: Collection[str]) -> None:
        """That of process ``pid``. Raises OverlayError when it is gone, or does not have one of ``addrs``."""
        self._path = f"/proc/{pid}/ns/net"
        self._inode = 0
        own = os.stat(_OWN).st_ino
        with self._entered() as inode:
            if inode == own:
                raise OverlayError(f"process {pid} has no network namespace of its own")
            if _addresses().isdisjoint(addrs):
                raise OverlayError(f"process {pid} has none of the container's addresses")
        self._inode = inode

    @contextmanager
    def _entered(self) -> Iterator[int]:
        try:
            opened = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise NamespaceGone(f"there is no network namespace {self._path}: {exc.strerror}") from exc
        try:
            inode = os.fstat(opened).st_ino
            if self._inode not in (0, inode):
                raise NamespaceGone(f"the network namespace {self._path} is another one now")
            with entered(f"/proc/self/fd/{opened}"):
                yield inode
        finally:
            os.close(opened)

    def read(self) -> VipTable | None:
        """What its table holds; None without a table, or with one that is not ours."""
        with self._entered(), Nft() as nft:
            return _read(nft)

    def bring(self, want: VipTable, have: VipTable | None) -> None:
        """Have ``want`` in its table, which holds ``have``; None: there is none. Raises OverlayError."""
        with self._entered(), Nft() as nft:
            if have is None:
                nft.run(plan.whole(want))
                return
            try:
                nft.run(plan.change(have, want))
            except OverlayError:
                # It is not as it was left: nothing was changed, so all of it is made anew.
                nft.run(plan.whole(want))
            if gone := plan.withdrawn(have, want):
                forget_udp(gone)


def _read(nft: Nft) -> VipTable | None:
    try:
        return plan.parse(nft.listing(f"list table ip {plan.TABLE}"))
    except OverlayError:
        return None


def _addresses() -> set[str]:
    try:
        with IPRoute() as ipr:
            return {message.get_attr("IFA_ADDRESS") for message in ipr.get_addr(family=socket.AF_INET)}
    except (OSError, NetlinkError) as exc:
        raise OverlayError(f"netlink failed: {exc}") from exc
