"""From the cluster's state to this host's part of the mesh, and from what the kernel has to the operations that
close the gap. Pure, and without memory, as `overlay.plan`.

A connection to a published port is led (DNAT) to a ready task by the host it came to, marked there, and the mark
chooses its route: through the mesh's device, or the network's bridge if the task is here. On the task's host the
mark says which host it came from, and replies are routed back to it, whatever the client's address: so the task
sees that address, and the entry host undoes the change of destination.
"""

from collections import Counter
from collections.abc import Iterable

from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh.objects import (
    DelAddr,
    DelRoute,
    DelRule,
    Flow,
    Mesh,
    MeshKernel,
    MeshLink,
    Publication,
    PutAddr,
    PutRoute,
    PutRule,
    Route,
    RoutingOp,
    Rule,
    SetSetting,
)
from pyswarm.overlay.mesh.ruleset import mesh_table
from pyswarm.overlay.objects import (
    CreateVxlan,
    DeleteLink,
    DelFdbSelf,
    DelNeighbour,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    Underlay,
    VxlanParams,
    is_overlay_bridge,
)
from pyswarm.overlay.plan import normal_addr, normal_host
from pyswarm.overlay.registry.model import MAX_MESH_INDEX, EndpointEntry, OverlayState, ServiceEntry

MeshOp = (
    CreateVxlan | DeleteLink | SetLink | PutAddr | DelAddr | PutFdbSelf | DelFdbSelf | PutNeighbour | DelNeighbour
    | RoutingOp | SetSetting
)  # fmt: skip

#: The bridges through which containers leave the host, and their replies with them.
EGRESS_BRIDGES = ("pswgw", "docker_gwbridge")
_ANYWHERE = "0.0.0.0"  # noqa: S104 - a destination, not an address to listen on


def desired_mesh(state: OverlayState, node_id: str, underlay: Underlay, port: int) -> Mesh:
    """What this host shall have; nothing while no service publishes a port."""
    services = {s.service_id: s for s in state.services.values() if s.ports and s.mesh_network_id}
    if not services:
        return Mesh()
    peers = _peers(state, node_id, underlay)
    own = state.nodes[node_id].mesh_index if node_id in state.nodes else 0
    reachable = {node_id: 0} | ({node: index for index, (node, _) in peers.items()} if own else {})
    holders = _holders(state, services, reachable)
    publications = _publications(services, holders)
    targets = {
        (addr, p.protocol, p.target)
        for addr, e in holders.items()
        if e.node_id == node_id
        for p in services[e.service_id].ports
    }
    table = mesh_table(
        publications=publications,
        origins={names.mesh_mac(index): names.origin_mark(index) for index in peers},
        members=sorted({a for n in state.nodes.values() if (a := normal_host(n.underlay_addr, "")) is not None}),
        networks=sorted({n.subnet for n in state.networks.values() if n.subnet and ":" not in n.subnet}),
        vnis=sorted({names.VNI} | {n.vni for n in state.networks.values()}),
        targets=sorted(targets),
        port=port,
        mtu=underlay.overlay_mtu(),
    )
    alive = frozenset(addr for e in state.endpoints.values() if (addr := normal_addr(e.addr)) is not None)
    if not own:
        return Mesh(table=table, publications=publications, alive=alive)
    remote = {addr: reachable[e.node_id] for addr, e in holders.items() if e.node_id != node_id}
    return Mesh(
        link=MeshLink(
            params=VxlanParams(names.VNI, underlay.addr, port, underlay.index),
            mac=names.mesh_mac(own),
            mtu=underlay.overlay_mtu(),
            addr=names.mesh_addr(own),
        ),
        fdb={names.mesh_mac(index): host for index, (_, host) in peers.items()},
        neighbours={names.mesh_addr(index): names.mesh_mac(index) for index in peers},
        rules=_rules(peers),
        routes=_routes(own, peers, remote),
        table=table,
        publications=publications,
        alive=alive,
    )


