"""A service's virtual IP: TCP, UDP and ping from any container of its networks to any of its tasks."""

import re
import subprocess
import sys
import time

import pytest
from support.cluster import Cluster, RunningTask
from support.env import wait_until
from support.requester import Requester

pytestmark = pytest.mark.e2e

#: It ends at once when told to, so that its container does not keep a test waiting.
SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
SERVER = ("sh", "-c", "hostname > /www/index.html; trap 'kill $!; exit 0' TERM; httpd -f -p 80 -h /www & wait $!")
_UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 5300)); print("ready", flush=True)
while True:
    _, peer = s.recvfrom(100); s.sendto(sys.argv[1].encode(), peer)
"""
_UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(b"?", (sys.argv[1], 5300))
print(s.recv(100).decode())
"""


@pytest.fixture(scope="module")
def network(formed: Cluster) -> str:
    formed.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "vipnet")
    return "vipnet"


def create(
    cluster: Cluster, name: str, network: str, replicas: int, *argv: str, option: str = ""
) -> list[RunningTask]:
    options = [option] if option else []
    cluster.lab.sh(
        cluster.ask,
        *("pyswarm", "service", "create", "-d", "--name", name, "--replicas", str(replicas), "--network", network),
        *options,
        *("busybox:latest", *argv),
    )
    return cluster.wait_running(name, replicas)


def run(cluster: Cluster, task: RunningTask, *argv: str, check: bool = True) -> str:
    """What a command prints inside a task's container."""
    return cluster.lab.docker(task.node, "exec", task.container, *argv, check=check).stdout


def netns(cluster: Cluster, task: RunningTask) -> str:
    return f"/proc/{cluster.containers(task.node)[task.container]['State']['Pid']}/ns/net"


