"""Whether something answers behind a unix socket."""

import http.client
import socket
from pathlib import Path

_LIMIT_S = 2.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = _connected(self._path)


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_LIMIT_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def accepts(path: Path) -> bool:
    """Whether connections are accepted."""
    try:
        _connected(path).close()
    except OSError:
        return False
    return True


def pings(path: Path) -> bool:
    """Whether GET /_ping is answered with 200, as engine and daemon both do."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
