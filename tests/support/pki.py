"""A swarm CA and certificates of its nodes, as the manager's own CA makes them."""

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.ids import new_id
from pyswarm.common.tls import TLSIdentity
from pyswarm.manager.ca import create_root, sign_node_certificate


class Pki:
    """One cluster's authority."""

    def __init__(self, cluster_id: str = "") -> None:
        self.cluster_id = cluster_id or new_id()
        self.root_pem, self._key_pem = create_root(self.cluster_id)

    def identity(
        self, role: str, node_id: str = "", cluster_id: str = "", *, addr: str = "", life_s: float = 3600
    ) -> TLSIdentity:
        """A new key with its certificate. ``cluster_id`` is for certificates no honest CA would sign."""
        node_id = node_id or new_id()
        key_pem, csr_pem = new_key_and_request()
        certificate = sign_node_certificate(
            root_cert_pem=self.root_pem,
            root_key_pem=self._key_pem,
            csr_pem=csr_pem,
            node_id=node_id,
            role=role,
            cluster_id=cluster_id or self.cluster_id,
            life_s=life_s,
            addr=addr,
        )
        return TLSIdentity(self.root_pem, certificate, key_pem)
