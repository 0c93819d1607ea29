"""Hosts that vanish, processes that die: what was acknowledged stays, what runs goes on running."""

import threading
import time
from collections import Counter

import pytest
from support.cluster import Cluster
from support.env import wait_until

pytestmark = pytest.mark.e2e

SERVER = ("busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www")


@pytest.fixture(scope="module")
def network(formed: Cluster) -> str:
    """An overlay network for the tests of this file."""
    formed.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "faults")
    return "faults"


def create(cluster: Cluster, name: str, network: str, replicas: int) -> None:
    """Create a service of web servers and wait until it runs."""
    options = (
        "-d",
        "--name",
        name,
        "--replicas",
        str(replicas),
        "--network",
        network,
        "--stop-grace-period",
        "1s",
    )
    cluster.lab.sh(cluster.ask, "pyswarm", "service", "create", *options, *SERVER)
    cluster.wait_running(name, replicas)


def test_no_acknowledged_write_is_lost_when_the_leader_is_killed(cluster: Cluster) -> None:
    leader = cluster.leader()
    writer = next(h for h in cluster.managers if h != leader)
    acknowledged: list[str] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"write{number}"
            spec = {
                "Name": name,
                "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", "Args": ["true"]}},
                "Mode": {"Replicated": {"Replicas": 0}},
            }
            try:
                status, _ = cluster.request("POST", "/services/create", spec, host=writer)
            except OSError:
                continue
            if status == 201:
                acknowledged.append(name)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_until(lambda: len(acknowledged) >= 10, 30, "ten writes before the kill")
        before = len(acknowledged)
        cluster.lab.kill(leader, "manager", "KILL")
        wait_until(lambda: len(acknowledged) >= before + 10, 30, "ten writes after the kill")
    finally:
        stop.set()
        thread.join()
    cluster.ask = writer
    stored = {s["Spec"]["Name"] for s in cluster.get("/services")}
    assert set(acknowledged) <= stored


def test_a_workers_tasks_move_when_it_is_cut_off_and_no_address_is_ever_used_twice(
    cluster: Cluster, network: str
) -> None:
    create(cluster, "moving", network, 8)
    assert any(t.node == "h4" for t in cluster.running("moving"))

    def addresses_in_use() -> Counter[str]:
        """The overlay addresses of every running container, read from the engines themselves."""
        found: Counter[str] = Counter()
        for host in cluster.hosts:
            for container in cluster.containers(host).values():
                if container["State"]["Running"]:
                    found[container["NetworkSettings"]["Networks"][network]["IPAddress"]] += 1
        return found

    def duplicates() -> list[str]:
        return [addr for addr, count in addresses_in_use().items() if count > 1]

    cluster.lab.cut("h4")
    wait_until(
        lambda: (assert_none(duplicates()), len([t for t in cluster.running("moving") if t.node != "h4"]) == 8)[1],
        60,
        "eight tasks on the other hosts",
    )
    cluster.lab.heal("h4")
    wait_until(lambda: (assert_none(duplicates()), cluster.node_state("h4") == "ready")[1], 60, "h4 is back")
    wait_until(
        lambda: (assert_none(duplicates()), not cluster.started_at("h4"))[1], 60, "the replaced tasks on h4 stop"
    )
    cluster.wait_running("moving", 8)


def assert_none(found: list[str]) -> None:
    """No address may be in the list."""
    assert not found, f"addresses used twice: {found}"


def test_killing_every_daemon_in_turn_disturbs_no_container(cluster: Cluster, network: str) -> None:
    create(cluster, "steady", network, 4)
    tasks = cluster.running("steady")
    client = next(t for t in tasks if t.node == "h1")
    others = [t for t in tasks if t.node != "h1"]
    before = cluster.starts_of("steady")
    failures: list[str] = []
    done = 0
    stop = threading.Event()

    def keep_requesting() -> None:
        nonlocal done
        while not stop.is_set():
            for server in others:
                if not cluster.fetch("h1", client.container, server.addr, timeout_s=5):
                    failures.append(f"{server.name} on {server.node}")
                done += 1

    thread = threading.Thread(target=keep_requesting)
    thread.start()
    try:
        for host in cluster.hosts:
            cluster.lab.kill(host, "daemon", "KILL")
            seen = done
            wait_until(lambda seen=seen: done > seen + 3, 30, "requests while the daemon is away")  # type: ignore[misc]
            cluster.lab.start(host, "daemon")
            cluster.ask = "h2" if host == "h1" else "h1"
            wait_until(lambda host=host: ready(cluster, host), 40, f"{host} is a ready node again")  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert done > 12
    cluster.wait_running("steady", 4)
    assert cluster.starts_of("steady") == before, "a container was restarted"


def ready(cluster: Cluster, host: str) -> bool:
    """Whether the node is ready, False while no manager answers."""
    try:
        return cluster.node_state(host) == "ready"
    except (AssertionError, OSError, StopIteration):
        return False


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_full_restart_finds_the_same_cluster_and_the_same_containers(
    cluster: Cluster, network: str, signal: str
) -> None:
    name = f"kept{signal.lower()}"
    create(cluster, name, network, 4)
    before = cluster.starts_of(name)
    ids = {t.id for t in cluster.running(name)}
    for host in cluster.hosts:
        cluster.lab.kill(host, "daemon", signal)
    for host in cluster.hosts:
        cluster.lab.start(host, "daemon")
    wait_until(lambda: all(ready(cluster, h) for h in cluster.hosts), 60, "all nodes are ready again")
    assert {t.id for t in cluster.wait_running(name, 4)} == ids
    assert cluster.starts_of(name) == before


def test_a_dead_engine_is_reported_and_its_tasks_survive_its_return(cluster: Cluster, network: str) -> None:
    create(cluster, "patient", network, 4)
    on_h4 = {t.id for t in cluster.running("patient") if t.node == "h4"}
    before = cluster.starts_of("patient")
    assert on_h4
    cluster.lab.kill("h4", "engine", "KILL")
    cluster.lab.start("h4", "engine")
    wait_until(lambda: ready(cluster, "h4"), 40, "h4 is ready with its engine")
    tasks = cluster.wait_running("patient", 4)
    assert on_h4 == {t.id for t in tasks if t.node == "h4"}
    assert cluster.starts_of("patient") == before


def test_the_next_command_works_within_seconds_of_the_leaders_death(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = next(h for h in cluster.managers if h != leader)
    cluster.lab.kill(leader, "manager", "KILL")
    started = time.monotonic()
    cluster.lab.sh(other, "pyswarm", "network", "create", "-d", "overlay", "afterwards")
    assert time.monotonic() - started < 15
    cluster.lab.sh(other, "pyswarm", "network", "rm", "afterwards")
