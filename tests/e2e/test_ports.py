"""Published ports as users have them: on every node to any task, from everywhere, through changes and failures."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from support.cluster import Cluster, RunningTask
from support.env import require_binary, wait_until
from support.outside import Outside, traces

pytestmark = pytest.mark.e2e

#: A web server with a page that says who serves and who asks. It ends when told to.
SERVER = (
    "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $HOSTNAME $REMOTE_ADDR\\n' > /www/cgi-bin/who;"
    "chmod +x /www/cgi-bin/who; httpd -f -p 80 -h /www & trap 'kill %1; exit 0' TERM; wait"
)
#: One that listens with its first instruction: without a health check a task counts as soon as it runs.
AT_ONCE = ("httpd", "-f", "-p", "80", "-h", "/www")
_UDP_SERVER = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("0.0.0.0", 53)); print("ready", flush=True)
while True:
    _, (addr, port) = s.recvfrom(2000)
    s.sendto(f"{sys.argv[1]} {addr}".encode(), (addr, port))
"""


@pytest.fixture
def outside(cluster: Cluster) -> Outside:
    require_binary("curl")
    return Outside(cluster.lab)


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> None:
    """Services of earlier tests are gone from every host before, so that this one's ports are its own."""
    wait_until(lambda: not any(has_traces(cluster, host) for host in cluster.hosts), 60, "no published port")


def leads(cluster: Cluster, host: str) -> bool:
    """Whether anything of published ports is on a host."""
    return "pyswarm_mesh" in traces(cluster.lab, host)["tables"]


def has_traces(cluster: Cluster, host: str) -> bool:
    """Whether published ports, or the networks of tasks, are or have just been on a host."""
    found = traces(cluster.lab, host)
    return "pyswarm_mesh" in found["tables"] or found["links"] != ""


def create(
    cluster: Cluster, name: str, replicas: int, *options: str, server: tuple[str, ...] = ("sh", "-c", SERVER)
) -> list[RunningTask]:
    cluster.lab.sh(
        cluster.ask,
        *("pyswarm", "service", "create", "-d", "--name", name, "--replicas", str(replicas)),
        *("--stop-grace-period", "2s", *options, "busybox:latest", *server),
    )
    return cluster.wait_running(name, replicas)


def refusal(cluster: Cluster, *argv: str, client: str = "pyswarm") -> str:
    """The one line with which a command is refused."""
    done = cluster.lab.sh(cluster.ask, client, "service", *argv, check=False)
    assert done.returncode == 1, f"{argv}: {done.stdout}"
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr.strip()


def who(outside: Outside, addr: str, port: int = 8080) -> tuple[str, str]:
    """(the container that served, the client it saw)."""
    served, _, seen = outside.get(addr, port, "/cgi-bin/who").strip().partition(" ")
    return served, seen.strip("[]").removeprefix("::ffff:")


def reaches_all(outside: Outside, addr: str, tasks: list[RunningTask], port: int = 8080) -> bool:
    """Whether every task answers behind the address, and only they."""
    found = {who(outside, addr, port)[0] for _ in range(8 * len(tasks))}
    return found == {task.container[:12] for task in tasks}


def wait_published(cluster: Cluster, outside: Outside, tasks: list[RunningTask], port: int = 8080) -> None:
    for host in cluster.hosts:
        probe = partial(reaches_all, outside, cluster.lab.ip(host), tasks, port)
        wait_until(probe, 20, f"{host}:{port} leads to all tasks")


