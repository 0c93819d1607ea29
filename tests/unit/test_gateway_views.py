"""Docker's JSON of the cluster's objects: the fields that clients walk into without asking."""

from msgspec.structs import replace

from pyswarm.common.types import (
    Cluster,
    ContainerSpec,
    ContainerStatus,
    Endpoint,
    EndpointSpec,
    JoinTokens,
    ManagerStatus,
    Network,
    NetworkSpec,
    Node,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeState,
    NodeStatus,
    PortConfig,
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
    UpdateStatus,
    Version,
)
from pyswarm.gateway import filters, specs, views

NETWORK = Network(
    id="n" * 25,
    version=Version(index=7),
    spec=NetworkSpec(name="app", attachable=True, labels={"a": "b"}),
    subnet="10.0.1.0/24",
    gateway="10.0.1.1",
    vni=4097,
)


def test_service() -> None:
    spec = ServiceSpec(
        name="web",
        task_template=TaskSpec(container_spec=ContainerSpec(image="busybox:latest")),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=3)),
    )
    service = Service(
        id="s" * 25,
        version=Version(index=12),
        spec=spec,
        update_status=UpdateStatus(state="completed", message="m"),
    )
    running = Task(id="1", status=TaskStatus(state=TaskState.RUNNING))
    ending = Task(id="2", status=TaskStatus(state=TaskState.RUNNING), desired_state=TaskState.SHUTDOWN)
    view = views.service(service, views.service_status(service, [running, ending]))
    assert view["Version"] == {"Index": 12}
    assert view["CreatedAt"].endswith("Z")
    assert view["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert view["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:latest"
    assert view["Spec"]["TaskTemplate"]["RestartPolicy"] == {"Condition": "any"}
    assert view["Endpoint"] == {"Spec": {}}
    assert view["UpdateStatus"] == {"State": "completed", "Message": "m"}
    assert view["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 3, "CompletedTasks": 0}
    assert "ServiceStatus" not in views.service(service)
    filled = views.service(service, defaults=True)["Spec"]
    assert filled["UpdateConfig"]["Parallelism"] == 1
    assert filled["EndpointSpec"] == {"Mode": "vip"}
    assert filled["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000


def test_task_with_its_network_and_the_address_with_its_mask() -> None:
    task = Task(
        id="t" * 25,
        service_id="s",
        slot=2,
        node_id="h",
        status=TaskStatus(
            state=TaskState.FAILED,
            err="task: non-zero exit (1)",
            container_status=ContainerStatus(container_id="c", pid=0, exit_code=1),
        ),
        desired_state=TaskState.SHUTDOWN,
        networks=(TaskNetwork(network_id=NETWORK.id, addr="10.0.1.3/24"), TaskNetwork(network_id="gone")),
    )
    view = views.task(task, {NETWORK.id: NETWORK})
    assert (view["Slot"], view["NodeID"], view["DesiredState"]) == (2, "h", "shutdown")
    assert view["Status"]["ContainerStatus"] == {"ContainerID": "c", "PID": 0, "ExitCode": 1}
    assert view["Status"]["Err"] == "task: non-zero exit (1)"
    assert view["Spec"]["ContainerSpec"] == {"Image": ""}
    (attachment,) = view["NetworksAttachments"]
    assert attachment["Addresses"] == ["10.0.1.3/24"]
    assert attachment["Network"]["Spec"]["Name"] == "app"
    assert attachment["Network"]["IPAMOptions"]["Configs"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
    fresh = views.task(Task(id="x"), {})
    assert fresh["Status"]["State"] == "new"
    assert fresh["DesiredState"] == "running"
    assert "NodeID" not in fresh


def test_network() -> None:
    view = views.network(NETWORK)
    assert (view["Name"], view["Scope"], view["Driver"], view["Attachable"]) == ("app", "swarm", "overlay", True)
    assert view["IPAM"]["Config"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
    assert view["Options"] == {views.VXLAN_OPTION: "4097"}
    assert view["Labels"] == {"a": "b"}


def test_published_ports_are_shown_where_clients_look() -> None:
    ports = (PortConfig(target_port=80), PortConfig(protocol="udp", target_port=53, publish_mode="host"))
    chosen = (replace(ports[0], published_port=30_000), ports[1])
    service = Service(
        id="s",
        spec=ServiceSpec(endpoint_spec=EndpointSpec(ports=ports)),
        endpoint=Endpoint(ports=chosen, mesh_network_id="ing"),
    )
    view = views.service(service)
    assert view["Spec"]["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"},
        {"Protocol": "udp", "TargetPort": 53, "PublishMode": "host"},
    ]
    assert view["Endpoint"]["Ports"][0] == {
        "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 30_000, "PublishMode": "ingress"
    }  # fmt: skip
    lent = replace(ports[1], published_port=49_153)
    task = Task(id="t", status=TaskStatus(state=TaskState.RUNNING, port_status=(lent,)))
    assert views.task(task, {})["Status"]["PortStatus"] == {
        "Ports": [{"Protocol": "udp", "TargetPort": 53, "PublishedPort": 49_153, "PublishMode": "host"}]
    }
    assert views.task(Task(id="t"), {})["Status"]["PortStatus"] == {}


def test_the_ingress_network_is_shown_as_such() -> None:
    ingress = replace(NETWORK, spec=NetworkSpec(name="ingress", ingress=True))
    assert views.network(ingress)["Ingress"] is True
    assert views.attached_network(ingress)["Spec"]["Ingress"] is True
    assert views.network(NETWORK)["Ingress"] is False


def test_node() -> None:
    node = Node(
        id="h" * 25,
        spec=NodeSpec(role=NodeRole.MANAGER),
        description=NodeDescription(hostname="h1", engine_error="the engine does not answer"),
        status=NodeStatus(state=NodeState.READY, addr="192.0.2.1"),
        manager_status=ManagerStatus(leader=True, addr="192.0.2.1:2377"),
    )
    view = views.node(node, {"TrustRoot": "x"})
    assert view["Spec"] == {"Labels": {}, "Role": "manager", "Availability": "active"}
    assert view["Status"] == {"State": "ready", "Addr": "192.0.2.1", "Message": "the engine does not answer"}
    assert view["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "192.0.2.1:2377"}
    assert specs.node_spec(view["Spec"]) == node.spec
    assert "ManagerStatus" not in views.node(Node(id="w"), {})


def test_cluster_shows_tokens_only_where_they_belong() -> None:
    cluster = Cluster(id="c", join_tokens=JoinTokens(worker="W", manager="M"), root_ca_key=b"secret")
    assert views.swarm(cluster, {})["JoinTokens"] == {"Worker": "W", "Manager": "M"}
    assert "JoinTokens" not in views.cluster_info(cluster, {})
    assert "secret" not in repr(views.swarm(cluster, {}))
    assert specs.cluster_spec(views.swarm_spec(cluster.spec)) == cluster.spec


def test_filters_come_in_two_forms() -> None:
    assert filters.parse('{"name":["x"]}', filters.SERVICES) == {"name": ["x"]}
    assert filters.parse('{"name":{"x":true,"y":false}}', filters.SERVICES) == {"name": ["x"]}
    assert filters.parse("", filters.SERVICES) == {}
