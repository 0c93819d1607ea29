"""Whole managers on a lab of three hosts: ``config create`` through the API, and what the processes cost idle."""

import asyncio
from pathlib import Path
from typing import Any

from support.cluster import Cluster
from support.env import wait_until
from support.lab import Lab

from storebench.child import Child, in_turn
from storebench.figures import cpu_s, log, medians, rss_mib

SECONDS = 5.0
IDLE_S = 30.0
SETTLE_S = 5.0
#: What Docker's own swarm mode did, and the multiples of it that are aimed at.
DOCKER = {1: {"ops_per_s": 225, "aim": 450}, 32: {"ops_per_s": 250, "p99_ms": 226, "aim": 2000}}


def _run_dir(cluster: Cluster, host: str) -> Path:
    return Path(cluster.lab.socket(host)).parent


def _processes(cluster: Cluster, host: str) -> dict[str, int]:
    run = _run_dir(cluster, host)
    found = ((name, run / f"{name}.pid") for name in ("pyswarmd", "gateway", "manager", "etcd"))
    return {name: int(path.read_text()) for name, path in found if path.exists()}


async def bench_managers(repeat: int) -> dict[str, Any]:
    """(d) and (f): the lab is made and removed here."""
    with Lab("store") as lab:
        await asyncio.to_thread(lab.down)
        await asyncio.to_thread(lab.up, 3)
        cluster = Cluster(lab, hosts=3, managers=3)
        await asyncio.to_thread(cluster.form)
        # The members of etcd come last.
        await asyncio.to_thread(
            wait_until, lambda: all("etcd" in _processes(cluster, host) for host in cluster.hosts), 60, "etcd"
        )
        await asyncio.sleep(SETTLE_S)
        return {"idle": await _idle(cluster), "config_create": await _configs(cluster, repeat)}


async def _idle(cluster: Cluster) -> dict[str, Any]:
    leader = await asyncio.to_thread(cluster.leader)
    result: dict[str, Any] = {"aim_percent_of_a_manager": 1.0}
    before = {h: {n: cpu_s(p) for n, p in _processes(cluster, h).items()} for h in cluster.hosts}
    await asyncio.sleep(IDLE_S)
    for host in cluster.hosts:
        role = "leader" if host == leader else f"follower_{host}"
        result[role] = {
            name: {
                "idle_cpu_percent": round(100 * (cpu_s(pid) - before[host][name]) / IDLE_S, 2),
                "rss_mib": rss_mib(pid),
            }
            for name, pid in _processes(cluster, host).items()
        }
    log(f"idle: {result}")
    return result


async def _configs(cluster: Cluster, repeat: int) -> dict[str, Any]:
    host = await asyncio.to_thread(cluster.leader)
    netns = await asyncio.to_thread(cluster.lab.netns, host)
    addr = await asyncio.to_thread(cluster.lab.ip, host)
    certs = next(iter(Path(cluster.lab.datadir).glob(f"**/{host}/**/certs/node.crt"))).parent
    http = Child("http", await asyncio.to_thread(cluster.lab.socket, host))
    control = Child("client", str(certs), netns=netns)
    result: dict[str, Any] = {"docker_swarm": DOCKER}
    try:
        await http.start()
        await control.start()
        for outstanding in DOCKER:
            ways = {
                "docker_api": (http, {}),
                "control_rpc": (control, {"addr": f"{addr}:2377", "through": "control"}),
            }
            what = f"config create, {outstanding} clients"
            rounds = await in_turn(ways, repeat, outstanding, SECONDS, what)
            result[f"clients_{outstanding}"] = {way: medians(figures) for way, figures in rounds.items()}
    finally:
        await http.kill()
        await control.kill()
    return result
