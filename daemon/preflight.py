"""What is checked before a node initialises or joins a swarm, so that it fails early, with a reason."""

import errno
import os
import shutil
import socket

from pyswarm.common.errors import FailedPrecondition, InvalidArgument

#: Program, Debian package, and whether only managers need it.
_PROGRAMS = (
    ("ip", "iproute2", False),
    ("nft", "nftables", False),
    ("setpriv", "util-linux", True),
    ("etcd", "etcd-server", True),
)


def check_programs(*, manager: bool, own_etcd: bool = True) -> None:
    """Raise FailedPrecondition naming the first program that is missing, and its package."""
    for program, package, managers_only in _PROGRAMS:
        if managers_only and not (manager and own_etcd):
            continue
        if shutil.which(program) is None:
            raise FailedPrecondition(f"{program} is not installed: run 'apt-get install {package}' and try again")


def check_root() -> None:
    """Raise FailedPrecondition unless this process may make network devices."""
    if os.geteuid() != 0:
        raise FailedPrecondition("pyswarmd must run as root: it makes network devices and talks to the engine")


def check_local_address(addr: str, option: str) -> None:
    """Raise InvalidArgument unless ``addr`` is an address of this host: nothing could listen on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((addr, 0))
        except OSError as exc:
            raise InvalidArgument(f'invalid {option} "{addr}": it is not an address of this host') from exc


def check_ports(*, manager: bool, own_etcd: bool = True) -> None:
    """Raise FailedPrecondition naming the first TCP port of pyswarm's own that something else holds."""
    if manager:
        wanted = [(2377, "cluster management"), (2378, "joining nodes")]
        if own_etcd:
            wanted += [(2379, "etcd clients"), (2380, "etcd peers")]
        for port, purpose in wanted:
            _check_free(socket.SOCK_STREAM, port, "tcp", purpose)


def check_data_path_port(port: int) -> None:
    """The same for the overlay's port, which network devices of an earlier membership would hold too."""
    _check_free(socket.SOCK_DGRAM, port, "udp", "VXLAN")


def _check_free(kind: socket.SocketKind, port: int, protocol: str, purpose: str) -> None:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            # Connections of an earlier run in TIME_WAIT do not count; a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - a probe: bound and closed
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise FailedPrecondition(f"cannot use port {port}/{protocol}: {exc.strerror}") from exc
            raise FailedPrecondition(
                f"port {port}/{protocol}, which pyswarm needs for {purpose}, is in use on this host; "
                f"'ss -lnp' shows by whom"
            ) from exc
