"""What is refused, and the line the user reads."""

from typing import Any

import pytest
from msgspec.structs import replace

from pyswarm.common.errors import InvalidArgument, PyswarmError
from pyswarm.common.types import (
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    Limit,
    NetworkSpec,
    NodeRole,
    NodeSpec,
    PortConfig,
    ReplicatedMode,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from pyswarm.manager.control import validate

MIB = 1024 * 1024
GOOD = ServiceSpec(name="web", task_template=TaskSpec(container_spec=ContainerSpec(image="busybox:latest")))


def template(**changes: Any) -> ServiceSpec:
    return replace(GOOD, task_template=replace(GOOD.task_template, **changes))


def container(**changes: Any) -> ServiceSpec:
    return template(container_spec=replace(GOOD.task_template.container_spec, **changes))


def limits(**values: int) -> ServiceSpec:
    return template(resources=ResourceRequirements(limits=Limit(**values)))


def reserve(**values: int) -> ServiceSpec:
    return template(resources=ResourceRequirements(reservations=Resources(**values)))


def restart(**values: Any) -> ServiceSpec:
    return template(restart_policy=RestartPolicy(**values))


def update(**values: Any) -> ServiceSpec:
    return replace(GOOD, update_config=UpdateConfig(**values))


def ports(*ports: PortConfig, mode: str = "") -> ServiceSpec:
    return replace(GOOD, endpoint_spec=EndpointSpec(mode=mode, ports=ports))


def port(published: int = 8080, target: int = 80, **fields: Any) -> PortConfig:
    return PortConfig(published_port=published, target_port=target, **fields)


def replicas(number: int) -> ServiceSpec:
    return replace(GOOD, mode=ServiceMode(replicated=ReplicatedMode(replicas=number)))


def test_good_services_pass() -> None:
    for spec in (
        GOOD,
        replicas(0),
        replace(GOOD, name="a"),
        replace(GOOD, name="a-_b.c".replace(".", "_")),
        replace(GOOD, name="9" * 63),
        limits(memory_bytes=4 * MIB, nano_cpus=1_000_000),
        reserve(memory_bytes=4 * MIB, nano_cpus=1_000_000),
        update(parallelism=0, max_failure_ratio=1.0, order="start-first", failure_action="continue"),
        replace(GOOD, endpoint_spec=EndpointSpec(mode="vip")),
        ports(port(1), port(65_535, 65_535), port(8080), port(8080, protocol="udp"), port(0), port(0)),
        ports(port(8080, publish_mode="host"), port(8081, publish_mode="host"), mode="vip"),
        container(env=("A=1", "B=", "INHERITED"), stop_grace_period_ns=0),
    ):
        validate.check_service(spec)


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "busybox:latest",
        "library/busybox",
        "registry.example.com:5000/team/app:1.2.3",
        "localhost/app",
        "localhost:5000/app",
        "app@sha256:" + "a" * 64,
        "registry.example.com/app:v1@sha256:" + "0" * 64,
        "a/b/c/d__e-f.g",
        "[::1]:5000/app",
    ],
)
def test_good_images_pass(image: str) -> None:
    validate.check_service(container(image=image))


