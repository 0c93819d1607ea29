"""The mesh's table of nftables on one host. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh.objects import Backend, Publication
from pyswarm.overlay.mesh.table import Chain, NamedSet, Table

#: IPv4 and TCP headers.
_HEADERS_BYTES = 40
#: Answers names on every host (`overlay.dns`); a service may publish port 53 of the others' addresses.
_RESOLVER = "169.254.53.53"

_IN, _OUT, _NOT_IN = f'iifname "{names.DEVICE}"', f'oifname "{names.DEVICE}"', f'iifname != "{names.DEVICE}"'
_ENTERED = f"ct mark & {names.ENTRY_MARK:#x} == {names.ENTRY_MARK:#x}"
_ORIGINATED = f"ct mark & {names.ORIGIN_MARK:#x} == {names.ORIGIN_MARK:#x}"
_FROM_EGRESS = "iifname { " + ", ".join(f'"{name}"' for name in names.EGRESS_BRIDGES) + " }"
_PORT = "meta l4proto . th dport"
_KEEP = 0xFFFFFFFF & ~names.MARK_MASK


def mesh_table(
    *,
    publications: Sequence[Publication],
    origins: Mapping[str, int],
    members: Iterable[str],
    inside: Iterable[str],
    targets: Iterable[tuple[str, str, int]],
    ways_in: Mapping[str, str],
    mtu: int,
) -> Table:
    """``origins``: MAC in the mesh -> mark of connections from there. ``inside``: subnets to whose clients tasks
    would reply directly. ``targets``: what may be reached through the mesh on this host (address, protocol, port),
    ``ways_in`` where that is led on to."""
    led = [p for p in publications if p.ready]
    idle = [p for p in publications if not p.ready]
    sets = {
        "published": NamedSet(
            "map",
            "type inet_proto . inet_service : verdict",
            {f"{p.protocol} . {p.published}": f"goto {_chain(p)}" for p in led},
        ),
        "idle": _set("type inet_proto . inet_service", (f"{p.protocol} . {p.published}" for p in idle)),
        "targets": _set(
            "type ipv4_addr . inet_proto . inet_service",
            (f"{addr} . {proto} . {to}" for addr, proto, to in targets),
        ),
        "origins": NamedSet("map", "type ether_addr : mark", {mac: f"{mark:#x}" for mac, mark in origins.items()}),
        "zones": NamedSet(
            "map",
            "typeof ether saddr : ct zone",
            {mac: str(mark & ~names.ORIGIN_MARK) for mac, mark in origins.items()},
        ),
        "members": _set("type ipv4_addr", members),
        "inside": _set("type ipv4_addr ; flags interval", inside),
        "ways_in": NamedSet("map", "type ipv4_addr : ipv4_addr", ways_in),
    }
    chains = {_chain(p): Chain(_leading(p)) for p in led} | _task_chains(led) | _fixed_chains(mtu)
    return Table(names.NFT_TABLE, chains, sets)


def _set(kind: str, elements: Iterable[str]) -> NamedSet:
    return NamedSet("set", kind, dict.fromkeys(elements, ""))


def _chain(publication: Publication) -> str:
    return f"{publication.protocol}_{publication.published}"


def _leading(publication: Publication) -> tuple[str, ...]:
    """To each ready task with the same probability: the first of N in one of N cases, and so on. The mark is set
    on the packet too: the host's own packets are routed anew right after this, perhaps with no other route."""
    mark = f"meta l4proto {publication.protocol}" + "".join(
        f" {what} mark set {what} mark & {_KEEP:#x} | {names.ENTRY_MARK:#x}" for what in ("ct", "meta")
    )
    left = len(publication.ready)
    rules = [mark]
    for backend in publication.ready:
        chance = f"numgen random mod {left} 0 " if left > 1 else ""
        if backend.way_in:
            rules.append(f"{chance}goto {_task_chain(publication, backend)}")
        else:
            rules.append(chance + _dnat(publication, backend.addr))
        left -= 1
    return tuple(rules)


def _task_chain(publication: Publication, backend: Backend) -> str:
    return f"{publication.protocol}_{backend.addr.replace('.', '_')}_{publication.port}"


def _dnat(publication: Publication, addr: str) -> str:
    return f"meta l4proto {publication.protocol} dnat to {addr}:{publication.port}"


