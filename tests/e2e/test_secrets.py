"""Secrets and configs on real hosts, through both clients: read where they should be, and found nowhere else."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, RunningTask
from support.env import wait_until

pytestmark = pytest.mark.e2e

MARKER = "hunter2-e2e-marker-c0ffee"
#: Where a payload may stand, below the lab's folder.
IN_THE_LOG = re.compile(r"h[123]/pyswarm/manager/raft/")
#: Ends at once when asked to.
IDLE = (
    "--stop-grace-period",
    "1s",
    "busybox:latest",
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 60 & wait; done",
)


@pytest.fixture
def swarm(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with h4 its only worker; without secrets and configs afterwards, also in memory."""
    yield cluster
    cluster.ask = "h1"
    cluster.lab.start("h4", "engine")
    cluster.lab.start("h4", "daemon")
    wait_until(cluster.leader, 30, "a leader")
    for kind in ("services", "secrets", "configs"):
        for obj in cluster.get(f"/{kind}"):
            cluster.request("DELETE", f"/{kind}/{obj['ID']}")
    for host in cluster.hosts:
        cluster.lab.sh("h1", "pyswarm", "node", "update", "--availability", "active", host)
    wait_until(lambda: not any(folders(cluster, host) for host in cluster.hosts), 40, "no secret left in memory")


def folders(cluster: Cluster, host: str) -> list[str]:
    """The mounts with secrets and configs on a host."""
    below = f"{cluster.lab.datadir}/run/{host}/files/"
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(below)]


