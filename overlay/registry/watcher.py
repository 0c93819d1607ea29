"""Each host's view of the registry: one watch that feeds the data plane."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.registry.channel import Identity, RegistryTLS
from pyswarm.overlay.registry.client import EtcdClient, Listing
from pyswarm.overlay.registry.codec import PREFIX, Keys, Mirror
from pyswarm.overlay.registry.follow import follow
from pyswarm.overlay.registry.model import OverlayState

log = get_logger("registry")
# Changes come in bursts (one transaction of the leader is up to 100 entries, a rollout many of them): waiting this
# long gathers a burst into one snapshot, and is little beside the start of a container.
_COALESCE_S = 0.02


class RegistryMetrics:
    """What a watcher reports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge(
            "pyswarm_registry_connected", "1 while the watch on etcd is established", registry=registry
        )
        self.revision = Gauge("pyswarm_registry_revision", "etcd revision last seen", registry=registry)
        self.resyncs = Counter("pyswarm_registry_resyncs", "Times the whole registry was read", registry=registry)
        self.invalid = Gauge("pyswarm_registry_invalid_values", "Values that could not be read", registry=registry)


class RegistryWatcher:
    """Owns ``client``; calls ``on_state`` with the whole state after each burst of changes.

    While etcd is lost, and while a wiped etcd is not filled completely again, nothing is called: the last state
    stays in force. A state equal to the last one delivered is not delivered again.
    """

    def __init__(
        self,
        client: EtcdClient,
        on_state: Callable[[OverlayState], None],
        *,
        prefix: str = PREFIX,
        clock: Clock | None = None,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self._client = client
        self._on_state = on_state
        self._keys = Keys(prefix)
        self._clock: Clock = clock or SystemClock()
        self._metrics = RegistryMetrics(metrics or CollectorRegistry())
        self._mirror = Mirror(self._keys)
        self._delivered: OverlayState | None = None
        self._dirty = asyncio.Event()
        self._tasks = TaskGroupOwner("registry-watcher")
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether the watch is established now."""
        return self._connected

    def start(self) -> None:
        """Begin to follow the registry."""
        self._tasks.spawn(self._follow(), "follow")
        self._tasks.spawn(self._deliver(), "deliver")

    async def stop(self) -> None:
        """Stop following and close the connections."""
        await self._tasks.stop()
        await self._client.close()

    def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """Follow these endpoints from now on; no endpoints at all leave the last state in force."""
        self._tasks.spawn(self._client.set_endpoints(endpoints), "endpoints")

    def set_identity(self, identity: Identity) -> None:
        """Use a renewed certificate."""
        self._tasks.spawn(self._client.set_tls(RegistryTLS.of_identity(identity)), "identity")

    def _on_link(self, connected: bool) -> None:
        self._connected = connected
        self._metrics.connected.set(connected)

    async def _follow(self) -> None:
        async with aclosing(follow(self._client, self._keys.root, self._clock, self._on_link)) as steps:
            async for step in steps:
                if isinstance(step, Listing):
                    self._metrics.resyncs.inc()
                    self._mirror.load((kv.key, kv.value) for kv in step.kvs)
                    self._dirty.set()
                else:
                    for change in step.changes:
                        if self._mirror.apply(change.key, change.value):
                            self._dirty.set()
                self._metrics.revision.set(step.revision)
                self._metrics.invalid.set(self._mirror.invalid_total)

    async def _deliver(self) -> None:
        while True:
            await self._dirty.wait()
            await self._clock.sleep(_COALESCE_S)
            self._dirty.clear()
            if not self._mirror.complete:
                log.info("the registry is being filled; the last state stays in force")
                continue
            state = self._mirror.snapshot()
            if state == self._delivered:
                continue
            self._delivered = state
            self._on_state(state)
