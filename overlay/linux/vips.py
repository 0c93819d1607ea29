"""The door to containers' tables of virtual IPs. Blocking, for one worker thread."""

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.flows import Flows
from pyswarm.overlay.linux.netns import entered
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.objects import Flow
from pyswarm.overlay.vips import plan
from pyswarm.overlay.vips.plan import VipTable

_OWN = "/proc/self/ns/net"


class NamespaceGone(OverlayError):
    """The container has ended."""


class Namespace:
    """A container's network namespace. It is found by a process id each time, and checked to be still the same: a
    descriptor held for each container would use up those that libnftables can work with.

    What changes something leaves its sockets to ``closing``: closing one waits until the kernel has tidied up
    behind the change, some 15 ms, and closing those of many namespaces together takes no longer.
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
            try:
                return plan.parse(nft.listing(f"list table ip {plan.TABLE}"))
            except OverlayError:
                return None

    def bring(self, want: VipTable, have: VipTable | None, closing: ExitStack) -> bool:
        """Have ``want`` in its table, which holds ``have``; None: there is none. Returns whether it was made anew.
        Raises OverlayError."""
        with self._entered():
            nft = closing.enter_context(Nft())
            if have is not None:
                try:
                    nft.run(plan.change(have, want))
                except OverlayError:
                    pass  # it is not as it was left: nothing was changed, so all of it is made anew
                else:
                    return False
            nft.run(plan.whole(want))
            return True

    def lead_anew(
        self,
        vips: Collection[str],
        lost: Collection[str],
        want: VipTable,
        quiet_at: int | None,
        closing: ExitStack,
    ) -> int | None:
        """Forget the stale flows to ``vips`` after tasks were withdrawn, some of which are ``lost``.

        ``want`` is where the table leads now. Looking for flows is dear, so it is left out where nobody is lost
        and the table's counter is still at ``quiet_at``, when there were no flows without a connection. Returns
        what to give as ``quiet_at`` next time, None while there are such flows. Raises OverlayError.
        """

        def stale(flow: Flow) -> bool:
            return plan.is_stale(flow, vips, want, lost)

        with self._entered():
            flows = closing.enter_context(Flows())
            counted = flows.counter(plan.TABLE, plan.COUNTER)
            if not flows.count():
                return counted
            if len(lost) == 1:
                flows.forget(stale, led_to=next(iter(lost)))
            elif lost:
                flows.forget(stale, protocol=socket.IPPROTO_TCP)
            if counted == quiet_at:
                return quiet_at
            staying = [flow for each in plan.DATAGRAM_PROTOCOLS for flow in flows.forget(stale, protocol=each)]
            return None if any(flow.sent_to in want for flow in staying) else counted

    def lead_first(self, want: VipTable, closing: ExitStack) -> None:
        """Forget what was sent to virtual IPs before there was a table, or while it was damaged. Raises
        OverlayError."""
        with self._entered():
            flows = closing.enter_context(Flows())
            if flows.count():
                flows.forget(lambda flow: plan.is_stale(flow, want, want))


def _addresses() -> set[str]:
    try:
        with IPRoute() as ipr:
            return {message.get_attr("IFA_ADDRESS") for message in ipr.get_addr(family=socket.AF_INET)}
    except (OSError, NetlinkError) as exc:
        raise OverlayError(f"netlink failed: {exc}") from exc
