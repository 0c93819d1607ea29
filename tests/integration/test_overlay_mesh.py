"""The routing mesh in a real kernel: three hosts as namespaces, tasks as namespaces on two bridges, and a client
outside the cluster."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from support.env import require_binary, require_root, wait_until
from support.mesh_net import Server, ask, ask_often, give_way_out, mesh_state, put_way_out, traces
from support.overlay_net import NETWORK, Host, Net, Space, three_hosts

pytestmark = pytest.mark.integration_netns

A, B, C = "10.50.0.11", "10.50.0.12", "10.50.0.13"
NODES = ("n1", "n2", "n3")
CLIENT = "192.168.7.254"
HOSTS = ("192.168.7.1", "192.168.7.2", "192.168.7.3")
PORTS = [("tcp", 8080, 80), ("udp", 5300, 80)]
#: What shows that something of the mesh is there.
OURS = ("pswin", "pyswarm_mesh", "4095000", "proto 112")
#: One task on host 1, one on host 2, none on host 3.
PLACED = {A: ("n1", True), B: ("n2", True)}


class World:
    """Three hosts with their overlays, tasks on two of them, and a client outside."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.one, self.two, self.three = net.hosts
        net.switch.ip("addr", "add", f"{CLIENT}/24", "dev", "br0")
        for host in net.hosts:
            give_way_out(host)
        self.a, self.b, self.c = (net.container(h, a) for h, a in zip(net.hosts, (A, B, C), strict=True))
        for space, host in zip((self.a, self.b, self.c), net.hosts, strict=True):
            put_way_out(space, host, "172.18.0.9")
        self.servers = [Server(self.a, "a", 80), Server(self.b, "b", 80), Server(self.a, "private", 81)]

    def introduce(self) -> None:
        """As the agent of each host does with its containers, again after each start."""
        for host, addr in zip(self.net.hosts, (A, B, C), strict=True):
            host.tell("introduce", [f"task-{addr}-{host.node_id}", addr, "172.18.0.9"])

    def update(self, placed: dict[str, tuple[str, bool]], ports: list[tuple[str, int, int]] = PORTS) -> None:
        """Have this in force on every host."""
        for host in self.net.hosts:
            host.tell("update", mesh_state(placed, ports, NODES))
        for host in self.net.hosts:
            host.tell("reconcile")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    require_root()
    require_binary("ip", "bridge", "nsenter", "nft", "iptables", "tcpdump")
    with three_hosts() as net:
        made = World(net)
        try:
            for host in net.hosts:
                host.start()
            made.introduce()
            yield made
        finally:
            for server in made.servers:
                server.stop()


def reached(space: Space, addr: str, port: int, kind: str = "tcp") -> set[str]:
    """Which servers answer, of sixteen connections."""
    return {server for server, _ in ask_often(space, addr, port, 16, kind=kind)}


@pytest.fixture(autouse=True)
def settled(world: World) -> None:
    """Every test begins with the two tasks published."""
    for host in world.net.hosts:
        host.tell("attach", NETWORK)
    world.update(PLACED)
    for addr in HOSTS:
        wait_until(partial(_both, world, addr), 10, f"{addr} leads to both tasks")


def _both(world: World, addr: str) -> bool:
    return reached(world.net.switch, addr, 8080) == {"a", "b"}


def in_order(host: Host) -> str:
    """What the mesh has on a host: compared before and after it was damaged."""
    return "\n".join(
        (
            # In which order chains are listed says when they were made.
            "\n".join(sorted(host.sh("nft", "list", "table", "ip", "pyswarm_mesh", ok=False).splitlines())),
            host.ip("rule"),
            host.ip("-4", "route", "show", "table", "all", "proto", "112"),
            host.ip("-4", "addr", "show", "dev", "pswin", ok=False).partition("inet ")[2],
            "\n".join(sorted(host.sh("bridge", "fdb", "show", "dev", "pswin", ok=False).splitlines())),
            "\n".join(sorted(host.ip("neigh", "show", "dev", "pswin", "nud", "permanent", ok=False).splitlines())),
            host.sh("iptables", "-S", "DOCKER-USER"),
            host.sh("sh", "-c", "cd /proc/sys/net/ipv4/conf; cat pswin/rp_filter pswin/src_valid_mark", ok=False),
        )
    )


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_every_host_leads_to_every_task_with_the_client_s_own_address(world: World, kind: str) -> None:
    port = 8080 if kind == "tcp" else 5300
    for addr in HOSTS:
        answers = ask_often(world.net.switch, addr, port, 24, kind=kind)
        assert set(answers) == {("a", CLIENT), ("b", CLIENT)}


