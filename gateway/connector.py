"""Connections to the local manager, made anew when this node's certificate or address changes."""

import os
from collections.abc import Callable
from pathlib import Path

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import Unavailable
from pyswarm.common.nodecontrol import NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.gateway.ports import Control

CLUSTER_PORT = 2377
#: Longer than any call to a manager takes.
RETIRE_S = 60.0


class ManagerConnector:
    """Holds one client of the local manager. A renewed certificate is picked up at the next request."""

    def __init__(
        self, connect: Callable[[TLSIdentity, str], Control], tasks: TaskGroupOwner, clock: Clock | None = None
    ) -> None:
        self._connect = connect
        self._tasks = tasks
        self._clock = clock or SystemClock()
        self._key: tuple[str, int, int] | None = None
        self._client: Control | None = None
        self._retired: list[Control] = []

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
            if self._client is not None:
                self._retired.append(self._client)
                self._tasks.spawn(self._close_later(self._client), "close-control")
            self._client, self._key = fresh, key
        return self._client

    async def _close_later(self, client: Control) -> None:
        """Calls under way on a client that was replaced may end first."""
        await self._clock.sleep(RETIRE_S)
        self._retired.remove(client)
        await client.close()

    async def close(self) -> None:
        """Close all connections."""
        clients = [*self._retired, *([self._client] if self._client is not None else [])]
        self._client, self._key, self._retired = None, None, []
        for client in clients:
            await client.close()
