"""What a container's table of virtual IPs shall hold, and the commands that bring it there. Pure.

Each container has, in its own network namespace, a table that turns a service's virtual IP into the address of one
of its ready tasks, for each new connection that the container opens. So the client's address stays what it is,
nothing is in the way of the packets, and a service can ask itself. A service without ready tasks refuses at once.

    table ip pswarm
      map vips       virtual IP -> goto its chain
      set refused    virtual IPs that nobody is behind
      chain out      (nat, output)     ip daddr vmap @vips
      chain refuse   (filter, output)  ip daddr @refused: reset or unreachable
      chain v<hex>   one per virtual IP: dnat to one of its tasks, by chance

A table is loaded whole into a container that has none, and then changed where it differs, each time in one
transaction. Connections that are open stay where they lead.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyswarm.overlay.registry.model import OverlayState

TABLE = "pswarm"
#: Virtual IP -> the addresses behind it, in order.
VipTable = Mapping[str, tuple[str, ...]]

_HOOKS = {("out", "nat", -105), ("refuse", "filter", 0)}
_PROTOCOLS = "{ tcp, udp, sctp, icmp }"


def tables(state: OverlayState, network_sets: Iterable[frozenset[str]]) -> dict[frozenset[str], VipTable]:
    """The table for each set of networks that a container is on."""
    behind: dict[tuple[str, str], list[str]] = {}
    for endpoint in state.endpoints.values():
        if endpoint.ready and _is_ipv4(endpoint.addr):
            behind.setdefault((endpoint.service_id, endpoint.network_id), []).append(endpoint.addr)
    by_network: dict[str, dict[str, tuple[str, ...]]] = {}
    for service in state.services.values():
        for place in service.networks:
            if _is_ipv4(place.vip):
                tasks = behind.get((service.service_id, place.network_id), [])
                addrs = tuple(sorted(tasks, key=ipaddress.IPv4Address))
                by_network.setdefault(place.network_id, {})[place.vip] = addrs
    return {
        networks: {
            vip: addrs for network in sorted(networks) for vip, addrs in by_network.get(network, {}).items()
        }
        for networks in set(network_sets)
    }


def _is_ipv4(addr: str) -> bool:
    # What the registry holds goes into commands: nothing but an address may.
    try:
        return bool(addr) and str(ipaddress.IPv4Address(addr)) == addr
    except ValueError:
        return False


def whole(want: VipTable) -> str:
    """Commands that make the table, in place of one that may be there."""
    lines = [
        f"add table ip {TABLE}",
        f"delete table ip {TABLE}",
        f"add table ip {TABLE}",
        f"add map ip {TABLE} vips {{ type ipv4_addr : verdict; }}",
        f"add set ip {TABLE} refused {{ type ipv4_addr; }}",
        # Before the engine's own rules, which know nothing of these addresses.
        f"add chain ip {TABLE} out {{ type nat hook output priority -105; policy accept; }}",
        f"add rule ip {TABLE} out ip daddr vmap @vips",
        f"add chain ip {TABLE} refuse {{ type filter hook output priority 0; policy accept; }}",
        f"add rule ip {TABLE} refuse ip daddr @refused meta l4proto tcp reject with tcp reset",
        f"add rule ip {TABLE} refuse ip daddr @refused reject with icmp type port-unreachable",
        *difference({}, want),
    ]
    return "\n".join(lines) + "\n"


def change(have: VipTable, want: VipTable) -> str:
    """Commands that turn the table that holds ``have`` into one that holds ``want``; empty when there are none."""
    lines = list(difference(have, want))
    return "\n".join(lines) + "\n" if lines else ""


def difference(have: VipTable, want: VipTable) -> Iterator[str]:
    """The commands, in an order in which nothing is removed that is still used."""
    for vip in have.keys() - want.keys():
        yield from _remove(vip, have[vip])
    for vip, addrs in want.items():
        former = have.get(vip)
        if former == addrs:
            continue
        if former is not None and bool(former) != bool(addrs):
            yield from _remove(vip, former)
            former = None
        if addrs:
            yield from _lead(vip, addrs, new=former is None)
        else:
            yield f"add element ip {TABLE} refused {{ {vip} }}"


def _lead(vip: str, addrs: tuple[str, ...], *, new: bool) -> Iterator[str]:
    chain = _chain(vip)
    yield f"add chain ip {TABLE} {chain}" if new else f"flush chain ip {TABLE} {chain}"
    target = addrs[0]
    if len(addrs) > 1:
        choices = ", ".join(f"{number} : {addr}" for number, addr in enumerate(addrs))
        target = f"numgen random mod {len(addrs)} map {{ {choices} }}"
    yield f"add rule ip {TABLE} {chain} meta l4proto {_PROTOCOLS} dnat to {target}"
    if new:
        yield f"add element ip {TABLE} vips {{ {vip} : goto {chain} }}"


def _remove(vip: str, addrs: tuple[str, ...]) -> Iterator[str]:
    if not addrs:
        yield f"delete element ip {TABLE} refused {{ {vip} }}"
        return
    chain = _chain(vip)
    yield f"delete element ip {TABLE} vips {{ {vip} : goto {chain} }}"
    yield f"flush chain ip {TABLE} {chain}"
    yield f"delete chain ip {TABLE} {chain}"


def _chain(vip: str) -> str:
    return f"v{int(ipaddress.IPv4Address(vip)):08x}"


def parse(objects: Iterable[Mapping[str, Any]]) -> VipTable | None:
    """What a table holds, from its listing in nftables' JSON; None when it is not as ``whole`` makes it."""
    led: dict[str, str] = {}
    refused: list[str] = []
    chains: dict[str, list[Any]] = {}
    hooks: set[tuple[str, str, int]] = set()
    for item in objects:
        kind, body = next(iter(item.items()))
        if kind == "map" and body["name"] == "vips":
            led = {vip: goal.get("goto", {}).get("target", "") for vip, goal in body.get("elem", [])}
        elif kind == "set" and body["name"] == "refused":
            refused = list(body.get("elem", []))
        elif kind == "chain":
            chains.setdefault(body["name"], [])
            if "hook" in body:
                hooks.add((body["name"], body["type"], body["prio"]))
        elif kind == "rule":
            chains.setdefault(body["chain"], []).append(body["expr"])
        elif kind not in ("metainfo", "table"):
            return None
    if hooks != _HOOKS or [len(chains.pop(name, [])) for name in ("out", "refuse")] != [1, 2]:
        return None
    found = dict.fromkeys(refused, ())
    if set(led.values()) != set(chains) or any(led[vip] != _chain(vip) for vip in led) or set(led) & set(found):
        return None
    return found | {vip: _addresses(chains[chain]) for vip, chain in led.items()}


def _addresses(rules: list[Any]) -> tuple[str, ...]:
    """Where a chain leads; to nobody, if it is none of ours."""
    if len(rules) != 1 or len(rules[0]) != 2 or "dnat" not in rules[0][1]:
        return ()
    target = rules[0][1]["dnat"].get("addr")
    if isinstance(target, str):
        return (target,)
    try:
        choices = target["map"]["data"]["set"]
        return tuple(addr for _, addr in sorted(choices))
    except (KeyError, TypeError, ValueError):
        return ()


def withdrawn(have: VipTable, want: VipTable) -> frozenset[tuple[str, str]]:
    """(virtual IP, address) of tasks that are behind it no more. Flows without connections would go on to them for
    as long as their sender keeps its port."""
    return frozenset((vip, addr) for vip, addrs in have.items() for addr in addrs if addr not in want.get(vip, ()))
