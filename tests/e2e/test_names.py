"""Services are found by name from containers, on the networks those are on, and only while they run."""

import re

import pytest
from support.cluster import Cluster, RunningTask
from support.env import wait_until

pytestmark = pytest.mark.e2e

GONE_S = 2.0


def create(cluster: Cluster, name: str, network: str, replicas: int) -> list[RunningTask]:
    """Web servers that take their time to end, as most software does that ignores its stop signal."""
    cluster.lab.sh(
        cluster.ask,
        *("pyswarm", "service", "create", "-d", "--name", name, "--replicas", str(replicas), "--network", network),
        *("--stop-grace-period", "5s", "busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www"),
    )
    return cluster.wait_running(name, replicas)


def lookup(cluster: Cluster, task: RunningTask, name: str) -> set[str]:
    """The addresses that a name has inside a task's container; none when it is not known."""
    done = cluster.lab.docker(
        task.node, "exec", task.container, "timeout", "10", "nslookup", name, check=False, timeout_s=20
    )
    answer = done.stdout.partition("Name:")[2]
    return set(re.findall(r"Address(?: \d+)?:\s*(\d+\.\d+\.\d+\.\d+)", answer))


def virtual_ip(cluster: Cluster, service: str) -> str:
    """A service's own address on its first network."""
    return str(cluster.get(f"/services/{service}")["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0])


@pytest.fixture(scope="module")
def networks(formed: Cluster) -> None:
    """Two networks with a way out, and one without."""
    for name, *options in (["front"], ["back"], ["inside", "--internal"]):
        formed.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", *options, name)


def test_a_name_leads_to_tasks_on_other_hosts_of_the_same_network_only(cluster: Cluster, networks: None) -> None:
    count = len(cluster.hosts)
    web = create(cluster, "web", "front", count)
    client = create(cluster, "client", "front", 1)[0]
    other = create(cluster, "other", "back", 1)[0]
    addrs = {t.addr for t in web}
    assert len({t.node for t in web}) > 1

    for name in ("tasks.web", "TASKS.web"):
        wait_until(lambda name=name: lookup(cluster, client, name) == addrs, 5, f"{name} has all addresses")  # type: ignore[misc]
    assert lookup(cluster, client, "web") == {virtual_ip(cluster, "web")}
    slots = {t["ID"]: t["Slot"] for t in cluster.get("/tasks")}
    for task in web:
        assert lookup(cluster, client, f"web.{slots[task.id]}") == {task.addr}
    away = next(t for t in web if t.node != client.node)
    assert cluster.fetch(client.node, client.container, f"web.{slots[away.id]}")
    for _ in range(count):
        assert cluster.fetch(client.node, client.container, "web"), "each of the addresses is reached"
    assert lookup(cluster, away, "tasks.client") == {client.addr}

    assert lookup(cluster, client, "other") == set()
    assert lookup(cluster, other, "web") == set()
    assert lookup(cluster, other, "tasks.web") == set()
    assert lookup(cluster, other, "tasks.other") == {other.addr}


def test_names_work_on_a_network_without_a_way_out(cluster: Cluster, networks: None) -> None:
    tasks = create(cluster, "hidden", "inside", len(cluster.hosts))
    addrs = {t.addr for t in tasks}
    for task in tasks:
        wait_until(lambda task=task: lookup(cluster, task, "tasks.hidden") == addrs, 5, f"{task.node} knows all")  # type: ignore[misc]


def test_a_name_leaves_out_what_is_being_stopped_and_what_died(cluster: Cluster, networks: None) -> None:
    web = create(cluster, "web", "front", 3)
    client = create(cluster, "client", "front", 1)[0]
    wait_until(lambda: lookup(cluster, client, "tasks.web") == {t.addr for t in web}, 5, "web has three addresses")

    cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=2")
    wait_until(lambda: len(lookup(cluster, client, "tasks.web")) == 2, GONE_S, "the removed address is gone")

    found = lookup(cluster, client, "tasks.web")
    victim = next(t for t in cluster.running("web") if t.addr in found)
    cluster.lab.docker(victim.node, "kill", victim.container)
    wait_until(
        lambda: victim.addr not in lookup(cluster, client, "tasks.web"), GONE_S, "the dead task's address is gone"
    )
    wait_until(lambda: len(lookup(cluster, client, "tasks.web")) == 2, 30, "its replacement is found")


def test_a_restarted_daemon_goes_on_answering(cluster: Cluster, networks: None) -> None:
    web = create(cluster, "web", "front", 2)
    client = create(cluster, "client", "front", 1)[0]
    addrs = {t.addr for t in web}
    wait_until(lambda: lookup(cluster, client, "tasks.web") == addrs, 5, "web has two addresses")
    cluster.ask = next(h for h in cluster.managers if h != client.node)
    cluster.lab.kill(client.node, "daemon")
    cluster.lab.start(client.node, "daemon")
    wait_until(lambda: lookup(cluster, client, "tasks.web") == addrs, 30, "names are answered again")
