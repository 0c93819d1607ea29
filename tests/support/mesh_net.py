"""Hosts out of network namespaces whose containers have a way out, as the engine gives it, and its firewall."""

import json
import re
import subprocess
import sys
from typing import Any

from support.overlay_net import Host, Net, Space, mac_of, run, state

WAY_OUT = "pswgw"
_FIREWALL = """\
iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -A DOCKER-USER -j RETURN
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD ! -s 10.50.0.0/16 -o pswb4097 -j DROP
iptables -A FORWARD ! -d 10.50.0.0/16 -i pswb4097 -j DROP
iptables -A FORWARD -o pswgw -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -i pswgw ! -o pswgw -j ACCEPT
iptables -A FORWARD -i pswgw -o pswgw -j DROP
iptables -t nat -A POSTROUTING -s 172.18.0.0/16 ! -o pswgw -j MASQUERADE
echo 1 > /proc/sys/net/ipv4/ip_forward
"""

# One line of text to each who asks: who the server is, and who the client seems to be.
_SERVER = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
def tcp():
    s = socket.create_server(("0.0.0.0", port), backlog=512)
    while True:
        c, (addr, _) = s.accept()
        c.sendall(f"{name} {addr}".encode()); c.close()
def udp():
    s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("0.0.0.0", port))
    while True:
        _, (addr, source) = s.recvfrom(2000)
        s.sendto(f"{name} {addr}".encode(), (addr, source))
threading.Thread(target=udp, daemon=True).start()
print("ready", flush=True)
tcp()
"""
_CLIENT = """
import socket, sys
kind, addr, port, source = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(int(sys.argv[6])):
    s = socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(float(sys.argv[5]))
    try:
        if source:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("0.0.0.0", source))
        s.connect((addr, port))
        if kind == "udp":
            s.send(b"x")
        print(s.recv(200).decode() or "empty answer")
    except OSError as exc:
        print("error", type(exc).__name__)
    s.close()
"""


def give_way_out(host: Host) -> None:
    """The engine's bridge that leads out of the host, and its firewall."""
    host.ip("link", "add", WAY_OUT, "type", "bridge")
    host.ip("addr", "add", "172.18.0.1/16", "dev", WAY_OUT)
    host.ip("link", "set", WAY_OUT, "up")
    host.sh("sh", "-ec", _FIREWALL)


def put_way_out(container: Space, host: Host, addr: str) -> None:
    """Connect a container to it; its default route leads there."""
    veth = f"g{container.name[-8:]}"
    run(
        *f"ip link add {veth} netns {host.name} type veth".split(),
        *f"peer name eth1 netns {container.name}".split(),
    )
    host.ip("link", "set", veth, "master", WAY_OUT, "up")
    container.ip("addr", "add", f"{addr}/16", "dev", "eth1")
    container.ip("link", "set", "eth1", "up")
    container.ip("route", "add", "default", "via", "172.18.0.1")


class Server:
    """Answers over TCP and UDP in a container."""

    def __init__(self, container: Space, name: str, port: int) -> None:
        argv = container.inside(sys.executable, "-c", _SERVER, name, str(port))
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


Answer = tuple[str, str]
"""(server, the client as it saw it), or ("error", which)."""


def ask_often(
    space: Space,
    addr: str,
    port: int,
    count: int,
    *,
    kind: str = "tcp",
    source: int = 0,
    patience_s: float = 2.0,
) -> list[Answer]:
    """What is answered to one connection after the other; ``source`` is the port to ask from, 0 for any."""
    options = [kind, addr, str(port), str(source), str(patience_s), str(count)]
    argv = space.inside(sys.executable, "-c", _CLIENT, *options)
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    return [(server, seen) for server, seen in (line.split() for line in said)]


def ask(
    space: Space, addr: str, port: int, *, kind: str = "tcp", source: int = 0, patience_s: float = 2.0
) -> Answer:
    """What is answered to one."""
    return ask_often(space, addr, port, 1, kind=kind, source=source, patience_s=patience_s)[0]


def mesh_state(
    containers: dict[str, tuple[str, bool]], ports: list[tuple[str, int, int]], nodes: tuple[str, ...]
) -> dict[str, Any]:
    """The registry's state: address -> (node, ready), and a service with these ports (protocol, published, to)."""
    what = state({addr: node for addr, (node, _) in containers.items()}, nodes)
    for node in what["nodes"]:
        node["mesh_index"] = int(node["node_id"][1:])
    for endpoint in what["endpoints"]:
        endpoint["service_id"] = endpoint["service_name"] = "web"
        endpoint["ready"] = containers[endpoint["addr"]][1]
    service = {
        "service_id": "web",
        "name": "web",
        "mesh_network_id": "net1",
        "ports": [{"protocol": proto, "published": number, "target": to} for proto, number, to in ports],
    }
    return {**what, "services": [service]}


def traces(host: Host) -> str:
    """Everything the mesh may leave on a host."""
    kept: list[str] = [
        host.sh("nft", "list", "ruleset"),
        host.ip("rule"),
        host.ip("-4", "route", "show", "table", "all"),
        "\n".join(sorted(link["ifname"] for link in json.loads(host.ip("-j", "link")))),
        host.sh("sh", "-c", "grep . /proc/sys/net/ipv4/conf/*/route_localnet /proc/sys/net/ipv4/conf/*/rp_filter"),
    ]
    return re.sub(r"packets \d+ bytes \d+", "", "\n".join(kept))


__all__ = ["Net", "Server", "ask", "ask_often", "give_way_out", "mac_of", "mesh_state", "put_way_out", "traces"]
