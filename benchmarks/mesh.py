"""What a published port costs: connections from outside, over those to a server on a host itself."""

import statistics
from typing import Any

from names import connections_per_s, namespace_of, start_in
from support.cluster import Cluster
from support.env import wait_until

PORT, DIRECT = 7080, 7180

#: On any address, with one byte for each connection.
_ACCEPTOR = """
import socket, sys
s = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=512); print("ready", flush=True)
while True:
    c, _ = s.accept(); c.recv(1); c.sendall(b"x"); c.close()
"""


def bench_mesh(cluster: Cluster, repeat: int) -> dict[str, Any]:
    """Connections a second from outside to a task, by its own host and by another one, and to a host's own server.

    One after the other: what is compared is how long one takes.
    """
    lab = cluster.lab
    idle = ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
    ports = [port for number in range(repeat) for port in (PORT + 2 * number, PORT + 2 * number + 1)]
    publish = [word for port in ports for word in ("-p", f"{port}:{port}")]
    lab.sh(
        cluster.ask, "pyswarm", "service", "create", "-d", "--name", "published", *publish, "busybox:latest", *idle
    )
    (task,) = cluster.wait_running("published", 1)
    behind = namespace_of(cluster, task)
    other = next(host for host in cluster.hosts if host != task.node)
    outside, beside = f"/run/netns/{lab.netns('sw')}", f"/run/netns/{lab.netns(other)}"
    rates: dict[str, list[float]] = {"direct": [], "local_task": [], "remote_task": []}
    for number in range(repeat):
        ways = (
            ("direct", beside, lab.ip(other), DIRECT + number),
            ("local_task", behind, lab.ip(task.node), PORT + 2 * number),
            ("remote_task", behind, lab.ip(other), PORT + 2 * number + 1),
        )
        for way, place, addr, port in ways:
            # A port of its own: what earlier connections leave behind would have each search for a free one.
            server = start_in(place, _ACCEPTOR, str(port))
            try:
                rates[way].append(connections_per_s(outside, addr, port))
            finally:
                server.kill()
                server.wait()
    cluster.request("DELETE", "/services/published")
    wait_until(lambda: not cluster.started_at(task.node), 30, "its task has ended")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        **{f"{name}_per_s": round(rate) for name, rate in medians.items()},
        "local_ratio": round(medians["local_task"] / medians["direct"], 2),
        "remote_ratio": round(medians["remote_task"] / medians["direct"], 2),
    }