def on_disk(cluster: Cluster, text: str) -> set[str]:
    """The files of all hosts in which ``text`` stands, without what is only mounted there."""
    datadir = str(cluster.lab.datadir)
    found = subprocess.run(
        ["find", datadir, "-xdev", "-type", "f", "-exec", "grep", "-laF", "--", text, "{}", "+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {path.removeprefix(f"{datadir}/") for path in found.stdout.splitlines()}


def only_on(cluster: Cluster, host: str) -> None:
    """Leave one node for tasks."""
    for each in cluster.hosts:
        availability = "active" if each == host else "drain"
        cluster.lab.sh("h1", "pyswarm", "node", "update", "--availability", availability, each)


def inside(cluster: Cluster, task: RunningTask, script: str) -> str:
    return cluster.lab.docker(task.node, "exec", task.container, "sh", "-c", script, check=False).stdout.strip()


def create(cluster: Cluster, client: str, *options: str) -> None:
    more = ("--no-resolve-image",) if client == "docker" else ()
    cluster.lab.sh("h1", client, "service", "create", "-d", *more, *options, *IDLE)


def piped(cluster: Cluster, client: str, kind: str, name: str, text: str) -> None:
    cluster.lab.sh("h1", "sh", "-c", f"printf %s '{text}' | {client} {kind} create {name} -")


@pytest.mark.parametrize("client", ["pyswarm", "docker"])
def test_a_secret_and_a_config_are_read_where_they_are_used_and_stand_nowhere_else(
    swarm: Cluster, client: str
) -> None:
    piped(swarm, client, "secret", "tok", f"{MARKER}-{client}")
    piped(swarm, client, "config", "conf", "x=1")
    only_on(swarm, "h4")
    create(
        swarm, client, "--name", "web", "--secret", "source=tok,target=t/tok,uid=1000,gid=50,mode=0400",
        "--secret", "source=tok,target=/etc/app/tok", "--config", "conf", "--read-only",
    )  # fmt: skip
    (task,) = swarm.wait_running("web", 1)
    shown = inside(
        swarm, task, "stat -c '%a %u %g' /run/secrets/t/tok /etc/app/tok /conf; cat /run/secrets/t/tok /conf"
    )
    assert shown == f"400 1000 50\n444 0 0\n444 0 0\n{MARKER}-{client}x=1"
    assert "Read-only" in inside(swarm, task, "(echo x > /run/secrets/t/tok) 2>&1")
    assert len(folders(swarm, "h4")) == 1
    assert not any(folders(swarm, host) for host in swarm.managers)

    swarm.lab.sh("h1", client, "service", "update", "-d", "--force", "web")
    wait_until(lambda: swarm.running("web") and swarm.running("web")[0].id != task.id, 30, "a new task")
    wait_until(lambda: len(folders(swarm, "h4")) == 1, 20, "the first task's files to go")
    said = "".join(
        swarm.lab.sh("h1", client, *line.split()).stdout
        for line in ("secret inspect tok", "secret ls", "service inspect web", "service ps --no-trunc web")
    )
    said += json.dumps([swarm.get(path) for path in ("/secrets", "/services", "/tasks", "/info")])
    said += json.dumps(swarm.containers("h4"))
    assert MARKER not in said
    where = on_disk(swarm, f"{MARKER}-{client}")
    assert where, "the search finds what there is"
    assert all(IN_THE_LOG.match(path) for path in where), where

    swarm.lab.sh("h1", client, "service", "rm", "web")
    wait_until(lambda: not folders(swarm, "h4"), 30, "its files to go")
    where = on_disk(swarm, f"{MARKER}-{client}")
    assert all(IN_THE_LOG.match(path) for path in where), where


def test_what_is_in_use_is_kept_and_rotated(swarm: Cluster) -> None:
    lab = swarm.lab
    piped(swarm, "pyswarm", "secret", "old", "one")
    piped(swarm, "docker", "secret", "new", "two")
    piped(swarm, "pyswarm", "config", "conf", "x")
    create(swarm, "pyswarm", "--name", "web", "--secret", "source=old,target=pw", "--config", "conf")
    create(swarm, "docker", "--name", "api", "--secret", "old")
    (before,) = swarm.wait_running("web", 1)
    for client in ("pyswarm", "docker"):
        done = lab.sh("h1", client, "secret", "rm", "old", check=False)
        assert done.returncode == 1
        assert "secret 'old' is in use by the following services: api, web" in done.stderr
        done = lab.sh("h1", client, "config", "rm", "conf", check=False)
        assert "config 'conf' is in use by the following service: web" in done.stderr
    lab.sh("h1", "docker", "service", "rm", "api")
    lab.sh(
        "h1",
        "docker",
        "service",
        "update",
        "-d",
        "--secret-rm",
        "old",
        "--secret-add",
        "source=new,target=pw",
        "web",
    )

    def rotated() -> list[RunningTask]:
        tasks = swarm.running("web")
        return tasks if len(tasks) == 1 and tasks[0].id != before.id else []

    (after,) = wait_until(rotated, 30, "the task with the new secret")
    assert inside(swarm, after, "ls /run/secrets; cat /run/secrets/pw; echo; cat /conf") == "pw\ntwo\nx"
    lab.sh("h1", "pyswarm", "secret", "rm", "old")
    done = lab.sh("h1", "pyswarm", "service", "update", "-d", "--rollback", "web", check=False)
    assert (done.returncode, "secret not found: old" in done.stderr) == (1, True)
    assert inside(swarm, after, "cat /run/secrets/pw") == "two"


def test_files_outlive_daemon_and_engine_and_come_again_with_the_next_task(swarm: Cluster) -> None:
    lab = swarm.lab
    piped(swarm, "pyswarm", "secret", "tok", MARKER)
    only_on(swarm, "h4")
    create(swarm, "pyswarm", "--name", "web", "--secret", "tok", "--restart-delay", "1s")
    (first,) = swarm.wait_running("web", 1)
    started = swarm.starts_of("web")

    lab.kill("h4", "daemon")
    assert inside(swarm, first, "cat /run/secrets/tok") == MARKER
    lab.start("h4", "daemon")
    lab.kill("h4", "engine")
    lab.start("h4", "engine")
    wait_until(lambda: swarm.node_state("h4") == "ready", 20, "h2 is ready")
    wait_until(lambda: [t.id for t in swarm.running("web")] == [first.id], 20, "the same task")
    assert inside(swarm, first, "cat /run/secrets/tok") == MARKER
    assert swarm.starts_of("web") == started
    (kept,) = folders(swarm, "h4")
    assert kept.endswith(first.id)

    # Nobody is there to clean up after this one, and its task's secret must come back with the full set.
    lab.kill("h4", "daemon")
    lab.docker("h4", "kill", first.container)
    lab.kill(swarm.leader(), "manager")
    lab.start("h4", "daemon")

    def replaced() -> list[RunningTask]:
        try:
            tasks = swarm.running("web")
        except (AssertionError, OSError):
            return []
        return tasks if len(tasks) == 1 and tasks[0].id != first.id else []

    (second,) = wait_until(replaced, 60, "a new task in its place")
    assert inside(swarm, second, "cat /run/secrets/tok") == MARKER
    wait_until(lambda: len(folders(swarm, "h4")) == 1, 30, "the files of the first to go")
    assert folders(swarm, "h4")[0].endswith(second.id)
    # A folder that an earlier daemon left is nobody's.
    lab.kill("h4", "daemon")
    left = Path(kept).parent / "left"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "left", str(left)], check=True)
    lab.start("h4", "daemon")
    wait_until(lambda: not left.exists(), 40, "what was left over to go")
    assert inside(swarm, second, "cat /run/secrets/tok") == MARKER
    assert all(IN_THE_LOG.match(path) for path in on_disk(swarm, MARKER))


