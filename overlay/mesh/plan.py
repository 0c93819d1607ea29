"""From the cluster's state to this host's part of the mesh, and from what the kernel has to the operations that
close the gap. Pure, and without memory, as `overlay.plan`.

A connection to a published port is led (DNAT) to a ready task by the host it came to, marked there, and the mark
chooses its route: through the mesh's device, or straight to the task if it is here. On the task's host the mark
says which host it came from, and replies are routed back to it, whatever the client's address: so the task sees
that address, and the entry host undoes the change of destination.

Between hosts a task goes by its address on the network. Its own host leads on to its address on the bridge that
leads out, by which its replies go: a server that does not care from which of its addresses it answers, as many do
over UDP, then answers from the one it was asked at.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, collapse_addresses

import msgspec

from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh.guard import guard_table
from pyswarm.overlay.mesh.objects import (
    Backend,
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
)
from pyswarm.overlay.plan import normal_addr, normal_host
from pyswarm.overlay.registry.model import MAX_MESH_INDEX, EndpointEntry, OverlayState, ServiceEntry

MeshOp = (
    CreateVxlan | DeleteLink | SetLink | PutAddr | DelAddr | PutFdbSelf | DelFdbSelf | PutNeighbour | DelNeighbour
    | RoutingOp | SetSetting
)  # fmt: skip

_ANYWHERE = "0.0.0.0"  # noqa: S104 - a destination, not an address to listen on


class Surroundings(msgspec.Struct, frozen=True):
    """What the plan has to know of this host. ``ways_in``: the address at which each task of this host answers, by
    its id. ``egress_subnets``: those of the bridges that lead out, which every task is on."""

    node_id: str
    underlay: Underlay
    port: int
    ways_in: Mapping[str, str] = {}
    egress_subnets: tuple[str, ...] = ()


def desired_mesh(state: OverlayState, here: Surroundings) -> Mesh:
    """What this host shall have; nothing but the guard while no service publishes a port."""
    members = sorted({a for n in state.nodes.values() if (a := normal_host(n.underlay_addr, "")) is not None})
    vnis = sorted({names.VNI} | {n.vni for n in state.networks.values()})
    mesh = _published(state, here, members)
    return msgspec.structs.replace(mesh, guard=guard_table(members=members, vnis=vnis, port=here.port))


def _published(state: OverlayState, here: Surroundings, members: list[str]) -> Mesh:
    node_id, underlay = here.node_id, here.underlay
    services = {s.service_id: s for s in state.services.values() if s.ports and s.mesh_network_id}
    if not services:
        return Mesh()
    peers = _peers(state, node_id, underlay)
    own = state.nodes[node_id].mesh_index if node_id in state.nodes else 0
    reachable = {node_id: 0} | ({node: index for index, (node, _) in peers.items()} if own else {})
    holders = _holders(state, services, reachable)
    local = {addr: here.ways_in.get(e.endpoint_id, "") for addr, e in holders.items() if e.node_id == node_id}
    publications = _publications(services, holders, local)
    targets = {(addr, p.protocol, p.target) for addr in local for p in services[holders[addr].service_id].ports}
    table = mesh_table(
        publications=publications,
        origins={names.mesh_mac(index): names.origin_mark(index) for index in peers},
        members=members,
        inside=_disjoint([*(n.subnet for n in state.networks.values()), *here.egress_subnets]),
        targets=sorted(targets),
        ways_in={addr: way for addr, way in sorted(local.items()) if way},
        mtu=underlay.overlay_mtu(),
    )
    if not own:
        return Mesh(table=table, publications=publications)
    remote = {addr: reachable[e.node_id] for addr, e in holders.items() if e.node_id != node_id}
    return Mesh(
        link=MeshLink(
            params=VxlanParams(names.VNI, underlay.addr, here.port, underlay.index),
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
    )


def _disjoint(subnets: Iterable[str]) -> list[str]:
    """Each address in one of them only, as nftables wants it."""
    parsed = [IPv4Network(subnet, strict=False) for subnet in subnets if subnet and ":" not in subnet]
    return [str(subnet) for subnet in sorted(collapse_addresses(parsed))]


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


def _publications(
    services: dict[str, ServiceEntry], holders: dict[str, EndpointEntry], local: dict[str, str]
) -> tuple[Publication, ...]:
    """One for each published port; of two services with one port, which must not be, the first by id has it."""
    backends: dict[str, list[Backend]] = {service_id: [] for service_id in services}
    for addr, endpoint in sorted(holders.items()):
        way_in = local.get(addr, "")
        if way_in or addr not in local:
            backends[endpoint.service_id].append(Backend(addr, way_in, endpoint.ready))
    found: dict[tuple[str, int], Publication] = {}
    for service_id in sorted(services):
        for port in services[service_id].ports:
            if port.protocol in ("tcp", "udp"):
                publication = Publication(port.protocol, port.published, port.target, tuple(backends[service_id]))
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
    after += [DelRule(rule) for rule in (rules - Counter(want.rules)).elements()]
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
    """On the mesh's device packets come in to whose sender another route leads, by design: a check of that would
    drop them. It goes by the marks' routes there, and the device's own 2 (loose) outweighs a host-wide 1 (strict).
    The other settings let 127.0.0.1:port work."""
    local = "1" if want.table is not None else "0"
    wanted = {(device, name): local for device, name in have.settings if device != names.DEVICE}
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


def is_stale(flow: Flow, want: Mesh) -> bool:
    """Whether an existing connection leads nowhere any more. It would go on for as long as its client sends.

    TCP to a task that still runs is let finish. UDP has no end: a client that sends from one port for ever is led
    to another task as soon as its own is not ready any more.
    """
    for p in want.publications:
        if (p.protocol, p.published, p.port) == (flow.protocol, flow.published, flow.port):
            there = p.backends if flow.protocol == "tcp" else p.ready
            return not any(flow.addr in (backend.addr, backend.way_in) for backend in there)
    return True
