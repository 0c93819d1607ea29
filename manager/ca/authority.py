"""Signing. Certificates are back-dated an hour, so that hosts with clocks a little apart accept them."""

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.tls import MANAGER_OU, WORKER_OU, manager_name, node_name

_BACKDATE = timedelta(hours=1)
_ROOT_LIFE = timedelta(days=20 * 365)
#: A request for a P-256 key takes a few hundred bytes.
MAX_CSR_BYTES = 8 * 1024


def create_root(cluster_id: str, now: datetime | None = None) -> tuple[bytes, bytes]:
    """A new root certificate and its key, PEM. The certificate's O is the cluster id."""
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def sign_node_certificate(
    *,
    root_cert_pem: bytes,
    root_key_pem: bytes,
    csr_pem: bytes,
    node_id: str,
    role: str,
    cluster_id: str,
    life_s: float,
    addr: str = "",
    now: datetime | None = None,
) -> bytes:
    """Certify the key of ``csr_pem`` as node ``node_id`` with ``role``; only the request's key is believed.

    ``addr`` becomes an IP name of the certificate of a manager: etcd's members dial one another by address.
    Raises InvalidArgument when the request is not one, or not signed by its own key.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise InvalidArgument(f"the certificate request is too large: at most {MAX_CSR_BYTES} bytes are allowed")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        if not request.is_signature_valid:
            raise InvalidArgument("the certificate request is not signed by its own key")
        public_key = request.public_key()
    except (ValueError, InvalidSignature) as exc:
        raise InvalidArgument("the certificate request cannot be read") from exc
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise InvalidArgument("the certificate request must hold a P-256 key")
    now = now or datetime.now(UTC)
    manager = role == "manager"
    names: list[x509.GeneralName] = [
        x509.DNSName(manager_name(cluster_id) if manager else f"{WORKER_OU}.{cluster_id}"),
        x509.DNSName(node_name(node_id, cluster_id)),
    ]
    if manager and addr:
        names.append(x509.IPAddress(ipaddress.ip_address(addr)))
    root = x509.load_pem_x509_certificate(root_cert_pem)
    root_key = load_pem_private_key(root_key_pem, password=None)
    if not isinstance(root_key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("the swarm's CA key is not an elliptic curve key")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, MANAGER_OU if manager else WORKER_OU),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
        ]
    )
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(seconds=life_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