def test_hosts_and_their_containers_reach_it_by_any_address_of_a_host(world: World) -> None:
    for host, container in zip(world.net.hosts, (world.a, world.b, world.c), strict=True):
        for space, addrs in (
            (host, (*HOSTS, "127.0.0.1", "127.7.7.7", "10.50.0.1")),
            (container, (*HOSTS, "10.50.0.1")),
        ):
            for addr in addrs:
                assert reached(space, addr, 8080) == {"a", "b"}, f"{space.name} -> {addr}"
        assert reached(host, "127.0.0.1", 5300, "udp") == {"a", "b"}


def test_it_works_where_everybody_checks_senders_strictly(world: World) -> None:
    strict = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done"
    spaces: list[Space] = [*world.net.hosts, world.a, world.b]
    for space in spaces:
        space.sh("sh", "-c", strict)
    try:
        for host in world.net.hosts:
            host.tell("reconcile")
        for addr in HOSTS:
            assert reached(world.net.switch, addr, 8080) == {"a", "b"}
        assert reached(world.three, "127.0.0.1", 8080) == {"a", "b"}
        assert reached(world.c, HOSTS[2], 8080) == {"a", "b"}
        assert world.one.sh("cat", "/proc/sys/net/ipv4/conf/all/rp_filter").strip() == "1", "left as it is"
    finally:
        for space in spaces:
            space.sh("sh", "-c", strict.replace("echo 1", "echo 0"))


def test_a_port_without_a_ready_task_refuses_at_once_on_every_host(world: World) -> None:
    world.update({A: ("n1", False)})
    for addr in HOSTS:
        for kind, port in (("tcp", 8080), ("udp", 5300)):
            assert ask(world.net.switch, addr, port, kind=kind) == ("error", "ConnectionRefusedError")
    assert ask(world.three, "127.0.0.1", 8080) == ("error", "ConnectionRefusedError")


def test_a_udp_client_that_keeps_its_port_follows_the_tasks(world: World) -> None:
    """The kernel would lead it to the first one for as long as it sends."""

    def at(addr: str) -> str:
        return ask(world.net.switch, addr, 5300, kind="udp", source=4444)[0]

    first = at(HOSTS[2])
    assert {at(HOSTS[2]) for _ in range(5)} == {first}
    gone, left = (A, B) if first == "a" else (B, A)
    world.update({gone: (PLACED[gone][0], False), left: PLACED[left]})
    # Then by other hosts from the same port: replies come from there.
    assert [at(HOSTS[2]), at(HOSTS[0]), at(HOSTS[1]), at(HOSTS[2])] == ["b" if first == "a" else "a"] * 4


def test_a_connection_outlives_its_task_s_withdrawal_but_not_its_task(world: World) -> None:
    talk = """
import socket, sys
s = socket.create_server(("0.0.0.0", 82)); print("ready", flush=True)
while True:
    c, _ = s.accept()
    while (d := c.recv(100)):
        c.sendall(d)
"""
    hold = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8082)); s.settimeout(5)
for line in sys.stdin:
    try:
        s.sendall(line.encode()); print(s.recv(100).decode().strip(), flush=True)
    except OSError as exc:
        print(type(exc).__name__, flush=True)
