"""Who may send frames of the cluster's networks to this host: its members, and nobody behind them. Pure.

VXLAN believes every packet that comes to its port. A container that sends one is not kept from it by the address
it has: on its way out it gets that of its host, which is a member. So its own host has to stop it.
"""

from collections.abc import Iterable

from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh.table import Chain, NamedSet, Table


def guard_table(*, members: Iterable[str], vnis: Iterable[int], port: int) -> Table:
    """``members``: underlay addresses of all hosts. ``port``: UDP port of the data path. ``vnis``: of frames."""
    frames = f"udp dport {port} @th,96,24 {{ {', '.join(map(str, vnis))} }}"
    return Table(
        names.GUARD_TABLE,
        {
            "arrive": Chain((f"{frames} ip saddr != @members drop",), "filter hook input priority -11"),
            "pass": Chain((f"{frames} ip daddr @members drop",), "filter hook forward priority -11"),
        },
        {"members": NamedSet("set", "type ipv4_addr", dict.fromkeys(members, ""))},
    )
