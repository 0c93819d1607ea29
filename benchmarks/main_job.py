"""Figures of the main job, each over a floor measured in the same run; prints one JSON document.

Timings on shared machines are noisy: what is compared are ratios within a run, and medians of repetitions.
"""

import argparse
import concurrent.futures
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "deploy"), str(ROOT / "benchmarks")]

import clients  # noqa: E402 - the folders above are not packages
import logs  # noqa: E402
import mesh  # noqa: E402
import names  # noqa: E402 - the folders above are not packages
import traffic  # noqa: E402
from lab import api  # noqa: E402
from support.cluster import Cluster  # noqa: E402
from support.lab import Lab  # noqa: E402

#: Traps TERM, so that stopping a task does not take the whole grace period.
SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")
REPLICAS = 30
NETWORK = "bench"


def log(text: str) -> None:
    """Progress, beside the JSON."""
    print(text, file=sys.stderr, flush=True)


def median(samples: list[float], digits: int = 3) -> float:
    """The median, rounded for reading."""
    return round(statistics.median(samples), digits)


def timed(work: Callable[[], object]) -> float:
    """Seconds ``work`` took."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def service_create(cluster: Cluster, name: str) -> float:
    """Seconds from the request to all tasks RUNNING, as the API shows it."""

    def create() -> None:
        spec = {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {"Image": "busybox:latest", "Args": list(SLEEPER)},
                "Networks": [{"Target": NETWORK}],
            },
            "Mode": {"Replicated": {"Replicas": REPLICAS}},
        }
        status, answer = cluster.request("POST", "/services/create", spec)
        if status != 201:
            raise SystemExit(f"service create: {status} {answer}")
        while len(cluster.running(name)) < REPLICAS:
            time.sleep(0.05)

    return timed(create)


def direct_create(cluster: Cluster, label: str) -> float:
    """Seconds for the same containers through the engines' own API: created, network attached, started."""
    lab = cluster.lab
    sockets = [lab.engine(host) for host in cluster.hosts]

    def one(number: int) -> str:
        socket = sockets[number % len(sockets)]
        body = {
            "Image": "busybox:latest",
            "Cmd": list(SLEEPER),
            "HostConfig": {"NetworkMode": "floor"},
            "NetworkingConfig": {"EndpointsConfig": {"floor": {}}},
        }
        status, answer = api.request(socket, "POST", f"/v1.41/containers/create?name={label}-{number}", body)
        if status != 201:
            raise SystemExit(f"direct create: {status} {answer}")
        if gateways:
            api.request(socket, "POST", "/v1.41/networks/docker_gwbridge/connect", {"Container": answer["Id"]})
        status, reply = api.request(socket, "POST", f"/v1.41/containers/{answer['Id']}/start")
        if status != 204:
            raise SystemExit(f"direct start: {status} {reply}")
        return f"{socket} {answer['Id']}"

    for socket in sockets:
        body = {"Name": "floor", "Driver": "bridge", "Internal": True}
        api.request(socket, "POST", "/v1.41/networks/create", body)
    # The same number of networks on each container as a task on an overlay network has.
    gateways = [n for n in api.request(sockets[0], "GET", "/v1.41/networks")[1] if n["Name"] == "docker_gwbridge"]
    made: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(4 * len(sockets)) as pool:
        took_s = timed(lambda: made.extend(pool.map(one, range(REPLICAS))))
        list(
            pool.map(
                lambda m: api.request(m.split()[0], "DELETE", f"/v1.41/containers/{m.split()[1]}?force=1"), made
            )
        )
    for socket in sockets:
        api.request(socket, "DELETE", "/v1.41/networks/floor")
    return took_s


