"""A client outside the cluster: on the lab's switch, with an address no node has."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from support.lab import Lab

# Asks one address after the other until told to stop; prints how often each thing happened, and in which runs of
# failures: (seconds since the start, seconds it lasted, what).
_KEEP_ASKING = """
import collections, json, select, socket, sys, time
addrs, port, pause = sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3])
counts, gaps, began, number = collections.Counter(), [], time.monotonic(), 0
print("started", flush=True)
while not select.select([sys.stdin], [], [], pause)[0]:
    addr = addrs[number % len(addrs)]; number += 1
    at = time.monotonic()
    try:
        with socket.create_connection((addr, port), timeout=2) as s:
            s.settimeout(2)
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            data = b""
            while chunk := s.recv(4096):
                data += chunk
        what = "ok" if b"It works" in data else "cut short"
    except OSError as exc:
        what = type(exc).__name__
    counts[what] += 1
    if what != "ok":
        gaps.append((round(at - began, 2), round(time.monotonic() - at, 2), what, addr))
print(json.dumps({"counts": counts, "gaps": gaps}), flush=True)
"""
_ASK_UDP = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(2)
if sys.argv[3] != "0":
    s.bind(("0.0.0.0", int(sys.argv[3])))
try:
    s.connect((sys.argv[1], int(sys.argv[2]))); s.send(b"x"); print(s.recv(200).decode())
except OSError as exc:
    print("error", type(exc).__name__)
"""


class Outside:
    """Runs programs in the switch's network namespace."""

    def __init__(self, lab: Lab) -> None:
        self._enter = ["nsenter", f"--net=/run/netns/{lab.netns('sw')}", "--"]
        self.addr = lab.ip("h1").rpartition(".")[0] + ".254"

    def run(self, *argv: str) -> str:
        """A command's output; empty when it fails."""
        done = subprocess.run([*self._enter, *argv], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else ""

    def get(self, addr: str, port: int, path: str = "/") -> str:
        """HTTP; empty when it fails."""
        return self.run("curl", "-s", "-m", "3", f"http://{addr}:{port}{path}")

    def ask_udp(self, addr: str, port: int, source: int = 0) -> str:
        """What is answered to one datagram; begins with ``error`` when nothing is."""
        return self.run(sys.executable, "-c", _ASK_UDP, addr, str(port), str(source)).strip()

    def keep_asking(self, addrs: list[str], port: int, pause_s: float = 0.0) -> "KeepAsking":
        """Request after request, until it is stopped."""
        argv = [*self._enter, sys.executable, "-c", _KEEP_ASKING, ",".join(addrs), str(port), str(pause_s)]
        return KeepAsking(argv)


class KeepAsking:
    """A client that requests without end. After ``stop``: ``counts`` by outcome, and each failure in ``gaps``."""

    def __init__(self, argv: list[str]) -> None:
        self.counts: Counter[str] = Counter()
        self.gaps: list[tuple[float, float, str, str]] = []
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> Counter[str]:
        """End it."""
        out, _ = self._process.communicate("stop\n", timeout=30)
        found = json.loads(out)
        self.counts = Counter(found["counts"])
        self.gaps = [(gap[0], gap[1], gap[2], gap[3]) for gap in found["gaps"]]
        return self.counts

    @property
    def failures(self) -> Counter[str]:
        """All but what went well."""
        return Counter({what: number for what, number in self.counts.items() if what != "ok"})


def traces(lab: Lab, host: str) -> dict[str, str]:
    """What published ports may leave on a host."""
    netns = Path("/run/netns") / lab.netns(host)

    def inside(*argv: str) -> str:
        return subprocess.run(
            ["nsenter", f"--net={netns}", "--", *argv], capture_output=True, text=True, timeout=30, check=True
        ).stdout

    links = {link["ifname"] for link in json.loads(inside("ip", "-j", "link"))}
    return {
        "tables": " ".join(sorted(inside("nft", "list", "tables").splitlines())),
        "rules": inside("ip", "rule"),
        "routes": inside("ip", "-4", "route", "show", "table", "all", "proto", "112"),
        "links": " ".join(sorted(name for name in links if name.startswith("psw") and name != "pswgw")),
        "engine's chain": inside("iptables", "-S", "DOCKER-USER"),
        "local": inside("sh", "-c", "cat /proc/sys/net/ipv4/conf/pswgw/route_localnet 2>/dev/null || echo 0"),
    }
