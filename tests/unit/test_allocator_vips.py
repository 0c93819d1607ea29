"""Virtual IPs: which a service gets, keeps, and gives back."""

import asyncio
from ipaddress import IPv4Interface

import msgspec
import pytest
from support.store import local_store
from support.swarm import service_spec
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import FailedPrecondition
from pyswarm.common.types import (
    Endpoint,
    EndpointSpec,
    IPAMConfig,
    Network,
    NetworkSpec,
    Service,
    Task,
    TaskNetwork,
    TaskState,
    TaskStatus,
    VirtualIP,
)
from pyswarm.manager.allocator.endpoints import allocate_endpoint
from pyswarm.manager.allocator.plan import AddressPlanner, allocate_network
from pyswarm.manager.state import Store, Transaction


async def network(store: Store, name: str, subnet: str, ip_range: str = "") -> Network:
    made = Network(id=name, spec=NetworkSpec(name=name, ipam=(IPAMConfig(subnet=subnet, ip_range=ip_range),)))
    await store.update(lambda tx: tx.create(allocate_network(tx.view, made)))
    found = store.view.networks.get(name)
    assert found is not None
    return found


async def create(store: Store, name: str, *networks: str, mode: str = "") -> list[str]:
    """Store a service; its virtual IPs."""
    spec = msgspec.structs.replace(
        service_spec(name, networks=networks), endpoint_spec=EndpointSpec(mode=mode) if mode else None
    )

    def build(tx: Transaction) -> None:
        tx.create(allocate_endpoint(tx.view, Service(id=name, spec=spec)))

    await store.update(build)
    return vips(store, name)


def vips(store: Store, name: str) -> list[str]:
    return [vip.addr for vip in store.view.services.find(name).endpoint.virtual_ips]


@pytest.fixture
def store() -> Store:
    return local_store(VirtualClock())[0]


async def test_one_on_each_network_from_the_end_of_its_range(store: Store) -> None:
    await network(store, "app", "10.0.1.0/24")
    await network(store, "back", "10.0.2.0/24", ip_range="10.0.2.128/26")
    first, second = await create(store, "web", "app", "back")
    (third,) = await create(store, "db", "back")
    assert IPv4Interface("10.0.1.190/24") < IPv4Interface(first) < IPv4Interface("10.0.1.252/24")
    for addr in (second, third):
        assert IPv4Interface("10.0.2.176/24") <= IPv4Interface(addr) <= IPv4Interface("10.0.2.191/24")
    assert second != third
    assert await create(store, "each", "app", mode="dnsrr") == []
    store.validate()


@pytest.mark.parametrize(
    ("subnet", "ip_range"), [("10.0.1.0/26", ""), ("10.0.1.0/26", "10.0.1.32/28"), ("10.0.1.0/26", "10.0.1.60/30")]
)
async def test_every_address_of_the_range_is_found(store: Store, subnet: str, ip_range: str) -> None:
    made = await network(store, "app", subnet, ip_range)
    first, last = (2, 62) if not ip_range else (32, 47) if ip_range.endswith("28") else (60, 62)
    expected = {f"10.0.1.{i}/26" for i in range(first, last + 1)}
    assert made.gateway == "10.0.1.1"
    found = [addr for i in range(len(expected)) for addr in await create(store, f"s{i}", "app")]
    assert set(found) == expected
    with pytest.raises(FailedPrecondition):
        await create(store, "one-too-many", "app")
    store.validate()


async def test_many_services_of_one_network_are_created_at_the_same_moment(store: Store) -> None:
    """All look at the network as it is before any of the others is stored."""
    await network(store, "app", "10.0.1.0/24")
    found = await asyncio.gather(*(create(store, f"s{i}", "app") for i in range(40)))
    assert len({addr for (addr,) in found}) == 40
    store.validate()


async def test_a_freed_address_is_not_the_first_choice_of_the_next_service(store: Store) -> None:
    await network(store, "app", "10.0.1.0/24")
    addrs = set()
    for i in range(10):
        addrs.update(await create(store, f"s{i}", "app"))
        await store.update(lambda tx, i=i: tx.delete(tx.view.services.find(f"s{i}")))  # type: ignore[misc]
    assert len(addrs) > 5


async def test_a_small_network_is_used_up_to_the_last_address(store: Store) -> None:
    await network(store, "tiny", "10.0.1.0/29")
    found = [addr for i in range(5) for addr in await create(store, f"s{i}", "tiny")]
    assert sorted(found) == [f"10.0.1.{i}/29" for i in (2, 3, 4, 5, 6)]
    with pytest.raises(FailedPrecondition, match=r"no address left in network tiny \(10.0.1.0/29\)"):
        await create(store, "one-too-many", "tiny")
    await store.update(lambda tx: tx.delete(tx.view.services.find("s3")))
    assert await create(store, "in-its-place", "tiny") == [found[3]]
    store.validate()


async def test_it_is_kept_over_updates_and_given_back_with_the_network(store: Store) -> None:
    await network(store, "app", "10.0.1.0/24")
    await network(store, "back", "10.0.2.0/24")
    (first,) = await create(store, "web", "app")
    other = await create(store, "other", "app")

    async def update(*networks: str) -> list[str]:
        def build(tx: Transaction) -> None:
            service = tx.view.services.find("web")
            changed = msgspec.structs.replace(service, spec=service_spec("web", networks=networks))
            tx.update(allocate_endpoint(tx.view, changed))

        await store.update(build)
        return vips(store, "web")

    both = await update("back", "app")
    assert both[1] == first
    assert both[0].startswith("10.0.2.")
    assert await update("back") == both[:1]
    assert store.view.services.by_vip("app", first) is None
    assert vips(store, "other") == other
    store.validate()


async def test_no_task_and_no_service_get_what_another_holds(store: Store) -> None:
    await network(store, "tiny", "10.0.1.0/29")
    task = Task(
        id="t",
        service_id="web",
        node_id="n",
        status=TaskStatus(state=TaskState.RUNNING),
        networks=(TaskNetwork("tiny", "10.0.1.2/29"),),
    )
    await store.update(lambda tx: tx.create(task))
    assert "10.0.1.2/29" not in [a for i in range(4) for a in await create(store, f"s{i}", "tiny")]
    planner = AddressPlanner()
    planner.observe_network("tiny", store.view.networks.get("tiny"))
    for service in store.view.services.values():
        planner.observe_service(service.id, service)
    waiting = msgspec.structs.replace(
        task, id="new", networks=(), status=TaskStatus(), spec=service_spec("web", networks=["tiny"]).task_template
    )
    planner.observe_task("t", task)
    planner.observe_task("new", waiting)
    (allocation,) = planner.plan()
    assert allocation.err.startswith("no address left in network tiny")
    planner.observe_service("s1", None)
    (allocation,) = planner.plan()
    assert [n.addr for n in allocation.networks] == [*vips(store, "s1")]
    store.validate()


async def test_of_two_that_chose_the_same_at_once_the_second_chooses_again(store: Store) -> None:
    await network(store, "app", "10.0.1.0/24")
    (early,) = await create(store, "early", "app")
    taken = Endpoint(virtual_ips=(VirtualIP("app", early),))
    attempts = 0

    def build(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        service = Service(id="late", spec=service_spec("late", networks=["app"]))
        if attempts == 1:
            # As if the other's had not been applied yet when this one looked.
            tx.create(msgspec.structs.replace(service, endpoint=taken))
        else:
            tx.create(allocate_endpoint(tx.view, service))

    await store.update(build)
    assert attempts == 2
    assert vips(store, "late") != [early]
    store.validate()
