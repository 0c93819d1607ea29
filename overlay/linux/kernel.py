"""The kernel's side of the data plane: read everything of a network, and carry out a plan.

Blocking, and meant for one worker thread: netlink answers at once, but thousands of entries take tens of
milliseconds to read, which the event loop must not wait for.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.linux.bridge_nf import spare_overlay_bridges
from pyswarm.overlay.linux.links import apply_link_op, bridge_links, find_underlay, index_of, vxlan_links
from pyswarm.overlay.objects import (
    AnyOp,
    BridgeLink,
    ClearBridgeNf,
    CreateVxlan,
    DeleteLink,
    DelFdbMaster,
    DelFdbSelf,
    DelNeighbour,
    EntryOp,
    KernelNetwork,
    PutFdbMaster,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    SetPortFlags,
    Underlay,
    VxlanLink,
    bridge_name,
    vxlan_name,
)

_LINK_OPS = (DeleteLink, CreateVxlan, SetLink, SetPortFlags, ClearBridgeNf)
_SELF_STATE = wire.NUD_PERMANENT | wire.NUD_NOARP
_FOREIGN = (wire.NDA_PORT, wire.NDA_VNI, wire.NDA_IFINDEX)


class Devices(msgspec.Struct, frozen=True):
    """The devices of this host that matter to the overlay, by name."""

    bridges: dict[str, BridgeLink]
    vxlans: dict[str, VxlanLink]


class Kernel:
    """Open netlink sockets in the network namespace of the calling thread."""

    def __init__(self, ipr: IPRoute, route: wire.RouteSocket) -> None:
        self._ipr = ipr
        self._route = route

    def underlay(self, addr: str) -> Underlay:
        """The device this host's address between hosts is on."""
        return find_underlay(self._ipr, addr)

    def devices(self) -> Devices:
        """All bridges and VXLAN devices."""
        return Devices(bridge_links(self._ipr), vxlan_links(self._ipr))

    def spare_overlay_bridges(self, devices: Devices) -> bool:
        """See `bridge_nf`."""
        return spare_overlay_bridges(self._ipr, devices.bridges.values())

    def network(self, vni: int, devices: Devices) -> KernelNetwork:
        """Everything the kernel has of the network with this VNI."""
        bridge = devices.bridges.get(bridge_name(vni))
        vxlan = devices.vxlans.get(vxlan_name(vni))
        fdb_self: dict[str, str] = {}
        fdb_master: dict[str, bool] = {}
        if vxlan is not None:
            for state, flags, attrs in self._route.fdb(vxlan.index):
                mac = wire.mac_text(attrs.get(wire.NDA_LLADDR, b""))
                if flags & wire.NTF_SELF:
                    fdb_self[mac] = _destination(state, attrs, seen=mac in fdb_self)
                # The port's own MAC is a permanent entry the bridge makes by itself. Entries with a VLAN are
                # doubles the kernel adds; without VLAN filtering it does not look at them.
                elif not state & wire.NUD_PERMANENT and wire.NDA_VLAN not in attrs:
                    fdb_master[mac] = bool(state & wire.NUD_NOARP)
        neighbours = self.neighbours(bridge.index) if bridge is not None else {}
        return KernelNetwork(bridge, vxlan, fdb_self, fdb_master, neighbours)

    def destinations(self, index: int) -> dict[str, str]:
        """Where a VXLAN device that is no bridge's port sends what is for each MAC, as in ``KernelNetwork``."""
        found: dict[str, str] = {}
        for state, _, attrs in self._route.fdb(index):
            mac = wire.mac_text(attrs.get(wire.NDA_LLADDR, b""))
            found[mac] = _destination(state, attrs, seen=mac in found)
        return found

    def neighbours(self, index: int) -> dict[str, str]:
        """The permanent neighbours on a device: address -> MAC."""
        found = {}
        for state, _, attrs in self._route.neighbours(index):
            if state & wire.NUD_PERMANENT and wire.NDA_DST in attrs:
                addr = wire.addr_text(attrs[wire.NDA_DST])
                found[addr] = wire.mac_text(attrs.get(wire.NDA_LLADDR, b""))
        return found

    def index_of(self, device: str) -> int | None:
        """The index of a device, or None if there is none of that name."""
        return index_of(self._ipr, device)

    def apply(self, ops: Sequence[AnyOp]) -> None:
        """Carry out a plan: devices in order, then entries in batches. Every entry is tried before one that was
        refused is reported."""
        entries: list[EntryOp] = []
        for op in ops:
            if isinstance(op, _LINK_OPS):
                apply_link_op(self._ipr, op)
            else:
                entries.append(op)
        if entries:
            self._apply_entries(entries)

    def _apply_entries(self, ops: Sequence[EntryOp]) -> None:
        indexes = {name: index_of(self._ipr, name) for name in {op.device for op in ops}}
        present = [(op, index) for op in ops if (index := indexes[op.device]) is not None]
        missing = next((op for op in ops if indexes[op.device] is None and not _removes(op)), None)
        refused = self._route.send([_message(op, index) for op, index in present])
        failures = [(op, code) for at, code in refused if not _tolerable(op := present[at][0], code)]
        if failures:
            op, code = failures[0]
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise OverlayError(f"cannot change an entry of {op.device}: {os.strerror(code)}{more}")
        if missing is not None:
            raise OverlayError(f"there is no network device {missing.device}")


