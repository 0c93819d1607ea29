"""Keeps the frames of overlay bridges out of iptables, which costs a third of their throughput.

The host's settings (``bridge-nf-call-iptables``) and each bridge's own flag are OR-ed by the kernel, and the
engine sets the host's to 1 when it starts and for some networks it makes. So the rule for everybody is first moved
to every bridge that is not ours, where it then holds for that bridge alone, and only then is the host's setting
cleared. Between the engine's write and our next look, overlay frames pass iptables: slower, not wrong.
"""

from collections.abc import Iterable
from pathlib import Path

from pyroute2 import IPRoute

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.links import set_bridge_nf
from pyswarm.overlay.objects import NF_TABLES, BridgeLink, is_overlay_bridge

# Under /proc/sys/net each process sees its own network namespace's settings.
_SETTINGS = {table: Path(f"/proc/sys/net/bridge/bridge-nf-call-{table}") for table in NF_TABLES}

_ENGINE_BRIDGE = "docker0"


def spare_overlay_bridges(ipr: IPRoute, bridges: Iterable[BridgeLink]) -> bool:
    """Move the host-wide rule to the bridges that are not ours; whether anything was changed.

    Where the kernel has no such settings (module not loaded), or somebody has turned them off, nothing is done.
    """
    others = [b for b in bridges if not is_overlay_bridge(b.name)]
    values = {table: _read(path) for table, path in _SETTINGS.items()}
    host_wide = {table for table, value in values.items() if value == "1"}
    # Once moved, a bridge made later needs the flag too, though the host's setting no longer shows it was on. The
    # engine's first bridge remembers, also for the next process.
    moved = {table for b in others if b.name == _ENGINE_BRIDGE for table in b.nf_call if values[table]}
    changed = False
    for bridge in others:
        if lacking := (host_wide | moved) - bridge.nf_call:
            set_bridge_nf(ipr, bridge.name, lacking, True)
            changed = True
    for table in host_wide:
        try:
            _SETTINGS[table].write_text("0")
        except OSError as exc:
            raise OverlayError(f"cannot write {_SETTINGS[table]}: {exc.strerror}") from exc
        changed = True
    return changed


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