def test_every_node_leads_to_every_task_and_tasks_see_who_asks(cluster: Cluster, outside: Outside) -> None:
    web = create(cluster, "web", 3, "-p", "8080:80")
    assert {t.addr.rpartition(".")[0] for t in web} == {"10.0.0"}, "they share the ingress network"
    wait_published(cluster, outside, web)
    for host in cluster.hosts:
        seen = {who(outside, cluster.lab.ip(host))[1] for _ in range(12)}
        assert seen == {outside.addr}, f"through {host}"
    names = {t.container[:12] for t in web}

    def answers(host: str, *command: str) -> set[str]:
        return {cluster.lab.sh(host, *command).stdout.split()[0] for _ in range(16)}

    for host in cluster.hosts:
        for addr in ("127.0.0.1", cluster.lab.ip(host), cluster.lab.ip("h1"), cluster.lab.ip("h4")):
            url = f"http://{addr}:8080/cgi-bin/who"
            assert answers(host, "curl", "-s", "-m", "3", url) <= names, f"{host} -> {addr}"
    url = f"http://{cluster.lab.ip('h4')}:8080/cgi-bin/who"
    for task in web:
        inside = [
            cluster.lab.docker(task.node, "exec", task.container, "wget", "-q", "-O-", url) for _ in range(8)
        ]
        assert {done.stdout.split()[0] for done in inside} <= names, "a task of the service itself"
    for host in cluster.hosts:
        own = f"http://{cluster.lab.ip(host)}:8080/cgi-bin/who"
        plain = cluster.lab.docker(host, "run", "--rm", "busybox:latest", "wget", "-q", "-O-", own)
        assert plain.stdout.split()[0] in names, "a container of no service"


def ask_udp_often(outside: Outside, addr: str) -> set[str]:
    return {outside.ask_udp(addr, 5300) for _ in range(16)}


def test_udp_from_outside_and_from_a_port_that_stays_the_same(cluster: Cluster, outside: Outside) -> None:
    tasks = create(cluster, "dns", 2, "-p", "5300:53/udp")
    servers = []
    try:
        for task in tasks:
            pid = cluster.containers(task.node)[task.container]["State"]["Pid"]
            argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-c", _UDP_SERVER, task.name]
            server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            servers.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        expected = {f"{task.name} {outside.addr}" for task in tasks}
        for host in cluster.hosts:
            addr = cluster.lab.ip(host)
            wait_until(lambda addr=addr: ask_udp_often(outside, addr) == expected, 20, f"through {host}")  # type: ignore[misc]
            assert ask_udp_often(outside, addr) == expected, "and from then on always"
        h4 = cluster.lab.ip("h4")
        first = outside.ask_udp(h4, 5300, source=4444)
        assert outside.ask_udp(h4, 5300, source=4444) == first
        cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "dns=1")
        (left,) = cluster.wait_running("dns", 1)
        wait_until(
            lambda: outside.ask_udp(h4, 5300, source=4444).startswith(left.name), 5, "the task that is left"
        )
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_a_service_with_a_network_of_its_own_is_reached_on_it_even_if_it_leads_nowhere(
    cluster: Cluster, outside: Outside
) -> None:
    cluster.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "--internal", "closed")
    try:
        web = create(cluster, "web", 2, "--network", "closed", "-p", "8080:80")
        wait_published(cluster, outside, web)
        assert who(outside, cluster.lab.ip("h1"))[1] == outside.addr
    finally:
        cluster.request("DELETE", "/services/web")
        cluster.lab.sh("h1", "pyswarm", "network", "rm", "closed")


