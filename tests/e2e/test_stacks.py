"""A stack of two services, deployed by the stock client and by pyswarm's: it works, changes only what changed, and
leaves nothing."""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster
from support.env import wait_until

pytestmark = pytest.mark.e2e

CLIENTS = ("docker", "pyswarm")
STACK = """
version: "3.8"
services:
  web:
    image: busybox:latest
    command: httpd -f -p 80 -h /page
    stop_signal: KILL
    networks: [front, back]
    secrets: [token]
    configs: [{source: page, target: /page/index.html}]
    deploy:
      replicas: 2
      update_config: {parallelism: 0, monitor: 1s}
      restart_policy: {condition: any, delay: 1s}
      resources: {limits: {memory: 64M}}
  cache:
    image: busybox:latest
    command: sh -c 'while :; do echo from-the-cache | nc -l -p 6379; done'
    stop_signal: KILL
    environment: {ROUND: "1"}
    networks: {back: {aliases: [kv]}}
networks:
  front:
  back: {internal: true}
secrets: {token: {file: ./token}}
configs: {page: {file: ./page}}
"""
KINDS = ("services", "networks", "secrets", "configs", "tasks")


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """Where the stack's files are; what a failed test left of the stack is removed."""
    (tmp_path / "token").write_text("open sesame")
    (tmp_path / "page").write_text("a page from a config\n")
    (tmp_path / "stack.yml").write_text(STACK)
    yield tmp_path
    cluster.lab.sh(cluster.ask, "pyswarm", "stack", "rm", "shop", check=False)


def deploy(
    cluster: Cluster, client: str, folder: Path, *options: str, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    return cluster.lab.sh(
        cluster.ask,
        *(client, "stack", "deploy", "--detach=true", "-c", str(folder / "stack.yml"), *options, "shop"),
        check=check,
    )


def of_stack(cluster: Cluster, kind: str) -> list[Any]:
    """The stack's objects of a kind, by its label."""
    filters = urllib.parse.quote(json.dumps({"label": ["com.docker.stack.namespace=shop"]}))
    return list(cluster.get(f"/{kind}?filters={filters}"))


def task_ids(cluster: Cluster, service: str) -> set[str]:
    return {task.id for task in cluster.wait_running(service, 2 if service == "shop_web" else 1)}


def inside(cluster: Cluster, task: Any, script: str) -> str:
    """What a shell prints in a task's container; empty when it fails."""
    command = ("exec", task.container, "timeout", "5", "sh", "-c", script)
    done = cluster.lab.docker(task.node, *command, check=False, timeout_s=20)
    return done.stdout if done.returncode == 0 else ""


def bridges(cluster: Cluster, host: str) -> str:
    """The names of a host's engine's networks."""
    return cluster.lab.docker(host, "network", "ls", "--format", "{{.Name}}").stdout


def remove(cluster: Cluster, client: str) -> None:
    """Remove the stack and see that nothing of it is left."""
    out = cluster.lab.sh(cluster.ask, client, "stack", "rm", "shop").stdout
    assert "Removing service shop_web\n" in out
    assert "Removing network shop_back\n" in out
    for kind in KINDS:
        wait_until(lambda kind=kind: of_stack(cluster, kind) == [], 20, f"no {kind} are left")  # type: ignore[misc]
    for host in cluster.hosts:
        wait_until(lambda host=host: cluster.containers(host) == {}, 20, f"no container is left on {host}")  # type: ignore[misc]
        wait_until(lambda host=host: "shop" not in bridges(cluster, host), 20, f"no bridge is left on {host}")  # type: ignore[misc]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stack_works_changes_only_what_changed_and_leaves_nothing(
    cluster: Cluster, folder: Path, client: str
) -> None:
    out = deploy(cluster, client, folder).stdout
    for line in ("network shop_front", "secret shop_token", "config shop_page", "service shop_web"):
        assert f"Creating {line}\n" in out

    web = cluster.wait_running("shop_web", 2)
    cluster.wait_running("shop_cache", 1)
    for task in web:
        for name in ("cache", "kv", "shop_cache"):
            wait_until(
                lambda task=task, name=name: inside(cluster, task, f"echo | nc {name} 6379") == "from-the-cache\n",  # type: ignore[misc]
                20,
                f"{task.name} reaches the cache by the name {name}",
            )
        assert inside(cluster, task, "cat /run/secrets/token") == "open sesame"
    before = {service: task_ids(cluster, service) for service in ("shop_web", "shop_cache")}
    for other in (client, *CLIENTS):
        out = deploy(cluster, other, folder).stdout
        assert out.count("Updating service shop_") == 2
        assert "Creating" not in out
    assert {service: task_ids(cluster, service) for service in before} == before

    (folder / "stack.yml").write_text(STACK.replace('ROUND: "1"', 'ROUND: "2"'))
    deploy(cluster, client, folder)
    wait_until(lambda: not task_ids(cluster, "shop_cache") & before["shop_cache"], 60, "the cache is a new one")
    assert task_ids(cluster, "shop_web") == before["shop_web"]

    (folder / "page").write_text("another page\n")
    refused = deploy(cluster, client, folder, check=False)
    assert refused.returncode != 0
    assert "failed to update config shop_page: " in refused.stderr
    assert "only updates to Labels are allowed" in refused.stderr
    remove(cluster, client)


