"""How soon a service is found by name on another host, how soon no more, and what a virtual IP costs."""

import calendar
import statistics
import subprocess
import sys
import time
from typing import Any

from support.cluster import Cluster, RunningTask
from support.env import wait_until

#: It ends at once when told to, so that its end is not what is measured.
SERVER = "trap 'kill $!; exit 0' TERM; httpd -f -p 80 -h /www & wait $!"
SECONDS = 4

#: Asks for a name every 2 ms, from a container's namespace, and prints when the answer is what it waits for.
_ASKER = """
import socket, struct, sys, time
name, wanted = sys.argv[1], sys.argv[2] == "there"
question = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"".join(
    bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0" + struct.pack("!2H", 1, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect(("169.254.53.53", 53))
print("asking", flush=True)
while True:
    s.send(question)
    try:
        answers = struct.unpack("!H", s.recv(512)[6:8])[0]
    except TimeoutError:
        continue
    if bool(answers) == wanted:
        print(time.time(), flush=True)
        break
    time.sleep(0.002)
"""
#: Opens a connection after the other and sends one byte, for a while.
_CONNECTOR = """
import socket, sys, time
addr, port, until, count = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < until:
    with socket.create_connection((addr, port), 5) as c:
        c.sendall(b"x"); c.recv(1)
    count += 1
print(count)
"""
_ACCEPTOR = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(512); print("ready", flush=True)
while True:
    c, _ = s.accept(); c.recv(1); c.sendall(b"x"); c.close()
"""


def namespace_of(cluster: Cluster, task: RunningTask) -> str:
    """The network namespace of a task's container."""
    return f"/proc/{cluster.containers(task.node)[task.container]['State']['Pid']}/ns/net"


def start_in(netns: str, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a namespace; returns once it has printed its first line."""
    process = subprocess.Popen(
        ["nsenter", f"--net={netns}", sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    return output.strip()


def connections_per_s(netns: str, addr: str, port: int) -> float:
    """From a namespace, one after the other."""
    process = subprocess.run(
        ["nsenter", f"--net={netns}", sys.executable, "-c", _CONNECTOR, addr, str(port), str(SECONDS)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(process.stdout) / SECONDS


def bench_names(cluster: Cluster, network: str, repeat: int) -> dict[str, Any]:
    """Task RUNNING (as its host's engine has it) to name answered on another host; ``service rm`` to name gone."""
    client = _client(cluster, network)
    asker = namespace_of(cluster, client)
    answered, gone = [], []
    for number in range(repeat):
        name = f"found{number}"
        process = start_in(asker, _ASKER, f"tasks.{name}", "there")
        _create(cluster, name, network, 1)
        task = cluster.wait_running(name, 1)[0]
        started = cluster.started_at(task.node)[task.container]
        answered.append(float(_finish(process)) - _epoch_s(started))
        process = start_in(asker, _ASKER, f"tasks.{name}", "gone")
        began = time.time()
        cluster.request("DELETE", f"/services/{name}")
        gone.append(float(_finish(process)) - began)
    cluster.request("DELETE", "/services/asker")
    return {
        "running_to_answered_s": _summary(answered),
        "rm_to_gone_s": _summary(gone),
    }


def bench_vip(cluster: Cluster, network: str, repeat: int) -> dict[str, Any]:
    """Connections through a virtual IP with one task behind it, over connections to that task."""
    client = _client(cluster, network)
    _create(cluster, "behind", network, 1)
    task = cluster.wait_running("behind", 1)[0]
    service = cluster.get("/services/behind")
    vip = service["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0]
    netns, behind = namespace_of(cluster, client), namespace_of(cluster, task)
    direct, through = [], []
    for number in range(repeat):
        for addr, rates, port in ((task.addr, direct, 7000 + 2 * number), (vip, through, 7001 + 2 * number)):
            # A port of its own: what earlier connections leave behind would have each search for a free one.
            server = start_in(behind, _ACCEPTOR, task.addr, str(port))
            try:
                rates.append(connections_per_s(netns, addr, port))
            finally:
                server.kill()
                server.wait()
    for name in ("behind", "asker"):
        cluster.request("DELETE", f"/services/{name}")
    return {
        "direct_per_s": round(statistics.median(direct)),
        "vip_per_s": round(statistics.median(through)),
        "ratio": round(statistics.median(through) / statistics.median(direct), 2),
        "same_host": task.node == client.node,
    }


def _client(cluster: Cluster, network: str) -> RunningTask:
    _create(cluster, "asker", network, 1)
    return cluster.wait_running("asker", 1)[0]


def _create(cluster: Cluster, name: str, network: str, replicas: int) -> None:
    wait_until(
        lambda: not any(s["Spec"]["Name"] == name for s in cluster.get("/services")), 30, f"{name} is not there"
    )
    spec = {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest", "Args": ["sh", "-c", SERVER]},
            "Networks": [{"Target": network}],
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    status, answer = cluster.request("POST", "/services/create", spec)
    assert status == 201, answer


def _epoch_s(started_at: str) -> float:
    """An engine's time of nine digits, in seconds since the epoch."""
    whole, _, fraction = started_at.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 3), "max": round(max(values), 3), "of": len(values)}
