"""A cluster of one works fully; and every wrong input gets one clear line and changes nothing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster import Cluster
from support.env import require_binary, require_root, wait_until
from support.lab import Lab

from pyswarm.common.jointoken import new_join_token
from pyswarm.manager.ca import create_root

pytestmark = pytest.mark.e2e

SERVER = ("--stop-grace-period", "1s", "busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www")


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """h1 is a swarm of one; h2 belongs to none."""
    require_root()
    require_binary("docker", "dockerd", "etcd", "nft")
    with Lab("e2eone") as lab:
        lab.down()
        lab.up(2)
        refused = run(lab, "h1", "pyswarm service ls")
        assert refused[0] == 1
        assert "This node is not a swarm manager" in refused[1]
        cluster = Cluster(lab, hosts=1, managers=1)
        output = lab.sh("h1", "pyswarm", "swarm", "init").stdout
        assert "is now a manager" in output
        assert "pyswarm swarm join --token SWMTKN-1-" in output
        assert "docker context create pyswarm" in output
        cluster.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "net")
        create = ("pyswarm", "service", "create", "-d", "--name", "web", "--network", "net")
        cluster.lab.sh("h1", *create, *SERVER)
        cluster.wait_running("web", 1)
        yield cluster


def run(lab: Lab, host: str, command: str) -> tuple[int, str, str]:
    """Exit code, standard error and output of a command line."""
    done = lab.sh(host, "sh", "-c", command, check=False)
    return done.returncode, done.stderr.strip(), done.stdout


def test_one_node_runs_scales_updates_and_removes(pair: Cluster) -> None:
    lab = pair.lab
    assert "1/1" in lab.sh("h1", "pyswarm", "service", "ls").stdout
    lab.sh(
        "h1",
        "pyswarm",
        "service",
        "create",
        "-d",
        "--name",
        "second",
        "--replicas",
        "2",
        "--network",
        "net",
        *SERVER,
    )
    tasks = pair.wait_running("second", 2)
    assert pair.fetch("h1", tasks[0].container, tasks[1].addr)
    lab.sh("h1", "pyswarm", "service", "scale", "second=3", timeout_s=120)
    pair.wait_running("second", 3)
    prefix = pair.get("/services/second")["ID"][:8]
    assert json.loads(lab.sh("h1", "pyswarm", "service", "inspect", prefix).stdout)[0]["Spec"]["Name"] == "second"
    assert lab.sh("h1", "pyswarm", "service", "ls", "--format", "{{.Name}}").stdout.split() == ["second", "web"]
    lab.sh("h1", "pyswarm", "service", "rm", "second")
    wait_until(lambda: len(pair.started_at("h1")) == 1, 30, "only the container of web is left")


def test_a_container_that_ends_is_replaced_in_its_slot(pair: Cluster) -> None:
    (task,) = pair.running("web")
    pair.lab.docker("h1", "kill", task.container)

    def replaced() -> bool:
        tasks = pair.running("web")
        return len(tasks) == 1 and tasks[0].id != task.id

    wait_until(replaced, 30, "a new task in the slot")
    (new,) = pair.running("web")
    assert new.name == task.name
    assert "Failed" in pair.lab.sh("h1", "pyswarm", "service", "ps", "web").stdout


BAD = [
    ("pyswarm service create --name web busybox:latest", "service web already exists"),
    ("pyswarm network create -d overlay net", "network with name net already exists"),
    ("pyswarm network create -d overlay --subnet 10.77.0.0/25 other", "overlap"),
    ("pyswarm network create -d overlay --subnet 10.78.0.0/33 other", "10.78.0.0/33"),
    ("pyswarm network create -d overlay --subnet banana other", "banana"),
    ("pyswarm network create -d overlay 'a b'", "name"),
    ("pyswarm service create --name x --network nowhere busybox:latest", "network nowhere not found"),
    ("pyswarm service create --name 'a b' busybox:latest", "name"),
    ("pyswarm service create --name -x- busybox:latest", "name"),
    (f"pyswarm service create --name {'x' * 64} busybox:latest", "63"),
    ("pyswarm service create --name x 'BAD IMAGE'", "BAD IMAGE"),
    ("pyswarm service create --name x --limit-memory banana busybox:latest", "banana"),
    ("pyswarm service create --name x --limit-memory 1k busybox:latest", "4MiB"),
    ("pyswarm service create --name x --limit-cpu 0.0001 busybox:latest", "0.001"),
    ("pyswarm service create --name x --replicas -1 busybox:latest", "-1"),
    ("pyswarm service create --name x --replicas many busybox:latest", "many"),
    ("pyswarm service create --name x --mount type=tmpfs,target=/x busybox:latest", "--mount"),
    ("pyswarm service create --name x --mode global busybox:latest", "global"),
    ("pyswarm service create --name x -p 80:65536 busybox:latest", "65536"),
    ("pyswarm service scale web=-1", "-1"),
    ("pyswarm service scale web", "web"),
    ("pyswarm service scale nothing=1", "nothing"),
    ("pyswarm service update nothing", "nothing"),
    ("pyswarm service rm nothing", "nothing"),
    ("pyswarm service ps nothing", "nothing"),
    ("pyswarm service inspect nothing", "nothing"),
    ("pyswarm node inspect nothing", "nothing"),
    ("pyswarm node rm nothing", "nothing"),
    ("pyswarm node rm h1", "manager"),
    ("pyswarm network rm net", "in use"),
    ("pyswarm network rm nothing", "nothing"),
    ("pyswarm swarm init", "already part of a swarm"),
    ("pyswarm swarm leave", "force"),
    ("pyswarm swarm join-token queen", "queen"),
    ("pyswarm network create -d overlay docker_gwbridge", "docker_gwbridge"),
    ("pyswarm service rm ''", "empty name"),
    ("pyswarm node rm ''", "empty name"),
    ("pyswarm network rm ''", "empty name"),
    ("pyswarm service update -d --image '' web", "image"),
    (f"pyswarm service create --name x --limit-memory {'9' * 400} busybox:latest", "too large"),
]
BAD_INIT = [
    ("--advertise-addr 192.0.2.77", "not an address of this host"),
    ("--advertise-addr 127.0.0.1", "other hosts cannot reach"),
    ("--advertise-addr ::1", "IPv4"),
    ("--listen-addr 192.0.2.77", "--listen-addr"),
    ("--data-path-port 70000", "49151"),
    ("--data-path-port 80", "1024"),
    ("--cert-expiry 1ns", "1h0m0s"),
    ("--cert-expiry=-5h", "1h0m0s"),
    ("--dispatcher-heartbeat=-1s", "100ms"),
    ("--availability busy", "busy"),
    ("--default-addr-pool 10.0.0.0/28", "--default-addr-pool"),
]


@pytest.mark.parametrize(("options", "says"), BAD_INIT, ids=[b[0] for b in BAD_INIT])
def test_a_cluster_that_cannot_be_is_refused_at_once(pair: Cluster, options: str, says: str) -> None:
    code, error, _ = run(pair.lab, "h2", f"pyswarm swarm init {options}")
    assert code in (1, 2), error
    assert says in error
    assert len(error.splitlines()) <= (3 if code == 2 else 1)
    assert "Swarm: inactive" in pair.lab.sh("h2", "pyswarm", "info").stdout


@pytest.mark.parametrize(("command", "says"), BAD, ids=[b[0][8:60] for b in BAD])
def test_wrong_input_gets_one_clear_line(pair: Cluster, command: str, says: str) -> None:
    before = contents(pair)
    code, error, _ = run(pair.lab, "h1", command)
    assert code in (1, 2), error
    assert says in error
    assert "Traceback" not in error
    usage = 3 if code == 2 else 1
    assert len(error.splitlines()) <= usage, error
    assert before == contents(pair)


def contents(pair: Cluster) -> tuple[list[Any], list[str]]:
    """What a refused command must leave as it was."""
    return [s["Spec"] for s in pair.get("/services")], sorted(n["Name"] for n in pair.get("/networks"))


def test_wrong_tokens_are_refused_and_leave_the_node_as_it_was(pair: Cluster) -> None:
    lab = pair.lab
    remote = f"{lab.ip('h1')}:2377"
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    rotated = lab.sh("h1", "pyswarm", "swarm", "join-token", "--rotate", "-q", "worker").stdout.strip()
    assert rotated != token
    foreign = new_join_token(create_root("elsewhere")[0])
    wrong = rotated[:-1] + ("0" if rotated[-1] != "0" else "1")
    for bad, says in (
        ("banana", "SWMTKN-1-"),
        (rotated[:-3], "SWMTKN-1-"),
        (token, "no longer, valid"),
        (wrong, "valid"),
        (foreign, "another cluster"),
    ):
        code, error, _ = run(lab, "h2", f"pyswarm swarm join --token {bad} {remote}")
        assert code == 1
        assert says in error
        assert len(error.splitlines()) == 1
        assert bad not in error
    assert "Swarm: inactive" in lab.sh("h2", "pyswarm", "info").stdout
    assert len(pair.nodes()) == 1


def test_an_unreachable_manager_is_named_within_a_time_limit(pair: Cluster) -> None:
    lab = pair.lab
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    unused = lab.ip("h1").rpartition(".")[0] + ".199"
    started = time.monotonic()
    code, error, _ = run(lab, "h2", f"pyswarm swarm join --token {token} {unused}:2377")
    assert code == 1
    assert f"{unused}:2377" in error
    assert time.monotonic() - started < 20


def test_a_worker_points_to_the_managers_and_joins_only_once(pair: Cluster) -> None:
    lab = pair.lab
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    remote = f"{lab.ip('h1')}:2377"
    assert (
        "joined a swarm as a worker" in lab.sh("h2", "pyswarm", "swarm", "join", "--token", token, remote).stdout
    )
    try:
        code, error, _ = run(lab, "h2", f"pyswarm swarm join --token {token} {remote}")
        assert (code, "already part of a swarm" in error) == (1, True)
        code, error, _ = run(lab, "h2", "pyswarm node ls")
        assert (code, "Worker nodes can't be used" in error) == (1, True)
    finally:
        lab.sh("h2", "pyswarm", "swarm", "leave")
    assert [n["Status"]["State"] for n in pair.nodes()].count("down") == 1, (
        "who says that it leaves is gone at once"
    )
    lab.sh("h1", "pyswarm", "node", "rm", "h2")
    assert len(pair.nodes()) == 1
    assert "Swarm: inactive" in lab.sh("h2", "pyswarm", "info").stdout


def test_a_host_that_left_without_its_engine_joins_again(pair: Cluster) -> None:
    lab = pair.lab
    join = "pyswarm swarm join --token {} {}:2377"
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    lab.sh("h2", *join.format(token, lab.ip("h1")).split())
    try:
        create = ("pyswarm", "service", "create", "--name", "left", "--network", "net", "--replicas", "2")
        lab.sh("h1", *create, *SERVER)
        wait_until(lambda: len(pair.started_at("h2")) > 0, 30, "a task runs on h2")
        lab.kill("h2", "engine", "TERM")
        wait_until(lambda: "(engine down)" in lab.sh("h1", "pyswarm", "node", "ls").stdout, 20, "h1 shows it")
        code, warning, _ = run(lab, "h2", "pyswarm swarm leave")
        assert code == 0
        assert warning.startswith("WARNING: containers and networks of the swarm stay on this host")
        lab.sh("h1", "pyswarm", "node", "rm", "h2")
        lab.start("h2", "engine")
        lab.sh("h1", "pyswarm", "service", "scale", "-d", "left=0")
        lab.sh("h2", *join.format(token, lab.ip("h1")).split())
        assert lab.docker("h2", "ps", "-aq").stdout == "", "what was left over is gone"
    finally:
        if lab.docker("h2", "version", check=False).returncode != 0:
            lab.start("h2", "engine")
        run(lab, "h1", "pyswarm service rm left")
        run(lab, "h2", "pyswarm swarm leave")
        run(lab, "h1", "pyswarm node rm h2")
    assert len(pair.nodes()) == 1


def test_a_full_subnet_and_a_missing_image_are_explained(pair: Cluster) -> None:
    lab = pair.lab
    lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "--subnet", "10.79.0.0/29", "tiny")
    try:
        create = ("pyswarm", "service", "create", "-d", "--name", "crowd", "--replicas", "7", "--network", "tiny")
        lab.sh("h1", *create, *SERVER)
        wait_until(lambda: len(pair.running("crowd")) == 4, 40, "four fit into a /29 beside the virtual IP")
        wait_until(
            lambda: "no address left" in lab.sh("h1", "pyswarm", "service", "ps", "--no-trunc", "crowd").stdout,
            10,
            "the reason is shown",
        )
        lab.sh("h1", "pyswarm", "service", "create", "-d", "--name", "ghost", "nowhere.invalid/ghost:1")
        wait_until(
            lambda: "Rejected" in lab.sh("h1", "pyswarm", "service", "ps", "--no-trunc", "ghost").stdout,
            30,
            "the missing image is the task's error",
        )
    finally:
        for name in ("crowd", "ghost"):
            lab.sh("h1", "pyswarm", "service", "rm", name, check=False)
        wait_until(lambda: len(pair.started_at("h1")) == 1, 40, "only the container of web is left")
        lab.sh("h1", "pyswarm", "network", "rm", "tiny", check=False)


def test_without_a_daemon_or_permission_the_command_says_so(pair: Cluster) -> None:
    missing = subprocess.run(
        ["pyswarm", "node", "ls"],
        env={"PATH": _path(), "PYSWARM_HOST": "unix:///nonexistent/docker.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 1
    assert "Is it running?" in missing.stderr
    assert "pyswarmd" in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1


def _path() -> str:
    return f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"


def test_a_port_that_is_taken_is_named(pair: Cluster) -> None:
    lab = pair.lab
    for kind, port in (("SOCK_STREAM", 2377), ("SOCK_DGRAM", 4789)):
        code = (
            f"import socket, sys; s = socket.socket(socket.AF_INET, socket.{kind}); s.bind(('0.0.0.0', {port})); "
            f"s.listen() if {kind == 'SOCK_STREAM'} else None; print('held', flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{lab.netns('h2')}", "python3", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "held"
            code_, error, _ = run(lab, "h2", "pyswarm swarm init")
            assert code_ == 1
            assert str(port) in error
            assert len(error.splitlines()) == 1
        finally:
            holder.kill()
            holder.wait()
    assert "Swarm: inactive" in lab.sh("h2", "pyswarm", "info").stdout
