"""Reading clients' specs: what is not there yet is refused by name, what says nothing is accepted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    Limit,
    NetworkAttachmentConfig,
    PortConfig,
    ReplicatedMode,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    SecretSpec,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from pyswarm.gateway import specs, views

#: What the stock client (28.2) sends for a small service.
STOCK = {
    "Name": "web",
    "Labels": {},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:latest",
            "Args": ["httpd", "-f"],
            "Init": False,
            "DNSConfig": {},
            "Privileges": {"NoNewPrivileges": False, "CredentialSpec": None},
            "Mounts": None,
            "Isolation": "default",
        },
        "Resources": {"Limits": {"MemoryBytes": 67108864}, "Reservations": {}},
        "Placement": {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
        "ForceUpdate": 0,
        "Runtime": "container",
        "LogDriver": None,
    },
    "Mode": {"Replicated": {}},
    "EndpointSpec": {"Mode": "vip", "Ports": []},
    "RollbackConfig": {"Parallelism": 1, "FailureAction": "pause", "Monitor": 5000000000, "Order": "stop-first"},
}


def test_what_the_stock_client_sends_is_read() -> None:
    spec = specs.service_spec(STOCK)
    assert spec.task_template.container_spec.args == ("httpd", "-f")
    assert spec.task_template.container_spec.init is False
    assert spec.task_template.resources.limits.memory_bytes == 64 << 20
    assert spec.replicas == 1


def with_field(path: str, value: Any) -> dict[str, Any]:
    """The stock spec with one field set."""
    parts = path.split(".")

    def put(target: Any, rest: list[str]) -> dict[str, Any]:
        inner = value if len(rest) == 1 else put((target or {}).get(rest[0]), rest[1:])
        return {**(target or {}), rest[0]: inner}

    return put(STOCK, parts)


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("TaskTemplate.ContainerSpec.Mounts", [{"Target": "/x"}], "ContainerSpec.Mounts"),
        ("TaskTemplate.ContainerSpec.Healthcheck", {"Test": ["NONE"]}, "ContainerSpec.Healthcheck.Test"),
        ("TaskTemplate.ContainerSpec.DNSConfig", {"Search": ["x"]}, "ContainerSpec.DNSConfig.Search"),
        ("TaskTemplate.Placement.Constraints", ["node.role==worker"], "Placement.Constraints"),
        ("TaskTemplate.Placement.MaxReplicas", 1, "Placement.MaxReplicas"),
        ("TaskTemplate.LogDriver", {"Name": "none"}, "LogDriver.Name"),
        ("TaskTemplate.Resources.Reservations", {"GenericResources": [{}, 1]}, "Reservations.GenericResources"),
        ("RollbackConfig.Parallelism", 2, "RollbackConfig.Parallelism"),
        ("Mode.Global", {}, "Mode.Global"),
        ("Mode.ReplicatedJob", {}, "Mode.ReplicatedJob"),
        ("Bananas", 1, "Bananas"),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(path: str, value: Any, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        specs.service_spec(with_field(path, value))
    assert str(caught.value).endswith(f"{name} is not supported by this version of pyswarm")


@pytest.mark.parametrize(
    "raw",
    [
        [],
        "x",
        None,
        {"Name": 7},
        {"TaskTemplate": "x"},
        {"TaskTemplate": {"ContainerSpec": {"Args": "x"}}},
        {"Mode": {"Replicated": {"Replicas": "x"}}},
        {"Mode": {"Replicated": {"Replicas": -1}}},
        {"Labels": {"a": 1}},
        {"TaskTemplate": {"Networks": [7]}},
    ],
)
def test_wrong_types_are_told_in_one_line(raw: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        specs.service_spec(raw)
    assert "\n" not in str(caught.value)


def test_names_match_whatever_their_case() -> None:
    assert specs.service_spec({"name": "web", "taskTemplate": {"containerSpec": {"image": "b"}}}).name == "web"


def test_absent_is_zero_in_an_update_config() -> None:
    assert specs.service_spec(with_field("UpdateConfig", {"Delay": 5})).update_config == UpdateConfig(
        parallelism=0, delay_ns=5
    )
    assert specs.service_spec(with_field("UpdateConfig", None)).update_config is None


def test_networks_beside_the_template_are_read_too() -> None:
    spec = specs.service_spec({**STOCK, "Networks": [{"Target": "app"}]})
    assert [n.target for n in spec.task_template.networks] == ["app"]


def test_ports_are_read_with_docker_s_defaults() -> None:
    given = [
        {"TargetPort": 80, "PublishedPort": 8080, "Protocol": "", "PublishMode": ""},
        {"TargetPort": 53, "Protocol": "udp", "PublishMode": "host", "Name": "dns"},
    ]
    spec = specs.service_spec(with_field("EndpointSpec.Ports", given))
    assert spec.endpoint_spec == EndpointSpec(
        mode="vip",
        ports=(
            PortConfig(target_port=80, published_port=8080),
            PortConfig(name="dns", protocol="udp", target_port=53, publish_mode="host"),
        ),
    )
    assert specs.network_spec({"Name": "mine", "Driver": "overlay", "Ingress": True}).ingress


@pytest.mark.parametrize(
    "ports", ["80", {"80": 80}, [80], [{"TargetPort": "80"}], [{"TargetPort": 1e3}], [{"TargetPort": 2**70}],
              [{"TargetPort": 80, "Bananas": 1}], [{"Protocol": 6}]],
)  # fmt: skip
def test_ports_of_wrong_types_are_told_in_one_line(ports: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        specs.service_spec(with_field("EndpointSpec.Ports", ports))
    assert "\n" not in str(caught.value)


words = st.text(alphabet="abc", max_size=3)
small = st.integers(0, 9)
optional_ns = st.none() | st.integers(0, 10**10)
owners = st.sampled_from(["0", "1000"])
file_targets = st.builds(FileTarget, name=words, uid=owners, gid=owners, mode=st.integers(0, 0o777))
containers = st.builds(
    ContainerSpec,
    image=words,
    labels=st.dictionaries(words, words, max_size=2),
    command=st.lists(words, max_size=2).map(tuple),
    args=st.lists(words, max_size=2).map(tuple),
    env=st.lists(words, max_size=2).map(tuple),
    hostname=words,
    user=words,
    tty=st.booleans(),
    read_only=st.booleans(),
    init=st.none() | st.booleans(),
    stop_grace_period_ns=optional_ns,
    secrets=st.lists(
        st.builds(SecretReference, file=file_targets, secret_id=words, secret_name=words), max_size=2
    ).map(tuple),
    configs=st.lists(
        st.builds(ConfigReference, file=file_targets, config_id=words, config_name=words), max_size=2
    ).map(tuple),
)
templates = st.builds(
    TaskSpec,
    container_spec=containers,
    resources=st.builds(
        ResourceRequirements,
        limits=st.builds(
            Limit, nano_cpus=st.integers(0, 9), memory_bytes=st.integers(0, 9), pids=st.integers(0, 9)
        ),
        reservations=st.builds(Resources, nano_cpus=small, memory_bytes=small),
    ),
    restart_policy=st.builds(
        RestartPolicy,
        condition=st.sampled_from(["any", "none", "on-failure"]),
        delay_ns=optional_ns,
        max_attempts=st.none() | st.integers(0, 5),
        window_ns=optional_ns,
    ),
    networks=st.lists(st.builds(NetworkAttachmentConfig, target=words), max_size=2).map(tuple),
    force_update=st.integers(0, 3),
    runtime=st.sampled_from(["", "container"]),
)
ports = st.builds(
    PortConfig,
    name=words,
    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
    target_port=small,
    published_port=small,
    publish_mode=st.sampled_from(["ingress", "host"]),
)
service_specs = st.builds(
    ServiceSpec,
    name=words,
    labels=st.dictionaries(words, words, max_size=2),
    task_template=templates,
    mode=st.builds(ServiceMode, replicated=st.builds(ReplicatedMode, replicas=st.integers(0, 9))),
    update_config=st.none()
    | st.builds(
        UpdateConfig,
        parallelism=st.integers(0, 3),
        delay_ns=st.integers(0, 9),
        failure_action=st.sampled_from(["pause", "continue"]),
        monitor_ns=st.integers(1, 9),
        max_failure_ratio=st.floats(0, 1),
        order=st.sampled_from(["start-first", "stop-first"]),
    ),
    endpoint_spec=st.none() | st.builds(EndpointSpec, mode=st.just("vip"), ports=st.lists(ports).map(tuple)),
)


@given(service_specs)
def test_a_spec_sent_back_unchanged_changes_nothing(spec: ServiceSpec) -> None:
    # Otherwise every update by a client that sends the whole spec would replace all tasks.
    assert specs.service_spec(views.service_spec(spec)) == spec


@given(service_specs)
def test_filled_in_defaults_are_the_ones_that_apply(spec: ServiceSpec) -> None:
    filled = specs.service_spec(views.service_spec(spec, defaults=True))
    assert (
        filled.task_template.restart_policy.effective_delay_s
        == spec.task_template.restart_policy.effective_delay_s
    )
    assert filled.update_config == (spec.update_config or UpdateConfig())


def test_references_to_files_are_read_with_docker_s_defaults() -> None:
    secret = {"File": {"Name": "tok", "UID": "", "GID": "5", "Mode": 256}, "SecretID": "s", "SecretName": "tok"}
    config = {"File": {"Name": "/conf"}, "ConfigID": "c", "ConfigName": "conf", "Runtime": None}
    container = specs.service_spec(
        {"TaskTemplate": {"ContainerSpec": {"Image": "b", "Secrets": [secret], "Configs": [config]}}}
    ).task_template.container_spec
    assert container.secrets == (
        SecretReference(
            file=FileTarget(name="tok", uid="0", gid="5", mode=0o400), secret_id="s", secret_name="tok"
        ),
    )
    assert container.configs == (
        ConfigReference(file=FileTarget(name="/conf"), config_id="c", config_name="conf"),
    )
    shown = views.service_spec(ServiceSpec(task_template=TaskSpec(container_spec=container)))
    assert shown["TaskTemplate"]["ContainerSpec"]["Configs"] == [
        {"File": {"Name": "/conf", "UID": "0", "GID": "0", "Mode": 0o444}, "ConfigID": "c", "ConfigName": "conf"}
    ]
    assert "Secrets" not in views.service_spec(ServiceSpec())["TaskTemplate"]["ContainerSpec"]


def test_secrets_and_configs_are_read_from_base64() -> None:
    raw = {"Name": "tok", "Labels": {"a": "b"}, "Data": "aHVudGVyMg=="}
    assert specs.secret_spec({**raw, "Driver": {"Name": ""}, "Templating": None}) == SecretSpec(
        name="tok", labels={"a": "b"}, data=b"hunter2"
    )
    assert specs.config_spec(raw) == ConfigSpec(name="tok", labels={"a": "b"}, data=b"hunter2")
    assert specs.secret_spec({"Name": "tok", "Data": None}).data == b""


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"Templating": {"Name": "golang"}}, "Templating.Name is not supported by this version of pyswarm"),
        ({"Driver": {"Name": "vault"}}, "Driver.Name is not supported by this version of pyswarm"),
        ({"Data": "hunter2!"}, "invalid secret spec: "),
        ({"Data": ["hunter2"]}, "invalid secret spec: "),
        ({"Data": {"hunter2": "x"}}, "invalid secret spec: "),
        ({"Labels": {"a": 5}}, "invalid secret spec: "),
    ],
)
def test_what_a_secret_cannot_have_is_refused_without_its_inside(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        specs.secret_spec({"Name": "tok", "Data": "aHVudGVyMg==", **fields})
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)
    assert "aHVu" not in str(caught.value)