"""
    ports = [("tcp", 8082, 82)]
    server = subprocess.Popen(world.b.inside(sys.executable, "-c", talk), stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        world.update({B: ("n2", True)}, ports)
        argv = world.net.switch.inside(sys.executable, "-c", hold, HOSTS[0])
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None

            def say(word: str) -> str:
                client.stdin.write(word + "\n")  # type: ignore[union-attr]
                client.stdin.flush()  # type: ignore[union-attr]
                return client.stdout.readline().strip()  # type: ignore[union-attr]

            assert say("one") == "one"
            world.update({B: ("n2", False), A: ("n1", True)}, ports)
            wait_until(
                lambda: B not in world.one.sh("nft", "list", "chain", "ip", "pyswarm_mesh", "tcp_8082"),
                5,
                "led elsewhere",
            )
            assert say("two") == "two", "what a task began it may finish"
            world.update({A: ("n1", True)}, ports)
            assert say("three") == "ConnectionResetError", "told at once, not after a time"
    finally:
        server.kill()
        server.wait()


def test_nothing_but_what_is_published_comes_in_by_the_mesh(world: World) -> None:
    """A member that marks whatever it likes, so that it goes by the mesh."""
    rogue = "chain ip rogue out { type filter hook output priority -160 ; }"
    world.two.sh("sh", "-ec", f"nft add table ip rogue; nft 'add {rogue}'")
    world.two.sh("nft", "add", "rule", "ip", "rogue", "out", "ip", "daddr", A, "ct", "mark", "set", "0x2000")
    try:
        assert ask(world.b, A, 81)[0] == "private", "it listens, for its own network"
        assert ask(world.two, A, 80)[0] == "a", "what is published can be had"
        assert ask(world.two, A, 81) == ("error", "ConnectionRefusedError")
    finally:
        world.two.sh("nft", "delete", "table", "ip", "rogue")
    assert ask(world.two, "169.254.224.1", 22, patience_s=1) == ("error", "TimeoutError"), "nor the host itself"


def test_a_task_that_ended_is_refused_before_the_registry_says_so(world: World) -> None:
    world.one.tell("forget", f"task-{A}-n1")
    try:
        wait_until(lambda: reached(world.net.switch, HOSTS[0], 8080) == {"b"}, 5, "its own host knows")
        for addr in HOSTS:
            found = set(ask_often(world.net.switch, addr, 8080, 16))
            assert found <= {("b", CLIENT), ("error", "ConnectionRefusedError")}, "no waiting"
            assert ("b", CLIENT) in found
    finally:
        world.introduce()


def test_a_stranger_s_frames_are_dropped(world: World) -> None:
    """Somebody on the same wire poses as host 2, and sends to a published port as from anywhere."""
    stranger, posed = world.net.switch, "0e:fe:00:00:00:02"
    made = ["type", "vxlan", "id", "4095", "local", CLIENT, "dstport", "4789", "nolearning"]
    stranger.ip("link", "add", "forged", "address", posed, *made)
    stranger.ip("addr", "add", "169.254.224.2/32", "dev", "forged")
    stranger.ip("link", "set", "forged", "up")
    stranger.sh("bridge", "fdb", "add", "0e:fe:00:00:00:01", "dev", "forged", "dst", HOSTS[0], "self", "permanent")
    stranger.ip(
        "neigh", "add", "169.254.224.1", "lladdr", "0e:fe:00:00:00:01", "dev", "forged", "nud", "permanent"
    )
    stranger.ip("route", "add", f"{A}/32", "via", "169.254.224.1", "dev", "forged", "onlink")

    capture = subprocess.Popen(
        world.one.inside("tcpdump", "-nn", "-U", "-l", "-i", "pswin", "tcp and dst port 80"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert capture.stdout is not None
        assert capture.stderr is not None
        while "listening" not in capture.stderr.readline():
            assert capture.poll() is None
        assert ask(stranger, A, 80, patience_s=0.5) == ("error", "TimeoutError")
        assert reached(world.three, HOSTS[2], 8080) == {"a", "b"}, "a member's arrive"
        seen = ""
        while "169.254.224.3" not in seen:
            seen += capture.stdout.readline()
        assert "169.254.224.2" not in seen
    finally:
        capture.kill()
        capture.communicate()
        stranger.ip("link", "del", "forged")


def test_a_host_s_own_127_0_0_1_is_not_opened_to_containers(world: World) -> None:
    """What lets 127.0.0.1:8080 work would let containers on that bridge reach the host's loopback device."""
    server = Server(world.one, "loopback", 83)
    try:
        world.a.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
        world.a.ip("route", "add", "127.0.0.1/32", "via", "172.18.0.1", "dev", "eth1")
        world.a.sh("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth1/route_localnet")
        assert ask(world.one, "127.0.0.1", 83)[0] == "loopback"
        assert ask(world.a, "127.0.0.1", 83, patience_s=1)[0] == "error"
    finally:
        server.stop()
        world.a.ip("route", "del", "127.0.0.1/32", ok=False)
        world.a.ip("addr", "add", "127.0.0.1/8", "dev", "lo")


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN",
        "nft delete table ip pyswarm_mesh",
        "nft flush chain ip pyswarm_mesh tcp_8080",
        "nft delete element ip pyswarm_mesh published '{ tcp . 8080 }'",
        "nft add rule ip pyswarm_mesh pass accept",
        "iptables -F DOCKER-USER; iptables -A DOCKER-USER -j RETURN",
        "iptables -D DOCKER-USER -o pswin -j ACCEPT",
        "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
        "ip rule del pref 101",
        "ip route flush table 4095000",
        "ip route flush table 4095002",
        "ip route del 169.254.224.2 dev pswin",
        "ip addr del 169.254.224.1/32 dev pswin",
        "ip link set pswin down",
        "ip link del pswin",
        "ip link set pswin alias other",
        "ip neigh flush dev pswin nud permanent",
        "bridge fdb del 0e:fe:00:00:00:02 dev pswin self",
        "bridge fdb replace 0e:fe:00:00:00:02 dev pswin dst 192.168.7.3 self",
    ],
)
def test_damage_by_another_hand_is_undone(world: World, damage: str) -> None:
    wanted = in_order(world.one)
    world.one.sh("sh", "-ec", damage)
    wait_until(lambda: in_order(world.one) == wanted, 5, "all in place again")
    if "flush ruleset" not in damage:  # else the engine's own rules are gone too
        assert reached(world.net.switch, HOSTS[0], 8080) == {"a", "b"}
    else:
        world.one.sh("sh", "-c", "iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -j ACCEPT")


