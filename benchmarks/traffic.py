"""Throughput and latency between containers on two hosts, over the same between the hosts themselves."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.cluster import Cluster

SECONDS = 4
PORT = 5999
#: The two ends have a core each; otherwise the scheduler, not the network, is measured.
CLIENT_CORE, SERVER_CORE = "0", "1"

_ECHO_SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(); print("ready", flush=True); c, _ = s.accept(); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while (d := c.recv(64)): c.sendall(d)
"""
_ECHO_CLIENT = """
import socket, statistics, sys, time
c = socket.create_connection((sys.argv[1], int(sys.argv[2])))
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
took = []
for _ in range(5000):
    t = time.perf_counter(); c.sendall(b"x" * 32); c.recv(64); took.append(time.perf_counter() - t)
print(statistics.median(took) * 1e6)
"""


def _enter(netns: str, core: str) -> list[str]:
    return ["nsenter", f"--net={netns}", "taskset", "-c", core]


def throughput_gbps(server_ns: str, client_ns: str, addr: str, streams: int) -> float:
    """TCP from client to server, by iperf3."""
    server = subprocess.Popen(
        [*_enter(server_ns, SERVER_CORE), "iperf3", "-s", "-1", "-p", str(PORT), "-B", addr, "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise SystemExit("iperf3 does not listen")
        output = subprocess.run(
            [
                *(
                    *_enter(client_ns, CLIENT_CORE),
                    "iperf3",
                    "-c",
                    addr,
                    "-p",
                    str(PORT),
                    "-P",
                    str(streams),
                    "-J",
                ),
                *("-t", str(SECONDS), "-O", "1"),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        server.kill()
        server.wait()
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e9


def latency_us(server_ns: str, client_ns: str, addr: str) -> float:
    """Median round trip of 32 bytes over one TCP connection."""
    server = subprocess.Popen(
        [*_enter(server_ns, SERVER_CORE), sys.executable, "-c", _ECHO_SERVER, addr, str(PORT + 1)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        return float(
            subprocess.run(
                [*_enter(client_ns, CLIENT_CORE), sys.executable, "-c", _ECHO_CLIENT, addr, str(PORT + 1)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    finally:
        server.kill()
        server.wait()


def bench_network(cluster: Cluster, network: str, repeat: int) -> dict[str, Any]:
    """(b)"""
    spec = {
        "Name": "traffic",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox:latest",
                "Args": ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
            },
            "Networks": [{"Target": network}],
        },
        "Mode": {"Replicated": {"Replicas": len(cluster.hosts)}},
    }
    cluster.request("POST", "/services/create", spec)
    tasks = cluster.wait_running("traffic", len(cluster.hosts))
    client = next(t for t in tasks if t.node == "h1")
    server = next(t for t in tasks if t.node == "h2")

    def namespace_of(task: Any) -> str:
        pid = cluster.containers(task.node)[task.container]["State"]["Pid"]
        return f"/proc/{pid}/ns/net"

    def host_namespace(host: str) -> str:
        return str(Path("/run/netns") / cluster.lab.netns(host))

    overlay = (namespace_of(server), namespace_of(client), server.addr)
    hosts = (host_namespace("h2"), host_namespace("h1"), cluster.lab.ip("h2"))
    results: dict[str, Any] = {}
    for streams in (1, 4):
        ours, floor = [], []
        for _ in range(repeat):
            floor.append(throughput_gbps(*hosts, streams))
            ours.append(throughput_gbps(*overlay, streams))
        results[f"streams_{streams}"] = {
            "overlay_gbps": round(statistics.median(ours), 2),
            "host_gbps": round(statistics.median(floor), 2),
            "ratio": round(statistics.median(ours) / statistics.median(floor), 2),
        }
    ours = [latency_us(*overlay) for _ in range(repeat)]
    floor = [latency_us(*hosts) for _ in range(repeat)]
    results["latency"] = {
        "overlay_us": round(statistics.median(ours), 1),
        "host_us": round(statistics.median(floor), 1),
        "ratio": round(statistics.median(ours) / statistics.median(floor), 2),
    }
    cluster.request("DELETE", "/services/traffic")
    return results
