"""The overlay's plan: whatever the kernel has, applying it to a model kernel reaches what is wanted, once."""

import copy
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm.overlay.api import bridge_network_options, engine_range
from pyswarm.overlay.objects import (
    NF_TABLES,
    AnyOp,
    BridgeLink,
    ClearBridgeNf,
    CreateVxlan,
    DeleteLink,
    DelFdbMaster,
    DelFdbSelf,
    DelNeighbour,
    DesiredNetwork,
    EntryEvent,
    KernelNetwork,
    LocalNetwork,
    PortFlags,
    PutFdbMaster,
    PutFdbSelf,
    PutNeighbour,
    SetLink,
    SetPortFlags,
    Underlay,
    VxlanLink,
    VxlanParams,
    bridge_name,
    is_overlay_bridge,
    is_vxlan_device,
    vxlan_name,
)
from pyswarm.overlay.plan import (
    contradicts,
    count_repairs,
    desired_networks,
    normal_mac,
    plan_network,
    plan_removal,
    stray_devices,
)
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, NodeEntry, OverlayState

UNDERLAY = Underlay("192.168.7.1", 2, 1500)
NET = LocalNetwork("net1", "app", 5, "10.50.0.0/24", "10.50.0.1", 1450)
OTHER = LocalNetwork("net2", "db", 6, "10.51.0.0/24", "10.51.0.1", 1450)


def mac_of(addr: str) -> str:
    return "02:42:" + ":".join(f"{int(part):02x}" for part in addr.split("."))


def endpoint(name: str, host: int, node: str, ready: bool = True, network: LocalNetwork = NET) -> EndpointEntry:
    addr = network.subnet.rsplit(".", 1)[0] + f".{host}"
    return EndpointEntry(name, network.network_id, addr, mac_of(addr), node, ready=ready)


def state(
    *endpoints: EndpointEntry, nodes: int = 4, networks: tuple[LocalNetwork, ...] = (NET, OTHER)
) -> OverlayState:
    return OverlayState(
        nodes={f"n{i}": NodeEntry(f"n{i}", f"h{i}", f"192.168.7.{i}") for i in range(1, nodes + 1)},
        networks={
            n.network_id: NetworkEntry(n.network_id, n.name, n.vni, n.subnet, n.gateway, n.mtu) for n in networks
        },
        endpoints={(e.network_id, e.endpoint_id): e for e in endpoints},
    )


def desired(
    what: OverlayState | None, network: LocalNetwork = NET, underlay: Underlay = UNDERLAY
) -> DesiredNetwork:
    return desired_networks(what, [network], "n1", underlay, 4789)[0]


# --- a model of the kernel ---


@dataclass
class ModelKernel:
    """Devices by name, and their entries: what netlink would keep, with the same side effects."""

    bridges: dict[str, BridgeLink] = field(default_factory=dict)
    vxlans: dict[str, VxlanLink] = field(default_factory=dict)
    fdb_self: dict[str, dict[str, str]] = field(default_factory=dict)
    fdb_master: dict[str, dict[str, bool]] = field(default_factory=dict)
    neighbours: dict[str, dict[str, str]] = field(default_factory=dict)
    next_index: int = 100

    def network(self, vni: int) -> KernelNetwork:
        bridge, device = bridge_name(vni), vxlan_name(vni)
        return KernelNetwork(
            self.bridges.get(bridge),
            self.vxlans.get(device),
            dict(self.fdb_self.get(device, {})),
            dict(self.fdb_master.get(device, {})),
            dict(self.neighbours.get(bridge, {})),
        )

    def apply(self, ops: list[AnyOp]) -> None:
        for op in ops:
            self._apply(op)

    def _change(self, device: str, **changes: object) -> None:
        if device in self.vxlans:
            self.vxlans[device] = msgspec.structs.replace(self.vxlans[device], **changes)
        else:
            self.bridges[device] = msgspec.structs.replace(self.bridges[device], **changes)

    def _apply(self, op: AnyOp) -> None:
        match op:
            case DeleteLink(device=device):
                del self.vxlans[device]
                self.fdb_self.pop(device, None)
                self.fdb_master.pop(device, None)
            case CreateVxlan(device=device, params=params, mtu=mtu, alias=alias):
                assert device not in self.vxlans
                assert params.vni not in {v.params.vni for v in self.vxlans.values()}
                self.next_index += 1
                self.vxlans[device] = VxlanLink(device, self.next_index, params, mtu, False, alias, 0, None)
            case SetLink(device=device, mtu=mtu, alias=alias, master=master, up=up):
                if master is not None:
                    self.fdb_master.pop(device, None)
                    # Settings of a port begin anew on another bridge.
                    fresh = PortFlags(True, True, True, True, False)
                    self._change(device, master_index=self.bridges[master].index, flags=fresh)
                for name, value in (("mtu", mtu), ("alias", alias), ("up", up)):
                    if value is not None:
                        self._change(device, **{name: value})
            case SetPortFlags(device=device, flags=flags):
                assert self.vxlans[device].master_index, "flags of what is no port"
                self._change(device, flags=flags)
            case ClearBridgeNf(device=device):
                self._change(device, nf_call=frozenset())
            case PutFdbSelf(device=device, mac=mac, dst=dst):
                assert device in self.vxlans
                self.fdb_self.setdefault(device, {})[mac] = dst
            case DelFdbSelf(device=device, mac=mac):
                del self.fdb_self[device][mac]
            case PutFdbMaster(device=device, mac=mac):
                assert self.vxlans[device].master_index
                self.fdb_master.setdefault(device, {})[mac] = True
            case DelFdbMaster(device=device, mac=mac):
                del self.fdb_master[device][mac]
            case PutNeighbour(device=device, addr=addr, mac=mac):
                assert device in self.bridges
                self.neighbours.setdefault(device, {})[addr] = mac
            case DelNeighbour(device=device, addr=addr):
                del self.neighbours[device][addr]


