"""The main job: the story of the demo, with every claim checked."""

import json
import subprocess

import pytest
from support.cluster import Cluster
from support.env import wait_until

pytestmark = pytest.mark.e2e


def create_web(cluster: Cluster, name: str, network: str, replicas: int, *options: str) -> str:
    """Create a service of web servers on a network, attached, and return what the command printed."""
    return cluster.lab.sh(
        cluster.ask,
        *("pyswarm", "service", "create", "--name", name, "--replicas", str(replicas), "--network", network),
        *("--stop-grace-period", "1s", *options, "busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www"),
        timeout_s=120,
    ).stdout


@pytest.fixture(scope="module")
def network(formed: Cluster) -> str:
    """An overlay network for the tests of this file."""
    formed.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "--attachable", "app")
    return "app"


def test_nodes_are_listed_with_their_roles(cluster: Cluster) -> None:
    lines = cluster.lab.sh("h1", "pyswarm", "node", "ls").stdout.splitlines()
    assert lines[0].split() == [
        "ID",
        "HOSTNAME",
        "STATUS",
        "AVAILABILITY",
        "MANAGER",
        "STATUS",
        "ENGINE",
        "VERSION",
    ]
    status = {line.replace("*", " ").split()[1]: line for line in lines[1:]}
    assert sorted(status) == ["h1", "h2", "h3", "h4"]
    assert "Leader" in status[cluster.leader()]
    assert sum("Reachable" in line for line in lines) == 2
    assert "Leader" not in status["h4"]
    assert "Reachable" not in status["h4"]


def test_a_service_spreads_and_is_reached_across_hosts_inside_vxlan(cluster: Cluster, network: str) -> None:
    output = create_web(cluster, "web", network, 6, "--limit-memory", "64m")
    assert "converged" in output
    tasks = cluster.wait_running("web", 6)
    assert {t.node for t in tasks} == {"h1", "h2", "h3", "h4"}
    assert len({t.addr for t in tasks}) == 6
    limits = {c["HostConfig"]["Memory"] for h in cluster.hosts for c in cluster.containers(h).values()}
    assert limits == {64 * 1024 * 1024}

    here = next(t for t in tasks if t.node == "h1")
    there = next(t for t in tasks if t.node == "h4")
    capture = subprocess.Popen(
        [
            *("nsenter", f"--net=/run/netns/{cluster.lab.netns('sw')}"),
            *("tcpdump", "-i", "any", "-nn", "-c", "2", "-l", f"udp port 4789 and host {cluster.lab.ip('h4')}"),
        ],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert capture.stderr is not None
        while "listening" not in capture.stderr.readline():
            assert capture.poll() is None
        assert cluster.fetch("h1", here.container, there.addr)
        packets, _ = capture.communicate(timeout=15)
    finally:
        capture.kill()
        capture.wait()
    assert "VXLAN" in packets
    assert there.addr in packets

    for a in tasks:
        for b in tasks:
            assert cluster.fetch(a.node, a.container, b.addr), f"{a} does not reach {b}"


def test_scale_update_and_remove(cluster: Cluster, network: str) -> None:
    create_web(cluster, "scaled", network, 2)
    before = {t.id for t in cluster.running("scaled")}
    cluster.lab.sh("h2", "pyswarm", "service", "scale", "scaled=5", timeout_s=120)
    tasks = cluster.wait_running("scaled", 5)
    assert before < {t.id for t in tasks}, "scaling up must leave the tasks that run alone"
    cluster.lab.sh(
        "h3",
        "pyswarm",
        "service",
        "update",
        "--env-add",
        "A=1",
        "--update-parallelism",
        "3",
        "scaled",
        timeout_s=120,
    )
    updated = cluster.wait_running("scaled", 5)
    assert not {t.id for t in tasks} & {t.id for t in updated}
    for task in updated:
        assert "A=1" in cluster.containers(task.node)[task.container]["Config"]["Env"]
    listing = cluster.lab.sh("h1", "pyswarm", "service", "ls", "--format", "{{json .}}").stdout
    assert json.loads(listing)["Replicas"] == "5/5"
    cluster.lab.sh("h1", "pyswarm", "service", "scale", "scaled=0", timeout_s=120)
    cluster.wait_running("scaled", 0)
    cluster.lab.sh("h1", "pyswarm", "service", "rm", "scaled")
    wait_until(lambda: not any(cluster.containers(h) for h in cluster.hosts), 30, "no container is left")


def test_the_stock_client_drives_the_same_cluster(cluster: Cluster, network: str) -> None:
    def docker(*argv: str) -> str:
        return cluster.lab.sh("h1", "docker", *argv, timeout_s=120).stdout

    assert {"h1", "h2", "h3", "h4"} <= set(docker("node", "ls").split())
    assert docker("network", "ls").count(" app ") == 1, "a cluster network is listed once"
    docker(
        *("service", "create", "-d", "--name", "stock", "--replicas", "2", "--network", network),
        *("--stop-grace-period", "1s"),
        *("busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www"),
    )
    cluster.wait_running("stock", 2)
    assert "2/2" in docker("service", "ls")
    assert docker("service", "ps", "stock").count("Running") >= 2
    assert json.loads(docker("service", "inspect", "stock"))[0]["Spec"]["Name"] == "stock"
    docker("service", "scale", "stock=3")
    cluster.wait_running("stock", 3)
    docker("service", "update", "--env-add", "B=2", "--update-parallelism", "0", "stock")
    for task in cluster.wait_running("stock", 3):
        assert "B=2" in cluster.containers(task.node)[task.container]["Config"]["Env"]
    docker("service", "rm", "stock")


def test_metrics_are_served_on_every_node(cluster: Cluster) -> None:
    for host in cluster.hosts:
        page = cluster.lab.sh(host, "python3", "-c", FETCH_METRICS).stdout
        assert "pyswarm_agent_" in page
        assert "pyswarm_overlay_" in page
        assert ("pyswarm_raft_" in page) == (host in cluster.managers)


FETCH_METRICS = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9323/metrics', timeout=5).read().decode())"
)
