"""The CA: what a node's certificate says, and whose key it certifies."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.errors import InvalidArgument, PermissionDenied
from pyswarm.common.tls import TLSIdentity, identity_of
from pyswarm.manager.ca import create_root, sign_node_certificate

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ROOT, ROOT_KEY = create_root("cluster1", NOW)


def certificate(role: str, csr: bytes | None = None) -> x509.Certificate:
    """A certificate of node1."""
    pem = sign_node_certificate(
        root_cert_pem=ROOT,
        root_key_pem=ROOT_KEY,
        csr_pem=csr or new_key_and_request()[1],
        node_id="node1",
        role=role,
        cluster_id="cluster1",
        life_s=3600.0,
        addr="192.0.2.7",
        now=NOW,
    )
    return x509.load_pem_x509_certificate(pem)


@pytest.mark.parametrize("role", ["manager", "worker"])
def test_subject_says_node_role_and_cluster(role: str) -> None:
    peer = identity_of(certificate(role))
    assert (peer.node_id, peer.role, peer.cluster_id) == ("node1", role, "cluster1")


def test_a_manager_is_named_by_role_node_and_address_and_a_worker_never_as_a_manager() -> None:
    names = certificate("manager").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["swarm-manager.cluster1", "node1.cluster1"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.7")]
    worker = certificate("worker").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert worker.get_values_for_type(x509.DNSName) == ["swarm-worker.cluster1", "node1.cluster1"]
    assert worker.get_values_for_type(x509.IPAddress) == []


def test_it_is_valid_an_hour_before_now_and_verifies_against_the_root() -> None:
    cert = certificate("worker")
    assert cert.not_valid_before_utc == NOW - timedelta(hours=1)
    assert cert.not_valid_after_utc == NOW + timedelta(hours=1)
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(ROOT))


def test_the_request_decides_nothing_but_the_key() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(InvalidArgument, match="P-256"):
        certificate("worker", request.public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    "csr", [b"x", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_garbage_is_refused_with_one_line(csr: bytes) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        certificate("worker", csr)


def test_the_root_itself_is_nobody() -> None:
    with pytest.raises(PermissionDenied):
        identity_of(x509.load_pem_x509_certificate(ROOT))


def test_a_key_is_in_no_repr() -> None:
    assert "SECRET" not in repr(TLSIdentity(b"ca", b"cert", b"SECRET"))


def test_a_huge_request_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match="too large"):
        certificate("worker", new_key_and_request()[1] + b"\n" * 10_000)
