"""A host's real Docker Engine: containerd and dockerd, with everything of theirs in the host's folder.

containerd is started here, not by dockerd: dockerd would take the machine's own containerd where one runs, and its
child would die with it, whereas on a real host containers and containerd outlive a killed dockerd.
"""

import json
import re

from . import probe
from .names import Host
from .processes import recorded_pid, run, spawn, wait_started

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


def _engine_config(host: Host) -> dict[str, object]:
    config: dict[str, object] = {
        "data-root": str(host.folder / "engine"),
        "exec-root": str(host.folder / "exec"),
        "pidfile": str(host.pid_file("dockerd")),
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
    if recorded_pid(host, "containerd") and probe.accepts(host.containerd_socket):
        return
    folder = host.folder / "containerd"
    folder.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(_CONTAINERD_CONFIG.format(folder=folder, socket=host.containerd_socket))
    log = host.log("containerd")
    process = spawn(host, log, ["containerd", "--config", str(config)])
    host.pid_file("containerd").write_text(f"{process.pid}\n")
    wait_started(
        process,
        lambda: probe.accepts(host.containerd_socket),
        CONTAINERD_LIMIT_S,
        f"{host.name}: containerd",
        log,
    )


def ensure_engine(host: Host) -> bool:
    """Start the engine unless it answers, and wait until it does; True if it was started."""
    if recorded_pid(host, "dockerd") and probe.pings(host.engine_socket):
        return False
    ensure_containerd(host)
    config = host.folder / "daemon.json"
    config.write_text(json.dumps(_engine_config(host), indent=2) + "\n")
    # dockerd refuses to start when any process has the pid in a file left behind.
    host.pid_file("dockerd").unlink(missing_ok=True)
    log = host.log("dockerd")
    process = spawn(host, log, ["dockerd", "--config-file", str(config)])
    wait_started(process, lambda: probe.pings(host.engine_socket), ENGINE_LIMIT_S, f"{host.name}: the engine", log)
    return True
