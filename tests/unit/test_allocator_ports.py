"""Published ports: which are refused and in what words, and which are chosen."""

import pytest
from msgspec.structs import replace

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.types import (
    EPOCH,
    Cluster,
    Endpoint,
    EndpointSpec,
    IPAMConfig,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    NodeDescription,
    PortConfig,
    Service,
    ServiceSpec,
    TaskSpec,
)
from pyswarm.manager.allocator.endpoints import allocate_endpoint
from pyswarm.manager.allocator.ingress import INGRESS, ensure_ingress, ingress_network
from pyswarm.manager.allocator.meshindex import free_mesh_index
from pyswarm.manager.allocator.ports import FIRST_DYNAMIC, LAST_DYNAMIC
from pyswarm.manager.allocator.subnets import choose_allocation
from pyswarm.manager.state.transaction import Transaction
from pyswarm.manager.state.view import LiveView
from pyswarm.overlay.registry.model import MAX_MESH_INDEX

INGRESS_NETWORK = Network(id="ing", spec=INGRESS, subnet="10.0.0.0/24", gateway="10.0.0.1", vni=4096)


def port(published: int, target: int = 80, protocol: str = "tcp", mode: str = "ingress") -> PortConfig:
    return PortConfig(protocol=protocol, target_port=target, published_port=published, publish_mode=mode)


def service(name: str, *ports: PortConfig, networks: tuple[str, ...] = ()) -> Service:
    attached = tuple(NetworkAttachmentConfig(target=n) for n in networks)
    spec = ServiceSpec(
        name=name, task_template=TaskSpec(networks=attached), endpoint_spec=EndpointSpec(ports=ports)
    )
    return Service(id=f"id-{name}", spec=spec)


def listening_node(name: str, *ports: str) -> Node:
    return Node(id=f"id-{name}", description=NodeDescription(hostname=name, listening=ports))


@pytest.fixture
def view() -> LiveView:
    view = LiveView()
    view.clusters.put(Cluster(id="c", data_path_port=4790))
    view.networks.put(INGRESS_NETWORK)
    return view


def store(view: LiveView, wanted: Service) -> Service:
    made = allocate_endpoint(view, wanted)
    view.services.put(made)
    return made


def refusal(view: LiveView, wanted: Service) -> str:
    with pytest.raises(InvalidArgument) as caught:
        allocate_endpoint(view, wanted)
    text = str(caught.value)
    assert text.startswith("rpc error: code = InvalidArgument desc = ")
    assert "\n" not in text
    return text.partition("desc = ")[2]


def test_a_service_is_reached_on_its_first_network_or_on_the_ingress_network(view: LiveView) -> None:
    assert store(view, service("plain")).endpoint == Endpoint()
    assert store(view, service("web", port(8080))).endpoint == Endpoint(ports=(port(8080),), mesh_network_id="ing")
    own = store(view, service("own", port(8081), networks=("a", "b")))
    assert own.endpoint.mesh_network_id == "a"
    host = store(view, service("host", port(8082, mode="host")))
    assert host.endpoint == Endpoint(ports=(port(8082, mode="host"),))
    view.networks.remove("ing")
    with pytest.raises(FailedPrecondition, match="no ingress network is present"):
        allocate_endpoint(view, service("lost", port(8083)))