def test_what_pyswarm_shows_and_prunes(cluster: Cluster, folder: Path) -> None:
    lab = cluster.lab
    (folder / "more.yml").write_text("version: '3.8'\nservices:\n  web: {deploy: {replicas: 1}}\n")
    deploy(cluster, "pyswarm", folder, "-c", str(folder / "more.yml"))
    cluster.wait_running("shop_web", 1)
    cluster.wait_running("shop_cache", 1)

    assert lab.sh("h1", "pyswarm", "stack", "ls").stdout == "NAME      SERVICES\nshop      2\n"
    shown = ("--format", "{{.Name}} {{.Replicas}}", "shop")
    assert lab.sh("h1", "pyswarm", "stack", "services", *shown).stdout == "shop_cache 1/1\nshop_web 1/1\n"
    tasks = ("--format", "{{.Name}} {{.DesiredState}}", "shop")
    assert lab.sh("h1", "pyswarm", "stack", "ps", *tasks).stdout == "shop_cache.1 Running\nshop_web.1 Running\n"

    (folder / "stack.yml").write_text(STACK[: STACK.index("  cache:")] + STACK[STACK.index("networks:\n") :])
    out = deploy(cluster, "pyswarm", folder, "--prune").stdout
    assert "Removing service shop_cache\n" in out
    assert [s["Spec"]["Name"] for s in of_stack(cluster, "services")] == ["shop_web"]
    remove(cluster, "pyswarm")


def test_nothing_is_made_of_a_file_that_is_wrong(cluster: Cluster, folder: Path) -> None:
    for change, message in (
        (("networks: [front, back]", "networks: [front, nope]"), 'web.networks.1: undefined network "nope"'),
        (("secrets: [token]", "secrets: [nope]"), 'web.secrets.0: undefined secret "nope"'),
        (("stop_signal: KILL", "stop_sginal: KILL"), "web.stop_sginal: unknown key; did you mean stop_signal?"),
        (("stop_signal: KILL", "healthcheck: {test: x}"), "web.healthcheck: healthcheck is not supported"),
        (("replicas: 2", "replicas: many"), "web.deploy.replicas: must be an integer, not a string"),
        (("  web:", "\tweb:"), "this is not YAML: a tab indents the line"),
    ):
        (folder / "stack.yml").write_text(STACK.replace(*change, 1))
        refused = deploy(cluster, "pyswarm", folder, check=False)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert f"{folder}/stack.yml:" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert [of_stack(cluster, kind) for kind in KINDS] == [[]] * len(KINDS)