def virtual_ip(cluster: Cluster, service: str) -> str:
    return str(cluster.get(f"/services/{service}")["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0])


def answers(cluster: Cluster, task: RunningTask, name: str, count: int = 30) -> set[str]:
    """Who answers HTTP requests to a name."""
    script = f"for i in $(seq {count}); do timeout 3 wget -q -O- http://{name}/ || echo failed; done"
    return set(run(cluster, task, "sh", "-c", script).split())


def test_a_name_reaches_every_task_by_tcp_udp_and_ping(cluster: Cluster, network: str) -> None:
    count = len(cluster.hosts)
    web = create(cluster, "web", f"name={network},alias=www", count, *SERVER)
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    hosts = {t.container[:12] for t in web}
    assert len({t.node for t in web}) > 1
    vip = virtual_ip(cluster, "web")
    for name in ("web", "www", vip):
        wait_until(lambda name=name: answers(cluster, client, name) == hosts, 20, f"{name} reaches every task")  # type: ignore[misc]
    assert answers(cluster, web[0], "web") == hosts, "itself among them"
    assert "2 packets received" in run(cluster, client, "ping", "-c", "2", "-W", "3", "web")

    nsenter = ("nsenter", f"--net={netns(cluster, client)}", sys.executable, "-c")
    servers = [
        cluster.lab.popen(
            web[i].node,
            "nsenter",
            f"--net={netns(cluster, web[i])}",
            sys.executable,
            "-c",
            _UDP_SERVER,
            web[i].addr,
        )
        for i in range(count)
    ]
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        heard = {cluster.lab.sh("h1", *nsenter, _UDP_CLIENT, vip).stdout.strip() for _ in range(20)}
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert heard <= {t.addr for t in web}
    assert len(heard) > 1


def test_round_robin_has_no_virtual_ip(cluster: Cluster, network: str) -> None:
    tasks = create(cluster, "each", network, 2, *SERVER, option="--endpoint-mode=dnsrr")
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    assert "VirtualIPs" not in cluster.get("/services/each")["Endpoint"]

    def looked_up() -> set[str]:
        answer = run(cluster, client, "nslookup", "each", check=False).partition("Name:")[2]
        return set(re.findall(r"Address(?: \d+)?:\s*(\d+\.\d+\.\d+\.\d+)", answer))

    wait_until(lambda: looked_up() == {t.addr for t in tasks}, 10, "the name has the tasks' addresses")


def test_a_service_without_tasks_refuses_at_once_and_leads_to_the_next_one(cluster: Cluster, network: str) -> None:
    create(cluster, "web", network, 1, *SERVER)
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    wait_until(lambda: "failed" not in answers(cluster, client, "web", 1), 10, "web answers")
    cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=0")
    cluster.wait_running("web", 0)
    wait_until(lambda: answers(cluster, client, "web", 1) == {"failed"}, 10, "nobody answers")
    began = time.monotonic()
    assert answers(cluster, client, "web", 5) == {"failed"}
    assert time.monotonic() - began < 5, "five refusals take no longer than one time-out of two"
    cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=2")
    tasks = cluster.wait_running("web", 2)
    wait_until(
        lambda: answers(cluster, client, "web") == {t.container[:12] for t in tasks}, 10, "the new ones answer"
    )


def test_a_containers_first_request_by_name_succeeds(cluster: Cluster, network: str) -> None:
    create(cluster, "web", network, 2, *SERVER)
    once = ("sh", "-c", f"timeout 5 wget -q -O- http://web/ || exit 1; {SLEEPER[2]}")
    create(cluster, "eager", network, 8, *once)
    assert not [t for t in cluster.tasks("eager") if t.state not in ("running", "starting")]


def test_virtual_ips_outlive_the_daemon(cluster: Cluster, network: str) -> None:
    create(cluster, "web", network, 3, *SERVER)
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    cluster.ask = next(h for h in cluster.managers if h != client.node)
    vip = virtual_ip(cluster, "web")
    wait_until(lambda: "failed" not in answers(cluster, client, "web", 5), 10, "web answers")
    with Requester(netns(cluster, client), vip) as requester:
        cluster.lab.kill(client.node, "daemon")
        cluster.lab.start(client.node, "daemon")
        cluster.lab.sh(cluster.ask, "pyswarm", "service", "scale", "-d", "web=5")
        cluster.wait_running("web", 5)
    assert requester.tally.good > 50, requester.tally
    assert requester.tally.failed == 0, requester.tally
    hosts = {t.container[:12] for t in cluster.running("web")}
    wait_until(lambda: answers(cluster, client, vip) == hosts, 20, "the new daemon brings the table up to date")


def test_a_running_ping_leaves_tasks_that_are_scaled_away(cluster: Cluster, network: str) -> None:
    """It opens nothing anew, so only the kernel's memory tells where it is led."""
    create(cluster, "web", network, 4, *SERVER)
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    vip = virtual_ip(cluster, "web")
    wait_until(lambda: "failed" not in answers(cluster, client, vip, 5), 10, "web answers")
    pings = [
        subprocess.Popen(
            [
                *("nsenter", f"--net={netns(cluster, client)}"),
                *("busybox", "ping", "-i", "0.1", "-c", "100", "-W", "3", vip),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=1")
    cluster.wait_running("web", 1)
    wait_until(lambda: len(cluster.tasks("web")) == 1, 30, "the others are gone")
    said = [ping.communicate(timeout=60)[0] for ping in pings]
    assert all("100 packets received" in text for text in said), said


#: Connects from the same 200 ports each time, and says how many connections come about; ends all of them at once.
_SAME_PORTS = """
import select, socket, struct, sys
poll, socks = select.poll(), {}
for port in range(20000, 20200):
    s = socket.socket(); s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.bind(("", port)); s.connect_ex((sys.argv[1], 80)); socks[s.fileno()] = s; poll.register(s, select.POLLOUT)
connected = 0
while socks and (ready := poll.poll(2500)):
    for number, _ in ready:
        poll.unregister(number); s = socks.pop(number)
        connected += s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0; s.close()
print(connected)
"""


def test_a_lost_node_leaves_no_failures_behind(cluster: Cluster, network: str) -> None:
    """A new connection from a port that was used before must not be led to where nobody is any more."""
    create(cluster, "web", network, 8, *SERVER)
    client = create(cluster, "client", network, 1, *SLEEPER)[0]
    lost = "h4" if client.node != "h4" else "h3"
    assert any(t.node == lost for t in cluster.running("web"))
    cluster.ask = next(h for h in cluster.managers if h != lost)
    nsenter = ("nsenter", f"--net={netns(cluster, client)}", sys.executable, "-c", _SAME_PORTS)

    def connected() -> int:
        return int(cluster.lab.sh(cluster.ask, *nsenter, virtual_ip(cluster, "web")).stdout)

    wait_until(lambda: connected() == 200, 20, "every connection comes about")
    cluster.lab.cut(lost)
    assert connected() < 200, "some are led to the lost host"
    wait_until(
        lambda: len([t for t in cluster.running("web") if t.node != lost]) == 8, 60, "its tasks are replaced"
    )
    wait_until(lambda: "failed" not in answers(cluster, client, virtual_ip(cluster, "web"), 10), 20, "web answers")
    assert connected() == 200
