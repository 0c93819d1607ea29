"""What a short command costs: the pyswarm command beside the stock client, on the same socket."""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.cluster import Cluster

SERVICES = 20


def environment(host: str) -> dict[str, str]:
    """For a client of ``host``, without settings of the person who runs this."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "PYSWARM_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**variables, "PATH": path, "DOCKER_HOST": host, "PYSWARM_HOST": host, "DOCKER_CONFIG": "/nonexistent"}


def bench_clients(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """Wall and processor time of ``service ls`` with some services there, of both clients in turn."""
    for number in range(SERVICES):
        spec = {
            "Name": f"listed{number}",
            "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        cluster.request("POST", "/services/create", spec)
    variables = environment(f"unix://{cluster.lab.socket(cluster.ask)}")
    took: dict[str, list[float]] = {"pyswarm": [], "docker": []}
    cpu: dict[str, list[float]] = {"pyswarm": [], "docker": []}
    for _ in range(10 * repeat):
        for program, samples in took.items():
            started, spent = time.monotonic(), _children_cpu_s()
            done = subprocess.run(
                [program, "service", "ls"], capture_output=True, text=True, check=True, env=variables
            )
            samples.append(time.monotonic() - started)
            cpu[program].append(_children_cpu_s() - spent)
            if done.stdout.count("listed") != SERVICES:
                raise SystemExit(f"{program} service ls: {done.stdout}")
    for number in range(SERVICES):
        cluster.request("DELETE", f"/services/listed{number}")
    medians = {program: statistics.median(samples) for program, samples in took.items()}
    return {
        "pyswarm_ms": round(1000 * medians["pyswarm"]),
        "docker_ms": round(1000 * medians["docker"]),
        "ratio": round(medians["pyswarm"] / medians["docker"], 2),
        "pyswarm_cpu_ms": round(1000 * statistics.median(cpu["pyswarm"])),
        "docker_cpu_ms": round(1000 * statistics.median(cpu["docker"])),
    }


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
