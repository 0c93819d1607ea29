"""A configuration as the specs of Docker's API."""

from pathlib import Path
from typing import Any

import pytest

from pyswarm.cli.compose.convert import Stack, convert
from pyswarm.cli.compose.load import load
from pyswarm.cli.errors import CliError

SECOND = 10**9


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stack(text: str, name: str = "app") -> Stack:
    Path("s.yml").write_text(text)
    loaded = load(("s.yml",), {})
    return convert(name, loaded.config, loaded.files)


def service(text: str) -> dict[str, Any]:
    return stack(f"services:\n  web:\n    image: img\n    {text}\n").services[0]


def test_a_whole_stack() -> None:
    made = stack(
        """
version: "3.9"
services:
  web:
    image: web:1
    entrypoint: /run
    command: httpd -f
    hostname: h
    working_dir: /w
    user: "1:2"
    tty: true
    stdin_open: true
    read_only: true
    init: false
    stop_signal: SIGINT
    stop_grace_period: 3s
    environment: [B=2, A=1, C]
    labels: {own: container}
    networks: {front: {aliases: [www]}, back: , ext: }
    ports: ["8080:80", {target: 53, published: 53, protocol: udp, mode: host}, "90"]
    secrets: [token, {source: key, target: /etc/key, uid: "1", gid: "2", mode: 0400}]
    configs: [{source: conf}]
    deploy:
      replicas: 2
      endpoint_mode: VIP
      labels: {own: service}
      resources:
        limits: {cpus: "0.5", memory: 64m, pids: 9}
        reservations: {cpus: "0.1", memory: 8m}
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 10s}
      update_config: {parallelism: 0, delay: 2s, order: start-first}
networks:
  front: {attachable: true, internal: true, labels: {a: b}, ipam: {config: [{subnet: 10.9.0.0/24}]}}
  back: {name: shared-back, driver_opts: {com.docker.network.driver.mtu: 1400}}
  ext: {external: true, name: outside}
  unused: {}
secrets: {token: {file: t.txt}, key: {external: true, name: the-key}}
configs: {conf: {file: c.txt, name: conf-v2, labels: [x=y]}, spare: {file: s.txt}}
"""
    )
    assert made.services == [
        {
            "Name": "app_web",
            "Labels": {
                "own": "service",
                "com.docker.stack.namespace": "app",
                "com.docker.stack.image": "web:1",
            },
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "web:1",
                    "Labels": {"own": "container", "com.docker.stack.namespace": "app"},
                    "Command": ["/run"],
                    "Args": ["httpd", "-f"],
                    "Hostname": "h",
                    "Dir": "/w",
                    "User": "1:2",
                    "StopGracePeriod": 3 * SECOND,
                    "StopSignal": "SIGINT",
                    "TTY": True,
                    "OpenStdin": True,
                    "ReadOnly": True,
                    "Init": False,
                    "Env": ["A=1", "B=2", "C"],
                    "Secrets": [
                        {
                            "File": {"Name": "token", "UID": "0", "GID": "0", "Mode": 0o444},
                            "SecretName": "app_token",
                        },
                        {
                            "File": {"Name": "/etc/key", "UID": "1", "GID": "2", "Mode": 0o400},
                            "SecretName": "the-key",
                        },
                    ],
                    "Configs": [
                        {"File": {"Name": "conf", "UID": "0", "GID": "0", "Mode": 0o444}, "ConfigName": "conf-v2"}
                    ],
                },
                "Resources": {
                    "Limits": {"NanoCPUs": SECOND // 2, "MemoryBytes": 64 << 20, "Pids": 9},
                    "Reservations": {"NanoCPUs": SECOND // 10, "MemoryBytes": 8 << 20},
                },
                "Networks": [
                    {"Target": "app_front", "Aliases": ["www", "web"]},
                    {"Target": "outside", "Aliases": ["web"]},
                    {"Target": "shared-back", "Aliases": ["web"]},
                ],
                "RestartPolicy": {
                    "Condition": "on-failure",
                    "Delay": SECOND,
                    "MaxAttempts": 3,
                    "Window": 10 * SECOND,
                },
            },
            "Mode": {"Replicated": {"Replicas": 2}},
            "EndpointSpec": {
                "Mode": "vip",
                "Ports": [
                    {"Protocol": "tcp", "TargetPort": 90, "PublishedPort": 0, "PublishMode": "ingress"},
                    {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "host"},
                    {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                ],
            },
            "UpdateConfig": {
                "Parallelism": 0,
                "Delay": 2 * SECOND,
                "FailureAction": "pause",
                "Monitor": 5 * SECOND,
                "MaxFailureRatio": 0,
                "Order": "start-first",
            },
        }
    ]
    assert [n["Name"] for n in made.networks] == ["shared-back", "app_front"]
    assert made.networks[1] == {
        "Name": "app_front",
        "CheckDuplicate": True,
        "Driver": "overlay",
        "Internal": True,
        "Attachable": True,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.9.0.0/24"}]},
        "Options": {},
        "Labels": {"a": "b", "com.docker.stack.namespace": "app"},
    }
    assert made.networks[0]["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert made.external_networks == ["outside"]
    assert made.external_files == [("secret", "the-key")]
    assert [(s.key, s.spec["Name"], Path(s.path).name) for s in made.secrets] == [("token", "app_token", "t.txt")]
    assert made.secrets[0].spec["Labels"] == {"com.docker.stack.namespace": "app"}
    assert [c.spec["Name"] for c in made.configs] == ["conf-v2", "app_spare"], "docker makes unused ones too"
    assert made.configs[0].spec["Labels"] == {"x": "y", "com.docker.stack.namespace": "app"}


def test_a_service_that_says_nothing() -> None:
    made = stack("services: {web: {image: img}}\n")

    assert made.services[0] == {
        "Name": "app_web",
        "Labels": {"com.docker.stack.namespace": "app", "com.docker.stack.image": "img"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "img", "Labels": {"com.docker.stack.namespace": "app"}},
            "Resources": {},
            "Networks": [{"Target": "app_default", "Aliases": ["web"]}],
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Mode": "", "Ports": []},
    }
    assert [n["Name"] for n in made.networks] == ["app_default"]


def test_the_default_network_may_be_described_or_be_another() -> None:
    described = stack("services: {web: {image: img}}\nnetworks: {default: {attachable: true}}\n")
    assert described.networks[0]["Name"] == "app_default"
    assert described.networks[0]["Attachable"] is True
    other = stack("services: {web: {image: img}}\nnetworks: {default: {external: true, name: front}}\n")
    assert other.networks == []
    assert other.external_networks == ["front"]
    assert other.services[0]["TaskTemplate"]["Networks"] == [{"Target": "front", "Aliases": ["web"]}]


def test_the_order_of_what_has_none_does_not_matter() -> None:
    one = service("networks: [a, b]\n    ports: ['1:1', '2:2']\n    environment: [A=1, B=2]\nnetworks: {a: , b: }")
    two = service("networks: [b, a]\n    ports: ['2:2', '1:1']\n    environment: [B=2, A=1]\nnetworks: {b: , a: }")
    assert one == two


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("restart: always", {"Condition": "any"}),
        ("restart: unless-stopped", {"Condition": "any"}),
        ("restart: on-failure", {"Condition": "on-failure"}),
        ("restart: on-failure:3", {"Condition": "on-failure", "MaxAttempts": 3}),
        ("restart: 'no'", None),
        ("deploy: {restart_policy: {}}", {}),
        ("restart: always\n    deploy: {restart_policy: {condition: none}}", {"Condition": "none"}),
    ],
)
def test_what_ends_a_restart(text: str, policy: dict[str, Any] | None) -> None:
    assert service(text)["TaskTemplate"].get("RestartPolicy") == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "services:\n  web:\n    tty: true\n",
            "s.yml:2: services.web: invalid image reference for service web: no image specified",
        ),
        ("services:\n  web:\n    image: A:b c\n", 's.yml:3: services.web.image: invalid image reference: "A:b c"'),
        (
            "services:\n  web.x: {image: a}\n",
            's.yml:2: services.web.x: the service cannot be called "app_web.x": ',
        ),
        (f"services:\n  {'w' * 60}: {{image: a}}\n", "s.yml:2: services.www"),
        (
            "services:\n  web:\n    image: a\n    restart: often\n",
            's.yml:4: services.web.restart: invalid restart policy "often": ',
        ),
        (
            "services:\n  web:\n    image: a\n    restart: always:3\n",
            's.yml:4: services.web.restart: invalid restart policy "always:3": ',
        ),
    ],
)
def test_what_cannot_be_a_service_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        stack(text)
    assert str(caught.value).startswith(message)


def test_a_template_from_a_file_of_variables_is_refused() -> None:
    Path("v.env").write_text("A={{.Node.ID}}\n")
    with pytest.raises(CliError, match=r"^s.yml:4: services.web.env_file: the template in A is not supported"):
        service("env_file: v.env")


def test_the_place_is_in_the_file_that_says_it() -> None:
    Path("a.yml").write_text("services:\n  web:\n    image: a\n")
    Path("b.yml").write_text("\nservices:\n  web:\n    image: 'B!'\n")
    loaded = load(("a.yml", "b.yml"), {})
    with pytest.raises(CliError, match=r"^b.yml:4: services.web.image: "):
        convert("app", loaded.config, loaded.files)


@pytest.mark.parametrize("name", ["", " ", "'\"", "-a", "a_", "a b", "a.b", "a" * 63, "ä"])
def test_names_of_stacks(name: str) -> None:
    with pytest.raises(CliError, match=r"^invalid stack name: "):
        stack("services: {}\n", name)
