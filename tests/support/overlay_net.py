"""Hosts and containers out of network namespaces alone: a switch, bridges as the engine makes them, veths."""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VNI = 4097
NETWORK = {
    "network_id": "net1",
    "name": "app",
    "vni": VNI,
    "subnet": "10.50.0.0/16",
    "gateway": "10.50.0.1",
    "mtu": 1450,
}
BRIDGE, VXLAN = f"pswb{VNI}", f"pswv{VNI}"
_CHILD = str(Path(__file__).with_name("overlay_child.py"))


def run(*argv: str, ok: bool = True) -> str:
    """A command's output."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert not ok or done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


class Space:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *argv: str, ok: bool = True) -> str:
        """``ip`` inside."""
        return run("ip", "-n", self.name, *argv, ok=ok)

    def inside(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside, with the machine's own mounts."""
        return ["nsenter", f"--net=/var/run/netns/{self.name}", "--", *argv]

    def sh(self, *argv: str, ok: bool = True) -> str:
        """A command's output inside."""
        return run(*self.inside(*argv), ok=ok)


class Host(Space):
    """A host: an address between hosts, a bridge as the engine makes it, and an overlay process."""

    def __init__(self, prefix: str, number: int, switch: Space) -> None:
        super().__init__(f"{prefix}h{number}")
        self.node_id, self.addr = f"n{number}", f"192.168.7.{number}"
        port = f"{prefix}p{number}"
        run(
            "ip",
            "link",
            "add",
            port,
            "netns",
            switch.name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.name,
        )
        switch.ip("link", "set", port, "master", "br0", "up")
        self.ip("addr", "add", f"{self.addr}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.make_bridge()
        self._process: subprocess.Popen[str] | None = None

    def make_bridge(self) -> None:
        """What ``docker network create`` does here."""
        self.ip("link", "add", BRIDGE, "mtu", "1450", "type", "bridge")
        self.ip("addr", "add", "10.50.0.1/16", "dev", BRIDGE)
        self.ip("link", "set", BRIDGE, "up")

    def start(self) -> None:
        """Run the overlay."""
        self._process = subprocess.Popen(
            self.inside(sys.executable, _CHILD, self.node_id, self.addr),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str, value: Any = None) -> Any:
        """One command to the overlay; an error is raised as text."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, value]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def stop(self, how: int | None = None) -> None:
        """End the overlay: in order, or by a signal."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        if how is not None:
            self._process.send_signal(how)
        self._process.stdin.close()
        self._process.wait(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def fdb(self) -> dict[str, str]:
        """MAC -> host, of the VXLAN device."""
        lines = self.sh("bridge", "fdb", "show", "dev", VXLAN, ok=False).splitlines()
        return {line.split()[0]: line.split()[line.split().index("dst") + 1] for line in lines if " dst " in line}

    def forwarded(self) -> set[str]:
        """MACs the bridge sends out of the VXLAN device."""
        lines = self.sh("bridge", "fdb", "show", "dev", VXLAN, ok=False).splitlines()
        return {line.split()[0] for line in lines if " master " in line and line.rstrip().endswith("static")}

    def neighbours(self) -> dict[str, str]:
        """Address -> MAC, of the permanent neighbours on the bridge."""
        lines = self.ip("neigh", "show", "dev", BRIDGE, "nud", "permanent").splitlines()
        return {line.split()[0]: line.split()[2] for line in lines}


class Net:
    """Three hosts on a switch."""

    def __init__(self) -> None:
        self.prefix = "ov" + secrets.token_hex(2)
        self._servers: list[subprocess.Popen[bytes]] = []
        self.hosts: list[Host] = []
        self._containers: dict[str, Space] = {}
        self.switch = Space(f"{self.prefix}sw")
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        # Frames between hosts must not meet this machine's own firewall.
        with contextlib.suppress(AssertionError):
            self.switch.sh("sh", "-c", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")
        self.hosts = [Host(self.prefix, number, self.switch) for number in (1, 2, 3)]

    def container(self, host: Host, addr: str) -> Space:
        """A container of the network: a namespace on the host's bridge, with the MAC its address gives."""
        space = Space(f"{self.prefix}c{secrets.token_hex(2)}")
        self._containers[space.name] = space
        veth = f"v{secrets.token_hex(4)}"
        run(
            "ip",
            "link",
            "add",
            veth,
            "netns",
            host.name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space.name,
        )
        host.ip("link", "set", veth, "mtu", "1450", "master", BRIDGE, "up")
        space.ip("link", "set", "eth0", "address", mac_of(addr), "mtu", "1450", "up")
        space.ip("addr", "add", f"{addr}/16", "dev", "eth0")
        return space

    def remove(self, container: Space) -> None:
        """The container is gone, and with it its veth."""
        del self._containers[container.name]
        run("ip", "netns", "del", container.name)

    def serve(self, container: Space, folder: Path) -> None:
        """An HTTP server in a container."""
        argv = container.inside("busybox", "httpd", "-f", "-p", "80", "-h", str(folder))
        self._servers.append(subprocess.Popen(argv))

    def close(self) -> None:
        """Remove all of it."""
        for server in self._servers:
            server.kill()
            server.wait()
        for host in self.hosts:
            with contextlib.suppress(Exception):
                host.stop(signal.SIGKILL)
        listed = run("ip", "netns", "list").split()
        for name in [n for n in listed if n.startswith(self.prefix)]:
            run("ip", "netns", "del", name, ok=False)


@contextlib.contextmanager
def three_hosts() -> Iterator[Net]:
    """Three hosts, removed at the end whatever happens."""
    net = Net()
    try:
        yield net
    finally:
        net.close()


def mac_of(addr: str) -> str:
    """The MAC that the engine gives a container with this address."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in addr.split("."))


def state(containers: dict[str, str], nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> dict[str, Any]:
    """The registry's state: which address is on which node."""
    return {
        "nodes": [{"node_id": node, "hostname": node, "underlay_addr": f"192.168.7.{node[1:]}"} for node in nodes],
        "networks": [NETWORK],
        "endpoints": [
            {
                "endpoint_id": f"task-{addr}-{node}",
                "network_id": "net1",
                "addr": addr,
                "mac": mac_of(addr),
                "node_id": node,
                "ready": True,
            }
            for addr, node in containers.items()
        ],
    }
