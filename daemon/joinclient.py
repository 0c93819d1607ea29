"""The joining side: verify the cluster against the token, then ask for a certificate."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.errors import InvalidArgument, PermissionDenied, PyswarmError, Unavailable, error_from_code
from pyswarm.common.joining import (
    CERTIFICATE_PATH,
    ROOT_PATH,
    CertificateReply,
    CertificateRequest,
    ErrorReply,
    RootReply,
)
from pyswarm.common.jointoken import root_digest, token_digest
from pyswarm.common.tls import TLSIdentity, manager_name

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 25.0
LEADER_WAIT_S = 15.0
MAX_REPLY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Joined:
    """A verified answer: the reply, and the identity it makes with the key that never left this host."""

    reply: CertificateReply
    identity: TLSIdentity


def join_endpoint(remote_addr: str) -> str:
    """``ip:2378`` for the ``ip:2377`` (or ``ip``) a user gives; raises InvalidArgument."""
    host, colon, port = remote_addr.rpartition(":")
    if not colon:
        host, port = remote_addr, "2377"
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise InvalidArgument(f'invalid manager address "{remote_addr}": it must look like 192.0.2.1:2377')
    return f"{host}:{int(port) + 1}"


async def join_cluster(
    remote_addrs: Sequence[str], token: str, *, hostname: str, addr: str, availability: str
) -> Joined:
    """Ask the managers at ``remote_addrs`` in turn for a certificate.

    The root certificate is fetched first and compared with the digest in the token; the token itself is sent
    only over a connection verified against that root. Raises InvalidArgument, PermissionDenied, Unavailable.
    """
    digest = token_digest(token)
    endpoints = [join_endpoint(a) for a in remote_addrs]
    if not endpoints:
        raise InvalidArgument("a manager's address is needed: pyswarm swarm join --token TOKEN HOST:2377")
    key_pem, csr_pem = new_key_and_request()
    request = CertificateRequest(
        token=token, csr_pem=csr_pem.decode(), hostname=hostname, addr=addr, availability=availability
    )
    failure: PyswarmError | None = None
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S), trust_env=False
    ) as session:
        for endpoint, shown in zip(endpoints, remote_addrs, strict=True):
            try:
                root_pem = await _fetch_root(session, endpoint, shown)
                if root_digest(root_pem) != digest:
                    raise PermissionDenied(
                        f"the manager at {shown} belongs to another cluster than this token "
                        "(its root certificate does not match the token's digest)"
                    )
                reply = await _ask(session, endpoint, shown, root_pem, request)
            except Unavailable as exc:
                failure = exc
                continue
            identity = TLSIdentity(reply.root_ca_pem.encode(), reply.certificate_pem.encode(), key_pem)
            return Joined(reply, identity)
    raise failure or Unavailable("no manager answered")


async def _fetch_root(session: aiohttp.ClientSession, endpoint: str, shown: str) -> bytes:
    # Nothing is known of the server yet, and nothing secret is sent; the digest decides what the answer is worth.
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    status, body = await _exchange(session, "GET", f"https://{endpoint}{ROOT_PATH}", shown, unverified)
    if status != 200:
        raise _refusal(body, shown)
    try:
        pem = msgspec.json.decode(body, type=RootReply).root_ca_pem.encode()
        x509.load_pem_x509_certificate(pem)
    except (msgspec.DecodeError, ValueError) as exc:
        raise Unavailable(f"what answers at {shown} is not a pyswarm manager") from exc
    return pem


async def _ask(
    session: aiohttp.ClientSession, endpoint: str, shown: str, root_pem: bytes, request: CertificateRequest
) -> CertificateReply:
    context = ssl.create_default_context(cadata=root_pem.decode())
    cluster_id = str(
        x509.load_pem_x509_certificate(root_pem).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    )
    body = msgspec.json.encode(request)
    deadline = asyncio.get_running_loop().time() + LEADER_WAIT_S
    while True:
        status, answer = await _exchange(
            session,
            "POST",
            f"https://{endpoint}{CERTIFICATE_PATH}",
            shown,
            context,
            body=body,
            server_name=manager_name(cluster_id),
        )
        if status == 200:
            try:
                return msgspec.json.decode(answer, type=CertificateReply)
            except msgspec.DecodeError as exc:
                raise Unavailable(f"the manager at {shown} sent an answer that cannot be read") from exc
        refusal = _error_reply(answer)
        waiting = refusal is not None and refusal.code in ("not_leader", "unavailable", "outcome_unknown")
        if refusal is None or not waiting or asyncio.get_running_loop().time() > deadline:
            raise _refusal(answer, shown)
        if refusal.leader:
            endpoint = refusal.leader
        else:
            await asyncio.sleep(0.3)  # an election is on; nothing else says when it is over


async def _exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    shown: str,
    context: ssl.SSLContext,
    body: bytes | None = None,
    server_name: str | None = None,
) -> tuple[int, bytes]:
    try:
        async with session.request(
            method, url, data=body, ssl=context, server_hostname=server_name, allow_redirects=False
        ) as response:
            return response.status, await _bounded(response, shown)
    except aiohttp.ClientConnectorCertificateError as exc:
        raise PermissionDenied(f"the manager at {shown} could not prove that it belongs to this cluster") from exc
    except TimeoutError as exc:
        raise Unavailable(f"the manager at {shown} did not answer within {CONNECT_TIMEOUT_S:g} s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        reason = getattr(exc, "os_error", exc)
        text = getattr(reason, "strerror", None) or str(reason) or type(exc).__name__
        raise Unavailable(f"the manager at {shown} cannot be reached: {text}") from exc


async def _bounded(response: aiohttp.ClientResponse, shown: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise Unavailable(f"what answers at {shown} is not a pyswarm manager")
    return bytes(body)


def _error_reply(body: bytes) -> ErrorReply | None:
    try:
        return msgspec.json.decode(body, type=ErrorReply)
    except msgspec.DecodeError:
        return None


def _refusal(body: bytes, shown: str) -> PyswarmError:
    reply = _error_reply(body)
    if reply is None:
        return Unavailable(f"what answers at {shown} is not a pyswarm manager")
    if reply.code == "not_leader":
        return Unavailable(f"the swarm at {shown} has no leader at the moment; try again")
    return error_from_code(reply.code, reply.message)
