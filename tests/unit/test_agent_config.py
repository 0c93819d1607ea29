"""From a task to the engine's container, and which version of its API is spoken."""

import msgspec
import pytest
from support.agents import a_network, a_task

from pyswarm.agent.dataplane import local
from pyswarm.agent.engine import Attachment
from pyswarm.agent.engine.client import choose_api
from pyswarm.agent.engine.config import container_config, labels, lent_ports
from pyswarm.common.types import Limit, PortConfig

API = (1, 41)


def test_labels_are_those_clients_look_for() -> None:
    task = a_task("n1", labels={"mine": "1", "com.docker.swarm.task.id": "forged"})
    assert labels(task) == {
        "mine": "1",
        "com.docker.swarm.node.id": "n1",
        "com.docker.swarm.service.id": "s" * 25,
        "com.docker.swarm.service.name": "web",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": f"web.1.{task.id}",
        "com.pyswarm.task": "",
    }


def test_args_alone_keep_the_images_entry_point() -> None:
    config = container_config(a_task("n1", ("a", "b")), [], API)
    assert config["Cmd"] == ["a", "b"]
    assert "Entrypoint" not in config


def test_a_command_replaces_the_entry_point_and_the_images_arguments() -> None:
    config = container_config(a_task("n1", (), command=("run",)), [], API)
    assert (config["Entrypoint"], config["Cmd"]) == (["run"], [])


def test_settings_reach_the_engine() -> None:
    task = a_task(
        "n1",
        limits=Limit(nano_cpus=500_000_000, memory_bytes=64 << 20, pids=50),
        hostname="h",
        env=("A=1",),
        dir="/d",
        user="nobody",
        groups=("audio",),
        tty=True,
        init=True,
        read_only=True,
        stop_signal="SIGINT",
        grace_s=2.5,
    )
    config = container_config(task, [], API)
    host = config["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert (host["Init"], host["ReadonlyRootfs"], host["GroupAdd"]) == (True, True, ["audio"])
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (config["Hostname"], config["Env"], config["WorkingDir"]) == ("h", ["A=1"], "/d")
    assert (config["User"], config["Tty"], config["StopSignal"]) == ("nobody", True, "SIGINT")
    assert config["StopTimeout"] == 3
    assert "NetworkMode" not in host


def test_what_is_not_set_is_left_to_engine_and_image() -> None:
    config = container_config(a_task("n1"), [], API)
    assert not {"Hostname", "User", "WorkingDir", "StopSignal", "Entrypoint"} & set(config)
    assert not {"Memory", "NanoCpus", "PidsLimit", "Init", "GroupAdd", "Dns"} & set(config["HostConfig"])


def test_the_first_network_is_the_containers_own() -> None:
    first, second = local(a_network()), local(a_network("back"))
    attachments = [Attachment(first, "10.77.1.5", "02:42:0a:4d:01:05"), Attachment(second, "10.77.2.6")]
    old = container_config(a_task("n1"), attachments, API)
    assert old["HostConfig"]["NetworkMode"] == "app"
    assert old["HostConfig"]["Dns"] == ["169.254.53.53"]
    assert old["NetworkingConfig"]["EndpointsConfig"] == {"app": {"IPAMConfig": {"IPv4Address": "10.77.1.5"}}}
    new = container_config(a_task("n1"), attachments, (1, 44))
    assert new["NetworkingConfig"]["EndpointsConfig"]["app"]["MacAddress"] == "02:42:0a:4d:01:05"


def test_ports_of_mode_host_are_the_engine_s_to_publish() -> None:
    ports = (
        PortConfig(target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(target_port=80, published_port=8081, publish_mode="host"),
        PortConfig(target_port=53, protocol="udp", publish_mode="host"),
        PortConfig(target_port=443, published_port=8443),
    )
    config = container_config(msgspec.structs.replace(a_task("n1"), ports=ports), [], API)
    assert config["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostPort": "8080"}, {"HostPort": "8081"}],
        "53/udp": [{"HostPort": ""}],
    }
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    plain = container_config(a_task("n1"), [], API)
    assert "ExposedPorts" not in plain
    assert "PortBindings" not in plain["HostConfig"]


def test_what_the_engine_lends_is_told_once_for_both_families() -> None:
    shown = {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "49153"}],
        "443/tcp": None,
        "81/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}],
    }
    assert lent_ports(shown) == (
        PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(protocol="udp", target_port=53, published_port=49_153, publish_mode="host"),
    )
    assert lent_ports({}) == ()


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [
        ("1.41", "1.12", (1, 41)),
        ("1.43", "1.12", (1, 41)),
        ("1.50", "1.24", (1, 44)),
        ("1.52", "1.44", (1, 44)),
        ("1.60", "1.48", (1, 48)),
        ("1.40", "1.12", (1, 40)),
    ],
)
def test_the_api_version_is_one_the_engine_speaks(newest: str, oldest: str, spoken: tuple[int, int]) -> None:
    assert choose_api(newest, oldest) == spoken
