"""Subnets, VNIs and addresses."""

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.types import (
    Cluster,
    IPAMConfig,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    NodeDescription,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.allocator.plan import (
    AddressPlanner,
    Allocation,
    allocate_network,
    check_subnet,
    choose_allocation,
    needs_allocation,
)
from pyswarm.manager.state.view import LiveView

replace = msgspec.structs.replace


def network(name: str, subnet: str, vni: int = 4097, **config: str) -> Network:
    spec = NetworkSpec(name=name, ipam=(IPAMConfig(subnet=subnet, **config),) if config else ())
    gateway = config.get("gateway") or subnet.rpartition(".")[0] + ".1"
    return Network(id=f"net-{name}", spec=spec, subnet=subnet, gateway=gateway, vni=vni)


def view_of(*objects: object) -> LiveView:
    view = LiveView()
    for obj in objects:
        table = {Network: view.networks, Node: view.nodes, Cluster: view.clusters, Task: view.tasks}[type(obj)]  # type: ignore[index]
        table.put(obj)  # type: ignore[attr-defined]
    return view


def test_networks_follow_one_another() -> None:
    view = LiveView()
    for number in range(1, 4):
        spec = NetworkSpec(name=f"net{number}")
        made = allocate_network(view, Network(id=f"id{number}", spec=spec))
        assert (made.subnet, made.gateway, made.vni) == (
            f"10.0.{number}.0/24",
            f"10.0.{number}.1",
            4096 + number,
        )
        view.networks.put(made)
    view.networks.remove("id2")
    assert choose_allocation(view, NetworkSpec(name="again")) == ("10.0.2.0/24", "10.0.2.1", 4098)


def test_the_mtu_option_is_taken_over() -> None:
    spec = NetworkSpec(name="a", options={"com.docker.network.driver.mtu": "1300"})
    assert allocate_network(LiveView(), Network(id="a", spec=spec)).mtu == 1300


def test_pools_are_used_up_in_order_around_what_is_taken() -> None:
    cluster = Cluster(id="c", default_addr_pool=("10.5.0.0/23", "10.9.0.0/24"), subnet_size=24)
    node = Node(id="n", underlay_addr="10.9.0.7")
    view = view_of(cluster, node)
    assert choose_allocation(view, NetworkSpec()).subnet == "10.5.1.0/24"
    view.networks.put(network("a", "10.5.1.128/25"))
    with pytest.raises(FailedPrecondition, match="could not find an available, non-overlapping"):
        choose_allocation(view, NetworkSpec())


def test_one_of_many_networks_is_found_quickly() -> None:
    view = LiveView()
    for number in range(1, 2001):
        subnet = f"10.{number // 256}.{number % 256}.0/24"
        view.networks.put(replace(network(str(number), subnet, 4096 + number), id=str(number)))
    view.networks.remove("1900")
    assert choose_allocation(view, NetworkSpec(name="again")).subnet == "10.7.108.0/24"
    began_s = time.monotonic()
    for _ in range(10):
        choose_allocation(view, NetworkSpec(name="again"))
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"subnet": "10.0.1.0/33"}, "invalid subnet 10.0.1.0/33: expected an address and prefix"),
        ({"subnet": "ten"}, "invalid subnet ten"),
        ({"subnet": "10.0.1.0"}, "the prefix length is missing"),
        ({"subnet": "10.0.1.5/24"}, "did you mean 10.0.1.0/24"),
        ({"subnet": "10.0.1.0/31"}, "the prefix length must be from 8 to 30"),
        ({"subnet": "fd00::/64"}, "IPv6 is not supported"),
        ({"subnet": "224.0.0.0/8"}, "not a range for hosts"),
        ({"subnet": "10.7.0.0/16"}, "Pool overlaps with other one on this address space: .* of network app"),
        ({"subnet": "192.168.0.0/16"}, "contains 192.168.3.4, the address of node h1"),
        ({"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}, "invalid gateway 10.2.0.1"),
        ({"subnet": "10.1.0.0/24", "gateway": "10.1.0.255"}, "invalid gateway 10.1.0.255"),
        ({"subnet": "10.1.0.0/24", "gateway": "gw"}, "invalid gateway gw"),
        ({"subnet": "10.1.0.0/24", "ip_range": "10.2.0.0/25"}, "invalid address range 10.2.0.0/25"),
    ],
)
def test_bad_subnets_are_refused_in_one_line(config: dict[str, str], message: str) -> None:
    node = Node(id="n", description=NodeDescription(hostname="h1"), underlay_addr="192.168.3.4")
    view = view_of(network("app", "10.7.1.0/24"), node)
    with pytest.raises(InvalidArgument, match=message) as refused:
        check_subnet(view, IPAMConfig(**config))
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidArgument):
        choose_allocation(view, NetworkSpec(ipam=(IPAMConfig(**config),)))


