"""What a container's table of virtual IPs shall hold, and the commands that bring it there. Pure.

Each container has, in its own network namespace, a table that turns a service's virtual IP into the address of one
of its ready tasks, for each new connection that the container opens. So the client's address stays what it is,
nothing is in the way of the packets, and a service can ask itself. A service without ready tasks refuses at once.

    table ip pswarm
      map vips           virtual IP -> goto its chain
      set refused        virtual IPs that nobody is behind
      counter datagrams  flows other than TCP's that were led to a task
      chain out          (nat, output)     for TCP, UDP, SCTP and ICMP: ip daddr vmap @vips
      chain refuse       (filter, output)  ip daddr @refused: reset or unreachable
      chain v<hex>       one per virtual IP: count all but TCP, then dnat to one of its tasks, by chance

A table is loaded whole into a container that has none, and then changed where it differs, each time in one
transaction. Connections that are open stay where they lead until their task is gone. Flows without a connection,
of which the kernel cannot tell when they end, are led anew as soon as their task is withdrawn.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyswarm.overlay.objects import Flow
from pyswarm.overlay.registry.model import OverlayState

TABLE = "pswarm"
COUNTER = "datagrams"
#: Virtual IP -> the addresses behind it, in order.
VipTable = Mapping[str, tuple[str, ...]]

_HOOKS = {("out", "nat", -105), ("refuse", "filter", 0)}
_PROTOCOLS = "{ tcp, udp, sctp, icmp }"
#: UDP and ICMP: flows without a connection.
DATAGRAM_PROTOCOLS = (17, 1)


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
        f"add counter ip {TABLE} {COUNTER}",
        # Before the engine's own rules, which know nothing of these addresses.
        f"add chain ip {TABLE} out {{ type nat hook output priority -105; policy accept; }}",
        f"add rule ip {TABLE} out meta l4proto {_PROTOCOLS} ip daddr vmap @vips",
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
    changed = [vip for vip in {**have, **want} if have.get(vip) != want.get(vip)]
    led, lead = [vip for vip in changed if have.get(vip)], [vip for vip in changed if want.get(vip)]
    refused = [vip for vip in changed if have.get(vip) == ()]
    refuse = [vip for vip in changed if want.get(vip) == ()]
    ended, begun = [vip for vip in led if vip not in lead], [vip for vip in lead if vip not in led]
    yield from _elements("delete", "vips", [f"{vip} : goto {_chain(vip)}" for vip in ended])
    yield from _elements("delete", "refused", refused)
    for vip in led:
        yield f"flush chain ip {TABLE} {_chain(vip)}"
    for vip in ended:
        yield f"delete chain ip {TABLE} {_chain(vip)}"
    for vip in begun:
        yield f"add chain ip {TABLE} {_chain(vip)}"
    for vip in lead:
        # A nat chain sees the first packet of a flow, and no other.
        yield f"add rule ip {TABLE} {_chain(vip)} meta l4proto != tcp counter name {COUNTER}"
        yield f"add rule ip {TABLE} {_chain(vip)} dnat to {_target(want[vip])}"
    yield from _elements("add", "vips", [f"{vip} : goto {_chain(vip)}" for vip in begun])
    yield from _elements("add", "refused", refuse)


def _elements(verb: str, of: str, elements: Sequence[str]) -> Iterator[str]:
    if elements:
        yield f"{verb} element ip {TABLE} {of} {{ {', '.join(elements)} }}"


def _target(addrs: tuple[str, ...]) -> str:
    if len(addrs) == 1:
        return addrs[0]
    choices = ", ".join(f"{number} : {addr}" for number, addr in enumerate(addrs))
    return f"numgen random mod {len(addrs)} map {{ {choices} }}"


def _chain(vip: str) -> str:
    return f"v{int(ipaddress.IPv4Address(vip)):08x}"


def parse(objects: Iterable[Mapping[str, Any]]) -> VipTable | None:
    """What a table holds, from its listing in nftables' JSON; None when it is not as ``whole`` makes it.

    A container that may change its own network can put anything there.
    """
    try:
        return _parsed(objects)
    except (AttributeError, LookupError, TypeError, ValueError, StopIteration):
        return None


def _parsed(objects: Iterable[Mapping[str, Any]]) -> VipTable | None:
    led: dict[str, str] = {}
    refused: list[str] = []
    chains: dict[str, list[Any]] = {}
    hooks: set[tuple[str, str, int]] = set()
    counters: list[str] = []
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
        elif kind == "counter":
            counters.append(body["name"])
        elif kind not in ("metainfo", "table"):
            return None
    if counters != [COUNTER]:
        return None
    if hooks != _HOOKS or [len(chains.pop(name, [])) for name in ("out", "refuse")] != [1, 2]:
        return None
    found = dict.fromkeys(refused, ())
    if set(led.values()) != set(chains) or any(led[vip] != _chain(vip) for vip in led) or set(led) & set(found):
        return None
    return found | {vip: _addresses(chains[chain]) for vip, chain in led.items()}


def _addresses(rules: list[Any]) -> tuple[str, ...]:
    """Where a chain leads; to nobody, if it is none of ours."""
    if [len(rule) for rule in rules] != [2, 1] or "counter" not in rules[0][1] or "dnat" not in rules[1][0]:
        return ()
    target = rules[1][0]["dnat"]["addr"]
    if isinstance(target, str):
        return (target,)
    return tuple(addr for _, addr in sorted(target["map"]["data"]["set"]))


def withdrawn(have: VipTable, want: VipTable) -> frozenset[str]:
    """The virtual IPs that some task is behind no more."""
    return frozenset(vip for vip, addrs in have.items() if set(addrs) - set(want.get(vip, ())))


def gone(have: VipTable, want: VipTable, there: Collection[str]) -> frozenset[str]:
    """The addresses that some virtual IP leads to no more, of tasks that are not even ending: not ``there``."""
    return frozenset(
        addr
        for vip, addrs in have.items()
        for addr in addrs
        if addr not in there and addr not in want.get(vip, ())
    )


def is_stale(flow: Flow, vips: Collection[str], want: VipTable, lost: Collection[str] = ()) -> bool:
    """Whether a flow to one of ``vips`` leads to nobody who is behind it, and would go on to do so.

    That is a UDP sender or a ping that keeps its port or number, and a connection that nobody has answered yet.
    One that was answered may go on while its task ends; but from ``lost`` addresses nothing will come that would
    end it, and a new connection from the same port would be taken for a part of it.
    """
    if flow.sent_to not in vips or flow.led_to in want.get(flow.sent_to, ()):
        return False
    return flow.protocol in DATAGRAM_PROTOCOLS or not flow.answered or flow.led_to in lost