def test_a_stray_rule_of_ours_goes_with_the_next_look(world: World) -> None:
    wanted = in_order(world.one)
    world.one.sh("ip", "rule", "add", "pref", "130", "fwmark", "0x1009/0x1fff", "lookup", "9", "protocol", "112")
    world.one.sh("ip", "route", "add", "10.50.9.9", "dev", "pswin", "table", "4095000", "proto", "112")
    world.one.tell("reconcile")
    assert in_order(world.one) == wanted


class Client:
    """Keeps requesting from outside, and counts."""

    def __init__(self, world: World, addrs: tuple[str, ...] = HOSTS) -> None:
        script = """
import collections, socket, sys, time
count = collections.Counter()
addrs = sys.argv[1].split(","); n = 0
while not sys.stdin in __import__("select").select([sys.stdin], [], [], 0)[0]:
    n += 1
    try:
        with socket.create_connection((addrs[n % len(addrs)], 8080), timeout=3) as s:
            s.settimeout(3)
            said = s.recv(100)
        count["ok" if said else "empty"] += 1
    except OSError as exc:
        count[type(exc).__name__] += 1
print(dict(count))
"""
        argv = world.net.switch.inside(sys.executable, "-c", script, ",".join(addrs))
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> Counter[str]:
        out, _ = self._process.communicate("stop\n", timeout=20)
        return Counter(eval(out))  # noqa: S307 - what the script above prints


def test_changes_of_the_tasks_lose_no_connection(world: World) -> None:
    both, one = PLACED, {A: PLACED[A], B: ("n2", False)}
    client = Client(world)
    for _ in range(15):
        world.update(one)
        time.sleep(0.1)
        world.update(both)
        time.sleep(0.1)
    counts = client.stop()
    assert counts.keys() == {"ok"}, counts
    assert counts["ok"] > 500


def test_a_killed_and_restarted_process_loses_no_connection(world: World) -> None:
    wanted = in_order(world.one)
    client = Client(world, (HOSTS[0],))
    for _ in range(3):
        world.one.stop(signal.SIGKILL)
        assert reached(world.net.switch, HOSTS[0], 8080) == {"a", "b"}, "it goes on without the process"
        world.one.start()
        # Its tasks are heard of again only once the engine was asked.
        world.one.tell("update", mesh_state(PLACED, PORTS, NODES))
        world.one.tell("attach", NETWORK)
        world.one.tell("reconcile")
        assert reached(world.net.switch, HOSTS[0], 8080) == {"a", "b"}
        world.introduce()
    counts = client.stop()
    assert counts.keys() == {"ok"}, counts
    assert in_order(world.one) == wanted


def test_nothing_stays_when_nothing_is_published(world: World) -> None:
    world.update(PLACED, [])
    clean = [traces(host) for host in world.net.hosts]
    assert not any(word in text for text in clean for word in OURS)
    world.update(PLACED)
    assert all("pswin" in traces(host) for host in world.net.hosts)
    world.update(PLACED, [])
    assert [traces(host) for host in world.net.hosts] == clean


def test_a_host_that_leaves_takes_everything_of_its_own_with_it(world: World) -> None:
    assert "pswin" in traces(world.three)
    world.three.tell("leave mesh")
    left = traces(world.three)
    assert not any(word in left for word in OURS)
    world.three.tell("update", mesh_state(PLACED, PORTS, NODES))
    world.three.tell("reconcile")
    assert traces(world.three) == left, "for good"
    world.three.stop()
    world.three.start()
    world.three.tell("update", mesh_state(PLACED, PORTS, NODES))
    world.three.tell("reconcile")
    assert "pswin" in traces(world.three)
    world.three.stop(signal.SIGKILL)
    # A new membership begins by clearing what an earlier process left.
    world.three.start()
    world.three.tell("leftovers")
    assert not any(word in traces(world.three) for word in OURS)


def test_hundreds_of_services(world: World) -> None:
    services = mesh_state(PLACED, [("tcp", 10_000 + n, 80) for n in range(300)], NODES)
    world.three.tell("update", services)
    wait_until(lambda: world.three.tell("metric", "pyswarm_mesh_published_ports") == 300, 20, "all are in place")
    assert reached(world.net.switch, HOSTS[2], 10_299) == {"a", "b"}