def test_a_good_subnet_is_taken_as_it_is() -> None:
    spec = NetworkSpec(name="a", ipam=(IPAMConfig(subnet="172.20.0.0/16", gateway="172.20.9.9"),))
    assert choose_allocation(LiveView(), spec) == ("172.20.0.0/16", "172.20.9.9", 4097)
    for bad in (
        NetworkSpec(ipam=(IPAMConfig(gateway="10.0.0.1"),)),
        NetworkSpec(ipam=(IPAMConfig(), IPAMConfig())),
    ):
        with pytest.raises(InvalidArgument):
            choose_allocation(LiveView(), bad)


def task(task_id: str, *networks: str, state: str = "new", **fields: object) -> Task:
    spec = TaskSpec(networks=tuple(NetworkAttachmentConfig(target=f"net-{n}") for n in networks))
    return replace(Task(id=task_id, spec=spec, status=TaskStatus(state=TaskState(state))), **fields)


def stored(allocation: Allocation) -> Task:
    status = TaskStatus(state=TaskState.PENDING, err=allocation.err)
    return replace(allocation.task, networks=allocation.networks, status=status)


def test_addresses_of_several_networks_are_given_together_or_not_at_all() -> None:
    planner = AddressPlanner()
    planner.observe_network("net-a", network("a", "10.0.1.0/24"))
    planner.observe_network("net-b", network("b", "10.0.2.0/30"))
    for number in range(2):
        planner.observe_task(f"t{number}", task(f"t{number}", "a", "b"))
    first, second = planner.plan()
    assert first.networks == (
        TaskNetwork(network_id="net-a", addr="10.0.1.2/24", mac="02:42:0a:00:01:02"),
        TaskNetwork(network_id="net-b", addr="10.0.2.2/30", mac="02:42:0a:00:02:02"),
    )
    assert second.networks == ()
    assert second.err == "no address left in network b (10.0.2.0/30: 1 in use)"
    planner.observe_task("t1", stored(second))
    assert list(planner.plan()) == [], "said once"
    planner.observe_task("t0", replace(stored(first), status=TaskStatus(state=TaskState.FAILED)))
    (retried,) = planner.plan()
    assert [n.addr for n in retried.networks] == ["10.0.1.3/24", "10.0.2.2/30"]


def test_a_missing_network_is_said_and_waited_for() -> None:
    planner = AddressPlanner()
    planner.observe_task("t", task("t", "a"))
    (allocation,) = planner.plan()
    assert allocation.err == "network net-a not found"
    planner.observe_task("t", stored(allocation))
    planner.observe_network("net-a", network("a", "10.0.1.0/24"))
    (allocation,) = planner.plan()
    assert allocation.networks[0].addr == "10.0.1.2/24"


def test_a_range_and_a_gateway_inside_it_are_respected() -> None:
    planner = AddressPlanner()
    shape = network("a", "10.0.1.0/24", gateway="10.0.1.65", ip_range="10.0.1.64/30")
    planner.observe_network("net-a", shape)
    for number in range(4):
        planner.observe_task(f"t{number}", task(f"t{number}", "a"))
    addrs = [a.networks[0].addr if a.networks else a.err for a in planner.plan()]
    assert addrs[:3] == ["10.0.1.64/24", "10.0.1.66/24", "10.0.1.67/24"]
    assert "3 in use" in addrs[3]


def test_a_new_leader_does_not_use_the_latest_freed_address_first() -> None:
    planner = AddressPlanner()
    planner.observe_network("net-a", network("a", "10.0.1.0/29"))
    held = (TaskNetwork(network_id="net-a", addr="10.0.1.4/29"),)
    planner.observe_task("old", task("old", "a", state="running", networks=held))
    for number in range(5):
        planner.observe_task(f"t{number}", task(f"t{number}", "a"))
    addrs = [a.networks[0].addr if a.networks else "" for a in planner.plan()]
    assert addrs == ["10.0.1.5/29", "10.0.1.6/29", "10.0.1.2/29", "10.0.1.3/29", ""]