# --- generated worlds ---

hosts = st.integers(2, 9)
addrs = hosts.map(lambda h: f"10.50.0.{h}")
macs = st.one_of(addrs.map(mac_of), st.just("00:00:00:00:00:00"), st.just("02:99:00:00:00:01"))
dsts = st.sampled_from(["192.168.7.2", "192.168.7.3", "?192.168.7.2", "?", "10.0.0.1"])
params = st.builds(
    VxlanParams,
    vni=st.just(5),
    local=st.sampled_from(["192.168.7.1", "192.168.7.9"]),
    port=st.sampled_from([4789, 8472]),
    link_index=st.sampled_from([0, 2]),
    learning=st.booleans(),
)
endpoints = st.builds(
    endpoint,
    name=st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    host=hosts,
    node=st.sampled_from(["n1", "n2", "n3", "n4", "lost"]),
    ready=st.booleans(),
    network=st.sampled_from([NET, OTHER]),
)
states = st.builds(lambda es: state(*es), st.lists(endpoints, max_size=12))


@st.composite
def kernels(draw: st.DrawFn) -> ModelKernel:
    """Any kernel, with a network of somebody else's beside ours."""
    kernel = ModelKernel(
        bridges={
            "pswb5": BridgeLink("pswb5", 10, draw(st.booleans()), draw(st.frozensets(st.sampled_from(NF_TABLES)))),
            "docker0": BridgeLink("docker0", 11, True, frozenset(NF_TABLES)),
        },
        vxlans={
            "flannel.1": VxlanLink("flannel.1", 12, VxlanParams(1, "1.1.1.1", 8472, 2), 1400, True, "", 11, None)
        },
        fdb_self={"flannel.1": {"02:42:0a:32:00:02": "9.9.9.9"}},
        neighbours={"docker0": {"10.50.0.2": "02:42:0a:32:00:02"}, "pswb5": draw(st.dictionaries(addrs, macs))},
    )
    if draw(st.booleans()):
        master = draw(st.sampled_from([0, 10, 11]))
        flags = draw(st.builds(PortFlags, *[st.booleans()] * 5)) if master else None
        kernel.vxlans["pswv5"] = VxlanLink(
            "pswv5",
            20,
            draw(st.one_of(st.just(VxlanParams(5, "192.168.7.1", 4789, 2)), params)),
            draw(st.sampled_from([1450, 1300])),
            draw(st.booleans()),
            draw(st.sampled_from(["pyswarm:net1", ""])),
            master,
            flags,
        )
        kernel.fdb_self["pswv5"] = draw(st.dictionaries(macs, dsts))
        kernel.fdb_master["pswv5"] = draw(st.dictionaries(macs, st.booleans())) if master else {}
    return kernel


