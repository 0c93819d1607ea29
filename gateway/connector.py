"""Connections to the local manager, made anew when this node's certificate or address changes."""

import os
from collections.abc import Callable
from pathlib import Path

from pyswarm.common.errors import Unavailable
from pyswarm.common.nodecontrol import NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.gateway.ports import Control

CLUSTER_PORT = 2377


class ManagerConnector:
    """Holds one client of the local manager. A renewed certificate is picked up at the next request."""

    def __init__(self, connect: Callable[[TLSIdentity, str], Control], tasks: TaskGroupOwner) -> None:
        self._connect = connect
        self._tasks = tasks
        self._key: tuple[str, int, int] | None = None
        self._client: Control | None = None

    async def __call__(self, info: NodeInfo) -> Control:
        """The client for ``info``'s node and address."""
        addr = info.addr if ":" in info.addr else f"{info.addr}:{CLUSTER_PORT}"
        try:
            stat = os.stat(Path(info.certs_dir) / "node.crt")
        except OSError as exc:
            raise Unavailable(f"this node's certificate cannot be read: {exc}") from exc
        key = (addr, stat.st_mtime_ns, stat.st_ino)
        if self._client is None or key != self._key:
            fresh = self._connect(TLSIdentity.load(info.certs_dir), addr)
            await self.close()
            self._client, self._key = fresh, key
        return self._client

    async def close(self) -> None:
        """Let the present client go; requests on it may still end."""
        if self._client is not None:
            client, self._client, self._key = self._client, None, None
            self._tasks.spawn(client.close(), "close-control")