@pytest.mark.parametrize(
    "image",
    [
        "BusyBox",
        "app:",
        "app:-x",
        "/app",
        "app/",
        "app//b",
        "a b",
        "app@sha256:short",
        "a:" + "x" * 129,
        "-a",
        "é",
    ],
)
def test_bad_images_are_named(image: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid repository/tag") as caught:
        validate.check_service(container(image=image))
    assert str(caught.value) == f'ContainerSpec: "{image}" is not a valid repository/tag'


SERVICES: list[tuple[ServiceSpec, str]] = [
    (replace(GOOD, name=""), "meta: name must be provided"),
    (replace(GOOD, name="a" * 64), "name must be 63 characters or fewer"),
    (replace(GOOD, name="-web"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="web-"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="we b"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="web.1"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="wéb"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="web\n"), "name must be valid as a DNS name component"),
    (replace(GOOD, name="a" * 62 + "!"), "name must be valid as a DNS name component"),
    (replace(GOOD, labels={"": "x"}), "meta: a label must have a name"),
    (container(image=""), "ContainerSpec: image reference must be provided"),
    (container(env=("=x",)), "invalid environment variable: =x"),
    (container(stop_grace_period_ns=-1), "ContainerSpec: stop-grace-period cannot be negative"),
    (replicas(-1), "invalid number of replicas -1: Number of replicas must be non-negative"),
    (replicas(100_001), "invalid number of replicas 100001: at most 100000 are supported"),
    (limits(memory_bytes=1024), "invalid memory value 1024: Must be at least 4MiB"),
    (limits(memory_bytes=4 * MIB - 1), "invalid memory value 4194303: Must be at least 4MiB"),
    (limits(memory_bytes=-1), "invalid memory value -1: Must be at least 4MiB"),
    (reserve(memory_bytes=1), "invalid memory value 1: Must be at least 4MiB"),
    (limits(nano_cpus=100_000), "invalid cpu value 0.0001: Must be at least 0.001"),
    (reserve(nano_cpus=-1_000_000_000), "invalid cpu value -1: Must be at least 0.001"),
    (limits(pids=-1), "invalid pids value -1: Must be 0 (no limit) or more"),
    (restart(condition="always"), 'invalid RestartCondition: "always"'),
    (restart(delay_ns=-1), "TaskSpec: restart-delay cannot be negative"),
    (restart(window_ns=-1), "TaskSpec: restart-window cannot be negative"),
    (restart(max_attempts=-1), "TaskSpec: restart-max-attempts cannot be negative"),
    (update(parallelism=-1), "TaskSpec: update-parallelism cannot be negative"),
    (update(delay_ns=-1), "TaskSpec: update-delay cannot be negative"),
    (update(monitor_ns=-1), "TaskSpec: update-monitor cannot be negative"),
    (
        update(max_failure_ratio=1.5),
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
    ),
    (
        update(max_failure_ratio=float("nan")),
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
    ),
    (update(failure_action="panic"), "unrecognized update failure action panic"),
    (
        update(failure_action="rollback"),
        "the update failure action rollback is not supported by this version of pyswarm",
    ),
    (update(order="both"), "unrecognized update order both"),
    (replace(GOOD, endpoint_spec=EndpointSpec(mode="x")), "unrecognized endpoint mode x"),
    (template(runtime="plugin"), "the runtime plugin is not supported by this version of pyswarm"),
]


@pytest.mark.parametrize(("spec", "text"), SERVICES)
def test_bad_services(spec: ServiceSpec, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate.check_service(spec)
    assert str(caught.value) == text


def network(**changes: Any) -> NetworkSpec:
    return replace(NetworkSpec(name="app"), **changes)


def test_good_networks_pass() -> None:
    for spec in (
        network(),
        network(name="app_1.x-y", attachable=True),
        network(options={"com.docker.network.driver.mtu": "1400"}),
    ):
        validate.check_network(spec)


NETWORKS: list[tuple[NetworkSpec, str]] = [
    (network(name=""), "meta: name must be provided"),
    (network(name="host"), "operation is not permitted on predefined host network"),
    (
        network(name="a/b"),
        'invalid network name "a/b": only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 63 characters at most',
    ),
    (network(driver="macvlan"), 'the network driver "macvlan" is not supported by this version of pyswarm'),
    (
        network(options={"encrypted": ""}),
        "the network option encrypted is not supported by this version of pyswarm",
    ),
    (
        network(options={"com.docker.network.driver.mtu": "big"}),
        "invalid com.docker.network.driver.mtu big: it must be a number from 576 to 65535",
    ),
]


@pytest.mark.parametrize(("spec", "text"), NETWORKS)
def test_bad_networks(spec: NetworkSpec, text: str) -> None:
    with pytest.raises(PyswarmError) as caught:
        validate.check_network(spec)
    assert str(caught.value) == text
    assert caught.value.http_status in (400, 403)


def test_a_node_may_have_labels_and_another_role() -> None:
    validate.check_node(NodeSpec(labels={"zone": "a"}, role=NodeRole.MANAGER))
    with pytest.raises(InvalidArgument):
        validate.check_node(NodeSpec(labels={"": "a"}))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (ClusterSpec(name="other"), 'swarm spec must be named "default"'),
        (ClusterSpec(heartbeat_period_ns=0), "invalid heartbeat period: it must be between 100ms and 1h"),
        (
            ClusterSpec(node_cert_expiry_ns=1),
            "invalid certificate expiry: minimum certificate expiry time is 1h0m0s",
        ),
    ],
)
def test_bad_cluster_settings(spec: ClusterSpec, text: str) -> None:
    validate.check_cluster(ClusterSpec())
    with pytest.raises(InvalidArgument) as caught:
        validate.check_cluster(spec)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"hostname": "{{.Service.Name}}-{{.Task.Slot}}"}, "hostname"),
        ({"env": ("A=b", "H={{.Node.Hostname}}")}, "env H"),
    ],
)
def test_templates_are_refused_by_name(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate.check_service(container(**fields))
    assert str(caught.value) == (
        f"templates such as {{{{.Node.Hostname}}}} are not supported by this version of pyswarm: {where}"
    )
    validate.check_service(container(env=("H={x}",), args=("{{x}}",)))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (ports(port(-1)), "invalid published port -1: it must be from 1 to 65535, or 0 for any"),
        (ports(port(65_536)), "invalid published port 65536: it must be from 1 to 65535, or 0 for any"),
        (ports(port(80, 0)), "invalid target port 0: it must be from 1 to 65535"),
        (ports(port(80, 65_536)), "invalid target port 65536: it must be from 1 to 65535"),
        (ports(port(80, -1)), "invalid target port -1: it must be from 1 to 65535"),
        (ports(port(protocol="icmp")), "invalid protocol value 'icmp': must be 'tcp' or 'udp'"),
        (
            ports(port(protocol="sctp")),
            "publishing ports of protocol sctp is not supported by this version of pyswarm: tcp and udp are",
        ),
        (
            ports(port(publish_mode="any")),
            "invalid publish mode value (any): must be either 'ingress' or 'host'",
        ),
        (ports(port(), port(8080, 81)), "EndpointSpec: duplicate published ports provided: 8080/tcp"),
        (
            ports(port(publish_mode="host"), port(8080, 81, publish_mode="host")),
            "EndpointSpec: duplicate published ports provided: 8080/tcp",
        ),
        (
            ports(port(), mode="dnsrr"),
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ),
        (
            ports(*(port(number) for number in range(1, 1002))),
            "EndpointSpec: 1001 ports are given, at most 1000 are allowed",
        ),
    ],
)
def test_bad_ports_are_refused_in_one_line(spec: ServiceSpec, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate.check_service(spec)
    assert str(caught.value) == text


def test_the_ingress_network_is_made_by_its_name_only_as_such() -> None:
    validate.check_network(NetworkSpec(name="ingress", ingress=True))
    validate.check_network(NetworkSpec(name="mine", ingress=True))
    with pytest.raises(PyswarmError, match="predefined ingress network"):
        validate.check_network(NetworkSpec(name="ingress"))
    with pytest.raises(InvalidArgument, match="neither attachable nor internal"):
        validate.check_network(NetworkSpec(name="mine", ingress=True, attachable=True))