@settings(max_examples=150, deadline=None)
@given(kernels(), states)
def test_plan_reaches_the_desired_state_once_and_touches_nothing_else(
    kernel: ModelKernel, what: OverlayState
) -> None:
    want = desired(what)
    before = copy.deepcopy(kernel)

    kernel.apply(plan_network(want, kernel.network(5)))

    have = kernel.network(5)
    assert plan_network(want, have) == []
    assert want.entries is not None
    assert have.fdb_self == want.entries.fdb
    assert have.fdb_master == dict.fromkeys(want.entries.fdb, True)
    assert have.neighbours == want.entries.neighbours
    assert have.vxlan is not None
    assert have.bridge is not None
    assert have.vxlan.params == want.vxlan
    assert have.vxlan.flags == PortFlags()
    assert have.vxlan.master_index == have.bridge.index
    assert have.vxlan.up
    assert have.bridge.up
    assert not have.bridge.nf_call
    assert kernel.bridges["docker0"] == before.bridges["docker0"]
    assert kernel.vxlans["flannel.1"] == before.vxlans["flannel.1"]
    assert kernel.fdb_self["flannel.1"] == before.fdb_self["flannel.1"]
    assert kernel.neighbours["docker0"] == before.neighbours["docker0"]


@settings(max_examples=50, deadline=None)
@given(kernels(), st.sampled_from([None, state(networks=(OTHER,))]))
def test_knowing_nothing_of_a_network_keeps_what_containers_use(
    kernel: ModelKernel, what: OverlayState | None
) -> None:
    before = kernel.network(5)
    want = desired(what)

    kernel.apply(plan_network(want, kernel.network(5)))

    have = kernel.network(5)
    assert plan_network(want, have) == []
    assert have.neighbours == before.neighbours
    assert {m: d for m, d in before.fdb_self.items() if not d.startswith("?")}.items() <= have.fdb_self.items()


@settings(max_examples=50, deadline=None)
@given(kernels(), states)
def test_removal_leaves_nothing_of_ours(kernel: ModelKernel, what: OverlayState) -> None:
    kernel.apply(plan_network(desired(what), kernel.network(5)))
    kernel.apply(plan_removal(5, kernel.network(5)))

    assert "pswv5" not in kernel.vxlans
    assert kernel.neighbours["pswb5"] == {}
    assert "flannel.1" in kernel.vxlans
    assert plan_removal(5, kernel.network(5)) == []


@settings(max_examples=50, deadline=None)
@given(states)
def test_one_answer_per_address_whatever_the_order(what: OverlayState) -> None:
    backwards = msgspec.structs.replace(what, endpoints=dict(reversed(what.endpoints.items())))
    assert desired(what).entries == desired(backwards).entries


def test_local_and_lost_containers_get_no_entries() -> None:
    what = state(endpoint("mine", 2, "n1"), endpoint("there", 3, "n2"), endpoint("gone", 4, "n99"))
    entries = desired(what).entries
    assert entries is not None
    assert entries.neighbours == {"10.50.0.3": "02:42:0a:32:00:03"}
    assert entries.fdb == {"02:42:0a:32:00:03": "192.168.7.2"}


def test_a_container_that_came_here_is_reached_here() -> None:
    """Its address is announced for both hosts for a moment; the ready one holds it."""
    what = state(endpoint("old", 2, "n2", ready=False), endpoint("new", 2, "n1", ready=True))
    entries = desired(what).entries
    assert entries is not None
    assert entries.neighbours == {}
    assert entries.fdb == {}


@pytest.mark.parametrize(
    ("addr", "mac"),
    [
        ("10.99.0.2", "02:42:0a:63:00:02"),
        ("nonsense", "02:42:0a:32:00:02"),
        ("fd00::2", "02:42:0a:32:00:02"),
        ("10.50.0.2", "03:42:0a:32:00:02"),
        ("10.50.0.2", "00:00:00:00:00:00"),
        ("10.50.0.2", "02:42"),
    ],
)
def test_an_entry_no_kernel_takes_does_not_keep_the_others_out(addr: str, mac: str) -> None:
    bad = EndpointEntry("bad", "net1", addr, mac, "n2")
    entries = desired(state(bad, endpoint("good", 3, "n2"))).entries
    assert entries is not None
    assert list(entries.neighbours) == ["10.50.0.3"]


