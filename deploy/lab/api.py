"""Docker's API on a host's socket, for the demo, tests and benchmarks: JSON in, JSON out."""

import http.client
import json
import socket
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file; it is reachable from every network namespace."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    socket_path: str, method: str, path: str, body: object = None, timeout_s: float = 20.0
) -> tuple[int, Any]:
    """Send one request; returns the status and the decoded JSON (None when there is no body). Raises OSError."""
    connection = _UnixConnection(socket_path, timeout_s)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
        response = connection.getresponse()
        text = response.read()
        try:
            return response.status, json.loads(text) if text else None
        except json.JSONDecodeError:
            return response.status, text.decode(errors="replace")
    finally:
        connection.close()