@contextmanager
def open_kernel() -> Iterator[Kernel]:
    """The kernel's door for one look and the changes after it; refusals come out as `OverlayError`."""
    try:
        with IPRoute() as ipr, wire.RouteSocket() as route:
            yield Kernel(ipr, route)
    except (OSError, NetlinkError) as exc:
        raise OverlayError(f"netlink failed: {exc}") from exc


def _destination(state: int, attrs: wire.Attrs, seen: bool) -> str:
    dst = wire.addr_text(attrs[wire.NDA_DST]) if wire.NDA_DST in attrs else ""
    exact = dst and not seen and state & wire.NUD_PERMANENT and not any(kind in attrs for kind in _FOREIGN)
    return dst if exact else f"?{dst}"


def _removes(op: EntryOp) -> bool:
    return isinstance(op, DelFdbSelf | DelFdbMaster | DelNeighbour)


def _tolerable(op: EntryOp, code: int) -> bool:
    return _removes(op) and code in wire.GONE


def _message(op: EntryOp, index: int) -> bytes:
    match op:
        case PutFdbSelf(mac=mac, dst=dst):
            return _fdb(True, index, _SELF_STATE, wire.NTF_SELF, mac, wire.addr_bytes(dst))
        case DelFdbSelf(mac=mac):
            return _fdb(False, index, _SELF_STATE, wire.NTF_SELF, mac)
        case PutFdbMaster(mac=mac):
            return _fdb(True, index, wire.NUD_NOARP | wire.NUD_REACHABLE, wire.NTF_MASTER, mac)
        case DelFdbMaster(mac=mac):
            return _fdb(False, index, wire.NUD_NOARP | wire.NUD_REACHABLE, wire.NTF_MASTER, mac)
        case PutNeighbour(addr=addr, mac=mac):
            return _neighbour(True, index, addr, bytes.fromhex(mac.replace(":", "")))
        case DelNeighbour(addr=addr):
            return _neighbour(False, index, addr)


def _fdb(put: bool, index: int, state: int, flags: int, mac: str, dst: bytes = b"") -> bytes:
    lladdr = bytes.fromhex(mac.replace(":", ""))
    return wire.entry_message(
        put=put, family=wire.AF_BRIDGE, index=index, state=state, flags=flags, dst=dst, lladdr=lladdr
    )


def _neighbour(put: bool, index: int, addr: str, lladdr: bytes = b"") -> bytes:
    return wire.entry_message(
        put=put, family=2, index=index, state=wire.NUD_PERMANENT, flags=0, dst=wire.addr_bytes(addr), lladdr=lladdr
    )
