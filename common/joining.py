"""What a node and a manager say to each other while the node has no certificate yet.

It is HTTPS on the port after the cluster's, with JSON bodies of these structs. Python's gRPC can neither
connect to a server whose certificate is not known yet, nor serve callers with and without a certificate
on one port (ADR 0003).
"""

import msgspec

ROOT_PATH = "/v1/root"
CERTIFICATE_PATH = "/v1/certificate"


class RootReply(msgspec.Struct, frozen=True):
    """The root certificate. It proves nothing by itself: the joining node compares its digest with the token's."""

    root_ca_pem: str


class CertificateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Sent only over a connection verified against the root the token names."""

    token: str
    csr_pem: str
    hostname: str
    addr: str
    availability: str = "active"

    def __repr__(self) -> str:
        return f"CertificateRequest(hostname={self.hostname!r}, addr={self.addr!r})"


class ManagerAddress(msgspec.Struct, frozen=True):
    """A manager and its ``ip:2377``."""

    node_id: str
    addr: str


class CertificateReply(msgspec.Struct, frozen=True, kw_only=True):
    """The new member's identity, and where the managers are."""

    node_id: str
    role: str
    cluster_id: str
    certificate_pem: str
    root_ca_pem: str
    managers: tuple[ManagerAddress, ...]
    data_path_port: int = 4789


class ErrorReply(msgspec.Struct, frozen=True):
    """A refusal. With code ``not_leader``, ``leader`` is the ``ip:port`` of the listener to ask instead."""

    code: str
    message: str
    leader: str = ""
