"""Who a process is, and how it proves it: certificates of the swarm CA, channels and servers made of them.

A certificate's CN is the node id, OU the role, O the cluster id. Clients check the server's SAN only, so the
SANs carry the role (``swarm-manager.<cluster>``) and the node (``<node>.<cluster>``), and each channel says
which of the two it expects; otherwise a worker could pose as a manager.
"""

import os
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.x509.oid import NameOID

from pyswarm.common.durable import write_durably
from pyswarm.common.errors import FailedPrecondition, PermissionDenied

MANAGER_OU = "swarm-manager"
WORKER_OU = "swarm-worker"
#: Replies: lists of everything there is.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: Requests are decoded on the managers' event loops, so nobody may send one that stops a leader for long. The
#: largest are Raft's, with one change of 2 MiB, and a spec of a service.
MAX_REQUEST_BYTES = 4 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A host that vanished without closing its connections is noticed by pings, not by TCP's quarter of an hour.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnecting must not outlast an election.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Each channel has its own connection; a shared one would be as slow to recover as its oldest user.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
SERVER_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


def manager_name(cluster_id: str) -> str:
    """The SAN every manager of the cluster has."""
    return f"{MANAGER_OU}.{cluster_id}"


def node_name(node_id: str, cluster_id: str) -> str:
    """The SAN of one node."""
    return f"{node_id}.{cluster_id}"


@dataclass(frozen=True)
class PeerIdentity:
    """The other end of a connection, as its certificate says."""

    node_id: str
    role: str
    cluster_id: str


def identity_of(certificate: x509.Certificate) -> PeerIdentity:
    """Read node, role and cluster from a certificate's subject; raises PermissionDenied when one is missing."""

    def single(oid: x509.ObjectIdentifier) -> str:
        values = [str(a.value) for a in certificate.subject.get_attributes_for_oid(oid)]
        if len(values) != 1 or not values[0]:
            raise PermissionDenied("the certificate is not one of a swarm node")
        return values[0]

    role = {MANAGER_OU: "manager", WORKER_OU: "worker"}.get(single(NameOID.ORGANIZATIONAL_UNIT_NAME))
    if role is None:
        raise PermissionDenied("the certificate carries no role of a swarm node")
    return PeerIdentity(single(NameOID.COMMON_NAME), role, single(NameOID.ORGANIZATION_NAME))


def peer_identity(context: "grpc.aio.ServicerContext[Any, Any]") -> PeerIdentity:
    """Who calls, from the verified certificate of the connection. Raises PermissionDenied."""
    pems = context.auth_context().get("x509_pem_cert")
    if not pems:
        raise PermissionDenied("a client certificate of this swarm is required")
    return _identity_in(bytes(next(iter(pems))))


@lru_cache(maxsize=4096)
def _identity_in(pem: bytes) -> PeerIdentity:
    """Every call brings its connection's certificate along; reading it costs more than many calls do."""
    return identity_of(x509.load_pem_x509_certificate(pem))


@dataclass(frozen=True)
class TLSIdentity:
    """A node's certificate, key and the CA it trusts. The key never shows in ``repr``."""

    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def peer(self) -> PeerIdentity:
        """What this certificate says about its owner."""
        return _identity_in(self.cert_pem)

    @property
    def node_id(self) -> str:
        """The certificate's CN."""
        return self.peer.node_id

    @property
    def role(self) -> str:
        """``manager`` or ``worker``."""
        return self.peer.role

    @property
    def cluster_id(self) -> str:
        """The certificate's O."""
        return self.peer.cluster_id

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> "TLSIdentity":
        """Read ``ca.crt``, ``node.crt`` and ``node.key``; raises FailedPrecondition when one cannot be read."""
        base = Path(folder)
        try:
            return TLSIdentity(
                (base / "ca.crt").read_bytes(), (base / "node.crt").read_bytes(), (base / "node.key").read_bytes()
            )
        except OSError as exc:
            raise FailedPrecondition(f"cannot read this node's certificate: {exc}") from exc

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the three files, the key readable by its owner only, each replaced in one step."""
        base = Path(folder)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in (("ca.crt", self.ca_pem), ("node.key", self.key_pem), ("node.crt", self.cert_pem)):
            write_durably(base / name, data, mode=0o600)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a listener that accepts only certificates of this swarm."""
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.cert_pem)], root_certificates=self.ca_pem, require_client_auth=True
        )

    def channel(self, addr: str, expect: str = "manager") -> grpc.aio.Channel:
        """A channel to ``ip:port``. ``expect`` is ``manager`` or the id of the only node that may answer."""
        cluster = self.cluster_id
        name = manager_name(cluster) if expect == "manager" else node_name(expect, cluster)
        credentials = grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.cert_pem)
        options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(addr, credentials, options=options)

    def joining_context(self) -> ssl.SSLContext:
        """For the joining listener: the server shows its certificate and asks for none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The ssl module takes certificates from files only; a memory file never touches a disk.
        fd = os.memfd_create("pyswarm-joining")
        try:
            os.write(fd, self.key_pem + b"\n" + self.cert_pem)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context