def _task_chains(publications: Iterable[Publication]) -> dict[str, Chain]:
    """To the tasks of this host. What comes from a container on the bridge that leads out cannot go back there: a
    bridge does not send out of a port what came in by it."""
    return {
        _task_chain(p, backend): Chain(
            (f"{_FROM_EGRESS} {_dnat(p, backend.addr)}", _dnat(p, backend.way_in)),
        )
        for p in publications
        for backend in p.ready
        if backend.way_in
    }


def _fixed_chains(mtu: int) -> dict[str, Chain]:
    to_here = f"ip daddr != {_RESOLVER} fib daddr type local"
    # Neither side of a connection knows how large a packet fits between the hosts.
    clamp = f"tcp flags & syn == syn tcp option maxseg size set {mtu - _HEADERS_BYTES}"
    return {
        "raw": Chain(
            (
                # What lets 127.0.0.1:port work would let containers reach the host's own 127.0.0.1.
                f"{_FROM_EGRESS} ip daddr 127.0.0.0/8 drop",
                f"{_IN} ip daddr 127.0.0.0/8 drop",
                # By two hosts at once, a client may come from one port to one task. These are two connections, of
                # which the second is given another port.
                f"{_IN} ct original zone set ether saddr map @zones",
            ),
            "filter hook prerouting priority -300",
        ),
        "mark_in": Chain(
            (
                f"{_IN} ct direction original ct mark set ether saddr map @origins",
                f"{_IN} ct direction original ct mark & {names.ORIGIN_MARK:#x} != {names.ORIGIN_MARK:#x} drop",
                f"{_IN} meta mark set ct mark",
                f"{_NOT_IN} ct direction reply {_ORIGINATED} meta mark set ct mark",
                f"ct direction reply {_ENTERED} {clamp}",
            ),
            "filter hook prerouting priority -150",
        ),
        "lead_in": Chain(
            (
                f"{_IN} ip daddr . {_PORT} @targets dnat to ip daddr map @ways_in",
                f"{_NOT_IN} {to_here} {_PORT} vmap @published",
            ),
            "nat hook prerouting priority -105",
        ),
        "mark_led": Chain(
            (f"ct direction original {_ENTERED} meta mark set ct mark",),
            "filter hook prerouting priority -99",
        ),
        # Before addresses are translated. What the host itself says to a connection, such as that a packet is too
        # large, goes the way of replies.
        "mark_out": Chain(
            (
                f"ct direction original {_ENTERED} meta mark set ct mark",
                f"ct direction reply {_ORIGINATED} meta mark set ct mark",
            ),
            "route hook output priority -150",
        ),
        "lead_out": Chain((f"{to_here} {_PORT} vmap @published",), "nat hook output priority -105"),
        "arrive": Chain(
            (
                f"{_IN} ct direction reply {_ENTERED} accept",
                f"{_IN} drop",
                f"fib daddr type local {_PORT} @idle goto refuse",
            ),
            "filter hook input priority -10",
        ),
        "refuse": Chain(("meta l4proto tcp reject with tcp reset", "reject with icmp port-unreachable")),
        "pass": Chain(
            (
                f"{_NOT_IN} accept",
                f"ct direction reply {_ENTERED} accept",
                f"ct status dnat ct original ip daddr . {_PORT} @targets accept",
                "meta l4proto icmp ct state related accept",
                # A task that has just ended, say.
                "ct direction original goto refuse",
                "drop",
            ),
            "filter hook forward priority -10",
        ),
        "leave": Chain(
            (
                # A host's own packet, led to its own task by another host, would be taken for a forgery there.
                f"{_OUT} ip saddr @members masquerade",
                f"{_ENTERED} ip saddr @inside masquerade",
                f"{_OUT} fib saddr type local masquerade",
                f"{_ENTERED} ip saddr 127.0.0.0/8 masquerade",
            ),
            "nat hook postrouting priority 95",
        ),
        "clear": Chain(
            (
                f"ct direction original {_ENTERED} {clamp}",
                # The frame around the packet would inherit the mark, and be routed by it, into itself.
                f"{_OUT} meta mark set meta mark & {_KEEP:#x}",
            ),
            "filter hook postrouting priority 300",
        ),
    }