def _peers(state: OverlayState, node_id: str, underlay: Underlay) -> dict[int, tuple[str, str]]:
    """The other hosts that take part: their number -> (node, underlay address). Two with one number must not be;
    of those the same one is chosen everywhere."""
    peers: dict[int, tuple[str, str]] = {}
    for node in sorted(state.nodes.values(), key=lambda n: n.node_id):
        host = normal_host(node.underlay_addr, underlay.addr)
        if node.node_id != node_id and host is not None and 1 <= node.mesh_index <= MAX_MESH_INDEX:
            peers.setdefault(node.mesh_index, (node.node_id, host))
    own = state.nodes.get(node_id)
    if own is not None:
        peers.pop(own.mesh_index, None)
    return peers


def _holders(
    state: OverlayState, services: dict[str, ServiceEntry], reachable: dict[str, int]
) -> dict[str, EndpointEntry]:
    """Whose task has each address, of those that can be reached. An address with two tasks must not be; as in the
    network itself, a ready one goes first, and among equals the same one is chosen on every host."""
    holders: dict[str, EndpointEntry] = {}
    for endpoint in state.endpoints.values():
        service = services.get(endpoint.service_id)
        addr = normal_addr(endpoint.addr)
        if service is None or endpoint.network_id != service.mesh_network_id or endpoint.node_id not in reachable:
            continue
        if addr is None or ":" in addr:
            continue
        rival = holders.get(addr)
        if rival is None or (endpoint.ready, endpoint.endpoint_id) > (rival.ready, rival.endpoint_id):
            holders[addr] = endpoint
    return holders


def _publications(services: dict[str, ServiceEntry], holders: dict[str, EndpointEntry]) -> tuple[Publication, ...]:
    """One for each published port; of two services with one port, which must not be, the first by id has it."""
    ready: dict[str, list[str]] = {service_id: [] for service_id in services}
    for addr in sorted(holders):
        if holders[addr].ready:
            ready[holders[addr].service_id].append(addr)
    found: dict[tuple[str, int], Publication] = {}
    for service_id in sorted(services):
        for port in services[service_id].ports:
            if port.protocol in ("tcp", "udp"):
                publication = Publication(port.protocol, port.published, port.target, tuple(ready[service_id]))
                found.setdefault((port.protocol, port.published), publication)
    return tuple(found[key] for key in sorted(found))


def _rules(peers: Iterable[int]) -> frozenset[Rule]:
    """What comes in through the mesh is routed like anything else; of the rest, what is led to a task goes to it,
    and what carries no host's number is done with after three rules, however many hosts there are."""
    end = names.END_PRIORITY
    return frozenset(
        (
            Rule(names.SKIP_PRIORITY, "goto", end, device=names.DEVICE),
            Rule(names.TASKS_PRIORITY, "lookup", names.TASKS_TABLE, names.ENTRY_MARK, names.ENTRY_MARK),
            Rule(names.UNMARKED_PRIORITY, "goto", end, names.ORIGIN_MARK, names.ORIGIN_MARK, invert=True),
            *(
                Rule(
                    names.FIRST_ORIGIN_PRIORITY + index,
                    "lookup",
                    names.origin_table(index),
                    names.origin_mark(index),
                    names.ORIGIN_MASK,
                )
                for index in peers
            ),
            Rule(end, "nop"),
        )
    )


def _routes(own: int, peers: Iterable[int], remote: dict[str, int]) -> frozenset[Route]:
    main = 254
    there = (Route(main, names.mesh_addr(index), src=names.mesh_addr(own)) for index in peers)
    back = (Route(names.origin_table(index), _ANYWHERE, via=names.mesh_addr(index)) for index in peers)
    tasks = (Route(names.TASKS_TABLE, addr, via=names.mesh_addr(index)) for addr, index in remote.items())
    return frozenset((*there, *back, *tasks))


# --- from the kernel's state to the desired one


