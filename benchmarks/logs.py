"""Log lines per second through the cluster, over the engines' own in the same run."""

import statistics
import subprocess
import time
from typing import Any

import clients
from support.cluster import Cluster, RunningTask

LINES = 50_000
#: Lines of about a hundred characters, then a last one, in a way that costs the container little.
TALKER = (
    f"trap 'exit 0' TERM; yes 'the quick brown fox jumps over the lazy dog, and then it does it all over again, "
    f"and again' | head -n {LINES}; echo the end; while :; do sleep 60 & wait $!; done"
)


def bench_logs(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """A task on each host has said its lines; all are read at once: from the engines, and as a service's."""
    count = len(cluster.hosts)
    spec = {
        "Name": "talk",
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", "Args": ["sh", "-c", TALKER]}},
        "Mode": {"Replicated": {"Replicas": count}},
    }
    cluster.request("POST", "/services/create", spec)
    tasks = cluster.wait_running("talk", count)
    for task in tasks:
        while "the end" not in cluster.lab.docker(task.node, "logs", "--tail", "1", task.container).stdout:
            time.sleep(0.2)
    total = count * (LINES + 1)
    engines, ours, stock = [], [], []
    for _ in range(repeat):
        engines.append(_directly(cluster, tasks, total))
        ours.append(_through(cluster, "pyswarm", total))
        stock.append(_through(cluster, "docker", total))
    cluster.request("DELETE", "/services/talk")
    floor = statistics.median(engines)
    return {
        "lines": total,
        "engines_lines_per_s": round(total / floor),
        "pyswarm_lines_per_s": round(total / statistics.median(ours)),
        "docker_client_lines_per_s": round(total / statistics.median(stock)),
        "ratio": round(statistics.median(stock) / floor, 2),
    }


def _directly(cluster: Cluster, tasks: list[RunningTask], total: int) -> float:
    """Seconds for ``docker logs`` of every container, all at once."""
    commands = [
        ["docker", "-H", f"unix://{cluster.lab.engine(task.node)}", "logs", task.container] for task in tasks
    ]
    return _timed(commands, total, "")


def _through(cluster: Cluster, program: str, total: int) -> float:
    """Seconds for ``service logs``, at a manager that does not lead."""
    leader = cluster.leader()
    host = f"unix://{cluster.lab.socket(next(h for h in cluster.managers if h != leader))}"
    return _timed([[program, "service", "logs", "talk"]], total, host)


def _timed(commands: list[list[str]], total: int, host: str) -> float:
    started = time.monotonic()
    running = [
        subprocess.Popen(
            ["sh", "-c", '"$@" | wc -l', "sh", *command],
            stdout=subprocess.PIPE,
            text=True,
            env=clients.environment(host),
        )
        for command in commands
    ]
    counted = sum(int(process.communicate()[0]) for process in running)
    took_s = time.monotonic() - started
    if counted != total:
        raise SystemExit(f"{commands[0]}: {counted} lines of {total}")
    return took_s
