"""Ports and mesh numbers are unique in every state, whoever proposed what at the same moment; and how they look on
disk."""

from pathlib import Path

import msgspec
import pytest
from support.store import local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import Unavailable
from pyswarm.common.types import (
    Endpoint,
    EndpointSpec,
    Network,
    NetworkSpec,
    Node,
    PortConfig,
    Service,
    ServiceSpec,
    Task,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.allocator.meshindex import free_mesh_index
from pyswarm.manager.state import Store, entry

GOLDEN = Path(__file__).parent.parent / "golden" / "state"
replace = msgspec.structs.replace


def port(number: int, mode: str = "ingress", protocol: str = "tcp") -> PortConfig:
    return PortConfig(published_port=number, target_port=80, publish_mode=mode, protocol=protocol)


def service(name: str, *ports: PortConfig, network: str = "ing") -> Service:
    endpoint = Endpoint(ports=ports, mesh_network_id=network)
    return Service(id=name, spec=ServiceSpec(name=name), endpoint=endpoint)


@pytest.fixture
async def store() -> Store:
    store, _ = local_store(VirtualClock())
    network = Network(id="ing", spec=NetworkSpec(name="ingress", ingress=True))
    await store.update(lambda tx: tx.create(network))
    return store


async def created(store: Store, obj: entry.Stored) -> bool:
    """Whether it can be stored; what stands in its way does so in every attempt."""
    try:
        await store.update(lambda tx: tx.create(obj))
    except Unavailable:
        return False
    finally:
        store.validate()
    return True


async def test_no_port_has_two_services(store: Store) -> None:
    assert await created(store, service("a", port(8080), port(0), port(9000, "host")))
    assert not await created(store, service("b", port(8080)))
    assert not await created(store, service("b", port(8080, "host")))
    assert not await created(store, service("b", port(9000)))
    assert await created(store, service("b", port(8080, protocol="udp"), port(0), port(9000, "host")))
    assert not await created(store, service("c", network="gone"))
    assert await created(store, service("c", network=""))
    await store.update(lambda tx: tx.delete(service("a")))
    assert await created(store, service("d", port(8080)))


async def test_no_mesh_number_has_two_nodes(store: Store) -> None:
    assert await created(store, Node(id="n1", mesh_index=1))
    assert not await created(store, Node(id="n2", mesh_index=1))
    assert await created(store, Node(id="n2"))
    assert await created(store, Node(id="n3")), "none is not a number"
    for node in ("n2", "n3"):
        found = store.view.nodes.find(node)
        await store.update(lambda tx, found=found: tx.update(replace(found, mesh_index=free_mesh_index(tx.view))))  # type: ignore[misc]
    assert {n.id: n.mesh_index for n in store.view.nodes.values()} == {"n1": 1, "n2": 2, "n3": 3}
    store.validate()


def golden_objects() -> list[entry.Stored]:
    """One of each kind that publishing made larger."""
    ports = (PortConfig(name="web", protocol="tcp", target_port=80, published_port=8080), port(53, "host", "udp"))
    spec = ServiceSpec(name="web", endpoint_spec=EndpointSpec(mode="vip", ports=ports))
    endpoint = Endpoint(ports=ports, mesh_network_id="ing")
    status = TaskStatus(state=TaskState.RUNNING, port_status=(port(53, "host", "udp"),))
    return [
        Network(id="ing", spec=NetworkSpec(name="ingress", ingress=True)),
        Node(id="n1", mesh_index=3),
        Service(id="s1", spec=spec, endpoint=endpoint),
        Task(id="t1", ports=ports, mesh_network_id="ing", status=status),
    ]


def test_published_objects_are_read_as_they_were_first_written() -> None:
    lines = (GOLDEN / "ports_v1.hex").read_text().split()
    for obj, line in zip(golden_objects(), lines, strict=True):
        kind = entry.kind_of(obj)
        assert entry.decode_object(kind, msgspec.Raw(bytes.fromhex(line))) == obj
        assert bytes(entry.encode_object(obj)).hex() == line, f"the written form of {kind} changed"
