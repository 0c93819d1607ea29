"""Settings of network devices (``net.ipv4.conf``), in the network namespace of the calling thread."""

from pathlib import Path

from pyswarm.overlay.errors import OverlayError

_ROOT = Path("/proc/sys/net/ipv4/conf")


def read_setting(device: str, name: str) -> str | None:
    """None for a device that is not there (any more)."""
    try:
        return (_ROOT / device / name).read_text().strip()
    except OSError:
        return None


def write_setting(device: str, name: str, value: str) -> None:
    """A device that went away meanwhile is fine."""
    try:
        (_ROOT / device / name).write_text(value)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise OverlayError(f"cannot write {_ROOT / device / name}: {exc.strerror}") from exc
