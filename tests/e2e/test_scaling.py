"""A client that keeps requesting a service while it is scaled, updated, and while a node is lost."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.cluster import Cluster
from support.env import wait_until
from support.requester import Requester

PORT = 8088
#: Heartbeats missed (3.5 s), replacements started, and a request that was led astray just before timed out (5 s).
LOSS_S = 15.0
#: It answers on SIGTERM by ending at once, as a server without a graceful end does.
SERVER = ("sh", "-c", "trap 'kill $!; exit 0' TERM; httpd -f -p 80 -h /www & wait $!")


def host_netns(cluster: Cluster, host: str) -> str:
    """Where a host's own processes are; ``sw`` is outside the cluster."""
    return f"/run/netns/{cluster.lab.netns(host)}"


def container_netns(cluster: Cluster, service: str) -> str:
    """Where the first task of a service is."""
    task = cluster.running(service)[0]
    return f"/proc/{cluster.containers(task.node)[task.container]['State']['Pid']}/ns/net"


@pytest.fixture
def web(cluster: Cluster) -> Iterator[None]:
    """``web`` with four tasks on ``loaded``, published, and ``client`` beside it on h1 and h2."""
    sh = cluster.lab.sh
    sh("h1", "pyswarm", "network", "create", "-d", "overlay", "loaded")
    create = ("pyswarm", "service", "create", "-d", "--network", "loaded")
    sh("h1", *create, "--name", "web", "--replicas", "4", "-p", f"{PORT}:80", "busybox:latest", *SERVER)
    sh("h1", *create, "--name", "client", "busybox:latest", "sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
    cluster.wait_running("web", 4)
    cluster.wait_running("client", 1)
    yield
    for service in ("web", "client"):
        sh("h1", "pyswarm", "service", "rm", service)
    wait_until(
        lambda: sh("h1", "pyswarm", "network", "rm", "loaded", check=False).returncode == 0, 60, "loaded is gone"
    )


def test_nothing_fails_while_a_service_is_scaled_and_updated(cluster: Cluster, web: None) -> None:
    vip = cluster.get("/services/web")["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0]
    clients = {
        "by virtual IP": Requester(container_netns(cluster, "client"), vip),
        "outside, by h1": Requester(host_netns(cluster, "sw"), cluster.lab.ip("h1"), PORT),
        "outside, by h4": Requester(host_netns(cluster, "sw"), cluster.lab.ip("h4"), PORT),
        "on h2 itself": Requester(host_netns(cluster, "h2"), "127.0.0.1", PORT),
    }
    with ExitStack() as running:
        for client in clients.values():
            running.enter_context(client)
        for replicas in (8, 2, 6, 3):
            cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", f"web={replicas}")
            cluster.wait_running("web", replicas)
        cluster.lab.sh("h1", "pyswarm", "service", "update", "-d", "--env-add", "A=1", "web")
        wait_until(
            lambda: (cluster.get("/services/web").get("UpdateStatus") or {}).get("State") == "completed",
            120,
            "the update is complete",
        )
    for name, client in clients.items():
        print(name, client.tally)
        assert client.tally.good > 100, f"{name}: {client.tally}"
        # None, but that a task counts as ready when its process runs: on a machine under load this server may
        # take longer to listen than it takes to be found. Without withdrawals more than one in a hundred fails.
        assert client.tally.failed * 1000 <= client.tally.good, f"{name}: {client.tally}"


def test_a_lost_nodes_tasks_fail_requests_only_until_it_is_known(cluster: Cluster, web: None) -> None:
    """Nobody can tell at once that a host is gone: what fails are requests led there until its heartbeats are
    missed, a quarter of them here. After that, and when it returns, none fails."""
    lost = next(h for h in ("h4", "h3") if cluster.running("client")[0].node != h)
    vip = cluster.get("/services/web")["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0]
    clients = {
        "by virtual IP": Requester(container_netns(cluster, "client"), vip),
        "outside, by h1": Requester(host_netns(cluster, "sw"), cluster.lab.ip("h1"), PORT),
    }
    with ExitStack() as running:
        for client in clients.values():
            running.enter_context(client)
        began_s = time.monotonic()
        cluster.lab.cut(lost)
        wait_until(
            lambda: len([t for t in cluster.running("web") if t.node != lost]) == 4, 60, "four run elsewhere"
        )
        # Long enough to see that nothing fails any more once it is known.
        wait_until(lambda: time.monotonic() - began_s > LOSS_S, 60, "the loss is over")
        cluster.lab.heal(lost)
        wait_until(lambda: cluster.node_state(lost) == "ready", 60, f"{lost} is back")
        returned_s = time.monotonic() - began_s
        wait_until(lambda: time.monotonic() - began_s > returned_s + 3, 60, "it has been back for a while")
    for name, client in clients.items():
        print(name, client.tally)
        assert client.tally.good > 100, f"{name}: {client.tally}"
        assert client.tally.last_failure_s < LOSS_S, f"{name}: {client.tally}"
