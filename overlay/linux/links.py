"""Devices through pyroute2: few, with many attributes, so its general encoder is worth its price here."""

from collections.abc import Iterable
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.objects import (
    NF_TABLES,
    BridgeLink,
    ClearBridgeNf,
    CreateVxlan,
    DeleteLink,
    LinkOp,
    PortFlags,
    SetLink,
    SetPortFlags,
    Underlay,
    VxlanLink,
    VxlanParams,
)

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_ENODEV = 19


def find_underlay(ipr: IPRoute, addr: str) -> Underlay:
    """The device that holds this host's address between hosts."""
    for entry in ipr.get_addr(address=addr):
        index = entry["index"]
        device = next(iter(ipr.link("get", index=index)))
        loopback = bool(device["flags"] & _IFF_LOOPBACK)
        # An address on the loopback device is reached by routes over any of several devices; none is named then.
        return Underlay(addr, 0 if loopback else index, int(device.get_attr("IFLA_MTU")))
    raise OverlayError(f"no network device of this host has the address {addr}")


def vxlan_links(ipr: IPRoute) -> dict[str, VxlanLink]:
    """Every VXLAN device of this host, by name."""
    return {link.name: link for msg in ipr.link("dump", kind="vxlan") if (link := _vxlan(msg)) is not None}


def bridge_links(ipr: IPRoute) -> dict[str, BridgeLink]:
    """Every bridge of this host, by name."""
    found = {}
    for msg in ipr.link("dump", kind="bridge"):
        info = msg.get(("linkinfo", "data"))
        if msg.get(("linkinfo", "kind")) != "bridge":
            continue
        name = msg.get_attr("IFLA_IFNAME")
        flags = {} if info is None else {t: info.get_attr(f"IFLA_BR_NF_CALL_{t.upper()}") for t in NF_TABLES}
        nf_call = frozenset(table for table, flag in flags.items() if flag)
        found[name] = BridgeLink(name, msg["index"], bool(msg["flags"] & _IFF_UP), nf_call)
    return found


def _vxlan(msg: Any) -> VxlanLink | None:
    info, kind = msg.get(("linkinfo", "data")), msg.get(("linkinfo", "kind"))
    if kind != "vxlan" or info is None:
        return None
    local = info.get_attr("IFLA_VXLAN_LOCAL") or info.get_attr("IFLA_VXLAN_LOCAL6") or ""
    params = VxlanParams(
        vni=info.get_attr("IFLA_VXLAN_ID"),
        local=local,
        port=info.get_attr("IFLA_VXLAN_PORT"),
        link_index=info.get_attr("IFLA_VXLAN_LINK") or 0,
        learning=bool(info.get_attr("IFLA_VXLAN_LEARNING")),
    )
    port = msg.get(("linkinfo", "slave_data"))
    flags = None
    if port is not None and msg.get(("linkinfo", "slave_kind")) == "bridge":
        flags = PortFlags(
            learning=bool(port.get_attr("IFLA_BRPORT_LEARNING")),
            flood=bool(port.get_attr("IFLA_BRPORT_UNICAST_FLOOD")),
            mcast_flood=bool(port.get_attr("IFLA_BRPORT_MCAST_FLOOD")),
            bcast_flood=bool(port.get_attr("IFLA_BRPORT_BCAST_FLOOD")),
            neigh_suppress=bool(port.get_attr("IFLA_BRPORT_NEIGH_SUPPRESS")),
        )
    return VxlanLink(
        name=msg.get_attr("IFLA_IFNAME"),
        index=msg["index"],
        params=params,
        mtu=msg.get_attr("IFLA_MTU"),
        up=bool(msg["flags"] & _IFF_UP),
        alias=msg.get_attr("IFLA_IFALIAS") or "",
        master_index=msg.get_attr("IFLA_MASTER") or 0,
        flags=flags,
        mac=msg.get_attr("IFLA_ADDRESS") or "",
    )


def index_of(ipr: IPRoute, name: str) -> int | None:
    """The index of a device, or None if there is none of that name."""
    found = ipr.link_lookup(ifname=name)
    return int(found[0]) if found else None


def apply_link_op(ipr: IPRoute, op: LinkOp) -> None:
    """Carry out one operation on a device."""
    try:
        _apply(ipr, op)
    except NetlinkError as exc:
        if isinstance(op, DeleteLink) and exc.code == _ENODEV:
            return
        raise OverlayError(f"cannot change {op.device}: {_explain(op, exc)}") from exc


def _explain(op: LinkOp, exc: NetlinkError) -> str:
    if isinstance(op, CreateVxlan) and exc.code == 17:
        return (
            f"the name is taken, or another VXLAN device of this host uses VNI {op.params.vni} "
            f"on UDP port {op.params.port}"
        )
    return str(exc.args[1] if len(exc.args) > 1 else exc)


def _apply(ipr: IPRoute, op: LinkOp) -> None:
    match op:
        case DeleteLink(device=device):
            ipr.link("del", index=_need(ipr, device, missing_ok=True))
        case CreateVxlan(device=device, params=params, mtu=mtu, alias=alias, mac=mac):
            attrs: dict[str, Any] = {
                "vxlan_id": params.vni,
                "vxlan_local6" if ":" in params.local else "vxlan_local": params.local,
                "vxlan_port": params.port,
                "vxlan_learning": params.learning,
            }
            if params.link_index:
                attrs["vxlan_link"] = params.link_index
            if mac:
                attrs["address"] = mac
            ipr.link("add", ifname=device, kind="vxlan", mtu=mtu, **attrs)
            ipr.link("set", index=_need(ipr, device), ifalias=alias)
        case SetLink(device=device, mtu=mtu, alias=alias, master=master, up=up):
            changes: dict[str, Any] = {}
            if mtu is not None:
                changes["mtu"] = mtu
            if alias is not None:
                changes["ifalias"] = alias
            if master is not None:
                changes["master"] = _need(ipr, master)
            if up is not None:
                changes["state"] = "up" if up else "down"
            ipr.link("set", index=_need(ipr, device), **changes)
        case SetPortFlags(device=device, flags=flags):
            ipr.brport(
                "set",
                index=_need(ipr, device),
                learning=int(flags.learning),
                unicast_flood=int(flags.flood),
                mcast_flood=int(flags.mcast_flood),
                bcast_flood=int(flags.bcast_flood),
                neigh_suppress=int(flags.neigh_suppress),
            )
        case ClearBridgeNf(device=device):
            set_bridge_nf(ipr, device, NF_TABLES, False)


def set_bridge_nf(ipr: IPRoute, bridge: str, tables: Iterable[str], on: bool) -> None:
    """Whether frames of this bridge pass through these tables, whatever the host's settings say of the others."""
    flags = {f"br_nf_call_{table}": int(on) for table in tables}
    ipr.link("set", index=_need(ipr, bridge), kind="bridge", **flags)


def _need(ipr: IPRoute, name: str, missing_ok: bool = False) -> int:
    index = index_of(ipr, name)
    if index is None:
        if missing_ok:
            raise NetlinkError(_ENODEV)
        raise OverlayError(f"there is no network device {name}")
    return index
