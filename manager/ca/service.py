"""The CA service: a member renews its own certificate, with the role the store says it has."""

from typing import Any

from pyswarm.common.errors import PermissionDenied, Unavailable
from pyswarm.common.tls import peer_identity
from pyswarm.manager.ca.authority import sign_node_certificate
from pyswarm.manager.state import Store
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import ca_pb2, ca_pb2_grpc


class CAServicer(ca_pb2_grpc.CAServicer):
    """Any manager signs: each holds the root key through the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def Renew(self, request: ca_pb2.RenewRequest, context: Any) -> Any:
        """A new certificate for the caller's node id; nothing in the request but its key is believed."""
        try:
            return self._renew(peer_identity(context).node_id, request.csr_pem)
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    def _renew(self, node_id: str, csr_pem: bytes) -> ca_pb2.RenewReply:
        view = self._store.view
        if view.cluster is None:
            raise Unavailable("this manager is still starting; try again in a moment")
        node = view.nodes.get(node_id)
        if node is None:
            raise PermissionDenied("this node is not, or no longer, part of the swarm")
        certificate = sign_node_certificate(
            root_cert_pem=view.cluster.root_ca_cert,
            root_key_pem=view.cluster.root_ca_key,
            csr_pem=csr_pem,
            node_id=node_id,
            role=node.spec.role.value,
            cluster_id=view.cluster.id,
            life_s=view.cluster.spec.node_cert_expiry_ns / 1e9,
            addr=node.underlay_addr,
        )
        return ca_pb2.RenewReply(certificate_pem=certificate, root_ca_pem=view.cluster.root_ca_cert)
