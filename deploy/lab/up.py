"""Bring a lab up: whatever of it is missing is made or started."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import daemon, engine, image, network, state
from .errors import LabError
from .names import Host, Lab
from .processes import clean_environment

# What each program comes from, for the error when it is missing.
_PROGRAMS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "iptables": "iptables",
    "containerd": "containerd",
    "dockerd": "docker.io",
    "docker": "docker.io",
    "busybox": "busybox-static",
}


def up(lab: Lab, count: int, *, engines_only: bool) -> None:
    """Make or complete the lab with ``count`` hosts; a larger lab is never made smaller. Called with it locked."""
    _require_programs()
    started = time.monotonic()
    count = max(count, state.host_count(lab))
    state.claim(lab, count)
    hosts = lab.hosts(count)
    network.ensure_switch(lab)
    for host in hosts:
        host.folder.mkdir(exist_ok=True)
        host.run_dir.mkdir(parents=True, exist_ok=True)
        network.ensure_host(host)
    archive = image.build(lab)
    failures: list[LabError] = []
    with ThreadPoolExecutor(max_workers=8) as pool:
        results = [pool.submit(_host_up, host, archive, engines_only) for host in hosts]
        for result in results:
            try:
                result.result()
            except LabError as exc:
                failures.append(exc)
    network.bridge_filter_off(lab)
    for failure in failures[:-1]:
        print(f"lab: {failure}\n{failure.details}", file=sys.stderr)
    if failures:
        raise failures[-1]
    _say(f"lab {lab.prefix!r}: {count} hosts ready ({time.monotonic() - started:.1f} s)")


def _host_up(host: Host, archive: Path, engines_only: bool) -> None:
    begun = time.monotonic()
    if engine.ensure_engine(host):
        _say(f"{host.name}: engine ready ({time.monotonic() - begun:.1f} s)")
    image.ensure(host, archive)
    if not engines_only and daemon.ensure_daemon(host):
        _say(f"{host.name}: daemon ready ({time.monotonic() - begun:.1f} s)")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _require_programs() -> None:
    path = clean_environment()["PATH"]
    missing = {package: name for name, package in _PROGRAMS.items() if shutil.which(name, path=path) is None}
    if missing:
        raise LabError(f"not installed: {', '.join(missing.values())}; apt-get install {' '.join(missing)}")
