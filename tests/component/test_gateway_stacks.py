"""``stack`` of the stock client and of the pyswarm command, as programs, against the gateway."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from support.env import require_binary
from support.gateway_fakes import Rig, run, running_gateway

from pyswarm.common.types import Service

STACK = """
version: "3.9"
x-own: &limits {limits: {cpus: "0.5", memory: 64M, pids: 50}, reservations: {memory: 8M}}
services:
  web:
    image: busybox:latest
    command: httpd -f -p 80
    entrypoint: [env]
    environment: {B: 1, A: two, EMPTY: , N: ""}
    labels: [own=container]
    user: "1:2"
    working_dir: /tmp
    hostname: h
    tty: true
    stdin_open: true
    read_only: true
    init: true
    stop_signal: SIGINT
    stop_grace_period: 3s
    networks: {back: {aliases: [www]}, front: }
    secrets: [{source: token, target: t, uid: "1", gid: "2", mode: 0400}, key]
    configs: [conf]
    deploy:
      replicas: 2
      labels: {own: service}
      resources: *limits
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 10s}
      update_config: {parallelism: 2, delay: 2s, order: start-first, monitor: 1s, max_failure_ratio: 0.5}
  back:
    image: busybox:latest
    networks: [back]
    restart: always
  alone:
    image: busybox:latest
    deploy: {endpoint_mode: dnsrr, replicas: 0}
