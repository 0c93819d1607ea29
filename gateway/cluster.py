"""Whom the gateway asks: the daemon about this node, the local manager about the cluster."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import NotAManager, Unavailable
from pyswarm.common.nodecontrol import NodeControl, NodeInfo
from pyswarm.gateway.ports import Control

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)

#: Asking the daemon takes as long as a short command's own work; hundreds of them per second ask it a few times.
KNOWN_FOR_S = 0.2

#: Gives a client of the manager on this node.
Connect = Callable[[NodeInfo], Awaitable[Control]]


class ClusterAccess:
    """The daemon's ``node`` control, and a control client whenever this node is a manager."""

    def __init__(self, node: NodeControl, connect: Connect, clock: Clock | None = None) -> None:
        self.node = node
        self._connect = connect
        self._clock = clock or SystemClock()
        self._known: NodeInfo | None = None
        self._known_since_s = 0.0
        self._forgot_at_s = float("-inf")

    async def control(self, info: NodeInfo | None = None) -> Control:
        """A client of the local manager; raises NotAManager with Docker's text when there is none."""
        if info is None:
            info = self._recent() or await self._ask()
        if info.is_manager:
            return await self._connect(info)
        if info.local_state == "error" and info.role == "manager":
            raise Unavailable(info.error)
        raise NotAManager(WORKER if info.local_state == "active" else NO_SWARM)

    def forget(self) -> None:
        """This node may not be a manager any more: the next request asks."""
        self._known, self._forgot_at_s = None, self._clock.monotonic()

    def _recent(self) -> NodeInfo | None:
        """What the daemon said a moment ago, if this node was a manager then. One that has been demoted meanwhile
        is told so by the manager itself."""
        return self._known if self._clock.monotonic() - self._known_since_s < KNOWN_FOR_S else None

    async def _ask(self) -> NodeInfo:
        asked_at_s = self._clock.monotonic()
        info = await self.node.info()
        if asked_at_s > self._forgot_at_s:
            self._known, self._known_since_s = info if info.is_manager else None, asked_at_s
        return info


def tls_info(root_ca_pem: bytes) -> dict[str, Any]:
    """What clients show of the root certificate."""
    if not root_ca_pem:
        return {}
    root = x509.load_pem_x509_certificate(root_ca_pem)
    key = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "TrustRoot": root_ca_pem.decode(),
        "CertIssuerSubject": base64.b64encode(root.subject.public_bytes()).decode(),
        "CertIssuerPublicKey": base64.b64encode(key).decode(),
    }
