"""The mesh's plan: what follows from the cluster's state, and that any kernel comes to it, once."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pyswarm.overlay.linux.iptables import CHAIN, RULES, plan_entrance, plan_user_chain
from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh import table as tables
from pyswarm.overlay.mesh.objects import (
    Backend,
    DelAddr,
    DelRoute,
    DelRule,
    Flow,
    Mesh,
    MeshKernel,
    Publication,
    PutAddr,
    PutRoute,
    PutRule,
    Route,
    Rule,
    SetSetting,
)
from pyswarm.overlay.mesh.plan import MeshOp, Surroundings, desired_mesh, is_stale, plan_mesh
from pyswarm.overlay.mesh.table import Chain, NamedSet, Table
from pyswarm.overlay.objects import (
    CreateVxlan,
    DeleteLink,
    DelFdbSelf,
    DelNeighbour,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    Underlay,
    VxlanLink,
    VxlanParams,
)
from pyswarm.overlay.registry.model import (
    EndpointEntry,
    NetworkEntry,
    NodeEntry,
    OverlayState,
    PublishedPort,
    ServiceEntry,
)

UNDERLAY = Underlay("192.0.2.1", 2, 1500)
WEB = PublishedPort("tcp", 8080, 80)


def endpoint(host: int, node: int, *, ready: bool = True, service: str = "web") -> EndpointEntry:
    addr, node_id = f"10.0.0.{host}", f"n{node}"
    return EndpointEntry(
        f"t{host}", "ing", addr, "", node_id, service_id=service, service_name=service, ready=ready
    )


def state(*endpoints: EndpointEntry, nodes: int = 3, **ports: tuple[PublishedPort, ...]) -> OverlayState:
    return OverlayState(
        nodes={f"n{i}": NodeEntry(f"n{i}", f"h{i}", f"192.0.2.{i}", i) for i in range(1, nodes + 1)},
        networks={"ing": NetworkEntry("ing", "ingress", 4096, "10.0.0.0/24", "10.0.0.1", 1450)},
        endpoints={(e.network_id, e.endpoint_id): e for e in endpoints},
        services={
            name: ServiceEntry(name, name, ports=published, mesh_network_id="ing")
            for name, published in (ports or {"web": (WEB,)}).items()
        },
    )


def desired(what: OverlayState, node: str = "n1", **ways_in: str) -> Mesh:
    """A task at 10.0.0.5 answers at 172.18.0.5 on the way out, unless told otherwise."""
    ways = {e.endpoint_id: e.addr.replace("10.0.0.", "172.18.0.") for e in what.endpoints.values()}
    here = Surroundings(node, UNDERLAY, 4789, {**ways, **ways_in}, ("172.18.0.1/16",))
    return desired_mesh(what, here)


def leads_to(mesh: Mesh, chain: str = "tcp_8080") -> list[str]:
    """Where the port leads a client from outside."""
    assert mesh.table is not None
    found = []
    for rule in mesh.table.chains[chain].rules:
        if on := re.search(r"goto (\S+)", rule):
            rule = mesh.table.chains[on[1]].rules[-1]
        found += re.findall(r"dnat to (\S+)", rule)
    return found


def elements(mesh: Mesh, name: str) -> set[str]:
    assert mesh.table is not None
    return set(mesh.table.sets[name].elements)


# --- what is wanted


def only_guarded(mesh: Mesh) -> bool:
    """Nothing is published, and still nobody but members may send frames here."""
    return mesh.guard is not None and msgspec.structs.replace(mesh, guard=None) == Mesh()


def test_without_published_ports_there_is_nothing() -> None:
    assert only_guarded(desired(state(endpoint(2, 1), web=())))
    unreachable = replace(state(), services={"web": ServiceEntry("web", "web", ports=(WEB,))})
    assert only_guarded(desired(unreachable)), "a service on no network"


def test_every_host_leads_to_every_ready_task() -> None:
    what = state(endpoint(2, 1), endpoint(3, 2), endpoint(4, 3, ready=False), endpoint(5, 2, service="other"))
    for node, there in (
        ("n1", ["172.18.0.2:80", "10.0.0.3:80"]),
        ("n2", ["10.0.0.2:80", "172.18.0.3:80"]),
        ("n3", ["10.0.0.2:80", "10.0.0.3:80"]),
    ):
        mesh = desired(what, node)
        assert leads_to(mesh) == there
        assert elements(mesh, "published") == {"tcp . 8080"}
        assert elements(mesh, "idle") == set()
    # One that is not ready any more still finishes what it began: its way stays.
    routes = {(r.dst, r.via) for r in desired(what).routes if r.table == names.TASKS_TABLE}
    assert routes == {("10.0.0.3", "169.254.224.2"), ("10.0.0.4", "169.254.224.3")}
    assert elements(desired(what), "targets") == {"10.0.0.2 . tcp . 80"}
    assert elements(desired(what, "n3"), "targets") == {"10.0.0.4 . tcp . 80"}
    assert desired(what, "n3").table.sets["ways_in"].elements == {"10.0.0.4": "172.18.0.4"}  # type: ignore[union-attr]


def test_nothing_is_led_to_a_task_of_this_host_that_cannot_answer() -> None:
    mesh = desired(state(endpoint(2, 1), endpoint(3, 2)), t2="")
    assert leads_to(mesh) == ["10.0.0.3:80"]
    assert elements(mesh, "ways_in") == set()
    # What comes for it by the mesh is refused, rather than sent where nobody is.
    assert elements(mesh, "targets") == {"10.0.0.2 . tcp . 80"}
    assert elements(desired(state(endpoint(2, 1)), t2=""), "idle") == {"tcp . 8080"}


def test_subnets_to_which_tasks_reply_directly_do_not_overlap() -> None:
    what = state()
    nested = NetworkEntry("x", "x", 5000, "172.18.4.0/24", "", 1450)
    mesh = desired(replace(what, networks={**what.networks, "x": nested}))
    assert elements(mesh, "inside") == {"10.0.0.0/24", "172.18.0.0/16"}


def test_a_port_without_a_ready_task_refuses() -> None:
    mesh = desired(state(endpoint(2, 1, ready=False)))
    assert elements(mesh, "idle") == {"tcp . 8080"}
    assert elements(mesh, "published") == set()
    assert mesh.table is not None
    assert "tcp_8080" not in mesh.table.chains


def test_tasks_share_connections_evenly() -> None:
    mesh = desired(state(*(endpoint(n, 1) for n in range(2, 6))))
    assert mesh.table is not None
    chances = [re.search(r"random mod (\d+) 0 ", rule) for rule in mesh.table.chains["tcp_8080"].rules[1:]]
    assert [int(c[1]) if c else 1 for c in chances] == [4, 3, 2, 1]


def test_replies_find_back_by_the_number_of_the_host() -> None:
    mesh = desired(state(endpoint(2, 1)), "n1")
    assert mesh.link is not None
    assert (mesh.link.addr, mesh.link.mac, mesh.link.mtu) == ("169.254.224.1", "0e:fe:00:00:00:01", 1450)
    assert mesh.fdb == {"0e:fe:00:00:00:02": "192.0.2.2", "0e:fe:00:00:00:03": "192.0.2.3"}
    assert mesh.table is not None
    assert mesh.table.sets["origins"].elements == {"0e:fe:00:00:00:02": "0x1002", "0e:fe:00:00:00:03": "0x1003"}
    for index in (2, 3):
        back = names.TASKS_TABLE + index
        assert Rule(110 + index, "lookup", back, 0x1000 + index, 0x1FFF) in mesh.rules
        assert Route(back, "0.0.0.0", via=f"169.254.224.{index}") in mesh.routes
    assert names.mesh_addr(4094) == "169.254.239.254"
    assert names.mesh_mac(4094) == "0e:fe:00:00:0f:fe"
    assert {names.origin_mark(n) & ~names.MARK_MASK for n in (1, 4094)} == {0}


def test_a_host_without_a_number_leads_to_its_own_tasks_only() -> None:
    what = state(endpoint(2, 1), endpoint(3, 2))
    numberless = replace(what, nodes={**what.nodes, "n1": replace(what.nodes["n1"], mesh_index=0)})
    mesh = desired(numberless)
    assert leads_to(mesh) == ["172.18.0.2:80"]
    assert mesh.link is None
    assert mesh.rules == mesh.routes == frozenset()
    assert leads_to(desired(numberless, "n2")) == ["172.18.0.3:80"]


def test_what_must_not_be_is_decided_alike_everywhere() -> None:
    rivals = (endpoint(2, 1, ready=False), replace(endpoint(2, 3), endpoint_id="a"))
    for order in (rivals, rivals[::-1]):
        mesh = desired(state(*order), "n2")
        assert {r.via for r in mesh.routes if r.dst == "10.0.0.2"} == {"169.254.224.3"}
    doubled = state(endpoint(2, 1), endpoint(3, 1, service="b"), b=(WEB,), web=(WEB,))
    assert leads_to(desired(doubled)) == ["172.18.0.3:80"]
    what = state()
    twins = replace(what, nodes={**what.nodes, "n0": NodeEntry("n0", "h0", "192.0.2.9", 2)})
    assert desired(twins).fdb["0e:fe:00:00:00:02"] == "192.0.2.9"
    odd = replace(what, nodes={**what.nodes, "n2": NodeEntry("n2", "h2", "not an address", 2)})
    assert set(desired(odd).fdb) == {"0e:fe:00:00:00:03"}
    high = replace(what, nodes={**what.nodes, "n2": NodeEntry("n2", "h2", "192.0.2.2", 4095)})
    assert set(desired(high).fdb) == {"0e:fe:00:00:00:03"}


def test_only_what_is_published_may_come_in_and_only_from_members() -> None:
    mesh = desired(state(endpoint(2, 1), web=(WEB, PublishedPort("udp", 53, 5353), PublishedPort("sctp", 9, 9))))
    assert elements(mesh, "members") == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    assert {"10.0.0.2 . tcp . 80", "10.0.0.2 . udp . 5353"} <= elements(mesh, "targets")
    assert elements(mesh, "published") == {"tcp . 8080", "udp . 53"}
    assert mesh.table is not None
    assert mesh.table.chains["pass"].rules[-1] == "drop"
    assert mesh.guard is not None
    frames = "udp dport 4789 @th,96,24 { 4095, 4096 }"
    assert mesh.guard.chains["arrive"].rules == (f"{frames} ip saddr != @members drop",)
    assert mesh.guard.chains["pass"].rules == (f"{frames} ip daddr @members drop",), "a container behind a member"
    assert set(mesh.guard.sets["members"].elements) == set(mesh.table.sets["members"].elements)


# --- a model of the kernel


def apply(have: MeshKernel, ops: list[MeshOp]) -> MeshKernel:
    """The kernel after ``ops``, with the side effects it has."""
    for op in ops:
        match op:
            case DeleteLink():
                have = MeshKernel(
                    rules=have.rules, settings={k: v for k, v in have.settings.items() if k[0] != "pswin"}
                )
            case CreateVxlan():
                assert have.link is None
                link = VxlanLink(op.device, 9, op.params, op.mtu, False, op.alias, 0, None, op.mac)
                own = {("pswin", name): "0" for name in ("rp_filter", "src_valid_mark", "route_localnet")}
                have = replace(have, link=link, settings={**have.settings, **own})
            case SetLink(mtu=mtu, alias=alias, up=up):
                assert have.link is not None
                link = have.link
                changes = {"mtu": mtu, "alias": alias, "up": up}
                have = replace(have, link=replace(link, **{k: v for k, v in changes.items() if v is not None}))
            case PutAddr(addr=addr):
                have = replace(have, addrs=have.addrs | {addr})
            case DelAddr(addr=addr):
                have = replace(have, addrs=have.addrs - {addr})
            case PutFdbSelf(mac=mac, dst=dst):
                have = replace(have, fdb={**have.fdb, mac: dst})
            case DelFdbSelf(mac=mac):
                have = replace(have, fdb={k: v for k, v in have.fdb.items() if k != mac})
            case PutNeighbour(addr=addr, mac=mac):
                have = replace(have, neighbours={**have.neighbours, addr: mac})
            case DelNeighbour(addr=addr):
                have = replace(have, neighbours={k: v for k, v in have.neighbours.items() if k != addr})
            case PutRule(rule=rule):
                have = replace(have, rules=(*have.rules, rule))
            case DelRule(rule=rule):
                rules = list(have.rules)
                rules.remove(rule)
                have = replace(have, rules=tuple(rules))
            case PutRoute(route=route):
                assert have.link is not None
                assert have.link.up
                have = replace(have, routes=(*(r for r in have.routes if r.key != route.key), route))
            case DelRoute(route=route):
                have = replace(have, routes=tuple(r for r in have.routes if r != route))
            case SetSetting(device=device, name=name, value=value):
                have = replace(have, settings={**have.settings, (device, name): value})
    return have


def settled(want: Mesh, have: MeshKernel) -> MeshKernel:
    before, after = plan_mesh(want, have)
    return apply(apply(have, before), after)


ENGINE = {("pswgw", "route_localnet"): "0"}
indexes = st.integers(1, 5)
addrs = indexes.map(names.mesh_addr)
macs = indexes.map(names.mesh_mac)
hosts = indexes.map(lambda n: f"192.0.2.{n}")
rules = st.builds(
    Rule,
    priority=st.sampled_from([100, 101, 112, 4500]),
    action=st.sampled_from(["lookup", "goto", "nop"]),
    target=st.sampled_from([0, 4500, names.TASKS_TABLE]),
    mark=st.sampled_from([0, 0x2000]),
)
routes = st.builds(
    Route,
    table=st.sampled_from([254, names.TASKS_TABLE, names.TASKS_TABLE + 2]),
    dst=addrs | st.sampled_from(["10.0.0.2", "0.0.0.0"]),
    via=st.just("") | addrs,
)
links = st.builds(
    VxlanLink,
    name=st.just(names.DEVICE),
    index=st.just(9),
    params=st.builds(VxlanParams, vni=st.just(4095), local=hosts, port=st.just(4789), link_index=st.just(2)),
    mtu=st.sampled_from([1400, 1450]),
    up=st.booleans(),
    alias=st.sampled_from(["", names.ALIAS]),
    master_index=st.just(0),
    flags=st.none(),
    mac=macs,
)
kernels = st.builds(
    MeshKernel,
    link=links,
    addrs=st.frozensets(addrs, max_size=2),
    fdb=st.dictionaries(macs, hosts | st.just("?"), max_size=3),
    neighbours=st.dictionaries(addrs, macs, max_size=3),
    rules=st.lists(rules, max_size=4).map(tuple),
    routes=st.lists(routes, max_size=4, unique_by=lambda r: r.key).map(tuple),
    settings=st.just({**ENGINE, ("pswin", "rp_filter"): "1"}),
) | st.builds(MeshKernel, rules=st.lists(rules, max_size=3).map(tuple), settings=st.just(ENGINE))
meshes = st.just(Mesh()) | st.builds(
    desired,
    st.builds(
        lambda eps, nodes: state(*eps, nodes=nodes),
        st.lists(
            st.builds(endpoint, st.integers(2, 9), st.integers(1, 4), ready=st.booleans()),
            max_size=5,
            unique_by=lambda e: e.addr,
        ),
        st.integers(1, 4),
    ),
)


@given(meshes, kernels)
@settings(max_examples=200)
def test_any_kernel_comes_to_what_is_wanted_and_stays(want: Mesh, have: MeshKernel) -> None:
    done = settled(want, have)
    assert plan_mesh(want, done) == ([], []), "a second look finds nothing to do"
    assert frozenset(done.rules) == want.rules
    assert len(done.rules) == len(want.rules)
    assert frozenset(done.routes) == want.routes
    assert (done.link is None) == (want.link is None)
    if want.link is not None and done.link is not None:
        assert (done.fdb, done.neighbours, done.addrs) == (want.fdb, want.neighbours, {want.link.addr})
        assert (done.link.mac, done.link.params, done.link.up) == (want.link.mac, want.link.params, True)
    assert done.settings["pswgw", "route_localnet"] == ("0" if want.table is None else "1")


def test_a_way_is_there_before_it_is_taken_and_goes_after() -> None:
    want = desired(state(endpoint(2, 2)))
    before, after = plan_mesh(want, MeshKernel(settings=ENGINE))
    assert after == []
    kinds = [type(op) for op in before]
    assert kinds.index(CreateVxlan) < kinds.index(PutRoute) < kinds.index(PutRule)
    before, after = plan_mesh(Mesh(), settled(want, MeshKernel(settings=ENGINE)))
    assert {type(op) for op in before} == {SetSetting}
    assert {DelRule, DelRoute, DeleteLink} == {type(op) for op in after}


# --- connections that were made before


def test_connections_that_lead_nowhere_are_stale() -> None:
    mesh = desired(state(endpoint(2, 1), endpoint(3, 2, ready=False), web=(WEB, PublishedPort("udp", 53, 53))))

    def stale(protocol: str, published: int, addr: str, port: int) -> bool:
        return is_stale(Flow(protocol, published, addr, port), mesh)

    assert not stale("tcp", 8080, "172.18.0.2", 80)
    assert not stale("tcp", 8080, "10.0.0.3", 80), "what a task began it may finish"
    assert stale("tcp", 8080, "10.0.0.4", 80), "nobody is there"
    assert not stale("udp", 53, "172.18.0.2", 53)
    assert stale("udp", 53, "10.0.0.3", 53)
    assert stale("udp", 54, "172.18.0.2", 53), "not published any more"
    assert stale("udp", 53, "172.18.0.2", 54), "published otherwise"
    assert is_stale(Flow("tcp", 8080, "10.0.0.2", 80), Mesh())


# --- the engine's chain

FRAME = [f"-N {CHAIN}", f"-A {CHAIN} -j RETURN"]
OURS = [f"-A {CHAIN} {rule}" for rule in RULES]
OWNERS = f"-A {CHAIN} -s 192.0.2.66/32 -j DROP"


def run(listing: list[str], commands: list[str]) -> list[str]:
    """The chain after the commands."""
    rules = list(listing)
    for command in commands:
        verb, _, number, *rest = command.split()
        if verb == "-D":
            del rules[int(number)]
        else:
            rules.insert(int(number), f"-A {CHAIN} {' '.join(rest)}")
    return rules


@pytest.mark.parametrize(
    "listing",
    [
        FRAME,
        [FRAME[0]],
        [FRAME[0], OWNERS, FRAME[1]],
        [FRAME[0], *OURS, FRAME[1]],
        [FRAME[0], OURS[2], OWNERS, OURS[0], FRAME[1]],
        [FRAME[0], OWNERS, FRAME[1], *OURS],
        [FRAME[0], OURS[0], OURS[0], *OURS, FRAME[1], OURS[1]],
    ],
)
def test_the_rules_are_last_in_the_owner_s_chain_once(listing: list[str]) -> None:
    done = run(listing, plan_user_chain(listing, RULES))
    end = done.index(FRAME[1]) if FRAME[1] in done else len(done)
    assert sorted(done[:end]) == sorted([FRAME[0], *OURS, *([OWNERS] if OWNERS in listing else [])])
    assert not set(done[end:]) & set(OURS)
    assert plan_user_chain(done, RULES) == []
    gone = run(done, plan_user_chain(done, ()))
    assert not set(gone) & set(OURS)
    assert [line for line in gone if line not in OURS] == [line for line in listing if line not in OURS]


def test_a_rule_of_the_owner_comes_first() -> None:
    listing = [FRAME[0], OWNERS, FRAME[1]]
    assert run(listing, plan_user_chain(listing, RULES)) == [FRAME[0], OWNERS, *OURS, FRAME[1]]
    assert plan_user_chain(["iptables: No chain/target/match by that name."], RULES) == []


# --- the language of nftables


def table(**chains: tuple[str, ...]) -> Table:
    sets: dict[str, Any] = {"s": NamedSet("set", "type ipv4_addr", dict.fromkeys(chains.pop("s", ()), ""))}
    sets["m"] = NamedSet("map", "type inet_service : verdict", {str(n): f"goto {n}" for n in chains.pop("m", ())})
    return Table("t", {name: Chain(rules) for name, rules in chains.items()}, sets)


def test_only_what_differs_is_changed() -> None:
    one = table(a=("accept",), b=("drop",), s=("1.1.1.1", "2.2.2.2"), m=("a",))
    assert tables.changes(one, one) == ""
    two = table(a=("accept",), b=("accept",), c=("drop",), s=("2.2.2.2", "3.3.3.3"), m=("c",))
    assert tables.changes(one, two).splitlines() == [
        "add chain ip t c",
        "delete element ip t s { 1.1.1.1 }",
        "add element ip t s { 3.3.3.3 }",
        "delete element ip t m { a }",
        "add element ip t m { c : goto c }",
        "flush chain ip t b",
        "add rule ip t b accept",
        "add rule ip t c drop",
    ]
    assert tables.changes(two, one).splitlines()[-2:] == ["flush chain ip t c", "delete chain ip t c"]


def test_publications_know_what_they_lead_to() -> None:
    mesh = desired(state(endpoint(2, 1), endpoint(3, 2, ready=False), web=(WEB, PublishedPort("udp", 53, 5353))))
    backends = (Backend("10.0.0.2", "172.18.0.2"), Backend("10.0.0.3", ready=False))
    assert mesh.publications == (Publication("tcp", 8080, 80, backends), Publication("udp", 53, 5353, backends))
    assert mesh.publications[0].ready == backends[:1]


def test_a_container_is_led_to_its_host_s_tasks_by_the_network() -> None:
    mesh = desired(state(endpoint(2, 1)))
    assert mesh.table is not None
    assert mesh.table.chains["tcp_8080"].rules[-1] == "goto tcp_10_0_0_2_80"
    assert mesh.table.chains["tcp_10_0_0_2_80"].rules == (
        'iifname { "pswgw", "docker_gwbridge" } meta l4proto tcp dnat to 10.0.0.2:80',
        "meta l4proto tcp dnat to 172.18.0.2:80",
    )


JUMP = "-A FORWARD -j DOCKER-USER"
ISOLATION = "-A FORWARD -j DOCKER-ISOLATION-STAGE-1"


def test_the_engines_refusals_come_after_the_owners_chain() -> None:
    assert plan_entrance(["-P FORWARD DROP", JUMP, ISOLATION]) == []
    # As an engine leaves it that is restarted beneath running containers.
    assert plan_entrance(["-P FORWARD DROP", ISOLATION, JUMP]) == [
        "-I FORWARD 1 -j DOCKER-USER",
        "-D FORWARD 3",
    ]
    assert plan_entrance(["-P FORWARD DROP", ISOLATION, JUMP, JUMP]) == [
        "-I FORWARD 1 -j DOCKER-USER",
        "-D FORWARD 4",
        "-D FORWARD 3",
    ]
    assert plan_entrance(["-P FORWARD ACCEPT"]) == ["-I FORWARD 1 -j DOCKER-USER"]
