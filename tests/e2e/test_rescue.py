"""Managers promoted and demoted, a quorum that is lost, and the swarm that one manager makes of what is left."""

import time
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.env import wait_until

pytestmark = pytest.mark.e2e

NO_LEADER = "The swarm does not have a leader."


@pytest.fixture(scope="module")
def four() -> Iterator[Cluster]:
    """h1, h2, h3 are managers, h4 is a worker; a service runs on all of them. The tests go on from one another."""
    with Cluster.on_a_new_lab("e2ers", hosts=4, managers=3) as cluster:
        lab = cluster.lab
        lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "net")
        server = ("busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www")
        create = ("pyswarm", "service", "create", "-d", "--name", "web", "--replicas", "4", "--network", "net")
        lab.sh("h1", *create, "--stop-grace-period", "1s", *server)
        cluster.wait_running("web", 4)
        yield cluster


def managers(cluster: Cluster) -> dict[str, str]:
    """Hosts that show as managers, with their reachability."""
    shown = {n["Description"]["Hostname"]: n["ManagerStatus"] for n in cluster.nodes() if "ManagerStatus" in n}
    return {host: "leader" if status.get("Leader") else status["Reachability"] for host, status in shown.items()}


def said(cluster: Cluster, host: str, *argv: str) -> str:
    """The one line with which a command is refused."""
    done = cluster.lab.sh(host, *argv, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.strip()
    assert "\n" not in line
    return line


def controls(cluster: Cluster, host: str) -> bool:
    """Whether that host is a manager in its own eyes."""
    return bool(cluster.get("/info", host=host)["Swarm"]["ControlAvailable"])


def error_of(cluster: Cluster, host: str) -> str:
    """What the daemon says is wrong."""
    return str(cluster.get("/info", host=host)["Swarm"]["Error"])


def works(cluster: Cluster, host: str, name: str) -> bool:
    """Whether a change through that host is stored."""
    return cluster.lab.sh(host, "pyswarm", "config", "create", name, "/etc/hostname", check=False).returncode == 0


def test_the_leader_demoted_hands_over_and_runs_on_as_a_worker(four: Cluster) -> None:
    before = four.starts_of("web")
    assert managers(four) == {"h1": "leader", "h2": "reachable", "h3": "reachable"}
    done = four.lab.sh("h1", "pyswarm", "node", "demote", "h1")
    assert done.stdout == "Manager h1 demoted in the swarm.\n"
    four.ask = "h2"
    assert set(managers(four)) == {"h2", "h3"}
    wait_until(lambda: not controls(four, "h1"), 15, "h1 is a worker")
    assert "worker nodes can't" in said(four, "h1", "pyswarm", "node", "ls").lower()
    wait_until(lambda: four.node_state("h1") == "ready", 15, "h1 is ready")
    # Nothing of the manager is left that could vote, or be taken up by a later promotion.
    assert not (four.lab.datadir / "h1" / "pyswarm" / "manager" / "raft").exists()
    assert four.starts_of("web") == before


def test_nodes_are_promoted_with_the_stock_client_and_then_decide(four: Cluster) -> None:
    kept = {host: four.started_at(host) for host in ("h1", "h3", "h4")}
    four.ask = "h2"
    four.lab.sh("h2", "docker", "node", "promote", "h1", "h4")
    wait_until(lambda: set(managers(four)) == {"h1", "h2", "h3", "h4"}, 20, "four managers")
    wait_until(lambda: works(four, "h4", "by-h4"), 15, "a change through the new manager")
    # Four managers decide with three: one may be lost, and be h2.
    four.lab.kill("h2", "daemon", "KILL")
    wait_until(lambda: works(four, "h1", "without-h2"), 20, "a change without h2")
    four.ask = "h1"
    wait_until(lambda: managers(four)["h2"] == "unreachable", 15, "h2 shows as unreachable")
    done = four.lab.sh("h1", "docker", "node", "demote", "h4")
    assert done.stdout == "Manager h4 demoted in the swarm.\n"
    # Of three with h2 away, neither of the others can be spared.
    for host in ("h1", "h3"):
        # The stock client reads, then writes: a node that changes in between is out of sequence.
        demote = ("docker", "node", "demote", host)
        wait_until(lambda argv=demote: "loss of quorum" in said(four, "h1", *argv), 10, f"{host} is kept")  # type: ignore[misc]
    four.lab.start("h2", "daemon")
    wait_until(lambda: managers(four)["h2"] != "unreachable", 20, "h2 is back")
    assert set(managers(four)) == {"h1", "h2", "h3"}
    four.wait_running("web", 4)
    for host, before in kept.items():
        after = four.started_at(host)
        assert {c: after.get(c) for c in before} == before, f"a container on {host} was restarted"


def test_a_manager_neither_leaves_nor_is_removed_by_mistake(four: Cluster) -> None:
    four.ask = "h1"
    refused = said(four, "h1", "docker", "node", "rm", "--force", "h2")
    assert "It must be demoted to worker before removal" in refused
    refused = said(four, "h2", "docker", "swarm", "leave")
    assert "You are attempting to leave the swarm on a node that is participating as a manager." in refused
    assert "Use `--force` to suppress this message." in refused
    assert set(managers(four)) == {"h1", "h2", "h3"}


def test_a_lost_quorum_is_told_in_one_line_and_lists_may_be_stale(four: Cluster) -> None:
    lab = four.lab
    for host in ("h2", "h3"):
        lab.kill(host, "daemon", "KILL")
    wait_until(lambda: not four.leader(), 15, "no leader")
    for command in (("pyswarm", "network", "create", "-d", "overlay", "lost"), ("docker", "node", "ls")):
        began = time.monotonic()
        line = said(four, "h1", *command)
        assert time.monotonic() - began < 10
        assert f"h2 at {lab.ip('h2')}:2377" in line
        assert f"h3 at {lab.ip('h3')}:2377" in line
        assert "no leader: 1 of 3 managers reachable (missing: " in line
        assert NO_LEADER in line
    assert said(four, "h1", "pyswarm", "service", "ls").endswith("add --stale.")
    stale = lab.sh("h1", "pyswarm", "service", "ls", "--stale", "--format", "{{.Name}}")
    assert (stale.stdout, "may be stale" in stale.stderr) == ("web\n", True)
    assert "h4" in lab.sh("h1", "pyswarm", "node", "ls", "--stale").stdout
    info = lab.sh("h1", "pyswarm", "info").stdout
    assert "no leader: 1 of 3 managers reachable" in info


def test_one_manager_makes_a_new_swarm_of_what_is_left(four: Cluster) -> None:
    lab = four.lab
    four.ask = "h1"
    on_h1, on_h4 = four.started_at("h1"), four.started_at("h4")
    assert on_h1
    assert on_h4
    configs = {c["Spec"]["Name"] for c in four.get("/configs?stale=1")}
    done = lab.sh("h1", "pyswarm", "swarm", "init", "--force-new-cluster")
    assert "is now a manager" in done.stdout
    assert managers(four) == {"h1": "leader"}
    assert {c["Spec"]["Name"] for c in four.get("/configs")} == configs
    assert works(four, "h1", "rescued")
    wait_until(lambda: four.node_state("h4") == "ready", 15, "the worker is with the new swarm")
    assert {i: at for i, at in four.started_at("h1").items() if i in on_h1} == on_h1
    assert {i: at for i, at in four.started_at("h4").items() if i in on_h4} == on_h4
    # Those of the lost hosts are replaced, with addresses in a data plane that etcd, founded anew, carries.
    wait_until(lambda: {t.node for t in four.wait_running("web", 4)} == {"h1", "h4"}, 60, "tasks are replaced")
    tasks = four.running("web")
    client = next(t for t in tasks if t.node == "h4")
    for task in tasks:
        wait_until(lambda t=task: four.fetch("h4", client.container, t.addr), 30, f"h4 reaches {task.name}")  # type: ignore[misc]


def test_managers_that_come_back_with_old_data_do_not_form_the_old_swarm(four: Cluster) -> None:
    lab = four.lab
    wait_until(lambda: four.node_state("h3") == "down", 20, "h3 is given up")
    lab.sh("h1", "docker", "node", "rm", "h3")
    for host in ("h2", "h3"):
        lab.start(host, "daemon")
    # They are a majority of the old swarm. The new one takes h2 as the worker that it is in its eyes.
    wait_until(lambda: four.node_state("h2") == "ready", 30, "h2 is ready")
    wait_until(lambda: not controls(four, "h2"), 20, "h2 is a worker")
    # h3 is nothing in its eyes, and is told what to do.
    wait_until(lambda: "left behind" in error_of(four, "h3"), 20, "h3 says that it was left behind")
    assert "run 'pyswarm swarm leave --force' on this node, then join again" in error_of(four, "h3")
    assert "left behind" in said(four, "h3", "docker", "node", "ls")
    for host in ("h2", "h3"):
        log = (lab.datadir / host / "pyswarmd.log").read_text()
        assert "became leader" not in log.rpartition('"daemon started"')[2]
    assert managers(four) == {"h1": "leader"}


def test_the_new_swarm_takes_managers_again(four: Cluster) -> None:
    lab = four.lab
    lab.sh("h3", "pyswarm", "swarm", "leave", "--force")
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "manager").stdout.strip()
    lab.sh("h3", "pyswarm", "swarm", "join", "--token", token, f"{lab.ip('h1')}:2377")
    lab.sh("h1", "docker", "node", "promote", "h2")
    wait_until(lambda: managers(four) == {"h1": "leader", "h2": "reachable", "h3": "reachable"}, 30, "promoted")
    lab.kill("h1", "daemon", "KILL")
    four.ask = "h2"
    wait_until(lambda: works(four, "h2", "again"), 20, "any two of three decide again")