def test_payloads_of_all_sizes(swarm: Cluster, tmp_path: Path) -> None:
    lab = swarm.lab
    payload = tmp_path / "payload"
    limits = {"secret": 512_000, "config": 1_024_000}
    digests = {}
    for kind, limit in limits.items():
        for client in ("pyswarm", "docker"):
            for size, text in ((limit, f"less than {limit} bytes"), (0, "data is empty")):
                payload.write_bytes(os.urandom(size))
                done = lab.sh("h1", client, kind, "create", "refused", str(payload), check=False)
                assert (done.returncode, text in done.stderr) == (1, True), done.stderr
            payload.write_bytes(os.urandom(limit - 1))
            digests[kind, client] = hashlib.sha256(payload.read_bytes()).hexdigest()
            lab.sh("h1", client, kind, "create", f"large-{client}", str(payload))
    assert len(swarm.get("/secrets")) == len(swarm.get("/configs")) == 2
    options = [f"--{kind}=source=large-{client},target=/large-{kind}-{client}" for kind, client in digests]
    create(swarm, "pyswarm", "--name", "web", *options)
    (task,) = swarm.wait_running("web", 1)
    for (kind, client), digest in digests.items():
        assert inside(swarm, task, f"sha256sum < /large-{kind}-{client}").split()[0] == digest
    shown = json.loads(lab.sh("h1", "docker", "config", "inspect", "large-docker").stdout)[0]
    assert len(shown["Spec"]["Data"]) == 4 * 341_333


def test_a_host_that_leaves_keeps_nothing(swarm: Cluster) -> None:
    lab = swarm.lab
    piped(swarm, "pyswarm", "secret", "tok", MARKER)
    only_on(swarm, "h4")
    create(swarm, "pyswarm", "--name", "web", "--secret", "tok")
    swarm.wait_running("web", 1)
    assert len(folders(swarm, "h4")) == 1
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    try:
        lab.sh("h4", "pyswarm", "swarm", "leave")
        assert folders(swarm, "h4") == []
        assert not [path for path in on_disk(swarm, MARKER) if path.startswith("h4/")]
    finally:
        lab.sh("h1", "pyswarm", "node", "rm", "--force", "h4")
        lab.sh("h4", "pyswarm", "swarm", "join", "--token", token, f"{lab.ip('h1')}:2377")


def test_the_largest_payload_through_a_follower_survives_the_leader(swarm: Cluster, tmp_path: Path) -> None:
    lab, leader = swarm.lab, swarm.leader()
    follower, other = (host for host in swarm.managers if host != leader)
    payload = tmp_path / "payload"
    payload.write_bytes(os.urandom(1_023_999))
    lab.sh(follower, "pyswarm", "config", "create", "conf", str(payload))
    payload_secret = tmp_path / "secret"
    payload_secret.write_bytes(os.urandom(511_999))
    lab.sh(follower, "docker", "secret", "create", "tok", str(payload_secret))
    lab.kill(leader, "manager")
    swarm.ask = other
    wait_until(lambda: swarm.leader() not in ("", leader), 20, "another leader")
    lab.sh(
        other, "pyswarm", "service", "create", "-d", "--name", "web", "--secret", "tok", "--config", "conf", *IDLE
    )
    (task,) = swarm.wait_running("web", 1)
    for path, source in (("/conf", payload), ("/run/secrets/tok", payload_secret)):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        assert inside(swarm, task, f"sha256sum < {path}").split()[0] == digest


BAD = [
    ("service create --name x --secret nope busybox:latest", "secret not found: nope"),
    ("service create --name x --config nope busybox:latest", "config not found: nope"),
    (
        "service create --name x --secret tok --secret source=tok,target=tok busybox:latest",
        "duplicate secret target",
    ),
    ("service create --name x --secret source=tok,target=../../etc/shadow busybox:latest", '".." is not allowed'),
    ("service create --name x --secret source=tok,target=dir/ busybox:latest", "names a folder"),
    ("service create --name x --secret source=tok,uid=root busybox:latest", "invalid uid 'root' of secret tok"),
    ("service create --name x --secret source=tok,gid=-1 busybox:latest", "invalid gid '-1' of secret tok"),
    ("service create --name x --secret source=tok,mode=07777 busybox:latest", "invalid mode 0o7777 of secret tok"),
    (
        "service create --name x --secret source=tok,target=/x --config source=conf,target=/x busybox:latest",
        "conflicting target: '/x'",
    ),
    ("secret create tok /etc/hostname", "secret tok already exists"),
    ("secret create 'a b' /etc/hostname", "invalid name"),
    (f"secret create {'x' * 65} /etc/hostname", "invalid name"),
    ("secret create x /nowhere", "o such file or directory"),
    ("secret create --template-driver golang x /etc/hostname", "not supported by this version of pyswarm"),
    ("secret rm nope", "secret nope not found"),
    ("secret inspect nope", "secret nope not found"),
    ("config rm nope", "config nope not found"),
]


def test_wrong_input_gets_one_clear_line_from_both_clients(swarm: Cluster) -> None:
    piped(swarm, "pyswarm", "secret", "tok", MARKER)
    piped(swarm, "pyswarm", "config", "conf", "x")

    def contents() -> list[object]:
        return [swarm.get(f"/{kind}") for kind in ("services", "secrets", "configs")]

    before = contents()
    for command, says in BAD:
        for client in ("pyswarm", "docker"):
            line = command.replace("service create", "service create -d --no-resolve-image")
            done = swarm.lab.sh("h1", "sh", "-c", f"{client} {line}", check=False)
            assert (done.returncode, says in done.stderr) == (1, True), (client, command, done.stderr)
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert contents() == before