def test_addresses_in_use_are_passed_over() -> None:
    planner = AddressPlanner()
    planner.observe_network("net-a", network("a", "10.0.1.0/29"))
    for name, addr in (("x", "10.0.1.2/29"), ("y", "10.0.1.6/29")):
        held = (TaskNetwork(network_id="net-a", addr=addr),)
        planner.observe_task(name, task(name, "a", state="running", networks=held))
    for number in range(3):
        planner.observe_task(f"t{number}", task(f"t{number}", "a"))
    assert [a.networks[0].addr for a in planner.plan()] == ["10.0.1.3/29", "10.0.1.4/29", "10.0.1.5/29"]


def test_which_tasks_wait_for_the_allocator() -> None:
    assert needs_allocation(task("t"))
    assert needs_allocation(task("t", "a", state="pending"))
    assert not needs_allocation(task("t", state="pending"))
    assert not needs_allocation(task("t", "a", desired_state=TaskState.SHUTDOWN))
    assert not needs_allocation(task("t", "a", state="assigned"))


STEP = st.tuples(
    st.sampled_from(["new", "end", "forget", "stop", "plan", "restart", "refuse"]), st.integers(0, 99)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=80))
def test_no_two_tasks_ever_hold_one_address(steps: list[tuple[str, int]]) -> None:
    networks = {"net-a": network("a", "10.0.1.0/29"), "net-b": network("b", "10.0.2.0/28")}

    def fresh() -> AddressPlanner:
        planner = AddressPlanner()
        for key, value in networks.items():
            planner.observe_network(key, value)
        for key, value in tasks.items():
            planner.observe_task(key, value)
        return planner

    tasks: dict[str, Task] = {}
    planner = fresh()
    for number, (step, choose) in enumerate(steps):
        names = sorted(tasks)
        name = names[choose % len(names)] if names else ""
        if step == "new":
            wanted = [("a",), ("b",), ("a", "b"), ()][choose % 4]
            tasks[f"t{number}"] = task(f"t{number}", *wanted)
            planner.observe_task(f"t{number}", tasks[f"t{number}"])
        elif step == "end" and name and tasks[name].status.state is TaskState.PENDING:
            tasks[name] = replace(tasks[name], status=TaskStatus(state=TaskState.FAILED))
            planner.observe_task(name, tasks[name])
        elif step == "stop" and name:
            tasks[name] = replace(tasks[name], desired_state=TaskState.SHUTDOWN)
            planner.observe_task(name, tasks[name])
        elif step == "forget" and name:
            del tasks[name]
            planner.observe_task(name, None)
        elif step == "restart":
            planner = fresh()
        else:
            for allocation in planner.plan():
                if step == "plan" or choose % 2:
                    tasks[allocation.task.id] = stored(allocation)
                planner.observe_task(allocation.task.id, tasks[allocation.task.id])
                if step != "plan":
                    break
        held: dict[tuple[str, str], str] = {}
        for each in tasks.values():
            if each.status.state.ended:
                continue
            for attached in each.networks:
                key = (attached.network_id, attached.addr)
                assert key not in held
                assert attached.addr.partition("/")[0] != networks[attached.network_id].gateway
                held[key] = each.id
    for _ in range(3):
        for allocation in list(planner.plan()):
            tasks[allocation.task.id] = stored(allocation)
            planner.observe_task(allocation.task.id, tasks[allocation.task.id])
    assert list(planner.plan()) == []
    used_a = sum(
        1 for t in tasks.values() if not t.status.state.ended and any(n.network_id == "net-a" for n in t.networks)
    )
    waiting = [t for t in tasks.values() if needs_allocation(t)]
    assert all(t.status.err for t in waiting)
    if any("network a" in t.status.err for t in waiting):
        assert used_a == 5, "who waits, waits for a reason"


def test_a_large_network_fills_and_refills_in_reasonable_time() -> None:
    planner = AddressPlanner()
    planner.observe_network("net-a", network("a", "10.1.0.0/18", gateway="10.1.0.1"))
    began_s = time.monotonic()
    for number in range(20_000):
        planner.observe_task(f"t{number}", task(f"t{number}", "a"))
    made = [a for a in planner.plan() if a.networks]
    assert len(made) == len({a.networks[0].addr for a in made}) == (1 << 14) - 3
    for allocation in made[:3000]:
        planner.observe_task(allocation.task.id, None)
        assert len([a for a in planner.plan() if a.networks]) <= 1
    assert time.monotonic() - began_s < 20, "each freed address costs the same, however many wait"
