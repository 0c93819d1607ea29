"""A CA, certificates and real etcd members on loopback addresses, for the registry's integration tests."""

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pyswarm.common.ids import new_id
from pyswarm.common.tls import TLSIdentity
from pyswarm.overlay.registry.channel import RegistryTLS
from pyswarm.overlay.registry.client import EtcdClient
from pyswarm.overlay.registry.errors import RegistryError
from pyswarm.overlay.registry.server import EtcdServerConfig, EtcdTLSFiles, etcd_argv, host_port, url_of

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]], what: str, timeout_s: float = 15.0) -> T:
    """Await ``probe()`` until it is true; registry errors on the way count as not yet."""
    deadline, last = time.monotonic() + timeout_s, ""
    while True:
        try:
            value = await probe()
            if value:
                return value
            last = repr(value)
        except RegistryError as exc:
            last = repr(exc)
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}; last: {last}")
        await asyncio.sleep(0.03)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Pki:
    """A CA like the swarm's: CN node, OU role, O cluster, DNS SANs of role and node, IP SAN of the address."""

    def __init__(self) -> None:
        self.cluster_id = new_id()
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
        self._ca = (
            self._builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_pem = self._ca.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, node_id: str, role: str, ip: str = "") -> TLSIdentity:
        """A certificate of ``manager`` or ``worker``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.cluster_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"swarm-{role}"),
                x509.NameAttribute(NameOID.COMMON_NAME, node_id),
            ]
        )
        sans: list[x509.GeneralName] = [
            x509.DNSName(f"swarm-{role}.{self.cluster_id}"),
            x509.DNSName(f"{node_id}.{self.cluster_id}"),
        ]
        if ip:
            sans.append(x509.IPAddress(ipaddress.ip_address(ip)))
        cert = (
            self._builder(subject, self._ca.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return TLSIdentity(self.ca_pem, cert.public_bytes(serialization.Encoding.PEM), _pem(key))


def free_port(ip: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind((ip, 0))
        return int(s.getsockname()[1])


class Host:
    """A node with a certificate and, if it is a manager, perhaps an etcd member."""

    def __init__(self, pki: Pki, folder: Path, ip: str, role: str = "manager") -> None:
        self.pki = pki
        self.node_id = new_id()
        self.ip = ip
        self.folder = folder / self.node_id
        self.identity = pki.issue(self.node_id, role, ip)
        self.identity.save(self.folder / "certs")
        certs = self.folder / "certs"
        self.tls_files = EtcdTLSFiles(str(certs / "ca.crt"), str(certs / "node.crt"), str(certs / "node.key"))
        self.client_port, self.peer_port = free_port(ip), free_port(ip)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def client_url(self) -> str:
        """Where its etcd answers clients."""
        return host_port(self.ip, self.client_port)

    @property
    def peer_url(self) -> str:
        """Where its etcd answers members."""
        return url_of(self.ip, self.peer_port)

    def client(self, *hosts: "Host", timeout_s: float = 3.0) -> EtcdClient:
        """A client with this node's certificate, to the members on ``hosts``."""
        tls = RegistryTLS.of_identity(self.identity)
        return EtcdClient([h.client_url for h in hosts], tls, timeout_s=timeout_s)

    def config(
        self, initial: "list[Host]", state: str, data: str = "etcd", sealed: bool = False
    ) -> EtcdServerConfig:
        """How this host's member is started."""
        return EtcdServerConfig(
            node_id=self.node_id,
            ip=self.ip,
            data_dir=str(self.folder / data),
            tls=self.tls_files,
            manager_name=f"swarm-manager.{self.pki.cluster_id}",
            initial_cluster=",".join(f"{h.node_id}={h.peer_url}" for h in initial),
            state=state,
            token=data,
            sealed=sealed,
            client_port=self.client_port,
            peer_port=self.peer_port,
        )

    def start(self, initial: "list[Host]", state: str = "new", data: str = "etcd", sealed: bool = False) -> None:
        """Start etcd here; it answers a little later."""
        (self.folder / data).mkdir(mode=0o700, exist_ok=True)
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                etcd_argv(self.config(initial, state, data, sealed)), stdout=log, stderr=log
            )

    def log(self) -> str:
        """What etcd wrote."""
        return (self.folder / "etcd.log").read_text(errors="replace")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End etcd here."""
        if self.process is not None:
            os.kill(self.process.pid, how)
            self.process.wait(10)
            self.process = None
