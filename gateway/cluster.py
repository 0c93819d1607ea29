"""Whom the gateway asks: the daemon about this node, the local manager about the cluster."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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

#: Gives a client of the manager on this node.
Connect = Callable[[NodeInfo], Awaitable[Control]]


class ClusterAccess:
    """The daemon's ``node`` control, and a control client whenever this node is a manager."""

    def __init__(self, node: NodeControl, connect: Connect) -> None:
        self.node = node
        self._connect = connect

    async def control(self, info: NodeInfo | None = None) -> Control:
        """A client of the local manager; raises NotAManager with Docker's text when there is none."""
        if info is None:
            info = await self.node.info()
        if info.is_manager:
            return await self._connect(info)
        if info.local_state == "error" and info.role == "manager":
            raise Unavailable(info.error)
        raise NotAManager(WORKER if info.local_state == "active" else NO_SWARM)


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
