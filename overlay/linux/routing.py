"""The mesh's routing rules and routes over raw rtnetlink: those with its protocol number are ours, and no others.

A route for each published task on another host makes them too many for a general encoder, as in `wire`.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux import wire
from pyswarm.overlay.mesh.names import ROUTE_PROTOCOL
from pyswarm.overlay.mesh.objects import DelRoute, DelRule, PutRoute, PutRule, Route, RoutingOp, Rule

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTMGRP_ROUTE, RTMGRP_RULE = 0x40, 0x80

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RULE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, two reserved, action, flags
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 7, 15
_FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 3, 4, 6, 10, 15
_FRA_FWMASK, _FRA_PROTOCOL = 16, 21
_SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST, _ONLINK, _INVERT = 0, 253, 1, 4, 2
_ACTIONS = {"lookup": 1, "goto": 2, "nop": 3}
_ACTION_NAMES = {number: name for name, number in _ACTIONS.items()}
_U32 = struct.Struct("=I")
_ANYWHERE = "0.0.0.0"  # noqa: S104 - a destination, not an address to listen on


def our_rules(sock: wire.RouteSocket) -> tuple[Rule, ...]:
    """Every rule of ours; one that is there twice is listed twice."""
    found = []
    for data in sock.dump(RTM_GETRULE, RTM_NEWRULE, _RULE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        if is_our_rule(data):
            found.append(_rule(data))
    return tuple(found)


def is_our_rule(data: bytes) -> bool:
    """Whether the body of a rule's message has our protocol number."""
    return wire.parse_attrs(data, _RULE.size, len(data)).get(_FRA_PROTOCOL) == bytes([ROUTE_PROTOCOL])


def is_our_route(data: bytes) -> bool:
    """Whether the body of a route's message has it."""
    return len(data) > 5 and data[0] == socket.AF_INET and data[5] == ROUTE_PROTOCOL


def _rule(data: bytes) -> Rule:
    action, flags = _RULE.unpack_from(data)[7:9]
    attrs = wire.parse_attrs(data, _RULE.size, len(data))
    name = _ACTION_NAMES.get(action, f"?{action}")
    target = attrs.get({"lookup": _FRA_TABLE, "goto": _FRA_GOTO}.get(name, 0))
    return Rule(
        priority=_number(attrs.get(_FRA_PRIORITY)),
        action=name,
        target=_number(target),
        mark=_number(attrs.get(_FRA_FWMARK)),
        mask=_number(attrs.get(_FRA_FWMASK)),
        invert=bool(flags & _INVERT),
        device=attrs.get(_FRA_IIFNAME, b"").rstrip(b"\0").decode(errors="replace"),
    )


def our_routes(sock: wire.RouteSocket) -> tuple[Route, ...]:
    """Every route of ours, through whichever device."""
    body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    found = []
    for data in sock.dump(RTM_GETROUTE, RTM_NEWROUTE, body):
        if is_our_route(data):
            attrs = wire.parse_attrs(data, _RTMSG.size, len(data))
            found.append(
                Route(
                    table=_number(attrs.get(_RTA_TABLE)),
                    dst=_addr(attrs.get(_RTA_DST)) or _ANYWHERE,
                    via=_addr(attrs.get(_RTA_GATEWAY)),
                    src=_addr(attrs.get(_RTA_PREFSRC)),
                )
            )
    return tuple(found)


def change_routing(sock: wire.RouteSocket, ops: Sequence[RoutingOp], index: int | None) -> None:
    """Carry out ``ops``, with routes through the device ``index``; every one is tried before one that was refused
    is reported. Raises OverlayError."""
    refused = [
        (ops[at], code)
        for at, code in sock.send([_message(op, index or 0) for op in ops])
        if not _tolerable(ops[at], code)
    ]
    if refused:
        op, code = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise OverlayError(f"cannot change the routing of published ports ({op}): {os.strerror(code)}{more}")


def _tolerable(op: RoutingOp, code: int) -> bool:
    if isinstance(op, PutRule):
        return code == errno.EEXIST
    return isinstance(op, DelRule | DelRoute) and code in wire.GONE


def _message(op: RoutingOp, index: int) -> bytes:
    match op:
        case PutRule(rule=rule):
            return wire.request(RTM_NEWRULE, _rule_body(rule), put=True, exclusive=True)
        case DelRule(rule=rule):
            return wire.request(RTM_DELRULE, _rule_body(rule), put=False)
        case PutRoute(route=route):
            return wire.request(RTM_NEWROUTE, _route_body(route, index), put=True)
        case DelRoute(route=route):
            return wire.request(RTM_DELROUTE, _route_body(route, 0), put=False)


def _rule_body(rule: Rule) -> bytes:
    flags = _INVERT if rule.invert else 0
    body = _RULE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, _ACTIONS[rule.action], flags)
    body += wire.attr(_FRA_PRIORITY, _U32.pack(rule.priority))
    if rule.action == "lookup":
        body += wire.attr(_FRA_TABLE, _U32.pack(rule.target))
    if rule.action == "goto":
        body += wire.attr(_FRA_GOTO, _U32.pack(rule.target))
    if rule.mask:
        body += wire.attr(_FRA_FWMARK, _U32.pack(rule.mark)) + wire.attr(_FRA_FWMASK, _U32.pack(rule.mask))
    if rule.device:
        body += wire.attr(_FRA_IIFNAME, rule.device.encode() + b"\0")
    return body + wire.attr(_FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))


def _route_body(route: Route, index: int) -> bytes:
    anywhere = route.dst == _ANYWHERE
    body = _RTMSG.pack(
        socket.AF_INET,
        0 if anywhere else 32,
        0,
        0,
        0,  # the table has a number beyond this field
        ROUTE_PROTOCOL,
        _SCOPE_UNIVERSE if route.via else _SCOPE_LINK,
        _UNICAST,
        _ONLINK if route.via else 0,
    )
    body += wire.attr(_RTA_TABLE, _U32.pack(route.table))
    if not anywhere:
        body += wire.attr(_RTA_DST, wire.addr_bytes(route.dst))
    if route.via:
        body += wire.attr(_RTA_GATEWAY, wire.addr_bytes(route.via))
    if route.src:
        body += wire.attr(_RTA_PREFSRC, wire.addr_bytes(route.src))
    if index:
        body += wire.attr(_RTA_OIF, _U32.pack(index))
    return body


def _number(value: bytes | None) -> int:
    return int(_U32.unpack(value)[0]) if value is not None and len(value) == 4 else 0


def _addr(value: bytes | None) -> str:
    return wire.addr_text(value) if value is not None and len(value) == 4 else ""