@pytest.mark.parametrize(
    ("taken", "protocol", "what"),
    [
        (2377, "tcp", "managers"), (2378, "tcp", "joining nodes"), (2379, "tcp", "etcd"), (2380, "tcp", "etcd"),
        (9323, "tcp", "metrics"), (4790, "udp", "overlay networks"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["ingress", "host"])
def test_ports_of_its_own_are_refused(view: LiveView, taken: int, protocol: str, what: str, mode: str) -> None:
    text = refusal(view, service("web", port(taken, protocol=protocol, mode=mode)))
    assert text == f"port '{taken}' is used by pyswarm itself ({what}, {protocol})"
    other = "udp" if protocol == "tcp" else "tcp"
    store(view, service("web", port(taken, protocol=other, mode=mode)))


def test_a_port_has_one_service(view: LiveView) -> None:
    store(view, service("web", port(8080), port(9000, mode="host")))
    for mode in ("ingress", "host"):
        assert refusal(view, service("b", port(1), port(8080, 81, mode=mode))) == (
            "port '8080' is already in use by service 'web' (id-web) as an ingress port"
        )
    assert refusal(view, service("b", port(9000))) == (
        "port '9000' is already in use by service 'web' (id-web) as a host-published port"
    )
    # Tasks of several services may have one port, each on its host; another protocol is another port.
    store(view, service("c", port(9000, mode="host"), port(8080, protocol="udp")))


def test_a_port_on_which_a_host_listens_is_refused_unless_it_was_published_before(view: LiveView) -> None:
    view.nodes.put(listening_node("h1", "tcp/111"))
    view.nodes.put(listening_node("h2", "tcp/22", "udp/53"))
    assert refusal(view, service("ssh", port(22))) == (
        "port '22' is already in use on host 'h2', which listens on it (tcp)"
    )
    store(view, service("dns", port(53), port(22, mode="host")))
    web = store(view, service("web", port(8080)))
    view.nodes.put(listening_node("h1", "tcp/8080", "tcp/8081"))
    # Kept, also with another target; a new one beside it is looked at.
    kept = replace(web, spec=service("web", port(8080, 81)).spec)
    assert allocate_endpoint(view, kept).endpoint.ports == (port(8080, 81),)
    assert "'8081'" in refusal(view, replace(web, spec=service("web", port(8080), port(8081)).spec))
    gone = store(view, replace(web, spec=service("web").spec))
    assert gone.endpoint == Endpoint()
    assert "'8080'" in refusal(view, replace(gone, spec=web.spec)), "a roll-back publishes anew"


def test_any_port_is_one_that_is_free_and_is_kept(view: LiveView) -> None:
    first = FIRST_DYNAMIC
    view.nodes.put(listening_node("h1", f"tcp/{first + 1}"))
    view.clusters.put(Cluster(id="c", data_path_port=first + 3))
    web = store(view, service("web", port(first), port(0), port(0, 81), port(0, 53, "udp"), port(0, mode="host")))
    numbers = [p.published_port for p in web.endpoint.ports]
    assert numbers == [first, first + 2, first + 3, first, 0]
    # UDP counts for itself, and the data path's port is left out there.
    udp = store(view, service("udp", *(port(0, n, "udp") for n in (1, 2, 3, 4))))
    assert [p.published_port - first for p in udp.endpoint.ports] == [1, 2, 4, 5]
    other_order = service("web", port(0, 82), port(0, 81), port(0), port(first, 83))
    again = store(view, replace(web, spec=other_order.spec))
    assert [p.published_port - first for p in again.endpoint.ports] == [4, 3, 2, 0]


def test_when_no_port_is_left_it_is_said(view: LiveView) -> None:
    view.nodes.put(listening_node("h1", *(f"tcp/{n}" for n in range(FIRST_DYNAMIC, LAST_DYNAMIC))))
    store(view, service("a", port(0)))
    with pytest.raises(FailedPrecondition, match="no free port is left from 30000 to 32767"):
        allocate_endpoint(view, service("b", port(0)))


def test_the_ingress_network_has_the_numbers_kept_for_it() -> None:
    view = LiveView()
    assert choose_allocation(view, INGRESS) == ("10.0.0.0/24", "10.0.0.1", 4096)
    view.nodes.put(Node(id="n", underlay_addr="10.0.0.7"))
    assert choose_allocation(view, INGRESS) == ("10.0.1.0/24", "10.0.1.1", 4096)
    own = NetworkSpec(name="mine", ingress=True, ipam=(IPAMConfig(subnet="172.20.0.0/16"),))
    assert choose_allocation(view, own) == ("172.20.0.0/16", "172.20.0.1", 4096)


def test_the_ingress_network_is_made_when_it_is_needed_and_missing() -> None:
    view = LiveView()
    for spec, needed in (
        (service("a").spec, False),
        (service("a", port(80, mode="host")).spec, False),
        (service("a", port(80), networks=("n",)).spec, False),
        (service("a", port(80)).spec, True),
    ):
        tx = Transaction(view, EPOCH)
        ensure_ingress(tx, spec, "new")
        assert (ingress_network(tx.view) is not None) == needed
    view.networks.put(INGRESS_NETWORK)
    tx = Transaction(view, EPOCH)
    ensure_ingress(tx, service("a", port(80)).spec, "new")
    assert tx.changes == 0


def test_hosts_have_the_smallest_free_number() -> None:
    view = LiveView()
    assert free_mesh_index(view) == 1
    for number in (1, 2, 4):
        view.nodes.put(Node(id=f"n{number}", mesh_index=number))
    assert free_mesh_index(view) == 3
    for number in range(1, MAX_MESH_INDEX + 1):
        view.nodes.put(Node(id=f"n{number}", mesh_index=number))
    assert free_mesh_index(view) == 0
