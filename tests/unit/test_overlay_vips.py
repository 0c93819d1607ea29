"""Tables of virtual IPs: what they shall hold, and that changes lead from any table to any other."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.overlay.objects import Flow
from pyswarm.overlay.registry.model import EndpointEntry, OverlayState, ServiceEntry, ServiceNetwork
from pyswarm.overlay.vips.plan import VipTable, change, difference, gone, is_stale, parse, tables, withdrawn

APP, BACK = frozenset({"app"}), frozenset({"back"})


def endpoint(
    task: str, addr: str, *, service: str = "s1", network: str = "app", ready: bool = True
) -> EndpointEntry:
    return EndpointEntry(task, network, addr, "", "node", service, "web", 1, ready)


def state(*endpoints: EndpointEntry, **vips: str) -> OverlayState:
    """``s1="10.0.1.250"`` is a service with its virtual IP on the network app."""
    services = {
        name: ServiceEntry(name, name, networks=(ServiceNetwork("app", vip),) if vip else ())
        for name, vip in vips.items()
    }
    return OverlayState(endpoints={(e.network_id, e.endpoint_id): e for e in endpoints}, services=services)


def test_a_virtual_ip_leads_to_the_ready_tasks_of_its_service_on_its_network() -> None:
    found = tables(
        state(
            endpoint("t1", "10.0.1.10"),
            endpoint("t2", "10.0.1.9"),
            endpoint("t3", "10.0.1.4", ready=False),
            endpoint("t4", "10.0.2.5", network="back"),
            endpoint("t5", "10.0.1.6", service="s2"),
            s1="10.0.1.250",
            s2="10.0.1.249",
            s3="10.0.1.248",
        ),
        [APP, BACK, APP | BACK],
    )
    assert found[APP] == {"10.0.1.250": ("10.0.1.9", "10.0.1.10"), "10.0.1.249": ("10.0.1.6",), "10.0.1.248": ()}
    assert found[BACK] == {}
    assert found[APP | BACK] == found[APP]


def test_nothing_but_addresses_gets_into_commands() -> None:
    evil = "10.0.1.9 } ; flush ruleset"
    assert tables(state(endpoint("t1", evil), s1="10.0.1.250"), [APP])[APP] == {"10.0.1.250": ()}
    assert tables(state(endpoint("t1", "10.0.1.9"), s1=evil), [APP])[APP] == {}
    assert tables(state(endpoint("t1", "fd00::1"), s1="10.0.1.250"), [APP])[APP] == {"10.0.1.250": ()}


def test_no_difference_needs_no_commands() -> None:
    table = {"10.0.1.250": ("10.0.1.9", "10.0.1.10"), "10.0.1.248": ()}
    assert change(table, dict(table)) == ""


def test_virtual_ips_that_lost_a_task() -> None:
    have = {"10.0.1.250": ("10.0.1.9", "10.0.1.10"), "10.0.1.249": ("10.0.1.6",), "10.0.1.248": ("10.0.1.7",)}
    want = {"10.0.1.250": ("10.0.1.10", "10.0.1.11"), "10.0.1.248": ("10.0.1.7", "10.0.1.8")}
    assert withdrawn(have, want) == {"10.0.1.250", "10.0.1.249"}


VIP, TASK, GONE = "10.0.1.250", "10.0.1.9", "10.0.1.10"
TCP, UDP, ICMP = 6, 17, 1


@pytest.mark.parametrize(
    ("protocol", "sent_to", "led_to", "answered", "stale"),
    [
        (UDP, VIP, GONE, True, True),
        (ICMP, VIP, GONE, True, True),
        (UDP, VIP, TASK, True, False),
        (UDP, VIP, VIP, False, True),  # sent before there was a table
        (TCP, VIP, GONE, True, False),  # an open connection stays where it is
        (TCP, VIP, GONE, False, True),
        (UDP, "10.0.1.251", GONE, True, False),  # not asked for
        (UDP, "192.0.2.1", "192.0.2.1", True, False),
    ],
)
def test_flows_that_have_to_be_led_anew(
    protocol: int, sent_to: str, led_to: str, answered: bool, stale: bool
) -> None:
    flow = Flow(protocol, sent_to, led_to, answered)
    assert is_stale(flow, {VIP}, {VIP: (TASK,), "10.0.1.251": (TASK,)}) == stale


def test_a_connection_ends_with_its_task_but_not_before() -> None:
    """Otherwise a new one from the same port would be led to an address where nobody is."""
    flow = Flow(TCP, VIP, GONE, answered=True)
    assert not is_stale(flow, {VIP}, {VIP: (TASK,)}, lost=())
    assert is_stale(flow, {VIP}, {VIP: (TASK,)}, lost={GONE})
    assert not is_stale(Flow(TCP, "10.0.1.251", GONE, answered=True), {VIP}, {VIP: (TASK,)}, lost={GONE})


def test_addresses_that_are_gone() -> None:
    have = {VIP: (TASK, GONE), "10.0.1.251": ("10.0.1.12",)}
    assert gone(have, {VIP: (TASK,)}, {TASK}) == {GONE, "10.0.1.12"}
    assert gone(have, {VIP: (TASK,)}, {TASK, GONE}) == {"10.0.1.12"}, "it is still ending"
    assert gone(have, have, ()) == set()


def test_flows_of_a_service_that_is_gone() -> None:
    assert is_stale(Flow(UDP, VIP, TASK, True), {VIP}, {})


def listing(**changes: Any) -> list[dict[str, Any]]:
    """What nftables tells of a table with one virtual IP that leads to one task, and one that leads nowhere."""
    objects: dict[str, Any] = {
        "metainfo": {"metainfo": {}},
        "table": {"table": {"name": "pswarm"}},
        "vips": {"map": {"name": "vips", "elem": [[VIP, {"goto": {"target": "v0a0001fa"}}]]}},
        "refused": {"set": {"name": "refused", "elem": ["10.0.1.248"]}},
        "counter": {"counter": {"name": "datagrams"}},
        "out": {"chain": {"name": "out", "type": "nat", "hook": "output", "prio": -105}},
        "refuse": {"chain": {"name": "refuse", "type": "filter", "hook": "output", "prio": 0}},
        "chain": {"chain": {"name": "v0a0001fa"}},
        "rule1": {"rule": {"chain": "out", "expr": [{}, {}]}},
        "rule2": {"rule": {"chain": "refuse", "expr": [{}, {}]}},
        "rule3": {"rule": {"chain": "refuse", "expr": [{}]}},
        "count": {"rule": {"chain": "v0a0001fa", "expr": [{"match": {}}, {"counter": "datagrams"}]}},
        "dnat": {"rule": {"chain": "v0a0001fa", "expr": [{"dnat": {"addr": TASK}}]}},
    }
    return [item for item in (objects | changes).values() if item is not None]


def test_a_table_as_it_should_be_is_understood() -> None:
    assert parse(listing()) == {VIP: (TASK,), "10.0.1.248": ()}


@pytest.mark.parametrize("name", ["vips", "counter", "out", "refuse", "rule1", "rule2", "count", "dnat"])
def test_a_table_of_which_something_is_missing_is_none(name: str) -> None:
    found = parse(listing(**{name: None}))
    assert found is None or found[VIP] == ()


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("vips", {"map": {"name": "vips", "elem": [{"elem": {"val": VIP}}]}}),
        ("vips", {"map": {"name": "vips", "elem": [[VIP, {"goto": None}]]}}),
        ("vips", {"map": {"name": "vips", "elem": [["nonsense", {"goto": {"target": "v0a0001fa"}}]]}}),
        ("refused", {"set": {"name": "refused", "elem": [{"range": ["10.0.1.1", "10.0.1.9"]}]}}),
        ("refused", {"set": {"name": "refused", "elem": [VIP]}}),
        ("dnat", {"rule": {"chain": "v0a0001fa", "expr": [{"dnat": {"addr": {"map": {"data": "@other"}}}}]}}),
        ("dnat", {"rule": {"chain": "v0a0001fa", "expr": [{"dnat": None}]}}),
        ("dnat", {"rule": {"chain": "v0a0001fa"}}),
        ("other", {"flowtable": {}}),
        ("other", {}),
    ],
)
def test_whatever_a_container_puts_into_its_table_is_survived(name: str, item: dict[str, Any]) -> None:
    assert parse(listing(**{name: item})) is None


class Kernel:
    """What nftables would make of the commands: refuses what the kernel would refuse."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}
        self.vips: dict[str, str] = {}
        self.refused: set[str] = set()

    def run(self, line: str) -> None:
        for pattern, act in (
            (r"add chain ip pswarm (\w+)$", self._add_chain),
            (r"flush chain ip pswarm (\w+)$", self._flush),
            (r"delete chain ip pswarm (\w+)$", self._delete_chain),
            (r"add rule ip pswarm (v\w+) meta l4proto != tcp counter name datagrams$", self._add_count),
            (r"add rule ip pswarm (v\w+) dnat to (.*)$", self._add_rule),
            (r"add element ip pswarm vips \{ (.+) \}$", self._each(self._add_vip)),
            (r"delete element ip pswarm vips \{ (.+) \}$", self._each(self._delete_vip)),
            (r"add element ip pswarm refused \{ (.+) \}$", self._each(self._refuse)),
            (r"delete element ip pswarm refused \{ (.+) \}$", self._each(self._admit)),
        ):
            match = re.match(pattern, line)
            if match:
                act(*match.groups())
                return
        raise AssertionError(f"unknown command: {line}")

    def _each(self, act: Callable[..., None]) -> Callable[[str], None]:
        def every(elements: str) -> None:
            for element in elements.split(", "):
                act(*element.split(" : goto "))

        return every

    def _add_count(self, name: str) -> None:
        assert not self.chains[name], "counted before it is led"
        self.chains[name].append("count")

    def _add_chain(self, name: str) -> None:
        assert name not in self.chains
        self.chains[name] = []

    def _flush(self, name: str) -> None:
        self.chains[name].clear()

    def _delete_chain(self, name: str) -> None:
        assert not self.chains[name]
        assert name not in self.vips.values(), "still used"
        del self.chains[name]

    def _add_rule(self, name: str, target: str) -> None:
        addrs = re.findall(r"\d+ : ([\d.]+)", target) or [target]
        if len(addrs) > 1:
            assert f"mod {len(addrs)} " in target
        self.chains[name].append(",".join(addrs))

    def _add_vip(self, vip: str, chain: str) -> None:
        assert chain in self.chains
        assert vip not in self.vips
        self.vips[vip] = chain

    def _delete_vip(self, vip: str, chain: str) -> None:
        assert self.vips.pop(vip) == chain

    def _refuse(self, vip: str) -> None:
        self.refused.add(vip)

    def _admit(self, vip: str) -> None:
        self.refused.remove(vip)

    def table(self) -> VipTable:
        led = {vip: tuple(self.chains[chain][1].split(",")) for vip, chain in self.vips.items()}
        assert set(self.chains) == set(self.vips.values())
        assert all(len(rules) == 2 for rules in self.chains.values())
        return led | dict.fromkeys(self.refused, ())


vip_tables = st.dictionaries(
    st.integers(200, 210).map(lambda n: f"10.0.1.{n}"),
    st.lists(st.integers(2, 9).map(lambda n: f"10.0.1.{n}"), unique=True, max_size=4).map(tuple),
    max_size=6,
)


@given(st.lists(vip_tables, min_size=1, max_size=5))
def test_changes_lead_from_any_table_to_any_other(steps: list[VipTable]) -> None:
    kernel = Kernel()
    have: VipTable = {}
    for want in steps:
        for line in difference(have, want):
            kernel.run(line)
        assert kernel.table() == want
        have = want
