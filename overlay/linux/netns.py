"""Entering a network namespace with one thread, as that of a container."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyswarm.overlay.errors import OverlayError

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


@contextmanager
def entered(path: str) -> Iterator[None]:
    """The calling thread, and no other, is in the network namespace at ``path`` (``/proc/PID/ns/net``) inside the
    block. Sockets opened there stay there. Raises OverlayError when it is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise OverlayError(f"cannot enter the network namespace {path}: {exc.strerror}") from exc
        try:
            _set(libc, other, path)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _set(libc, own, _OWN)
    finally:
        os.close(own)


def _set(libc: ctypes.CDLL, fd: int, path: str) -> None:
    if libc.setns(fd, _CLONE_NEWNET):
        raise OverlayError(f"cannot enter the network namespace {path}: {os.strerror(ctypes.get_errno())}")