def test_a_host_no_tunnel_leads_to_is_left_out() -> None:
    what = state(endpoint("a", 2, "n2"), endpoint("b", 3, "n3"))
    what.nodes["n2"] = NodeEntry("n2", "h2", "fd00::2")
    entries = desired(what).entries
    assert entries is not None
    assert list(entries.neighbours) == ["10.50.0.3"]


def test_mtu_follows_the_underlay() -> None:
    assert desired(None, underlay=Underlay("192.168.7.1", 2, 1400)).mtu == 1350
    assert desired(None, underlay=Underlay("fd00::1", 2, 1500)).mtu == 1430
    assert desired(None, underlay=Underlay("192.168.7.1", 2, 9000)).mtu == 1450


def test_repairs_are_what_another_hand_did_not_what_the_cluster_changed() -> None:
    first = desired(state(endpoint("a", 2, "n2"), endpoint("b", 3, "n2")))
    kernel = ModelKernel(bridges={"pswb5": BridgeLink("pswb5", 10, True)})
    made = plan_network(first, kernel.network(5))
    assert count_repairs(made, None, first) == 0
    kernel.apply(made)

    moved = desired(state(endpoint("a", 2, "n3"), endpoint("c", 4, "n2")))
    del kernel.neighbours["pswb5"]["10.50.0.3"]  # no matter: it was to go
    del kernel.neighbours["pswb5"]["10.50.0.2"]
    kernel.fdb_self["pswv5"]["02:99:00:00:00:01"] = "10.0.0.1"
    ops = plan_network(moved, kernel.network(5))
    assert count_repairs(ops, first, moved) == 2
    kernel.apply(ops)

    kernel.apply([DeleteLink("pswv5")])
    assert count_repairs(plan_network(moved, kernel.network(5)), moved, moved) == 1


def test_strays_are_ours_by_name_and_mark() -> None:
    def link(name: str, alias: str) -> VxlanLink:
        return VxlanLink(name, 1, VxlanParams(1, "", 4789, 0), 1450, True, alias, 0, None)

    links = [
        link("pswv5", "pyswarm:net1"),
        link("pswv6", "pyswarm:net2"),
        link("pswv7", "pyswarm:net3"),
        link("pswv8", ""),
        link("flannel.1", "pyswarm:net4"),
    ]
    assert stray_devices(links, [NET], ["net3"]) == [DeleteLink("pswv6")]


def test_events_that_agree_with_what_is_wanted_are_no_news() -> None:
    want = {"02:42:0a:32:00:03": "192.168.7.2"}
    mac = "02:42:0a:32:00:03"
    assert not contradicts(EntryEvent("self", True, mac, "192.168.7.2"), want)
    assert not contradicts(EntryEvent("master", True, mac, ""), want)
    assert not contradicts(EntryEvent("self", False, "02:42:00:00:00:09", "192.168.7.2"), want)
    assert contradicts(EntryEvent("self", True, mac, "192.168.7.3"), want)
    assert contradicts(EntryEvent("self", False, mac, "192.168.7.2"), want)
    assert contradicts(EntryEvent("self", True, "02:42:00:00:00:09", "192.168.7.2"), want)


def test_names_fit_the_kernel_and_are_told_from_others() -> None:
    assert len(vxlan_name(2**24 - 1)) <= 15
    assert is_vxlan_device(vxlan_name(4097))
    assert is_overlay_bridge(bridge_name(4097))
    for name in ("pswv", "pswv0", "pswv1x", "pswb1", "xpswv1", "pswgw"):
        assert not is_vxlan_device(name)
    assert not is_overlay_bridge("pswgw")


def test_macs_are_normalised() -> None:
    assert normal_mac("02-42-0A-32-00-02") == "02:42:0a:32:00:02"
    assert normal_mac("ff:ff:ff:ff:ff:ff") is None


def test_the_engine_gets_a_slice_of_its_own() -> None:
    options = bridge_network_options(NET)
    assert options["IPAM"]["Config"] == [
        {"Subnet": "10.50.0.0/24", "Gateway": "10.50.0.1", "IPRange": "10.50.0.252/30"}
    ]
    assert options["Internal"] is True
    assert options["Options"]["com.docker.network.bridge.name"] == "pswb5"
    assert engine_range("10.0.0.0/30") is None
