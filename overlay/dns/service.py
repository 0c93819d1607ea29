"""Keeps the resolver listening on its address, whatever becomes of the address or of the port."""

from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CollectorRegistry

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.dns.metrics import DnsMetrics
from pyswarm.overlay.dns.resolver import Resolver
from pyswarm.overlay.dns.server import DnsServer
from pyswarm.overlay.dns.upstream import ResolvConf, Upstream
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.registry.model import OverlayState

log = get_logger("dns")

#: Link-local, so that no packet for it leaves the host, and the same on every host, so that it can be written
#: into a container's settings.
RESOLVER_ADDR = "169.254.53.53"
RESOLVER_PORT = 53
RESOLV_CONF = "/etc/resolv.conf"
RETRY_S = 5.0


class NameService:
    """The resolver of this host. ``put_addr`` has the address on the host, and is asked now and then."""

    def __init__(
        self,
        *,
        clock: Clock,
        registry: CollectorRegistry | None,
        put_addr: Callable[[], Awaitable[None]],
        addr: str = RESOLVER_ADDR,
        port: int = RESOLVER_PORT,
        resolv_conf: str = RESOLV_CONF,
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        metrics = DnsMetrics(registry)
        self._clock = clock
        self._put_addr = put_addr
        self._resolver = Resolver(Upstream(ResolvConf(resolv_conf, addr)), metrics, own_addr=addr)
        self._server = DnsServer(self._resolver, metrics, addr, port)
        self._tasks = TaskGroupOwner("names", on_failure)
        self._listening = False
        self._complaint = ""

    async def start(self) -> None:
        """Listen, or go on trying to."""
        await self._try()
        self._tasks.spawn(self._keep(), "keep")

    async def stop(self) -> None:
        """Listen no more."""
        await self._tasks.stop()
        if self._listening:
            self._listening = False
            await self._server.stop()

    def update(self, state: OverlayState) -> None:
        """Take the newest desired state."""
        self._resolver.update(state)

    def set_client(self, client_id: str, addrs: Iterable[str], network_ids: Iterable[str]) -> None:
        """See `Resolver.set_client`."""
        self._resolver.set_client(client_id, addrs, network_ids)

    def tables_loaded(self, client_id: str) -> None:
        """See `Resolver.tables_loaded`."""
        self._resolver.tables_loaded(client_id)

    def forget_client(self, client_id: str) -> None:
        """See `Resolver.forget_client`."""
        self._resolver.forget_client(client_id)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(RETRY_S)
            await self._try()

    async def _try(self) -> None:
        try:
            await self._put_addr()
            if not self._listening:
                await self._server.start()
                self._listening = True
        except (OverlayError, OSError) as exc:
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                log.warning(
                    "containers cannot find services by name on this host",
                    addr=f"{self._server.addr}:{self._server.port}",
                    reason=str(exc),
                )
            return
        if self._complaint:
            self._complaint = ""
            log.info("containers find services by name again")