networks: {front: , back: {attachable: true, internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}}
secrets: {token: {file: ./token}, key: {file: ./key, labels: [l=1]}}
configs: {conf: {file: ./conf, name: conf-v1}}
"""

Client = Callable[..., Awaitable[tuple[int, str, str]]]
CLIENTS = ("docker", "pyswarm")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    require_binary("docker")
    async with running_gateway(tmp_path) as rig:
        rig.node.become("manager")
        for name in ("token", "key", "conf"):
            (tmp_path / name).write_text(f"the {name}")
        (tmp_path / "s.yml").write_text(STACK)
        yield rig


@pytest.fixture
def command(rig: Rig, tmp_path: Path) -> Client:
    """Runs a command line of a client, in the folder with the stack file."""

    async def ran(client: str, *argv: str, code: int = 0) -> tuple[int, str, str]:
        found = await run(
            *("env", "-C", str(tmp_path), client, *argv),
            PYSWARM_HOST=rig.host,
            DOCKER_HOST=rig.host,
            DOCKER_CONFIG="/nonexistent",
        )
        assert found[0] == code, found
        assert "Traceback" not in found[2]
        return found

    return ran


def stored(rig: Rig) -> dict[str, Any]:
    """All that the cluster has, without what is different for every object."""
    control = rig.control
    names = {n.id: n.spec.name for n in control.networks.values()}
    names |= {f.id: f.spec.name for f in (*control.secrets.values(), *control.configs.values())}
    return {
        "services": {s.spec.name: _named(s, names) for s in control.services.values()},
        "networks": {n.spec.name: n.spec for n in control.networks.values()},
        "files": {
            f.spec.name: (f.spec.labels, f.spec.data)
            for f in (*control.secrets.values(), *control.configs.values())
        },
    }


def _named(service: Service, names: dict[str, str]) -> Any:
    """The spec with names in place of ids."""
    template = service.spec.task_template
    container = template.container_spec
    container = replace(
        container,
        secrets=tuple(replace(s, secret_id=names[s.secret_id]) for s in container.secrets),
        configs=tuple(replace(c, config_id=names[c.config_id]) for c in container.configs),
    )
    networks = tuple(replace(n, target=names.get(n.target, n.target)) for n in template.networks)
    return replace(service.spec, task_template=replace(template, container_spec=container, networks=networks))


async def test_both_clients_store_the_same_and_update_it_to_the_same(rig: Rig, command: Client) -> None:
    deploy = ("stack", "deploy", "--detach=true", "-c", "s.yml", "app")
    _, out, _ = await command("docker", *deploy)
    assert "Creating network app_back\n" in out
    assert "Creating secret app_token\n" in out
    by_docker = stored(rig)
    ids = set(rig.control.tasks)
    assert len(by_docker["services"]) == 3
    assert len(ids) == 3

    _, out, err = await command("pyswarm", *deploy)
    assert out.count("Updating service app_") == 3
    assert err == "Ignoring unsupported options: restart\n\n"
    assert stored(rig) == by_docker
    assert set(rig.control.tasks) == ids, "nothing is replaced"
    await command("docker", *deploy)
    assert set(rig.control.tasks) == ids

    await command("docker", "stack", "rm", "app")
    await command("pyswarm", *deploy)
    assert stored(rig) == by_docker


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_stack_is_listed_and_removed(rig: Rig, command: Client, client: str) -> None:
    await command(client, "stack", "deploy", "--detach=true", "-c", "s.yml", "app")
    await command(client, "service", "create", "-d", "--name", "alone", "busybox:latest")

    assert (await command(client, "stack", "ls"))[1] == "NAME      SERVICES\napp       3\n"
    _, out, _ = await command(client, "stack", "services", "--format", "{{.Name}} {{.Replicas}}", "app")
    assert out == "app_alone 0/0\napp_back 1/1\napp_web 2/2\n"
    _, out, _ = await command(client, "stack", "services", "-q", "--filter", "name=app_web", "app")
    assert [s.id[:12] for s in rig.control.services.values() if s.spec.name == "app_web"] == out.split()
    _, out, _ = await command(client, "stack", "ps", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}", "app")
    assert out == "app_back.1 h1 Running\napp_web.1 h1 Running\napp_web.2 h1 Running\n"

    _, out, _ = await command(client, "stack", "rm", "app")
    assert sorted(out.splitlines()) == [
        "Removing config conf-v1",
        *(f"Removing network app_{name}" for name in ("back", "default", "front")),
        *(f"Removing secret app_{name}" for name in ("key", "token")),
        *(f"Removing service app_{name}" for name in ("alone", "back", "web")),
    ]
    assert [s.spec.name for s in rig.control.services.values()] == ["alone"]
    assert [*rig.control.networks, *rig.control.secrets, *rig.control.configs] == []
    assert (await command(client, "stack", "rm", "app"))[2] == "Nothing found in stack: app\n"
    assert (await command(client, "stack", "services", "app"))[2] == "Nothing found in stack: app\n"
    assert (await command(client, "stack", "ps", "app", code=1))[2].endswith("nothing found in stack: app\n")


@pytest.mark.parametrize("client", CLIENTS)
async def test_changed_content_is_refused_and_changed_labels_are_not(
    rig: Rig, command: Client, tmp_path: Path, client: str
) -> None:
    deploy = ("stack", "deploy", "--detach=true", "-c", "s.yml", "app")
    await command(client, *deploy)
    (tmp_path / "token").write_text("another")
    _, _, err = await command(client, *deploy, code=1)
    assert "failed to update secret app_token: Error response from daemon: " in err
    assert "only updates to Labels are allowed" in err
    (tmp_path / "token").write_text("the token")
    (tmp_path / "s.yml").write_text(STACK.replace("labels: [l=1]", "labels: [l=2]"))
    await command(client, *deploy)
    key = next(s for s in rig.control.secrets.values() if s.spec.name == "app_key")
    assert key.spec.labels == {"l": "2", "com.docker.stack.namespace": "app"}


@pytest.mark.parametrize("client", CLIENTS)
async def test_waiting_and_pruning(rig: Rig, command: Client, tmp_path: Path, client: str) -> None:
    (tmp_path / "s.yml").write_text(
        "services:\n  web: {image: 'busybox:latest', deploy: {update_config: {monitor: 200ms}}}\n"
        "  old: {image: 'busybox:latest'}\n"
    )
    await command(client, "stack", "deploy", "--detach=true", "-c", "s.yml", "app")
    (tmp_path / "s.yml").write_text(
        "services:\n  web: {image: 'busybox:latest', deploy: {replicas: 3, update_config: {monitor: 200ms}}}\n"
    )
    _, out, _ = await command(client, "stack", "deploy", "--detach=false", "--prune", "-c", "s.yml", "app")
    assert "Removing service app_old\n" in out
    assert "overall progress: 3 out of 3 tasks" in out
    assert [s.spec.name for s in rig.control.services.values()] == ["app_web"]


async def test_a_worker_says_that_it_is_no_manager(rig: Rig, command: Client) -> None:
    rig.node.become("worker")
    for client in CLIENTS:
        _, _, err = await command(client, "stack", "deploy", "--detach=true", "-c", "s.yml", "app", code=1)
        assert "not a swarm manager" in err.lower() or "worker nodes can't be used" in err.lower()


async def test_config_needs_no_daemon(rig: Rig, command: Client) -> None:
    await rig.node.leave(force=True)
    printed = [(await command(client, "stack", "config", "-c", "s.yml"))[1] for client in CLIENTS]
    assert yaml.safe_load(printed[0]) == yaml.safe_load(printed[1])
