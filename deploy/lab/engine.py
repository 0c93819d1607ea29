"""A host's real Docker Engine: containerd and dockerd, with everything of theirs in the host's folder.

containerd is started here, not by dockerd: dockerd would take the machine's own containerd where one runs, and its
child would die with it, whereas on a real host containers and containerd outlive a killed dockerd.
"""

import json
import re
from pathlib import Path

from . import probe
from .names import Host
from .processes import ensure_running, run

CONTAINERD_LIMIT_S = 30.0
ENGINE_LIMIT_S = 60.0

# Plugins that are of no use to dockerd, which cost start-up time or write outside the host's folder.
_CONTAINERD_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


def engine_version() -> tuple[int, ...]:
    """The installed engine's version, such as (20, 10, 24)."""
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", run("dockerd", "--version"))
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _own_pid_file(host: Host) -> Path:
    """dockerd's own; by default it would be the machine's."""
    return host.folder / "engine.pid"


def _engine_config(host: Host) -> dict[str, object]:
    config: dict[str, object] = {
        "data-root": str(host.folder / "engine"),
        "exec-root": str(host.folder / "exec"),
        "pidfile": str(_own_pid_file(host)),
        "hosts": [f"unix://{host.engine_socket}"],
        "containerd": str(host.containerd_socket),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{host.kernel_name}",
        "live-restore": True,
    }
    if engine_version() < (23,):
        # The engine's id comes from this key, by default the machine's: hosts would share one id.
        config["deprecated-key-path"] = str(host.folder / "engine-key.json")
    return config


def ensure_containerd(host: Host) -> None:
    """Start containerd unless it runs, and wait until it accepts connections."""

    def command() -> list[str]:
        folder = host.folder / "containerd"
        folder.mkdir(exist_ok=True)
        config = folder / "config.toml"
        config.write_text(_CONTAINERD_CONFIG.format(folder=folder, socket=host.containerd_socket))
        return ["containerd", "--config", str(config)]

    ensure_running(host, "containerd", command, lambda: probe.accepts(host.containerd_socket), CONTAINERD_LIMIT_S)


def ensure_engine(host: Host) -> bool:
    """Start the engine unless it runs, and wait until it answers; True if it was started."""
    ensure_containerd(host)

    def command() -> list[str]:
        # dockerd refuses to start when any process has the pid in a file left behind.
        _own_pid_file(host).unlink(missing_ok=True)
        config = host.folder / "daemon.json"
        config.write_text(json.dumps(_engine_config(host), indent=2) + "\n")
        return ["dockerd", "--config-file", str(config)]

    return ensure_running(host, "dockerd", command, lambda: probe.pings(host.engine_socket), ENGINE_LIMIT_S)