def bench_create(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """(a)"""
    ours, floor = [], []
    for number in range(repeat):
        ours.append(service_create(cluster, f"bench{number}"))
        cluster.request("DELETE", f"/services/bench{number}")
        while any(cluster.containers(h) for h in cluster.hosts):
            time.sleep(0.2)
        floor.append(direct_create(cluster, f"floor{number}"))
        log(f"create {number}: service {ours[-1]:.2f} s, engines directly {floor[-1]:.2f} s")
    return {
        "service_s": median(ours),
        "floor_s": median(floor),
        "ratio": round(statistics.median(ours) / statistics.median(floor), 2),
    }


def bench_failover(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """(c) The leader's manager is killed; time to the next acknowledged write through another manager."""
    samples = []
    for number in range(repeat):
        leader = cluster.leader()
        writer = next(h for h in cluster.managers if h != leader)
        cluster.ask = writer
        pid = int((_run_dir(cluster, leader) / "manager.pid").read_text())
        started = time.monotonic()
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        attempt = 0
        while True:
            attempt += 1
            body = {"Name": f"f{number}x{attempt}", "Driver": "overlay", "CheckDuplicate": True}
            try:
                status, answer = cluster.request("POST", "/networks/create", body)
            except OSError:
                continue
            if status == 201:
                samples.append(time.monotonic() - started)
                cluster.request("DELETE", f"/networks/{answer['Id']}")
                break
        log(f"failover {number}: {samples[-1]:.2f} s")
        while not _whole(cluster):
            time.sleep(0.2)
    return {"seconds": median(samples), "all": [round(s, 2) for s in samples], "aim_s": 1.5}


def _run_dir(cluster: Cluster, host: str) -> Path:
    return Path(cluster.lab.socket(host)).parent


def _whole(cluster: Cluster) -> bool:
    try:
        nodes = cluster.nodes()
    except (AssertionError, OSError):
        return False
    managers = [n for n in nodes if n.get("ManagerStatus")]
    return all(n["Status"]["State"] == "ready" for n in nodes) and all(
        n["ManagerStatus"]["Reachability"] == "reachable" for n in managers
    )


def bench_lost_worker(cluster: Cluster) -> dict[str, Any]:
    """(d) A worker goes silent; time until its tasks run elsewhere."""
    cluster.ask = "h1"
    lost = cluster.hosts[-1]
    spec = {
        "Name": "moving",
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest", "Args": list(SLEEPER)},
            "Networks": [{"Target": NETWORK}],
        },
        "Mode": {"Replicated": {"Replicas": 8}},
    }
    cluster.request("POST", "/services/create", spec)
    cluster.wait_running("moving", 8)
    moving = len([t for t in cluster.running("moving") if t.node == lost])
    cluster.lab.cut(lost)
    took_s = timed(lambda: _wait_moved(cluster, lost))
    cluster.lab.heal(lost)
    cluster.request("DELETE", "/services/moving")
    return {"seconds": round(took_s, 2), "tasks_on_the_lost_worker": moving, "aim_s": 8.0}


def _wait_moved(cluster: Cluster, lost: str) -> None:
    while len([t for t in cluster.running("moving") if t.node != lost]) < 8:
        time.sleep(0.05)


def bench_resources(cluster: Cluster, seconds: float = 20.0) -> dict[str, Any]:
    """(e) Memory (PSS) and CPU of each kind of process on the leader's host while nothing happens."""
    host = cluster.leader()
    run = _run_dir(cluster, host)
    pids = {
        name: int((run / f"{name}.pid").read_text())
        for name in ("pyswarmd", "gateway", "manager", "etcd")
        if (run / f"{name}.pid").exists()
    }
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    return {
        name: {
            "pss_mib": round(_pss_kib(pid) / 1024, 1),
            "idle_cpu_percent": round(100 * (_cpu_s(pid) - before[name]) / seconds, 2),
        }
        for name, pid in pids.items()
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _pss_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0


def main() -> None:
    """Measure everything on a lab of its own and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--only",
        choices=("create", "network", "names", "vip", "mesh", "failover", "lost", "resources", "logs", "clients"),
    )
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with Lab("bench") as lab:
        lab.down()
        lab.up(4)
        cluster = Cluster(lab, hosts=4, managers=3)
        cluster.form()
        lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", NETWORK)
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "resources": lambda: bench_resources(cluster),
            "create": lambda: bench_create(cluster, args.repeat),
            "network": lambda: traffic.bench_network(cluster, NETWORK, args.repeat),
            "names": lambda: names.bench_names(cluster, NETWORK, args.repeat),
            "vip": lambda: names.bench_vip(cluster, NETWORK, args.repeat),
            "mesh": lambda: mesh.bench_mesh(cluster, args.repeat),
            "logs": lambda: logs.bench_logs(cluster, args.repeat),
            "clients": lambda: clients.bench_clients(cluster, args.repeat),
            "failover": lambda: bench_failover(cluster, args.repeat),
            "lost": lambda: bench_lost_worker(cluster),
        }
        for name, step in steps.items():
            if args.only in (None, name):
                log(f"measuring: {name}")
                results[name] = step()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