def plan_mesh(want: Mesh, have: MeshKernel) -> tuple[list[MeshOp], list[MeshOp]]:
    """What to do before the table of nftables is changed, and what after: a way is there before anything is led to
    it, and goes when nothing is any more."""
    before, after, fresh = _plan_link(want, have)
    if fresh:
        have = MeshKernel(rules=have.rules, settings=have.settings)
    before += [PutFdbSelf(names.DEVICE, mac, dst) for mac, dst in want.fdb.items() if have.fdb.get(mac) != dst]
    before += [
        PutNeighbour(names.DEVICE, addr, mac)
        for addr, mac in want.neighbours.items()
        if have.neighbours.get(addr) != mac
    ]
    routes = frozenset(have.routes)
    before += [PutRoute(route) for route in want.routes - routes]
    before += _plan_settings(want, have)
    rules = Counter(have.rules)
    before += [PutRule(rule) for rule in sorted(want.rules - rules.keys(), key=lambda r: -r.priority)]
    after += [
        DelRule(rule) for rule in rules - Counter(want.rules) for _ in range(rules[rule] - (rule in want.rules))
    ]
    kept = {route.key for route in want.routes}
    after += [DelRoute(route) for route in routes if route.key not in kept]
    if have.link is not None and want.link is not None and not fresh:
        after += [DelNeighbour(names.DEVICE, addr) for addr in have.neighbours if addr not in want.neighbours]
        after += [DelFdbSelf(names.DEVICE, mac) for mac in have.fdb if mac not in want.fdb]
    if have.link is not None and want.link is None:
        after.append(DeleteLink(names.DEVICE))
    return before, after


def _plan_link(want: Mesh, have: MeshKernel) -> tuple[list[MeshOp], list[MeshOp], bool]:
    """Operations on the device, before and after, and whether it is made anew, which takes its routes with it."""
    link = want.link
    if link is None:
        return [], [], False
    addr = [PutAddr(names.DEVICE, link.addr)]
    if have.link is None or have.link.params != link.params or have.link.mac != link.mac:
        gone = [DeleteLink(names.DEVICE)] if have.link is not None else []
        made = CreateVxlan(names.DEVICE, link.params, link.mtu, names.ALIAS, link.mac)
        return [*gone, made, *addr, SetLink(names.DEVICE, up=True)], [], True
    ops: list[MeshOp] = []
    if link.addr not in have.addrs:
        ops += addr
    mtu = link.mtu if have.link.mtu != link.mtu else None
    alias = names.ALIAS if have.link.alias != names.ALIAS else None
    up = None if have.link.up else True
    if mtu is not None or alias is not None or up is not None:
        ops.append(SetLink(names.DEVICE, mtu=mtu, alias=alias, up=up))
    return ops, [DelAddr(names.DEVICE, a) for a in sorted(have.addrs) if a != link.addr], False


def _plan_settings(want: Mesh, have: MeshKernel) -> list[MeshOp]:
    """Packets come in where no route leads out to their sender, by design: a strict check of that would drop them.
    It is relaxed on the devices concerned only. The mesh's own is checked by the marks' routes instead; a device's
    setting of 2 (loose) outweighs a host-wide 1 (strict)."""
    wanted: dict[tuple[str, str], str] = {}
    active = want.table is not None
    for device, name in have.settings:
        if name == "route_localnet" and is_overlay_bridge(device):
            wanted[device, name] = "1" if active else "0"  # for 127.0.0.1:port
        if (
            name == "rp_filter"
            and device in EGRESS_BRIDGES
            and want.table is not None
            and _is_strict(have, device)
        ):
            wanted[device, name] = "2"
    if want.link is not None:
        wanted |= {
            (names.DEVICE, "rp_filter"): "2",
            (names.DEVICE, "src_valid_mark"): "1",
            (names.DEVICE, "route_localnet"): "1",
        }
    return [
        SetSetting(device, name, value)
        for (device, name), value in wanted.items()
        if have.settings.get((device, name)) != value
    ]


def _is_strict(have: MeshKernel, device: str) -> bool:
    return max(have.settings.get((d, "rp_filter"), "0") for d in ("all", device)) == "1"


def is_stale(flow: Flow, want: Mesh) -> bool:
    """Whether an existing connection leads nowhere any more. It would go on for as long as its client sends.

    TCP to a task that still runs is let finish. UDP has no end: a client that sends from one port for ever is led
    to another task as soon as its own is not ready any more.
    """
    if flow.protocol == "tcp":
        return flow.addr not in want.alive
    return not any(
        (p.protocol, p.published, p.port) == (flow.protocol, flow.published, flow.port) and flow.addr in p.ready
        for p in want.publications
    )
