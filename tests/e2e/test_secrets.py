"""Secrets and configs on real hosts, through both clients: read where they should be, and found nowhere else."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, RunningTask
from support.env import require_binary, require_root, wait_until
from support.lab import Lab

pytestmark = pytest.mark.e2e

MARKER = "hunter2-e2e-marker-c0ffee"
#: Ends at once when asked to.
IDLE = (
    "--stop-grace-period",
    "1s",
    "busybox:latest",
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 60 & wait; done",
)


@pytest.fixture(scope="module")
def formed() -> Iterator[Cluster]:
    """h1 is the manager, h2 and h3 are workers."""
    require_root()
    require_binary("docker", "dockerd", "etcd", "nft")
    with Lab("sec") as lab:
        lab.down()
        lab.up(3)
        cluster = Cluster(lab, hosts=3, managers=1)
        cluster.form()
        yield cluster


@pytest.fixture
def cluster(formed: Cluster) -> Iterator[Cluster]:
    """The cluster, without services, secrets and configs afterwards, which leaves nothing in memory either."""
    yield formed
    for what in ("engine", "daemon"):
        formed.lab.start("h2", what)
    for kind in ("services", "secrets", "configs"):
        for obj in formed.get(f"/{kind}"):
            formed.request("DELETE", f"/{kind}/{obj['ID']}")
    for host in formed.hosts:
        formed.lab.sh("h1", "pyswarm", "node", "update", "--availability", "active", host)
    wait_until(lambda: not any(folders(formed, host) for host in formed.hosts), 40, "no secret left in memory")


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
    cluster: Cluster, client: str
) -> None:
    piped(cluster, client, "secret", "tok", f"{MARKER}-{client}")
    piped(cluster, client, "config", "conf", "x=1")
    only_on(cluster, "h2")
    create(
        cluster, client, "--name", "web", "--secret", "source=tok,target=t/tok,uid=1000,gid=50,mode=0400",
        "--secret", "source=tok,target=/etc/app/tok", "--config", "conf", "--read-only",
    )  # fmt: skip
    (task,) = cluster.wait_running("web", 1)
    shown = inside(
        cluster, task, "stat -c '%a %u %g' /run/secrets/t/tok /etc/app/tok /conf; cat /run/secrets/t/tok /conf"
    )
    assert shown == f"400 1000 50\n444 0 0\n444 0 0\n{MARKER}-{client}x=1"
    assert "Read-only" in inside(cluster, task, "(echo x > /run/secrets/t/tok) 2>&1")
    assert len(folders(cluster, "h2")) == 1
    assert folders(cluster, "h1") == folders(cluster, "h3") == []

    cluster.lab.sh("h1", client, "service", "update", "-d", "--force", "web")
    wait_until(lambda: cluster.running("web") and cluster.running("web")[0].id != task.id, 30, "a new task")
    wait_until(lambda: len(folders(cluster, "h2")) == 1, 20, "the first task's files to go")
    said = "".join(
        cluster.lab.sh("h1", client, *line.split()).stdout
        for line in ("secret inspect tok", "secret ls", "service inspect web", "service ps --no-trunc web")
    )
    said += json.dumps([cluster.get(path) for path in ("/secrets", "/services", "/tasks", "/info")])
    said += json.dumps(cluster.containers("h2"))
    assert MARKER not in said
    where = on_disk(cluster, f"{MARKER}-{client}")
    assert where, "the search finds what there is"
    assert all(path.startswith("h1/pyswarm/manager/") for path in where), where

    cluster.lab.sh("h1", client, "service", "rm", "web")
    wait_until(lambda: not folders(cluster, "h2"), 30, "its files to go")
    where = on_disk(cluster, f"{MARKER}-{client}")
    assert all(path.startswith("h1/pyswarm/manager/") for path in where), where


def test_what_is_in_use_is_kept_and_rotated(cluster: Cluster) -> None:
    lab = cluster.lab
    piped(cluster, "pyswarm", "secret", "old", "one")
    piped(cluster, "docker", "secret", "new", "two")
    piped(cluster, "pyswarm", "config", "conf", "x")
    create(cluster, "pyswarm", "--name", "web", "--secret", "source=old,target=pw", "--config", "conf")
    create(cluster, "docker", "--name", "api", "--secret", "old")
    (before,) = cluster.wait_running("web", 1)
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
        tasks = cluster.running("web")
        return tasks if len(tasks) == 1 and tasks[0].id != before.id else []

    (after,) = wait_until(rotated, 30, "the task with the new secret")
    assert inside(cluster, after, "ls /run/secrets; cat /run/secrets/pw; echo; cat /conf") == "pw\ntwo\nx"
    lab.sh("h1", "pyswarm", "secret", "rm", "old")
    done = lab.sh("h1", "pyswarm", "service", "update", "-d", "--rollback", "web", check=False)
    assert (done.returncode, "secret not found: old" in done.stderr) == (1, True)
    assert inside(cluster, after, "cat /run/secrets/pw") == "two"


def test_files_outlive_daemon_and_engine_and_come_again_with_the_next_task(cluster: Cluster) -> None:
    lab = cluster.lab
    piped(cluster, "pyswarm", "secret", "tok", MARKER)
    only_on(cluster, "h2")
    create(cluster, "pyswarm", "--name", "web", "--secret", "tok", "--restart-delay", "1s")
    (first,) = cluster.wait_running("web", 1)
    started = cluster.started_at("h2")

    lab.kill("h2", "daemon")
    assert inside(cluster, first, "cat /run/secrets/tok") == MARKER
    lab.start("h2", "daemon")
    lab.kill("h2", "engine")
    lab.start("h2", "engine")
    wait_until(lambda: cluster.node_state("h2") == "ready", 20, "h2 is ready")
    wait_until(lambda: [t.id for t in cluster.running("web")] == [first.id], 20, "the same task")
    assert inside(cluster, first, "cat /run/secrets/tok") == MARKER
    assert cluster.started_at("h2") == started
    (kept,) = folders(cluster, "h2")
    assert kept.endswith(first.id)

    # Nobody is there to clean up after this one, and its task's secret must come back with the full set.
    lab.kill("h2", "daemon")
    lab.docker("h2", "kill", first.container)
    lab.kill("h1", "manager")
    lab.start("h2", "daemon")

    def replaced() -> list[RunningTask]:
        try:
            tasks = cluster.running("web")
        except (AssertionError, OSError):
            return []
        return tasks if len(tasks) == 1 and tasks[0].id != first.id else []

    (second,) = wait_until(replaced, 60, "a new task in its place")
    assert inside(cluster, second, "cat /run/secrets/tok") == MARKER
    wait_until(lambda: len(folders(cluster, "h2")) == 1, 30, "the files of the first to go")
    assert folders(cluster, "h2")[0].endswith(second.id)
    # A folder that an earlier daemon left is nobody's.
    lab.kill("h2", "daemon")
    left = Path(kept).parent / "left"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "left", str(left)], check=True)
    lab.start("h2", "daemon")
    wait_until(lambda: not left.exists(), 40, "what was left over to go")
    assert inside(cluster, second, "cat /run/secrets/tok") == MARKER
    assert all(path.startswith("h1/pyswarm/manager/") for path in on_disk(cluster, MARKER))


def test_payloads_of_all_sizes(cluster: Cluster, tmp_path: Path) -> None:
    lab = cluster.lab
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
    assert len(cluster.get("/secrets")) == len(cluster.get("/configs")) == 2
    options = [f"--{kind}=source=large-{client},target=/large-{kind}-{client}" for kind, client in digests]
    create(cluster, "pyswarm", "--name", "web", *options)
    (task,) = cluster.wait_running("web", 1)
    for (kind, client), digest in digests.items():
        assert inside(cluster, task, f"sha256sum < /large-{kind}-{client}").split()[0] == digest
    shown = json.loads(lab.sh("h1", "docker", "config", "inspect", "large-docker").stdout)[0]
    assert len(shown["Spec"]["Data"]) == 4 * 341_333


def test_a_host_that_leaves_keeps_nothing(cluster: Cluster) -> None:
    lab = cluster.lab
    piped(cluster, "pyswarm", "secret", "tok", MARKER)
    only_on(cluster, "h3")
    create(cluster, "pyswarm", "--name", "web", "--secret", "tok")
    cluster.wait_running("web", 1)
    assert len(folders(cluster, "h3")) == 1
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "worker").stdout.strip()
    try:
        lab.sh("h3", "pyswarm", "swarm", "leave")
        assert folders(cluster, "h3") == []
        assert not [path for path in on_disk(cluster, MARKER) if path.startswith("h3/")]
    finally:
        lab.sh("h1", "pyswarm", "node", "rm", "--force", "h3")
        lab.sh("h3", "pyswarm", "swarm", "join", "--token", token, f"{lab.ip('h1')}:2377")


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


def test_wrong_input_gets_one_clear_line_from_both_clients(cluster: Cluster) -> None:
    piped(cluster, "pyswarm", "secret", "tok", MARKER)
    piped(cluster, "pyswarm", "config", "conf", "x")

    def contents() -> list[object]:
        return [cluster.get(f"/{kind}") for kind in ("services", "secrets", "configs")]

    before = contents()
    for command, says in BAD:
        for client in ("pyswarm", "docker"):
            line = command.replace("service create", "service create -d --no-resolve-image")
            done = cluster.lab.sh("h1", "sh", "-c", f"{client} {line}", check=False)
            assert (done.returncode, says in done.stderr) == (1, True), (client, command, done.stderr)
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert contents() == before
