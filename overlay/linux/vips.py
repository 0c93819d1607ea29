"""The door to containers' tables of virtual IPs. Blocking, for one worker thread."""

import os
import socket
from collections.abc import Collection

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.flows import forget_udp
from pyswarm.overlay.linux.netns import entered
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.vips import plan
from pyswarm.overlay.vips.plan import VipTable

_OWN = "/proc/self/ns/net"


class Namespace:
    """A container's network namespace, held open: the process id it was found by may be another's later."""

    def __init__(self, pid: int, addrs: Collection[str]) -> None:
        """Open that of process ``pid``. Raises OverlayError when it is gone, or does not have one of ``addrs``."""
        path = f"/proc/{pid}/ns/net"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise OverlayError(f"there is no network namespace {path}: {exc.strerror}") from exc
        try:
            if os.fstat(self._fd).st_ino == os.stat(_OWN).st_ino:
                raise OverlayError(f"process {pid} has no network namespace of its own")
            with entered(self._path):
                found = _addresses()
            if found.isdisjoint(addrs):
                raise OverlayError(f"process {pid} has none of the container's addresses")
        except BaseException:
            self.close()
            raise

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def read(self) -> VipTable | None:
        """What its table holds; None without a table, or with one that is not ours."""
        with entered(self._path), Nft() as nft:
            return _read(nft)

    def bring(self, want: VipTable, have: VipTable | None) -> None:
        """Have ``want`` in its table, which holds ``have``; None: there is none. Raises OverlayError."""
        with entered(self._path), Nft() as nft:
            if have is None:
                nft.run(plan.whole(want))
                return
            try:
                nft.run(plan.change(have, want))
            except OverlayError:
                # It is not as it was left: nothing was changed, so all of it is made anew.
                nft.run(plan.whole(want))
            forget_udp(plan.withdrawn(have, want))


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
