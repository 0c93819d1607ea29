"""The Control service over real gRPC: who may call, what calls do, and how they find the leader."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from msgspec.structs import replace
from support.managers import TestCluster, eventually, running_cluster
from support.pki import Pki

from pyswarm.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PyswarmError,
    Unavailable,
    UpdateOutOfSequence,
)
from pyswarm.common.ids import new_id
from pyswarm.common.types import (
    ContainerSpec,
    EndpointSpec,
    IPAMConfig,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    NodeAvailability,
    NodeState,
    NodeStatus,
    PortConfig,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.control import forward
from pyswarm.proto.errors import error_from_rpc
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc


def service_spec(name: str = "web", *networks: str, **changes: Any) -> ServiceSpec:
    attachments = tuple(NetworkAttachmentConfig(target=n) for n in networks)
    template = TaskSpec(container_spec=ContainerSpec(image="busybox:latest"), networks=attachments)
    return replace(ServiceSpec(name=name, task_template=template), **changes)


def with_replicas(spec: ServiceSpec, number: int) -> ServiceSpec:
    return replace(spec, mode=ServiceMode(replicated=ReplicatedMode(replicas=number)))


@pytest.fixture
async def cluster() -> AsyncIterator[TestCluster]:
    async with running_cluster() as running:
        yield running


@pytest.fixture
async def three() -> AsyncIterator[TestCluster]:
    async with running_cluster(managers=3) as running:
        yield running


async def put_task(cluster: TestCluster, task: Task) -> None:
    await cluster.store.update(lambda tx: tx.create(task))


async def test_a_service_is_created_read_updated_rolled_back_and_removed(cluster: TestCluster) -> None:
    client = cluster.client()
    created = await client.create_service(service_spec())
    assert created.version.index > 0
    assert created.spec.mode == ServiceMode(replicated=ReplicatedMode(replicas=1))
    assert await client.get_service("web") == created
    assert await client.get_service(created.id[:10]) == created
    assert await client.list_services({"name": ["we"], "mode": ["replicated"]}) == [created]

    scaled = await client.update_service("web", created.version.index, with_replicas(created.spec, 3))
    assert (scaled.spec.replicas, scaled.previous_spec) == (3, created.spec)
    with pytest.raises(UpdateOutOfSequence, match="update out of sequence"):
        await client.update_service("web", created.version.index, created.spec)

    back = await client.update_service("web", scaled.version.index, rollback=True)
    assert (back.spec, back.previous_spec) == (created.spec, scaled.spec)
    forth = await client.update_service("web", back.version.index, rollback=True)
    assert forth.spec == scaled.spec

    await client.remove_service("web")
    with pytest.raises(NotFound, match=r"^service web not found$"):
        await client.get_service("web")


async def test_a_service_without_a_name_is_given_one(cluster: TestCluster) -> None:
    created = await cluster.client().create_service(service_spec(""))
    assert created.spec.name


async def test_refusals_keep_their_kind_and_text(cluster: TestCluster) -> None:
    client = cluster.client()
    created = await client.create_service(service_spec())
    refusals: list[tuple[Any, type[PyswarmError], str]] = [
        (
            client.create_service(service_spec()),
            AlreadyExists,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
            "service web already exists",
        ),
        (client.create_service(service_spec("b", "nowhere")), NotFound, "network nowhere not found"),
        (client.create_service(service_spec("b!")), InvalidArgument, "name must be valid as a DNS name component"),
        (
            client.update_service("web", created.version.index, service_spec("other")),
            InvalidArgument,
            "renaming services is not supported",
        ),
        (
            client.update_service("web", created.version.index, rollback=True),
            FailedPrecondition,
            "service web does not have a previous spec",
        ),
        (client.remove_service("other"), NotFound, "service other not found"),
        (client.list_services({"colour": ["red"]}), InvalidArgument, "invalid filter 'colour'"),
        (client.get_service(""), NotFound, "service  not found"),
    ]
    for call, kind, text in refusals:
        with pytest.raises(PyswarmError) as caught:
            await call
        assert (type(caught.value), str(caught.value)) == (kind, text)


async def test_networks_are_allocated_at_once_and_kept_while_used(cluster: TestCluster) -> None:
    client = cluster.client()
    app = await client.create_network(NetworkSpec(name="app"))
    assert app.subnet
    assert app.gateway
    assert app.vni >= 4096
    with pytest.raises(AlreadyExists, match=r"^network with name app already exists$"):
        await client.create_network(NetworkSpec(name="app"))
    service = await client.create_service(service_spec("web", "app"))
    assert service.spec.task_template.networks[0].target == app.id
    with pytest.raises(InvalidArgument, match="network app is given more than once"):
        await client.create_service(service_spec("twice", "app", app.id))
    with pytest.raises(InUse, match=r"^network app is in use by service web$"):
        await client.remove_network("app")
    await client.remove_service("web")
    await client.remove_network("app")
    assert await client.list_networks() == []


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (IPAMConfig(subnet="banana"), "banana"),
        (IPAMConfig(subnet="10.78.0.0/33"), "10.78.0.0/33"),
        (IPAMConfig(subnet="10.1.0.0"), "10.1.0.0"),
        (IPAMConfig(subnet="10.1.0.0/31"), "10.1.0.0/31"),
        (IPAMConfig(subnet="fd00::/64"), "IPv6"),
        (IPAMConfig(subnet="224.0.0.0/24"), "224.0.0.0/24"),
        (IPAMConfig(subnet="10.77.0.0/25"), "overlaps"),
        (IPAMConfig(subnet="10.76.0.0/15"), "overlaps"),
        (IPAMConfig(subnet="10.1.0.0/24", gateway="10.2.0.1"), "10.2.0.1"),
        (IPAMConfig(subnet="10.1.0.0/24", gateway="10.1.0.255"), "10.1.0.255"),
        (IPAMConfig(subnet="10.1.0.0/24", gateway="x"), "invalid gateway x"),
        (IPAMConfig(subnet="10.1.0.0/24", ip_range="10.2.0.0/25"), "10.2.0.0/25"),
        (IPAMConfig(gateway="10.1.0.1"), "subnet"),
    ],
)
async def test_subnets_that_cannot_be_had(cluster: TestCluster, config: IPAMConfig, names: str) -> None:
    client = cluster.client()
    await client.create_network(NetworkSpec(name="taken", ipam=(IPAMConfig(subnet="10.77.0.0/24"),)))
    with pytest.raises(InvalidArgument) as caught:
        await client.create_network(NetworkSpec(name="app", ipam=(config,)))
    assert names in str(caught.value)
    assert [n.spec.name for n in await client.list_networks()] == ["taken"]


async def test_removing_a_network_waits_for_tasks_that_are_stopping(cluster: TestCluster) -> None:
    client = cluster.client()
    app = await client.create_network(NetworkSpec(name="app"))
    task = Task(
        id=new_id(),
        service_name="web",
        slot=1,
        status=TaskStatus(state=TaskState.RUNNING),
        desired_state=TaskState.REMOVE,
        networks=(TaskNetwork(network_id=app.id, addr=f"{app.subnet.rpartition('.')[0]}.9/24"),),
    )
    await put_task(cluster, task)
    removal = cluster.owner.spawn(client.remove_network("app"), "removal")
    await asyncio.sleep(0.05)
    assert not removal.done()
    await cluster.store.update(lambda tx: tx.delete(task))
    await removal


async def test_only_managers_may_call(cluster: TestCluster) -> None:
    worker = await cluster.add_worker()
    async with worker.channel(cluster.managers[0].addr) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).Get(control_pb2.GetRequest(kind="cluster"))
    error = error_from_rpc(caught.value)
    assert isinstance(error, PermissionDenied)
    assert str(error) == "a worker may not call Get"


async def test_certificates_of_another_cluster_are_refused(cluster: TestCluster) -> None:
    addr = cluster.managers[0].addr
    stranger = Pki(cluster.pki.cluster_id).identity("manager")
    with pytest.raises(Unavailable, match=addr):
        await cluster.client(identity=stranger).get_cluster()
    # Signed by the right authority, which no honest one would: the name of the cluster is checked all the same.
    forged = cluster.pki.identity("manager", cluster_id="another")
    credentials = grpc.ssl_channel_credentials(forged.ca_pem, forged.key_pem, forged.cert_pem)
    options = (("grpc.ssl_target_name_override", f"swarm-manager.{cluster.pki.cluster_id}"),)
    async with grpc.aio.secure_channel(addr, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).Get(control_pb2.GetRequest(kind="cluster"))
    assert str(error_from_rpc(caught.value)) == "the certificate is of another swarm"


async def test_the_ca_key_never_leaves(cluster: TestCluster) -> None:
    client = cluster.client()
    assert cluster.store.view.cluster is not None
    assert cluster.store.view.cluster.root_ca_key
    for shown in (await client.get_cluster(), await client.update_cluster(rotate_worker_token=True)):
        assert shown.root_ca_key == b""
    assert cluster.store.view.cluster.root_ca_key


async def test_tokens_rotate_one_by_one(cluster: TestCluster) -> None:
    client = cluster.client()
    first = (await client.update_cluster(rotate_worker_token=True, rotate_manager_token=True)).join_tokens
    second = (await client.update_cluster(rotate_worker_token=True)).join_tokens
    assert first.worker.startswith("SWMTKN-1-")
    assert second.worker != first.worker
    assert second.manager == first.manager
    shown = await client.get_cluster()
    changed = await client.update_cluster(shown.version.index, replace(shown.spec, task_history_limit=2))
    assert changed.spec.task_history_limit == 2
    with pytest.raises(UpdateOutOfSequence):
        await client.update_cluster(shown.version.index, shown.spec)


async def test_nodes_are_shown_updated_and_removed(cluster: TestCluster) -> None:
    client = cluster.client()
    worker = await cluster.add_worker("w1")
    manager, node = await client.get_node("m1"), await client.get_node("w1")
    assert manager.manager_status is not None
    assert manager.manager_status.leader
    assert manager.manager_status.reachability == "reachable"
    assert node.manager_status is None
    drained = await client.update_node(
        "w1", node.version.index, replace(node.spec, availability=NodeAvailability.DRAIN, labels={"a": "b"})
    )
    assert drained.spec.availability is NodeAvailability.DRAIN
    assert await client.list_nodes({"node.label": ["a=b"], "role": ["worker"]}) == [drained]

    task = Task(id=new_id(), node_id=node.id, status=TaskStatus(state=TaskState.RUNNING))
    await put_task(cluster, task)
    with pytest.raises(FailedPrecondition, match="is not down and can't be removed"):
        await client.remove_node("w1")
    with pytest.raises(FailedPrecondition, match="is a cluster manager and is a member of the raft cluster"):
        await client.remove_node("m1", force=True)
    await client.remove_node("w1", force=True)
    assert (await client.get_task(task.id)).status.state is TaskState.ORPHANED
    assert [n.id for n in await client.list_nodes()] == [manager.id]

    with pytest.raises(PermissionDenied, match="was removed from the swarm"):
        await cluster.client(identity=worker).get_cluster()


async def test_a_follower_passes_calls_on_and_errors_back(three: TestCluster) -> None:
    client = three.client(manager=1)
    created = await client.create_service(service_spec())
    assert await client.get_service("web") == created
    with pytest.raises(AlreadyExists):
        await client.create_service(service_spec())
    counted = three.managers[1].registry.get_sample_value
    labels = {"method": "CreateService"}
    assert counted("pyswarm_control_requests_total", {**labels, "code": "ok"}) == 1
    assert counted("pyswarm_control_requests_total", {**labels, "code": "already_exists"}) == 1


async def test_a_call_waits_for_an_election(three: TestCluster) -> None:
    client = three.client(manager=1)
    three.raft.leader = None
    call = three.owner.spawn(client.create_service(service_spec()), "create")
    await asyncio.sleep(0.1)
    assert not call.done()
    three.raft.leader = three.managers[2].seat
    assert (await call).spec.name == "web"


async def test_without_a_leader_the_answer_says_so(three: TestCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "LEADER_PATIENCE_S", 0.2)
    three.raft.leader = None
    with pytest.raises(Unavailable, match=r"^The swarm does not have a leader.") as caught:
        await three.client().list_nodes()
    assert "more than half of the managers are online" in str(caught.value)


async def test_a_stale_read_is_answered_by_any_manager_without_a_leader(three: TestCluster) -> None:
    await three.client().create_service(service_spec())
    three.raft.leader = None
    three.raft.reachable.clear()
    client = three.client(manager=1).reading(stale=True)
    assert [s.spec.name for s in await client.list_services()] == ["web"]
    assert (await client.get_service("web")).spec.name == "web"
    assert (await client.get_cluster()).id == three.pki.cluster_id


async def test_a_manager_that_knows_nothing_yet_does_not_list_it(three: TestCluster) -> None:
    late = await three.add_manager()
    client = three.client(manager=three.managers.index(late)).reading(stale=True)
    with pytest.raises(Unavailable, match="started while nobody leads"):
        await client.list_services()


async def test_a_caller_with_little_time_is_told_why_before_it_is_over(three: TestCluster) -> None:
    three.raft.leader = None
    with pytest.raises(Unavailable, match="does not have a leader"):
        await three.client().reading(timeout_s=0.5).list_nodes()


async def test_a_dead_leader_s_successor_gets_the_call(three: TestCluster) -> None:
    """The follower still believes in the dead leader; nothing was sent to it, so even a change is tried again."""
    await three.managers[0].server.stop(grace=None)
    call = three.owner.spawn(three.client(manager=1).create_service(service_spec()), "create")
    await asyncio.sleep(0.3)
    assert not call.done()
    three.raft.leader = three.managers[2].seat
    assert (await call).spec.name == "web"


async def test_a_change_that_may_have_arrived_is_not_sent_again(three: TestCluster) -> None:
    """The leader is cut off with the change in hand, and replaced."""
    three.raft.reachable.clear()
    call = three.owner.spawn(three.client(manager=1).create_service(service_spec()), "create")
    await asyncio.sleep(0.2)
    assert not call.done()
    three.raft.leader = three.managers[2].seat
    with pytest.raises(OutcomeUnknown, match="may or may not have been stored"):
        await call
    three.raft.reachable.set()


async def test_a_read_is_asked_again_of_the_next_leader(three: TestCluster) -> None:
    three.raft.reachable.clear()
    call = three.owner.spawn(three.client(manager=1).list_nodes(), "list")
    await asyncio.sleep(0.2)
    assert not call.done()
    three.raft.leader = three.managers[2].seat
    three.raft.reachable.set()
    assert len(await call) == 3


async def test_calls_are_forwarded_once_only(three: TestCluster) -> None:
    """A follower that is taken for the leader names the leader it knows instead of passing the call on."""
    follower, leader = three.managers[1], three.managers[0]
    request = control_pb2.GetRequest(kind="cluster")
    async with three.managers[2].identity.channel(follower.addr, follower.seat.node_id) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).Get(
                request, metadata=((forward.FORWARDED_KEY, "x"),), timeout=5
            )
    assert leader.addr in str(error_from_rpc(caught.value))


async def test_a_worker_cannot_pose_as_the_leader(three: TestCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "LEADER_PATIENCE_S", 0.3)
    worker = await three.add_worker()
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", worker.server_credentials())
    await server.start()
    try:
        three.raft.leader = replace_addr(three, f"127.0.0.1:{port}")
        with pytest.raises(Unavailable, match="The swarm does not have a leader"):
            await three.client(manager=1).get_cluster()
    finally:
        await server.stop(grace=None)


def replace_addr(cluster: TestCluster, addr: str) -> Any:
    return type(cluster.managers[0].seat)(cluster.managers[0].seat.node_id, addr)


async def test_an_unreachable_manager_is_named(cluster: TestCluster) -> None:
    await cluster.managers[0].server.stop(grace=None)
    with pytest.raises(Unavailable, match=cluster.managers[0].addr):
        await cluster.client().get_cluster()


async def test_nonsense_is_answered_with_one_line(cluster: TestCluster) -> None:
    manager = cluster.managers[0]
    async with manager.identity.channel(manager.addr) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        for call in (
            stub.CreateService(control_pb2.CreateRequest(spec=b"\xff")),
            stub.CreateService(control_pb2.CreateRequest(spec=msgspec.msgpack.encode({"Name": 5}))),
            stub.Get(control_pb2.GetRequest(kind="spell", ref="x")),
            stub.List(control_pb2.ListRequest(kind="spell")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = error_from_rpc(caught.value)
            assert isinstance(error, InvalidArgument)
            assert "\n" not in str(error)


async def test_up_to_date_and_label_filters_of_tasks(cluster: TestCluster) -> None:
    client = cluster.client()
    service = await client.create_service(service_spec("web", labels={"stack": "s"}))
    fields: dict[str, Any] = {"service_id": service.id, "service_name": "web", "service_labels": {"stack": "s"}}
    new = Task(id=new_id(), slot=1, spec=service.spec.task_template, **fields)
    old = Task(id=new_id(), slot=2, spec=TaskSpec(force_update=1), desired_state=TaskState.SHUTDOWN, **fields)
    await put_task(cluster, new)
    await put_task(cluster, old)

    async def ids(**filters: list[str]) -> set[str]:
        return {t.id for t in await client.list_tasks({k.replace("__", "-"): v for k, v in filters.items()})}

    both = {new.id, old.id}
    assert await ids(service=["web"]) == await ids(service=[service.id]) == both
    assert await ids(service=["web"], **{"_up-to-date": ["true"]}) == {new.id}
    assert await ids(label=["stack=s"]) == both
    assert await ids(label=["stack=t"]) == set()
    assert await ids(desired__state=["running"]) == {new.id}
    assert await ids(name=["web.1"]) == {new.id}
    assert await ids(id=[old.id[:12]]) == {old.id}
    assert await ids(node=["m1"]) == set()
    with pytest.raises(NotFound, match="service gone not found"):
        await ids(service=["gone"])
    with pytest.raises(InvalidArgument, match="invalid desired-state filter: 'asleep'"):
        await ids(desired__state=["asleep"])


async def test_reads_show_which_nodes_are_unreachable(three: TestCluster) -> None:
    node = three.store.view.nodes.find("m3")
    down: Node = replace(node, status=NodeStatus(state=NodeState.DOWN))
    await three.store.update(lambda tx: tx.update(down))
    shown = await three.client(manager=1).get_node("m3")
    assert shown.manager_status is not None
    assert shown.manager_status.reachability == "unreachable"
    assert not shown.manager_status.leader


async def test_networks_are_found_by_any_part_of_the_name(cluster: TestCluster) -> None:
    client = cluster.client()
    made = [await client.create_network(NetworkSpec(name=name, labels={"k": name})) for name in ("app", "myapp")]

    async def names(**filters: list[str]) -> list[str]:
        found: list[Network] = await client.list_networks(filters)
        return [n.spec.name for n in found]

    assert await names(name=["app"]) == ["app", "myapp"]
    assert await names(name=["^app$"]) == ["app"]
    assert await names(id=[made[1].id]) == ["myapp"]
    assert await names(label=["k=app"], driver=["overlay"], scope=["swarm"], type=["custom"]) == ["app"]
    assert await names(driver=["bridge"]) == []
    assert await eventually(lambda: names(type=["custom"]), "both") == ["app", "myapp"]


def published(name: str, *ports: PortConfig, networks: tuple[str, ...] = ()) -> ServiceSpec:
    return service_spec(name, *networks, endpoint_spec=EndpointSpec(ports=ports))


def port(published_port: int, **fields: Any) -> PortConfig:
    return PortConfig(target_port=80, published_port=published_port, **fields)


async def test_the_ingress_network_comes_with_the_first_service_and_stays_while_used(cluster: TestCluster) -> None:
    client = cluster.client()
    await client.create_service(service_spec("plain"))
    assert await client.list_networks() == []
    web = await client.create_service(published("web", port(8080)))
    (ingress,) = await client.list_networks()
    assert (ingress.spec.name, ingress.spec.ingress, ingress.subnet, ingress.vni) == (
        "ingress", True, "10.0.0.0/24", 4096,
    )  # fmt: skip
    assert web.endpoint.mesh_network_id == ingress.id
    assert web.spec.task_template.networks == ()
    with pytest.raises(InvalidArgument, match='cannot be explicitly attached to the ingress network "ingress"'):
        await client.create_service(service_spec("b", "ingress"))
    with pytest.raises(AlreadyExists, match=f"ingress network \\({ingress.id}\\) is already present"):
        await client.create_network(NetworkSpec(name="mine", ingress=True))
    with pytest.raises(InUse, match="network ingress is in use by service web"):
        await client.remove_network("ingress")
    await client.remove_service("web")
    await client.remove_network("ingress")
    custom = NetworkSpec(name="mine", ingress=True, ipam=(IPAMConfig(subnet="172.21.0.0/24"),))
    mine = await client.create_network(custom)
    again = await client.create_service(published("web", port(8080)))
    assert again.endpoint.mesh_network_id == mine.id


async def test_ports_follow_updates_and_roll_backs(cluster: TestCluster) -> None:
    client = cluster.client()
    app = await client.create_network(NetworkSpec(name="app"))
    web = await client.create_service(published("web", port(8080), networks=("app",)))
    assert (web.endpoint.ports, web.endpoint.mesh_network_id) == ((port(8080),), app.id)
    bare = await client.update_service("web", web.version.index, published("web", networks=("app",)))
    assert (bare.endpoint.ports, bare.endpoint.mesh_network_id) == ((), "")
    other = await client.create_service(published("other", port(8080)))
    with pytest.raises(InvalidArgument, match=f"already in use by service 'other' \\({other.id}\\)"):
        await client.update_service("web", bare.version.index, rollback=True)
    assert (await client.get_service("web")).version == bare.version, "a refused roll-back changes nothing"
    await client.remove_service("other")
    back = await client.update_service("web", bare.version.index, rollback=True)
    assert back.endpoint == web.endpoint


async def test_of_two_services_created_at_once_with_one_port_one_is_refused(cluster: TestCluster) -> None:
    client = cluster.client()
    await client.create_service(published("first", port(80)))  # the ingress network is there from here on
    outcomes = await asyncio.gather(
        *(client.create_service(published(f"s{number}", port(8080))) for number in range(8)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidArgument)]
    assert len(refused) == 7, outcomes
    assert all("port '8080' is already in use by service" in str(error) for error in refused)


async def test_tasks_published_otherwise_are_not_up_to_date(cluster: TestCluster) -> None:
    client = cluster.client()
    service = await client.create_service(published("web", port(8080)))
    fields: dict[str, Any] = {"service_id": service.id, "spec": service.spec.task_template}
    network_id = service.endpoint.mesh_network_id
    new = Task(id=new_id(), slot=1, ports=service.endpoint.ports, mesh_network_id=network_id, **fields)
    await put_task(cluster, new)
    await put_task(cluster, Task(id=new_id(), slot=2, **fields))
    assert [t.id for t in await client.list_tasks({"_up-to-date": ["true"]})] == [new.id]
