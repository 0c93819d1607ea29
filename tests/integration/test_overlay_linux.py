"""The overlay's data plane in a real kernel: three hosts as namespaces, containers as namespaces on bridges."""

import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.env import require_binary, require_root, wait_until
from support.overlay_net import BRIDGE, NETWORK, VNI, VXLAN, Host, Net, Space, mac_of, run, state, three_hosts

from pyswarm.overlay.api import RESOLVER_ADDR

pytestmark = pytest.mark.integration_netns

A, B, C = "10.50.0.11", "10.50.0.12", "10.50.0.13"
PLACED = {A: "n1", B: "n2", C: "n3"}
REMOTE_OF_N1 = {mac_of(B): "192.168.7.2", mac_of(C): "192.168.7.3"}


class World:
    """Three hosts, each with its overlay and one container; host 2's serves HTTP."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.one, self.two, self.three = net.hosts
        self.a, self.b, self.c = (net.container(h, a) for h, a in zip(net.hosts, (A, B, C), strict=True))

    def update(self, what: dict[str, Any]) -> None:
        for host in self.net.hosts:
            host.tell("update", what)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    require_root()
    require_binary("ip", "bridge", "nsenter", "busybox", "tcpdump")
    with three_hosts() as net:
        made = World(net)
        for host in net.hosts:
            host.start()
        yield made


@pytest.fixture(autouse=True)
def settled(world: World) -> None:
    """Every test begins with the same three containers in place."""
    world.update(state(PLACED))
    for host in world.net.hosts:
        host.tell("attach", NETWORK)


def reaches(container: Space, addr: str, patience_s: int = 1) -> bool:
    done = subprocess.run(
        container.inside("busybox", "ping", "-c", "1", "-W", str(patience_s), addr),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def in_place(host: Host) -> bool:
    return (
        host.fdb() == REMOTE_OF_N1
        and host.forwarded() == set(REMOTE_OF_N1)
        and host.neighbours() == {B: mac_of(B), C: mac_of(C)}
    )


def test_containers_talk_across_hosts_inside_vxlan(world: World, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello from host 2")
    world.net.serve(world.b, tmp_path)
    argv = world.net.switch.inside("tcpdump", "-nn", "-U", "-l", "-c", "40", "-i", "br0", "udp or arp")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capture:
        try:
            assert capture.stdout is not None
            assert capture.stderr is not None
            while "listening" not in capture.stderr.readline():
                assert capture.poll() is None
            fetch = world.a.inside("busybox", "wget", "-q", "-O", "-", f"http://{B}/")
            said = wait_until(
                lambda: subprocess.run(fetch, capture_output=True, text=True, timeout=10, check=False).stdout,
                5,
                "an answer from the server",
            )
            assert said == "hello from host 2"
            assert reaches(world.a, C)
            assert reaches(world.c, B)
            assert not reaches(world.a, "10.50.0.99"), "nobody has this address"
        finally:
            capture.terminate()
        seen = capture.stdout.read()
    assert f"192.168.7.2.4789: VXLAN, flags [I] (0x08), vni {VNI}" in seen
    assert f"IP {A}" in seen
    assert "10.50.0.99" not in seen, "ARP for an unknown address must not leave the host"
    assert f"who-has {B}" not in seen, "the bridge answers ARP for known addresses itself"


def test_large_packets_fit(world: World) -> None:
    size = str(NETWORK["mtu"] - 28)  # type: ignore[operator]
    world.a.sh("busybox", "ping", "-c", "1", "-W", "2", "-s", size, B)
    assert world.one.tell("mtu") == 1500


def repairs(world: World) -> float:
    return float(world.one.tell("metric", "pyswarm_overlay_repairs_total"))


@pytest.mark.parametrize(
    "damage",
    [
        ["ip", "neigh", "flush", "dev", BRIDGE, "nud", "permanent"],
        ["bridge", "fdb", "del", mac_of(B), "dev", VXLAN, "self"],
        ["bridge", "fdb", "del", mac_of(B), "dev", VXLAN, "master"],
        ["bridge", "fdb", "replace", mac_of(B), "dev", VXLAN, "dst", "192.168.7.3", "self"],
        ["bridge", "fdb", "add", "02:42:00:00:00:99", "dev", VXLAN, "dst", "192.168.7.9", "self"],
        ["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", VXLAN, "dst", "192.168.7.9"],
        ["ip", "neigh", "replace", "10.50.7.7", "lladdr", "02:42:00:00:00:99", "dev", BRIDGE, "nud", "permanent"],
        ["ip", "neigh", "replace", B, "lladdr", "02:42:00:00:00:99", "dev", BRIDGE, "nud", "permanent"],
        ["bridge", "link", "set", "dev", VXLAN, "flood", "on", "learning", "on", "neigh_suppress", "off"],
        ["ip", "link", "set", VXLAN, "nomaster"],
        ["ip", "link", "set", VXLAN, "down"],
        ["ip", "link", "set", BRIDGE, "down"],
        ["ip", "link", "del", VXLAN],
    ],
    ids=lambda argv: " ".join(argv[1:4]),
)
def test_damage_by_another_hand_is_undone(world: World, damage: list[str]) -> None:
    wait_until(lambda: in_place(world.one), 5, "the beginning")
    before = repairs(world)

    world.one.sh(*damage)

    wait_until(lambda: in_place(world.one), 5, "every entry in place again")
    wait_until(lambda: repairs(world) > before, 5, "the repair is counted")
    assert reaches(world.a, B, 2)
    port = world.one.sh("bridge", "-d", "link", "show", "dev", VXLAN)
    for flag in ("learning off", " flood off", "mcast_flood off", "bcast_flood off", "neigh_suppress on"):
        assert flag in port


def test_a_device_with_other_parameters_is_made_anew(world: World) -> None:
    local = ["id", str(VNI), "dev", "eth0", "local", "192.168.7.99"]
    world.one.ip("link", "set", VXLAN, "type", "vxlan", *local)
    wait_until(
        lambda: "local 192.168.7.1 " in world.one.ip("-d", "link", "show", VXLAN, ok=False), 5, "our address"
    )
    wait_until(lambda: in_place(world.one), 5, "every entry in place again")


def test_a_lost_host_and_its_return(world: World) -> None:
    assert reaches(world.a, C, 2)
    world.update(state({A: "n1", B: "n2"}, nodes=("n1", "n2")))
    wait_until(lambda: world.one.fdb() == {mac_of(B): "192.168.7.2"}, 5, "the lost host's mapping is removed")
    assert world.one.neighbours() == {B: mac_of(B)}
    assert not reaches(world.a, C)
    assert reaches(world.a, B)
    world.update(state(PLACED))
    wait_until(lambda: in_place(world.one), 5, "the host is back")
    assert reaches(world.a, C, 2)


def test_a_container_moves(world: World) -> None:
    """Same address and MAC on another host: stale entries would black-hole it."""
    addr = "10.50.0.20"
    first = world.net.container(world.two, addr)
    world.update(state({**PLACED, addr: "n2"}))
    wait_until(lambda: world.one.fdb().get(mac_of(addr)) == "192.168.7.2", 5, "the mapping")
    assert reaches(world.a, addr, 2)

    world.net.remove(first)
    second = world.net.container(world.three, addr)
    world.update(state({**PLACED, addr: "n3"}))
    wait_until(lambda: world.one.fdb().get(mac_of(addr)) == "192.168.7.3", 5, "the new mapping")
    wait_until(lambda: mac_of(addr) not in world.three.fdb(), 5, "no mapping on its own host")
    assert reaches(world.a, addr, 2)
    assert reaches(world.b, addr, 2)

    world.net.remove(second)
    here = world.net.container(world.one, addr)  # and now beside the one who asks
    world.update(state({**PLACED, addr: "n1"}))
    wait_until(
        lambda: mac_of(addr) not in world.one.fdb() and addr not in world.one.neighbours(), 5, "it is local"
    )
    wait_until(lambda: reaches(world.a, addr), 5, "the local one answers")
    assert reaches(world.c, addr, 2)
    world.net.remove(here)


def test_a_restart_keeps_what_containers_use(world: World) -> None:
    """Killed and started again, knowing nothing yet, it leaves all in place; its own leftovers it knows again."""
    wait_until(lambda: in_place(world.one), 5, "the beginning")
    world.one.stop(signal.SIGKILL)
    assert reaches(world.a, B)
    world.one.start()
    world.one.tell("prune", ["net1"])
    world.one.tell("attach", NETWORK)
    assert in_place(world.one)
    assert reaches(world.a, B)

    world.one.ip("neigh", "add", "10.50.9.9", "lladdr", mac_of("10.50.9.9"), "dev", BRIDGE, "nud", "permanent")
    world.one.tell("update", state(PLACED))
    wait_until(lambda: in_place(world.one), 5, "what is stale is gone once the registry has spoken")


def test_prune_removes_only_our_own_strays(world: World) -> None:
    world.one.ip(
        "link", "add", "pswv77", "alias", "pyswarm:netgone", "type", "vxlan", "id", "77", "dstport", "4789"
    )
    world.one.ip("link", "set", "pswv77", "alias", "pyswarm:netgone")
    world.one.ip("link", "add", "pswv78", "type", "vxlan", "id", "78", "dstport", "4789")
    try:
        world.one.tell("prune", ["netgone"])
        assert "pswv77" in world.one.ip("link")
        world.one.tell("prune", [])
        links = world.one.ip("link")
        assert "pswv77" not in links
        assert "pswv78" in links, "without our mark it is somebody else's"
        assert VXLAN in links
        wait_until(
            lambda: RESOLVER_ADDR in world.one.ip("addr", "show", "dev", "lo"), 5, "names have their address"
        )
        assert ":53" in world.one.sh("ss", "-Hnltu", "src", RESOLVER_ADDR)
        assert world.one.tell("leftovers") == [VXLAN], "all of ours, and nothing else"
        assert RESOLVER_ADDR not in world.one.ip("addr", "show", "dev", "lo")
        world.one.tell("reconcile")
        wait_until(lambda: RESOLVER_ADDR in world.one.ip("addr", "show", "dev", "lo"), 10, "it is put back")
        wait_until(lambda: in_place(world.one), 5, "the overlay makes its own again")
    finally:
        world.one.ip("link", "del", "pswv78")


def test_detach_before_or_after_the_engine_removes_the_bridge(world: World) -> None:
    world.three.tell("detach", "net1")
    assert VXLAN not in world.three.ip("link")
    assert world.three.neighbours() == {}
    world.three.tell("detach", "net1")

    world.three.tell("attach", NETWORK)
    run("ip", "-n", world.three.name, "link", "del", BRIDGE)
    world.three.tell("detach", "net1")
    assert VXLAN not in world.three.ip("link")
    with pytest.raises(RuntimeError, match=f"has no bridge {BRIDGE}"):
        world.three.tell("attach", NETWORK)

    world.three.make_bridge()
    for line in world.three.ip("-o", "link", "show", "type", "veth").splitlines():
        name = line.split()[1].split("@")[0]
        if name.startswith("v"):
            world.three.ip("link", "set", name, "master", BRIDGE)
    world.three.tell("attach", NETWORK)
    assert reaches(world.c, B, 2)


def test_a_taken_vni_is_said(world: World) -> None:
    other = {**NETWORK, "network_id": "net2", "name": "db", "vni": 88}
    world.one.ip("link", "add", "foreign", "type", "vxlan", "id", "88", "dstport", "4789", "local", "192.168.7.1")
    world.one.ip("link", "add", "pswb88", "type", "bridge")
    try:
        with pytest.raises(RuntimeError, match="another VXLAN device of this host uses VNI 88"):
            world.one.tell("attach", other)
    finally:
        world.one.ip("link", "del", "foreign")
        world.one.ip("link", "del", "pswb88")


def bridge_flag(host: Host, bridge: str, flag: int) -> bool:
    return f"nf_call_iptables {flag}" in host.ip("-d", "link", "show", bridge)


def test_iptables_is_kept_for_other_bridges_only(world: World) -> None:
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not setting.exists():
        pytest.skip("the kernel has no bridge netfilter")
    world.two.ip("link", "add", "docker0", "type", "bridge")
    world.two.sh("sh", "-c", f"echo 1 > {setting}")
    world.two.ip("link", "add", "br-later", "type", "bridge")  # what the engine does: a bridge, and the setting
    try:
        wait_until(lambda: world.two.sh("cat", str(setting)).strip() == "0", 5, "the host's setting is cleared")
        for bridge, flag in (("docker0", 1), ("br-later", 1), (BRIDGE, 0)):
            wait_until(partial(bridge_flag, world.two, bridge, flag), 5, f"the flag of {bridge}")
    finally:
        world.two.ip("link", "del", "docker0")
        world.two.ip("link", "del", "br-later")


def test_thousands_of_entries(world: World) -> None:
    many = {f"10.50.{i // 200 + 1}.{i % 200 + 1}": "n2" for i in range(3000)}
    world.one.tell("update", state({**PLACED, **many}))
    wait_until(lambda: world.one.tell("metric", "pyswarm_overlay_fdb_entries") == 3002, 5, "all are in place")
    assert len(world.one.neighbours()) == 3002
    assert len(world.one.forwarded()) == 3002
    world.one.tell("update", state(PLACED))
    wait_until(lambda: in_place(world.one), 5, "all are gone again")
