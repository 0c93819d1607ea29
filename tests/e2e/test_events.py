"""What happens to the cluster, as ``pyswarm events`` and ``docker events`` show it on every manager."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster
from support.env import wait_until
from support.lab import LAB

pytestmark = pytest.mark.e2e

SLEEPER = ("busybox:latest", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done")


class Watcher:
    """A client that watches, its output in a file."""

    def __init__(self, cluster: Cluster, folder: Path, host: str, program: str, *options: str) -> None:
        self._path = folder / f"{program}-{host}"
        self._out = self._path.open("w")
        command = (program, "events", "--format", "{{json .}}", *options)
        self.process = subprocess.Popen(
            [str(LAB), "--name", cluster.lab.prefix, "exec", host, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """Everything so far."""
        return [json.loads(line) for line in self._path.read_text().split("\n")[:-1] if line]

    @property
    def told(self) -> list[str]:
        """The cluster's, in short."""
        return [short(event) for event in self.events if event["scope"] == "swarm"]

    def end(self) -> None:
        """Stop watching."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._out.close()


def short(event: dict[str, Any]) -> str:
    attributes = event["Actor"]["Attributes"]
    extra = " ".join(f"{k}={v}" for k, v in sorted(attributes.items()) if k != "name")
    return f"{event['Type']} {event['Action']} {attributes['name']} {extra}".strip()


@contextmanager
def watching(cluster: Cluster, folder: Path, *options: str) -> Iterator[list[Watcher]]:
    """``pyswarm`` and ``docker`` watch on two managers; a first event shows that both do."""
    watchers = [
        Watcher(cluster, folder, cluster.managers[1], "pyswarm", *options),
        Watcher(cluster, folder, cluster.managers[2], "docker", *options),
    ]
    try:
        number = 0
        while not all(watcher.events for watcher in watchers):
            number += 1
            name = f"probe{number}-{time.monotonic_ns()}"
            cluster.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", name)
            cluster.lab.sh("h1", "pyswarm", "network", "rm", name)
        yield watchers
    finally:
        for watcher in watchers:
            watcher.end()


def wait_told(watchers: list[Watcher], *expected: str) -> None:
    for watcher in watchers:
        for text in expected:
            wait_until(lambda w=watcher, t=text: t in w.told, 30, f"{watcher.process.args}: {text}")  # type: ignore[misc]


def test_what_happens_is_told_by_every_manager(cluster: Cluster, tmp_path: Path) -> None:
    sh = cluster.lab.sh
    with watching(cluster, tmp_path) as watchers:
        sh("h1", "pyswarm", "network", "create", "-d", "overlay", "watched")
        create = ("service", "create", "-d", "--name", "web", "--replicas", "2", "--network", "watched")
        sh("h1", "pyswarm", *create, *SLEEPER)
        cluster.wait_running("web", 2)
        sh("h1", "pyswarm", "service", "scale", "-d", "web=3")
        cluster.wait_running("web", 3)
        sh("h1", "docker", "node", "update", "--availability", "pause", "h4")
        sh("h1", "docker", "node", "update", "--availability", "active", "h4")
        for kind in ("secret", "config"):
            file = tmp_path / "payload"
            file.write_text("hush")
            sh("h1", "pyswarm", kind, "create", "item", str(file))
            sh("h1", "pyswarm", kind, "rm", "item")
        sh("h1", "pyswarm", "service", "rm", "web")
        sh("h1", "pyswarm", "network", "rm", "watched")
        wait_told(watchers, "network remove watched")
        for watcher in watchers:
            told = [text for text in watcher.told if "probe" not in text]
            assert told == [
                "network create watched",
                "service create web",
                "service update web replicas.new=3 replicas.old=2",
                "node update h4 availability.new=pause availability.old=active",
                "node update h4 availability.new=active availability.old=pause",
                "secret create item",
                "secret remove item",
                "config create item",
                "config remove item",
                "service remove web",
                "network remove watched",
            ]
            assert "hush" not in json.dumps(watcher.events)
            service = next(e for e in watcher.events if short(e) == "service create web")
            assert abs(service["time"] - time.time()) < 300
            assert service["timeNano"] // 10**9 == service["time"]


def test_a_rolling_update_is_told_in_a_few_words(cluster: Cluster, tmp_path: Path) -> None:
    cluster.lab.sh("h1", "pyswarm", "service", "create", "-d", "--name", "web", "--replicas", "6", *SLEEPER)
    cluster.wait_running("web", 6)
    with watching(cluster, tmp_path, "--filter", "type=service", "--filter", "type=network") as watchers:
        cluster.lab.sh("h1", "pyswarm", "service", "update", "--env-add", "A=1", "--update-monitor", "1s", "web")
        wait_told(watchers, "service update web updatestate.new=completed updatestate.old=updating")
        for watcher in watchers:
            told = [text for text in watcher.told if text.startswith("service")]
            assert len(told) <= 4
            assert told[0] == "service update web"
            assert any(text.endswith("updatestate.new=updating") for text in told)


def test_the_engines_own_events_stand_beside_them(cluster: Cluster, tmp_path: Path) -> None:
    with watching(cluster, tmp_path) as watchers:
        host = cluster.managers[1]
        cluster.lab.sh(host, "docker", "volume", "create", "here")
        wait_until(
            lambda: [e["Actor"]["ID"] for e in watchers[0].events if e["Type"] == "volume"] == ["here"],
            20,
            "the volume, on its host",
        )
        cluster.lab.sh(host, "docker", "volume", "rm", "here")
        assert [e for e in watchers[1].events if e["Type"] == "volume"] == []
        # The cluster's go on while the engine is away.
        cluster.lab.kill(host, "engine")
        cluster.lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "meanwhile")
        wait_told(watchers, "network create meanwhile")
        cluster.lab.start(host, "engine")
        cluster.lab.sh("h1", "pyswarm", "network", "rm", "meanwhile")
        cluster.lab.sh(host, "docker", "volume", "create", "again")
        wait_until(
            lambda: [e for e in watchers[0].events if e["Actor"]["ID"] == "again"], 20, "the engine's are back"
        )
        cluster.lab.sh(host, "docker", "volume", "rm", "again")


def test_nodes_and_leaders(cluster: Cluster, tmp_path: Path) -> None:
    # Watched where the manager stays alive.
    leader = cluster.leader()
    host = next(h for h in cluster.managers if h != leader)
    watcher = Watcher(cluster, tmp_path, host, "pyswarm", "--filter", "type=node")

    def wait_node(node: str, change: str) -> None:
        wait_until(
            lambda: [t for t in watcher.told if t.startswith(f"node update {node}") and change in t], 60, change
        )

    try:
        cluster.lab.kill("h4", "daemon")
        wait_node("h4", "state.new=down")
        cluster.lab.start("h4", "daemon")
        wait_node("h4", "state.new=ready state.old=down")
        cluster.lab.kill(leader, "manager")
        wait_node(leader, "leader.new=false leader.old=true")
        wait_node("", "leader.new=true leader.old=false")
    finally:
        watcher.end()


def test_what_was_is_remembered_and_a_worker_shows_its_engine(cluster: Cluster) -> None:
    began = f"{time.time():.3f}"
    cluster.lab.sh("h1", "pyswarm", "service", "create", "-d", "--name", "web", *SLEEPER)
    cluster.wait_running("web", 1)
    for program in ("pyswarm", "docker"):
        span = (program, "events", "--since", began, "--until", f"{time.time() + 0.5:.3f}")
        lines = cluster.lab.sh(
            "h2", *span, "--filter", "service=web", "--filter", "scope=swarm"
        ).stdout.splitlines()
        assert len(lines) == 1
        assert lines[0].split(" ", 1)[1].startswith("service create ")
        assert lines[0].endswith("(name=web)")
    on_worker = cluster.lab.sh("h4", "docker", "events", "--since", began, "--until", f"{time.time():.3f}")
    assert "service create" not in on_worker.stdout
