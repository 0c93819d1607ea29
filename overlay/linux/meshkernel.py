"""The kernel's side of the mesh: read everything of it, and carry out a plan. Blocking, for one worker thread."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.linux.kernel import Kernel
from pyswarm.overlay.linux.links import apply_link_op, find_underlay, index_of, vxlan_links
from pyswarm.overlay.linux.routing import change_routing, our_routes, our_rules
from pyswarm.overlay.linux.settings import read_setting, write_setting
from pyswarm.overlay.mesh.names import DEVICE, EGRESS_BRIDGES
from pyswarm.overlay.mesh.objects import (
    DelAddr,
    DelRoute,
    DelRule,
    MeshKernel,
    PutAddr,
    PutRoute,
    PutRule,
    SetSetting,
)
from pyswarm.overlay.mesh.plan import MeshOp
from pyswarm.overlay.objects import (
    CreateVxlan,
    DeleteLink,
    DelFdbSelf,
    DelNeighbour,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    Underlay,
)

_EEXIST, _EADDRNOTAVAIL = 17, 99
_ROUTING = (PutRule, DelRule, PutRoute, DelRoute)
_ENTRIES = (PutFdbSelf, DelFdbSelf, PutNeighbour, DelNeighbour)
_OWN_SETTINGS = ("rp_filter", "src_valid_mark", "route_localnet")
_BRIDGE_SETTINGS = ("route_localnet",)


class MeshDoor:
    """Open netlink sockets in the network namespace of the calling thread."""

    def __init__(self, ipr: IPRoute, route: wire.RouteSocket) -> None:
        self._ipr = ipr
        self._route = route
        self._entries = Kernel(ipr, route)

    def underlay(self, addr: str) -> Underlay:
        """The device this host's address between hosts is on."""
        return find_underlay(self._ipr, addr)

    def egress_subnets(self) -> tuple[str, ...]:
        """Those of the bridges that lead out of the host."""
        found = []
        for bridge in EGRESS_BRIDGES:
            if (index := index_of(self._ipr, bridge)) is not None:
                for entry in self._ipr.get_addr(index=index, family=2):
                    found.append(f"{entry.get_attr('IFA_LOCAL')}/{entry['prefixlen']}")
        return tuple(found)

    def look(self) -> MeshKernel:
        """Everything of the mesh, and the settings of the devices it concerns."""
        link = vxlan_links(self._ipr).get(DEVICE)
        fdb: dict[str, str] = {}
        neighbours: dict[str, str] = {}
        addrs: frozenset[str] = frozenset()
        if link is not None:
            fdb = self._entries.destinations(link.index)
            neighbours = self._entries.neighbours(link.index)
            found = self._ipr.get_addr(index=link.index, family=2)
            addrs = frozenset(str(entry.get_attr("IFA_LOCAL")) for entry in found)
        return MeshKernel(
            link=link,
            addrs=addrs,
            fdb=fdb,
            neighbours=neighbours,
            rules=our_rules(self._route),
            routes=our_routes(self._route),
            settings=dict(_settings()),
        )

    def index(self) -> int:
        """The index of the mesh's device; 0 without one."""
        return index_of(self._ipr, DEVICE) or 0

    def apply(self, ops: Sequence[MeshOp]) -> None:
        """Carry out a plan in its order; entries, and routes with rules, that follow one another go in batches."""
        for kind, group in itertools.groupby(ops, _batch):
            batch = list(group)
            if kind == "routing":
                change_routing(self._route, [op for op in batch if isinstance(op, _ROUTING)], self.index())
            elif kind == "entries":
                self._entries.apply([op for op in batch if isinstance(op, _ENTRIES)])
            else:
                for op in batch:
                    self._apply(op)

    def _apply(self, op: MeshOp) -> None:
        match op:
            case CreateVxlan() | DeleteLink() | SetLink():
                apply_link_op(self._ipr, op)
            case PutAddr(device=device, addr=addr):
                self._addr("add", device, addr, _EEXIST)
            case DelAddr(device=device, addr=addr):
                self._addr("del", device, addr, _EADDRNOTAVAIL)
            case SetSetting(device=device, name=name, value=value):
                write_setting(device, name, value)

    def _addr(self, what: str, device: str, addr: str, fine: int) -> None:
        try:
            self._ipr.addr(what, index=index_of(self._ipr, device), address=addr, prefixlen=32)
        except NetlinkError as exc:
            if exc.code != fine:
                raise OverlayError(f"cannot change the address of {device}: {exc}") from exc


def _batch(op: MeshOp) -> str:
    if isinstance(op, _ROUTING):
        return "routing"
    return "entries" if isinstance(op, _ENTRIES) else ""


def _settings() -> Iterable[tuple[tuple[str, str], str]]:
    for device, settings in ((DEVICE, _OWN_SETTINGS), *((bridge, _BRIDGE_SETTINGS) for bridge in EGRESS_BRIDGES)):
        for name in settings:
            if (value := read_setting(device, name)) is not None:
                yield (device, name), value


@contextmanager
def open_mesh() -> Iterator[MeshDoor]:
    """The kernel's door for one look and the changes after it; refusals come out as `OverlayError`."""
    try:
        with IPRoute() as ipr, wire.RouteSocket() as route:
            yield MeshDoor(ipr, route)
    except (OSError, NetlinkError) as exc:
        raise OverlayError(f"netlink failed: {exc}") from exc
