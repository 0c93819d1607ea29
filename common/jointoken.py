"""Join tokens in Docker's format: ``SWMTKN-1-<digest of the root certificate>-<secret>``, both in base 36."""

import hashlib
import hmac
import re
import secrets

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.ids import base36

_DIGEST_LENGTH = 50
_SECRET_LENGTH = 25
_TOKEN = re.compile(rf"SWMTKN-1-([0-9a-z]{{{_DIGEST_LENGTH}}})-([0-9a-z]{{{_SECRET_LENGTH}}})")


def root_digest(root_ca_pem: bytes) -> str:
    """SHA-256 of the root certificate (DER) in base 36, 50 characters."""
    der = x509.load_pem_x509_certificate(root_ca_pem).public_bytes(Encoding.DER)
    return base36(int.from_bytes(hashlib.sha256(der).digest(), "big"), _DIGEST_LENGTH)


def new_join_token(root_ca_pem: bytes) -> str:
    """A fresh token for the cluster with this root certificate."""
    secret = base36(int.from_bytes(secrets.token_bytes(16), "big"), _SECRET_LENGTH)
    return f"SWMTKN-1-{root_digest(root_ca_pem)}-{secret}"


def token_digest(token: str) -> str:
    """The root digest a token carries; raises InvalidArgument for anything that is not a whole token.

    The text names no part of the token: it may be right but for one character.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidArgument(
            "invalid join token: a token looks like SWMTKN-1-<50 characters>-<25 characters>; "
            "print it again with 'pyswarm swarm join-token worker' on a manager"
        )
    return match.group(1)


def same_token(given: str, expected: str) -> bool:
    """Compare without telling by the time taken how much of it was right."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())
