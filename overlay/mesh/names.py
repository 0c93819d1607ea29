"""Names and numbers of the routing mesh, the same on every host. Pure.

A packet's mark says where it belongs, a connection's mark remembers it: ``ENTRY_MARK`` on the host on which a
connection was led to a task, ``ORIGIN_MARK`` and that host's number on the task's host, so that replies find back.
"""

from ipaddress import IPv4Address
from typing import Final

#: The device that carries connections between hosts, with its VNI; those of networks begin above.
DEVICE: Final = "pswin"
VNI: Final = 4095
ALIAS: Final = "pyswarm:mesh"
#: The bridges through which containers leave the host, and their replies with them.
EGRESS_BRIDGES: Final = ("pswgw", "docker_gwbridge")
NFT_TABLE: Final = "pyswarm_mesh"
GUARD_TABLE: Final = "pyswarm_guard"
#: Whose rules and routes are ours, as the kernel keeps it with each.
ROUTE_PROTOCOL: Final = 112

ENTRY_MARK: Final = 0x2000
ORIGIN_MARK: Final = 0x1000
#: ``ORIGIN_MARK`` and the number beside it.
ORIGIN_MASK: Final = 0x1FFF
#: All bits that are ours.
MARK_MASK: Final = 0x3FFF

#: Priorities of rules: before any that others add for tunnels of theirs (from 5000 on, as a rule).
SKIP_PRIORITY: Final = 100
TASKS_PRIORITY: Final = 101
UNMARKED_PRIORITY: Final = 102
FIRST_ORIGIN_PRIORITY: Final = 110
END_PRIORITY: Final = 4500
#: The routing table with the way to each task; that with the way back to host N is N above.
TASKS_TABLE: Final = 4_095_000

_FIRST_ADDR: Final = int(IPv4Address("169.254.224.0"))


def mesh_addr(index: int) -> str:
    """A host's address in the mesh. Link-local: no network of the cluster or of a site has such addresses."""
    return str(IPv4Address(_FIRST_ADDR + index))


def mesh_mac(index: int) -> str:
    """The MAC of a host's device, the same after each start."""
    return f"0e:fe:00:00:{index >> 8:02x}:{index & 0xFF:02x}"


def origin_mark(index: int) -> int:
    """The mark of connections that came from the host with this number."""
    return ORIGIN_MARK + index


def origin_table(index: int) -> int:
    """The routing table with the way back to that host."""
    return TASKS_TABLE + index
