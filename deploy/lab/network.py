"""The hosts' network: a namespace each, and a switch namespace with a bridge between them."""

import json
import os
from pathlib import Path

from .names import NETNS_DIR, Host, Lab
from .processes import run

# The switch's netfilter must not see the frames, or every packet between hosts is paid for twice.
_NO_BRIDGE_FILTER = """
for table in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$table" ] || echo 0 > "$table"; done
"""


def is_mounted(path: Path) -> bool:
    """Whether a namespace is mounted here."""
    try:
        return os.stat(path).st_dev != os.stat(path.parent).st_dev
    except FileNotFoundError:
        return False


def _ensure_netns(path: Path) -> None:
    """Make a network namespace unless it exists. An interrupted attempt leaves a plain file."""
    if is_mounted(path):
        return
    path.unlink(missing_ok=True)
    run("ip", "netns", "add", path.name)


def _batch(netns: str, *lines: str) -> None:
    run("ip", "-n", netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def _links(netns: str) -> dict[str, list[str]]:
    """Name of each link in a namespace, with its flags."""
    return {link["ifname"]: link["flags"] for link in json.loads(run("ip", "-n", netns, "-j", "link", "show"))}


def bridge_filter_off(lab: Lab) -> None:
    """Applied again once the engines run: the first on a machine may load br_netfilter, which starts on."""
    run("nsenter", f"--net={lab.switch_netns}", "--", "sh", "-c", _NO_BRIDGE_FILTER)


def ensure_switch(lab: Lab) -> None:
    """The switch namespace, its bridge and its address."""
    _ensure_netns(lab.switch_netns)
    if lab.bridge not in _links(lab.switch_name):
        _batch(lab.switch_name, f"link add {lab.bridge} type bridge stp_state 0 mcast_snooping 0")
    _batch(
        lab.switch_name,
        "link set lo up",
        f"addr replace {lab.switch_address}/24 dev {lab.bridge}",
        f"link set {lab.bridge} up",
    )
    bridge_filter_off(lab)


def ensure_host(host: Host) -> None:
    """The host's namespaces, and its link to the switch, up.

    There is no default route: nothing outside is reachable, and so a pull from a registry fails at once.
    """
    lab = host.lab
    _ensure_netns(host.netns)
    if not is_mounted(host.uts):
        host.uts.touch()
        run("unshare", f"--uts={host.uts}", "--", "hostname", host.name)
    # Both ends of a veth go together, so the host's end tells.
    if "eth0" not in _links(host.kernel_name):
        run(
            *f"ip link add eth0 netns {host.kernel_name} mtu 1500 type veth".split(),
            *f"peer name {host.kernel_name} netns {lab.switch_name} mtu 1500".split(),
        )
    _batch(lab.switch_name, f"link set {host.kernel_name} master {lab.bridge} up")
    _batch(
        host.kernel_name,
        "link set lo up",
        f"addr replace {host.address}/24 broadcast + dev eth0",
        "link set eth0 up",
    )


def set_link(host: Host, up: bool) -> None:
    """Cut a host off, or undo that, at the switch: the host sees its cable pulled."""
    run("ip", "-n", host.lab.switch_name, "link", "set", host.kernel_name, "up" if up else "down")


def link_is_up(host: Host) -> bool | None:
    """Whether the host's port on the switch is up; None without one."""
    if not is_mounted(host.lab.switch_netns):
        return None
    flags = _links(host.lab.switch_name).get(host.kernel_name)
    return None if flags is None else "UP" in flags


def namespaces(lab: Lab) -> list[Path]:
    """The lab's network namespaces that exist, or were begun."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(path for path in NETNS_DIR.iterdir() if lab.owned.fullmatch(path.name))


def remove_namespaces(lab: Lab) -> None:
    """The links in them go too."""
    for path in namespaces(lab):
        if is_mounted(path):
            run("ip", "netns", "del", path.name)
        path.unlink(missing_ok=True)
