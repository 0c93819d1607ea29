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
from pyswarm.overlay.objects import BridgeLink, is_overlay_bridge

# Under /proc/sys/net each process sees its own network namespace's settings.
_SETTINGS = tuple(Path("/proc/sys/net/bridge") / f"bridge-nf-call-{table}" for table in ("iptables", "ip6tables"))


def spare_overlay_bridges(ipr: IPRoute, bridges: Iterable[BridgeLink]) -> bool:
    """Move the host-wide rule to the bridges that are not ours; whether anything was changed.

    Where the kernel has no such settings (module not loaded), or somebody has turned them off, nothing is done.
    """
    others = [b for b in bridges if not is_overlay_bridge(b.name)]
    host_wide = [path for path in _SETTINGS if _read(path) == "1"]
    # Once moved, a bridge made later needs the flag too, though the host's setting no longer shows it was on.
    moved_before = any(b.nf_call for b in others)
    if not host_wide and not (moved_before and any(path.exists() for path in _SETTINGS)):
        return False
    changed = False
    for bridge in others:
        if not bridge.nf_call:
            set_bridge_nf(ipr, bridge.name, True)
            changed = True
    for path in host_wide:
        try:
            path.write_text("0")
        except OSError as exc:
            raise OverlayError(f"cannot write {path}: {exc.strerror}") from exc
        changed = True
    return changed


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
