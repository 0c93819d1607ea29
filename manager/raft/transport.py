"""PySyncObj's transport seam. It has no sockets: what the engine sends goes to our outbox, and what comes in

passes the engine's ``receive``. PySyncObj's own transport unpickles whatever connects; it is never created.
"""

from collections.abc import Callable
from typing import Any

import pysyncobj.transport


class EngineTransport(pysyncobj.transport.Transport):  # type: ignore[misc]  # untyped base
    """Hands the engine's messages on as they are."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    @property
    def ready(self) -> bool:
        """Always: there is nothing to bind."""
        return True

    def waitReady(self) -> None:
        """Nothing to wait for."""

    def addNode(self, node: Any) -> None:
        """Membership is the engine's."""

    def dropNode(self, node: Any) -> None:
        """Membership is the engine's."""

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """Always accepted; the network may lose it."""
        self._send(str(node.id), message)
        return True

    def destroy(self) -> None:
        """Nothing is open."""
