"""A pyswarm cluster on a lab, as tests and benchmarks drive it."""

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from lab import api

from support.env import require_binary, require_root, wait_until
from support.lab import Lab


@dataclass(frozen=True)
class RunningTask:
    """A task as Docker's API shows it."""

    id: str
    name: str
    node: str
    state: str
    desired: str
    addr: str
    container: str
    err: str


class Cluster:
    """The first ``managers`` hosts are managers, the others workers. All questions go to ``ask``, h1 at first."""

    def __init__(self, lab: Lab, hosts: int, managers: int) -> None:
        self.lab = lab
        self.hosts = [f"h{i}" for i in range(1, hosts + 1)]
        self.managers = self.hosts[:managers]
        self.ask = "h1"

    @classmethod
    @contextmanager
    def on_a_new_lab(cls, prefix: str, hosts: int, managers: int) -> Iterator[Self]:
        """A lab of its own, formed; it is taken down afterwards."""
        require_root()
        require_binary("docker", "dockerd", "etcd", "nft")
        with Lab(prefix) as lab:
            lab.down()
            lab.up(hosts)
            cluster = cls(lab, hosts, managers)
            cluster.form()
            yield cluster

    def form(self) -> None:
        """``swarm init`` on h1, ``swarm join`` on the others."""
        lab = self.lab
        lab.sh("h1", "pyswarm", "swarm", "init", "--advertise-addr", lab.ip("h1"))
        for host in self.hosts[1:]:
            role = "manager" if host in self.managers else "worker"
            token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", role).stdout.strip()
            lab.sh(host, "pyswarm", "swarm", "join", "--token", token, f"{lab.ip('h1')}:2377")
        wait_until(
            lambda: [n["Status"]["State"] for n in self.nodes()] == ["ready"] * len(self.hosts),
            30,
            "every node is ready",
        )

    def get(self, path: str, host: str = "") -> Any:
        """GET on a host's socket; raises AssertionError for anything but 200."""
        status, answer = api.request(self.lab.socket(host or self.ask), "GET", path)
        assert status == http.client.OK, f"GET {path}: {status} {answer}"
        return answer

    def request(self, method: str, path: str, body: object = None, host: str = "") -> tuple[int, Any]:
        """Any request on a host's socket."""
        return api.request(self.lab.socket(host or self.ask), method, path, body)

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes."""
        return list(self.get("/nodes"))

    def node_state(self, host: str) -> str:
        """``ready``, ``down``, ... of one host."""
        return next(str(n["Status"]["State"]) for n in self.nodes() if n["Description"]["Hostname"] == host)

    def leader(self) -> str:
        """The host whose manager leads, empty while none does."""
        try:
            for node in self.nodes():
                if node.get("ManagerStatus", {}).get("Leader"):
                    return str(node["Description"]["Hostname"])
        except (AssertionError, OSError):
            pass
        return ""

    def tasks(self, service: str, **filters: str) -> list[RunningTask]:
        """The tasks of a service, all unless filtered."""
        wanted = {"service": [service], **{k.replace("_", "-"): [v] for k, v in filters.items()}}
        hosts = {n["ID"]: n["Description"]["Hostname"] for n in self.nodes()}
        return [
            RunningTask(
                id=t["ID"],
                name=f"{service}.{t.get('Slot', 0)}",
                node=hosts.get(t.get("NodeID", ""), ""),
                state=t["Status"]["State"],
                desired=t["DesiredState"],
                addr=_address(t),
                container=t["Status"].get("ContainerStatus", {}).get("ContainerID", ""),
                err=t["Status"].get("Err", ""),
            )
            for t in self.get(f"/tasks?filters={urllib.parse.quote(json.dumps(wanted))}")
        ]

    def running(self, service: str) -> list[RunningTask]:
        """The tasks that should run and do."""
        return [t for t in self.tasks(service, desired_state="running") if t.state == "running"]

    def wait_running(self, service: str, count: int, timeout_s: float = 60) -> list[RunningTask]:
        """Wait until exactly ``count`` tasks should run and do."""

        def settled() -> list[RunningTask]:
            tasks = self.tasks(service, desired_state="running")
            return tasks if len(tasks) == count and all(t.state == "running" for t in tasks) else []

        if count == 0:
            wait_until(
                lambda: not self.tasks(service, desired_state="running"), timeout_s, f"no task of {service}"
            )
            return []
        return wait_until(settled, timeout_s, f"{count} running tasks of {service}")

    def fetch(self, host: str, container: str, addr: str, timeout_s: int = 3) -> str:
        """HTTP from inside a container, through the overlay; empty when it fails."""
        done = self.lab.docker(
            host, "exec", container, "timeout", str(timeout_s), "wget", "-q", "-O-", f"http://{addr}/", check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def containers(self, host: str) -> dict[str, dict[str, Any]]:
        """The task containers an engine holds, running or not, by id."""
        ids = self.lab.docker(
            host, "ps", "-aq", "--no-trunc", "-f", "label=com.docker.swarm.task.id"
        ).stdout.split()
        if not ids:
            return {}
        found = self.lab.docker(host, "inspect", *ids, check=False).stdout
        return {c["Id"]: c for c in json.loads(found)}

    def starts_of(self, service: str) -> dict[str, str]:
        """When each container of a service was started. Those of others may still be stopping."""
        starts = {c: at for host in self.hosts for c, at in self.started_at(host).items()}
        return {task.container: starts[task.container] for task in self.running(service)}

    def started_at(self, host: str) -> dict[str, str]:
        """When each running task container was started: unchanged means that nothing restarted it."""
        return {i: c["State"]["StartedAt"] for i, c in self.containers(host).items() if c["State"]["Running"]}


def _address(task: dict[str, Any]) -> str:
    attachments = task.get("NetworksAttachments") or []
    return attachments[0]["Addresses"][0].partition("/")[0] if attachments else ""
