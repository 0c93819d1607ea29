"""A watch that never ends: list, then watch, then resume wherever a live endpoint is found.

    listing -> changes -> (endpoint lost: watch from the last revision + 1 elsewhere) -> changes -> ...
            -> (history compacted, or another etcd cluster behind the address) -> listing -> ...

A wiped etcd starts again at revision 1, and would keep a watch "from revision 5000" waiting in silence. What tells
it apart is the cluster's id, which each answer carries, and, for a lone member that lost its folder, the revision.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.overlay.registry.client import EtcdClient, Listing, WatchBatch
from pyswarm.overlay.registry.errors import RegistryCompacted, RegistryError, RegistryUnavailable

log = get_logger("registry")
_RETRY_MIN_S = 0.1
_RETRY_MAX_S = 2.0


async def follow(
    client: EtcdClient, prefix: bytes, clock: Clock, on_link: Callable[[bool], None]
) -> AsyncGenerator[Listing | WatchBatch, None]:
    """Everything under ``prefix``, for ever: a Listing replaces all that came before, a WatchBatch changes it.

    ``on_link`` hears when etcd is lost and when it is back.
    """
    position: tuple[int, int] | None = None  # (cluster, last revision seen)
    retry_s = _RETRY_MIN_S
    connected = False
    while True:
        try:
            if position is None:
                listing = await client.list(prefix)
                position = (listing.cluster_id, listing.revision)
                yield listing
            async with aclosing(client.watch(prefix, position[1] + 1)) as batches:
                async for batch in batches:
                    if batch.cluster_id != position[0]:
                        raise RegistryCompacted("another etcd cluster answers now")
                    if batch.store_revision < position[1]:
                        raise RegistryCompacted("etcd is behind what it told before")
                    position = (position[0], max(position[1], batch.revision))
                    retry_s = _RETRY_MIN_S
                    if not connected:
                        connected = True
                        on_link(True)
                    if batch.changes:
                        yield batch
        except RegistryCompacted as exc:
            log.info("reading the registry anew", reason=str(exc))
            position = None
        except RegistryError as exc:
            if not connected and not isinstance(exc, RegistryUnavailable):
                # A node that just joined is refused until the leader has given it an etcd user, a second or so.
                log.info("the registry does not let this node in yet", reason=str(exc))
            if connected:
                log.warning("registry lost; the last state stays in force", reason=str(exc))
                connected = False
                on_link(False)
        await clock.sleep(retry_s)
        retry_s = min(retry_s * 2, _RETRY_MAX_S)
