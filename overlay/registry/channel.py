"""TLS and the gRPC channel to one etcd endpoint."""

from typing import Protocol
from urllib.parse import urlsplit

import grpc
import msgspec

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.tls import manager_name
from pyswarm.overlay.registry.server import CLIENT_PORT

# A watcher that lags may be sent its whole backlog in one message; gRPC's default of 4 MiB would end its watch for
# good, because the same backlog would follow at every new attempt.
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024


class Identity(Protocol):
    """A node's identity in the cluster, as ``pyswarm.common.tls.TLSIdentity`` has it."""

    @property
    def ca_pem(self) -> bytes: ...
    @property
    def cert_pem(self) -> bytes: ...
    @property
    def key_pem(self) -> bytes: ...
    @property
    def cluster_id(self) -> str: ...


class RegistryTLS(msgspec.Struct, frozen=True):
    """What a client needs to speak to etcd. ``server_name`` is the name the cluster's own members must show.

    It is not asked of an endpoint with a scheme (``https://...``), which is an etcd of other people.
    """

    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes
    server_name: str = ""

    @classmethod
    def of_identity(cls, identity: Identity) -> "RegistryTLS":
        """For the members that managers run: only a manager's certificate may answer."""
        return cls(
            identity.ca_pem, identity.cert_pem, identity.key_pem, server_name=manager_name(identity.cluster_id)
        )

    def __repr__(self) -> str:
        return f"RegistryTLS(server_name={self.server_name!r})"


def parse_endpoint(url: str) -> tuple[str, str]:
    """(scheme, gRPC target) of an endpoint; the port may be left out.

    ``10.0.0.1:2379`` is a member that a manager runs (scheme ``own``), ``https://10.0.0.1:2379`` and
    ``http://10.0.0.1:2379`` an etcd that is there anyway.
    """
    parts = urlsplit(url if "://" in url else f"own://{url}")
    try:
        host, port = parts.hostname, parts.port or CLIENT_PORT
    except ValueError as exc:
        raise InvalidArgument(f"invalid etcd endpoint {url!r}: {exc}") from exc
    if parts.scheme not in ("own", "http", "https") or not host or parts.path not in ("", "/"):
        raise InvalidArgument(f"invalid etcd endpoint {url!r}: expected HOST:PORT or https://HOST:PORT")
    return parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_channel(url: str, tls: RegistryTLS | None) -> grpc.aio.Channel:
    """A channel of its own to ``url``; connects lazily."""
    scheme, target = parse_endpoint(url)
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # A watch on a host that fell silent sends nothing: only pings find out. etcd refuses more than one in 5 s.
        ("grpc.keepalive_time_ms", 6000),
        ("grpc.keepalive_timeout_ms", 3000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 2000),  # also how long one attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Shared connections would keep the old certificate after a renewal, and the backoff of a dead member.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if scheme == "http":
        return grpc.aio.insecure_channel(target, options=options)
    if tls is None:
        raise InvalidArgument(f"etcd endpoint {url!r} needs a certificate")
    if scheme == "own" and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca_pem, private_key=tls.key_pem, certificate_chain=tls.cert_pem
    )
    return grpc.aio.secure_channel(target, credentials, options=options)
