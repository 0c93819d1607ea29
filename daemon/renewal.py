"""Renewal of this node's certificate, at a random moment between half and four fifths of its life."""

import asyncio
import random
from collections.abc import Callable, Sequence

import grpc.aio
from cryptography import x509

from pyswarm.common.clock import Clock
from pyswarm.common.csr import new_key_and_request
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.daemon.state import Folders
from pyswarm.proto.v1 import ca_pb2, ca_pb2_grpc

log = get_logger("renewal")

RETRY_S = 30.0
CHECK_S = 3600.0


def renewal_due_s(certificate_pem: bytes, now_s: float, fraction: float) -> float:
    """Seconds until ``fraction`` of the certificate's life has passed; 0 when it already has."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return max(0.0, begin + (end - begin) * fraction - now_s)


class CertificateRenewal:
    """One loop: wait until renewal is due, ask a manager, store the new identity, tell the node."""

    def __init__(
        self,
        *,
        folders: Folders,
        managers: Callable[[], Sequence[str]],
        clock: Clock,
        on_renewed: Callable[[TLSIdentity], None],
    ) -> None:
        self._folders = folders
        self._managers = managers
        self._clock = clock
        self._on_renewed = on_renewed
        self._owner = TaskGroupOwner("renewal")

    def start(self) -> None:
        """Begin to watch the certificate's age."""
        self._owner.spawn(self._run(), "loop")

    async def stop(self) -> None:
        """Stop."""
        await self._owner.stop()

    async def _run(self) -> None:
        while True:
            identity = TLSIdentity.load(self._folders.certs)
            # Nodes that joined together must not all renew in the same second.
            fraction = random.uniform(0.5, 0.8)  # noqa: S311 - spreads load, keeps no secret
            due_s = renewal_due_s(identity.cert_pem, self._clock.now(), fraction)
            while due_s > 0:
                await self._clock.sleep(min(due_s, CHECK_S))
                due_s = renewal_due_s(identity.cert_pem, self._clock.now(), fraction)
            while not await self._renew(identity):
                await self._clock.sleep(RETRY_S)

    async def renew(self, role: str = "") -> bool:
        """Renew now; with ``role``, only a certificate of that role will do. Whether it worked."""
        return await self._renew(TLSIdentity.load(self._folders.certs), role)

    async def _renew(self, identity: TLSIdentity, role: str = "") -> bool:
        key_pem, csr_pem = new_key_and_request()
        for addr in self._managers():
            try:
                async with identity.channel(addr) as channel:
                    reply = await ca_pb2_grpc.CAStub(channel).Renew(
                        ca_pb2.RenewRequest(csr_pem=csr_pem), timeout=10.0
                    )
            except grpc.aio.AioRpcError as exc:
                log.warning("certificate not renewed; trying the next manager", manager=addr, reason=exc.details())
                continue
            renewed = TLSIdentity(reply.root_ca_pem, reply.certificate_pem, key_pem)
            if role and renewed.role != role:
                log.info("a manager has not heard of this node's new role yet", manager=addr, role=role)
                continue
            try:
                await asyncio.to_thread(renewed.save, self._folders.certs)
            except OSError as exc:
                log.warning("certificate not renewed: it cannot be written", reason=exc.strerror)
                return False
            self._on_renewed(renewed)
            log.info("certificate renewed", manager=addr)
            return True
        return False
