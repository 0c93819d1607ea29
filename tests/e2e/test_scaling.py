"""A client that keeps requesting a service while it is scaled, updated, and while a node is lost."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.cluster import Cluster
from support.env import wait_until
from support.requester import Requester

PORT = 8088
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
    """``web`` with four tasks on ``front``, published, and ``client`` beside it on h1 and h2."""
    sh = cluster.lab.sh
    sh("h1", "pyswarm", "network", "create", "-d", "overlay", "front")
    create = ("pyswarm", "service", "create", "-d", "--network", "front")
    sh("h1", *create, "--name", "web", "--replicas", "4", "-p", f"{PORT}:80", "busybox:latest", *SERVER)
    sh("h1", *create, "--name", "client", "busybox:latest", "sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
    cluster.wait_running("web", 4)
    cluster.wait_running("client", 1)
    yield
    for service in ("web", "client"):
        sh("h1", "pyswarm", "service", "rm", service)
    wait_until(
        lambda: sh("h1", "pyswarm", "network", "rm", "front", check=False).returncode == 0, 60, "front is gone"
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
        assert client.tally.good > 100, f"{name}: {client.tally}"
        assert client.tally.failed == 0, f"{name}: {client.tally}"
