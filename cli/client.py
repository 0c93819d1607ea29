"""HTTP over the daemon's unix socket, with the standard library only."""

import http.client
import json
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from pyswarm.cli.errors import CliError, DaemonError, NoDaemon

API_VERSION = "1.41"
DEFAULT_HOST = "unix:///run/pyswarm/docker.sock"
#: Joining waits for other hosts; everything else answers in far less.
_TIMEOUT_S = 200.0


def chosen_host(option: str | None) -> str:
    """``--host``, else PYSWARM_HOST, else DOCKER_HOST, else the default socket."""
    return option or os.environ.get("PYSWARM_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


class Client:
    """One connection to the daemon, opened at the first request and used for all."""

    def __init__(self, host: str) -> None:
        if not host.startswith("unix://"):
            raise CliError(f"the host must be a unix socket (unix:///path), not {host}")
        self.host = host
        #: Whether lists may be of what the daemon's manager last knew.
        self.stale = False
        self._connection = _UnixConnection(host.removeprefix("unix://"))

    def request(self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None) -> Any:
        """The decoded JSON of the answer, None when it has no body. Raises DaemonError and NoDaemon."""
        url = f"/v{API_VERSION}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            reused = self._connection.sock is not None
            try:
                self._connection.request(method, url, data, headers)
                reply = self._connection.getresponse()
                text = reply.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as exc:
                self._connection.close()
                # The daemon drops connections it has not heard of for a while; that asks for a new one, once.
                if not (reused and method == "GET" and attempt == 1):
                    raise NoDaemon(f"the pyswarm daemon at {self.host} closed the connection") from exc
            except OSError as exc:
                self._connection.close()
                raise self._unreachable(exc) from exc
        return self._decoded(reply, text)

    def _decoded(self, reply: http.client.HTTPResponse, text: bytes) -> Any:
        server = reply.headers.get("Server", "")
        if not server.startswith("pyswarm/"):
            raise CliError(
                f"{self.host} is not pyswarm but {server or 'something else'}: "
                "set PYSWARM_HOST to the socket of pyswarmd, or unset DOCKER_HOST"
            )
        try:
            value = json.loads(text) if text.strip() else None
        except ValueError as exc:
            raise DaemonError(reply.status, text.decode(errors="replace").strip()) from exc
        if reply.status >= 400:
            message = value.get("message") if isinstance(value, dict) else None
            raise DaemonError(reply.status, message or f"HTTP status {reply.status}")
        return value

    def _unreachable(self, exc: OSError) -> NoDaemon:
        if isinstance(exc, PermissionError):
            return NoDaemon(
                f"permission denied while trying to connect to the pyswarm daemon at {self.host}: "
                "run the command as root or as a member of the socket's group (docker)"
            )
        if isinstance(exc, TimeoutError):
            return NoDaemon(f"the pyswarm daemon at {self.host} did not answer within {_TIMEOUT_S:g} seconds")
        return NoDaemon(
            f"Cannot connect to the pyswarm daemon at {self.host}. Is it running? "
            "Start it with: systemctl start pyswarmd (or: pyswarmd)"
        )

    def stream(self, path: str, query: dict[str, str]) -> http.client.HTTPResponse:
        """The answer of a ``GET`` that goes on for as long as it likes. Raises as ``request``."""
        try:
            self._connection.request("GET", f"/v{API_VERSION}{path}?{urlencode(query)}")
            reply = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as exc:
            raise NoDaemon(f"the pyswarm daemon at {self.host} closed the connection") from exc
        except OSError as exc:
            raise self._unreachable(exc) from exc
        if reply.status >= 400 or not reply.headers.get("Server", "").startswith("pyswarm/"):
            self._decoded(reply, reply.read())
        if self._connection.sock is not None:
            self._connection.sock.settimeout(None)
        return reply

    def received(self, reply: http.client.HTTPResponse, read: Callable[[], bytes]) -> bytes:
        """What ``read`` gets of a stream, empty at its end."""
        try:
            return read()
        except (OSError, http.client.HTTPException) as exc:
            raise NoDaemon(f"the pyswarm daemon at {self.host} closed the connection") from exc

    def get(self, path: str, **query: str) -> Any:
        """``GET``."""
        if self.stale:
            query["stale"] = "1"
        return self.request("GET", path, query)

    def post(self, path: str, body: Any = None, **query: str) -> Any:
        """``POST``."""
        return self.request("POST", path, query, body)

    def delete(self, path: str, **query: str) -> Any:
        """``DELETE``."""
        return self.request("DELETE", path, query)

    def one(self, kind: str, ref: str, **query: str) -> Any:
        """The object of ``kind`` (``services``) that ``ref`` means: id, name or unique prefix of an id."""
        if not ref:
            raise CliError(f"invalid empty name of a {kind.removesuffix('s')}")
        return self.get(f"/{kind}/{quote(ref, safe='')}", **query)

    def listed(self, kind: str, filters: dict[str, list[str]] | None = None, **query: str) -> list[Any]:
        """All objects of ``kind`` that pass ``filters``."""
        if filters:
            query["filters"] = json.dumps({name: dict.fromkeys(values, True) for name, values in filters.items()})
        return list(self.get(f"/{kind}", **query) or [])