def test_ports_that_cannot_be_had_are_refused_in_one_line(cluster: Cluster, outside: Outside) -> None:
    (web,) = create(cluster, "web", 1, "-p", "8080:80")
    service = cluster.get("/services/web")["ID"]
    expected = f"port '8080' is already in use by service 'web' ({service}) as an ingress port"
    for client in ("pyswarm", "docker"):
        argv = ("create", "-d", "--name", "b", "-p", "8080:80", "busybox:latest", "true")
        assert refusal(cluster, *argv, client=client).endswith(expected)
        for option, reason in (
            ("2377:80", "port '2377' is used by pyswarm itself (managers, tcp)"),
            ("4789:80/udp", "port '4789' is used by pyswarm itself (overlay networks, udp)"),
            ("8443:80/sctp", "protocol sctp is not supported by this version of pyswarm: tcp and udp are"),
            ("target=80,published=8080,mode=host", expected),
        ):
            argv = ("create", "-d", "--name", "b", "-p", option, "busybox:latest", "true")
            assert refusal(cluster, *argv, client=client).endswith(reason)
    # Something listens on one host, as sshd does.
    listen = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 22));"
        "print('ready', flush=True); sys.stdin.read()"
    )
    netns = f"--net=/run/netns/{cluster.lab.netns('h3')}"
    argv_listen = ["nsenter", netns, "--", sys.executable, "-c", listen]
    with subprocess.Popen(argv_listen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sshd:
        assert sshd.stdout is not None
        assert sshd.stdin is not None
        sshd.stdout.readline()

        def refused() -> str:
            argv = ("create", "-d", "--name", "b", "--replicas", "0", "-p", "22:80", "busybox:latest")
            done = cluster.lab.sh("h1", "pyswarm", "service", *argv, check=False)
            if done.returncode == 0:
                cluster.request("DELETE", "/services/b")
            return done.stderr.strip()

        reason = "port '22' is already in use on host 'h3', which listens on it (tcp)"
        wait_until(lambda: refused().endswith(reason), 10, "the listener is known")
        assert refusal(cluster, "update", "-d", "--publish-add", "22:80", "web").endswith(reason)
        assert [p["PublishedPort"] for p in cluster.get("/services/web")["Endpoint"]["Ports"]] == [8080]
        sshd.stdin.close()
    wait_until(lambda: refused() == "", 10, "it is free again")
    assert cluster.wait_running("web", 1) == [web], "refused changes change nothing"
    assert who(outside, cluster.lab.ip("h2"))[0] == web.container[:12]


def test_a_service_is_published_otherwise_by_an_update_and_again_by_a_roll_back(
    cluster: Cluster, outside: Outside
) -> None:
    create(cluster, "web", 2, "-p", "8080:80")
    docker = partial(cluster.lab.sh, "h1", "docker", "service")
    ours = partial(cluster.lab.sh, "h1", "pyswarm", "service")
    docker("update", "-q", "--publish-rm", "80", "--publish-add", "9090:80", "web", timeout_s=120)
    wait_published(cluster, outside, cluster.wait_running("web", 2), 9090)
    assert outside.get(cluster.lab.ip("h1"), 8080) == ""
    listed = docker("ls", "--format", "{{.Name}} {{.Ports}}").stdout.strip()
    assert listed == "web *:9090->80/tcp"
    assert ours("ls", "--format", "{{.Name}} {{.Ports}}").stdout.strip() == listed
    assert "PublishedPort = 9090" in docker("inspect", "--pretty", "web").stdout
    docker("rollback", "-q", "web", timeout_s=120)
    wait_published(cluster, outside, cluster.wait_running("web", 2))
    assert outside.get(cluster.lab.ip("h1"), 9090) == ""


def test_any_port_is_chosen_and_kept(cluster: Cluster, outside: Outside) -> None:
    create(cluster, "web", 1, "-p", "80")

    def chosen() -> int:
        (port,) = cluster.get("/services/web")["Endpoint"]["Ports"]
        return int(port["PublishedPort"])

    number = chosen()
    assert 30_000 <= number <= 32_767
    cluster.lab.sh("h1", "pyswarm", "service", "update", "-d", "--env-add", "A=1", "web")
    assert chosen() == number
    wait_until(lambda: outside.get(cluster.lab.ip("h3"), number) != "", 20, "it is published")


def test_mode_host_lends_the_ports_of_the_task_s_own_host(cluster: Cluster, outside: Outside) -> None:
    web = create(cluster, "web", 2, "-p", "target=80,published=8088,mode=host", "-p", "target=81,mode=host")
    at = {task.node for task in web}
    assert len(at) == 2
    for host in cluster.hosts:
        answers = partial(outside.get, cluster.lab.ip(host), 8088)
        if host in at:
            wait_until(answers, 20, f"the task on {host} has started to listen")
        else:
            assert answers() == ""
    shown = cluster.lab.sh("h1", "docker", "service", "ps", "--format", "{{.Ports}}", "web").stdout.splitlines()
    assert all(re.fullmatch(r"\*:8088->80/tcp,\*:\d+->81/tcp", line) for line in shown), shown
    ours = cluster.lab.sh("h1", "pyswarm", "service", "ps", "--format", "{{.Ports}}", "web").stdout.splitlines()
    assert sorted(ours) == sorted(shown)
    assert cluster.lab.sh("h1", "pyswarm", "service", "ls", "--format", "{{.Ports}}").stdout.strip() == ""
    # Two nodes are left; a third and fourth task fit, a fifth has to wait.
    cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=5")
    wait_until(lambda: len(cluster.running("web")) == 4, 30, "one on each node")
    waiting = [t for t in cluster.tasks("web", desired_state="running") if t.state != "running"]
    wait_until(
        lambda: (
            [t.err for t in cluster.tasks("web", desired_state="running") if t.state == "pending"]
            == ["no suitable node (host-mode port already in use on 4 nodes)"]
        ),
        10,
        f"the fifth says why it waits: {waiting}",
    )
    # The same service again: what its tasks held is nobody's own port.
    cluster.request("DELETE", "/services/web")
    wait_until(lambda: not any(cluster.started_at(h) for h in cluster.hosts), 30, "all have ended")
    create(cluster, "web", 4, "-p", "target=80,published=8088,mode=host")
    cluster.request("DELETE", "/services/web")


def all_ended(cluster: Cluster) -> bool:
    """Whether no task is still being stopped."""
    return not [t for t in cluster.tasks("web") if t.desired != "running" and t.state == "running"]


def test_scaling_up_and_down_loses_no_request(cluster: Cluster, outside: Outside) -> None:
    create(cluster, "web", 2, "-p", "8080:80", server=AT_ONCE)
    addrs = [cluster.lab.ip(h) for h in cluster.hosts]
    for addr in addrs:
        wait_until(lambda addr=addr: "It works" in outside.get(addr, 8080), 20, f"{addr} answers")  # type: ignore[misc]
    client = outside.keep_asking(addrs, 8080)
    for replicas in (6, 2, 5, 1, 4, 2):
        cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", f"web={replicas}")
        cluster.wait_running("web", replicas)
        wait_until(lambda: all_ended(cluster), 30, "surplus tasks have ended")
    counts = client.stop()
    assert not client.failures, client.gaps
    assert counts["ok"] > 200, counts


def test_a_rolling_update_that_starts_first_loses_no_request(cluster: Cluster, outside: Outside) -> None:
    options = ("--update-order", "start-first", "--update-monitor", "1s")
    create(cluster, "web", 3, "-p", "8080:80", *options, server=AT_ONCE)
    addrs = [cluster.lab.ip(h) for h in cluster.hosts]
    for addr in addrs:
        wait_until(lambda addr=addr: "It works" in outside.get(addr, 8080), 20, f"{addr} answers")  # type: ignore[misc]
    client = outside.keep_asking(addrs, 8080)
    cluster.lab.sh("h1", "pyswarm", "service", "update", "-q", "--env-add", "B=2", "web", timeout_s=120)
    counts = client.stop()
    assert not client.failures, client.gaps
    assert counts["ok"] > 100, counts


def test_a_lost_node_costs_requests_until_it_is_known_and_its_return_none(
    cluster: Cluster, outside: Outside
) -> None:
    web = create(cluster, "web", 4, "-p", "8080:80")
    wait_published(cluster, outside, web)
    assert "h4" in {t.node for t in web}
    others = [cluster.lab.ip(h) for h in cluster.hosts if h != "h4"]
    client = outside.keep_asking(others, 8080)
    cluster.lab.cut("h4")
    wait_until(
        lambda: len([t for t in cluster.running("web") if t.node != "h4"]) == 4,
        60,
        "four tasks on the other hosts",
    )
    counts = client.stop()
    # To a host that is lost nobody can say no: one request in four waits until it is known to be.
    assert set(client.failures) <= {"TimeoutError"}, client.gaps
    assert all(at < 10 for at, *_ in client.gaps), client.gaps
    last_s = max((began_s for began_s, *_ in client.gaps), default=0.0)
    print(f"a node lost: {dict(counts)}, the last failure began after {last_s} s")

    again = outside.keep_asking(others, 8080)
    cluster.lab.heal("h4")
    wait_until(lambda: cluster.node_state("h4") == "ready", 60, "h4 is back")
    wait_until(lambda: not cluster.started_at("h4"), 60, "its replaced task has ended")
    counts = again.stop()
    assert not again.failures, again.gaps
    assert counts["ok"] > 50
    tasks = cluster.wait_running("web", 4)
    wait_until(lambda: reaches_all(outside, cluster.lab.ip("h4"), tasks), 20, "h4 leads to where they are now")


def test_killed_daemons_and_engines_cost_nothing(cluster: Cluster, outside: Outside) -> None:
    web = create(cluster, "web", 4, "-p", "8080:80")
    wait_published(cluster, outside, web)
    started = cluster.starts_of("web")
    client = outside.keep_asking([cluster.lab.ip(h) for h in cluster.hosts], 8080)
    for host in ("h4", "h1"):
        cluster.ask = "h2"
        cluster.lab.kill(host, "daemon", "KILL")
        assert who(outside, cluster.lab.ip(host))[0], "it leads on without its daemon"
        cluster.lab.start(host, "daemon")
        wait_until(lambda host=host: cluster.node_state(host) == "ready", 60, f"{host} is back")  # type: ignore[misc]
    cluster.lab.kill("h3", "engine", "KILL")
    cluster.lab.start("h3", "engine")
    wait_until(lambda: cluster.node_state("h3") == "ready", 60, "h3 has its engine again")
    counts = client.stop()
    assert not client.failures, client.gaps
    assert counts["ok"] > 100
    wait_published(cluster, outside, web)
    assert cluster.starts_of("web") == started


def test_an_engine_that_writes_its_firewall_anew_is_followed(cluster: Cluster, outside: Outside) -> None:
    web = create(cluster, "web", 2, "-p", "8080:80")
    wait_published(cluster, outside, web)
    free = next(h for h in cluster.hosts if h not in {t.node for t in web})
    before = traces(cluster.lab, free)
    cluster.lab.sh(free, "nft", "flush", "ruleset")
    cluster.lab.kill(free, "engine", "TERM")
    cluster.lab.start(free, "engine")
    wait_until(lambda: traces(cluster.lab, free) == before, 30, "all is in place again")
    assert reaches_all(outside, cluster.lab.ip(free), web)


def test_nothing_is_left_of_a_service_that_is_gone(cluster: Cluster, outside: Outside) -> None:
    before = {h: traces(cluster.lab, h) for h in cluster.hosts}
    assert not any("112" in json.dumps(found) for found in before.values())
    wait_published(cluster, outside, create(cluster, "web", 3, "-p", "8080:80", "-p", "5300:53/udp"))
    assert all(leads(cluster, h) for h in cluster.hosts)
    cluster.lab.sh("h1", "pyswarm", "service", "rm", "web")
    # The network's own devices stay for the moment in which a replacement would need them.
    wait_until(lambda: not any(has_traces(cluster, h) for h in cluster.hosts), 40, "no devices, no tables")
    for host in cluster.hosts:
        wait_until(
            lambda host=host: traces(cluster.lab, host) == before[host],
            10,
            f"{host} is as before",  # type: ignore[misc]
        )
    assert outside.get(cluster.lab.ip("h2"), 8080) == ""


def test_the_ingress_network_shows_and_stays_while_used(cluster: Cluster) -> None:
    docker = partial(cluster.lab.sh, "h1", "docker", "network")
    assert re.search(r"ingress +overlay +swarm", docker("ls").stdout)
    (shown,) = json.loads(docker("inspect", "ingress").stdout)
    assert (shown["Ingress"], shown["Attachable"], shown["IPAM"]["Config"][0]["Subnet"]) == (
        True,
        False,
        "10.0.0.0/24",
    )
    create(cluster, "web", 1, "-p", "8080:80")
    done = cluster.lab.sh("h1", "pyswarm", "network", "rm", "ingress", check=False)
    assert "network ingress is in use by service web" in done.stderr
    text = refusal(cluster, "create", "-d", "--network", "ingress", "busybox:latest")
    assert 'Service cannot be explicitly attached to the ingress network "ingress"' in text
