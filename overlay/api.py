"""What agent and daemon call: keeps this host's part of every cluster network as the registry says.

One worker thread talks to the kernel; one loop decides when. It looks at everything again after each news from
the registry, when the kernel reports a change that contradicts what is wanted, and every ``resync_s`` regardless,
because a report can be lost and a look costs little.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.dns.service import RESOLV_CONF, RESOLVER_ADDR, RESOLVER_PORT, NameService
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.inforce import InForce
from pyswarm.overlay.linux.address import put_local_addr, remove_local_addr
from pyswarm.overlay.linux.monitor import Monitor
from pyswarm.overlay.linux.nftmonitor import NftMonitor
from pyswarm.overlay.mesh.keeper import MeshKeeper
from pyswarm.overlay.metrics import OverlayMetrics
from pyswarm.overlay.objects import VXLAN_OVERHEAD_BYTES, LocalNetwork, bridge_name, vxlan_name
from pyswarm.overlay.reconcile import Outcome, Reconciler
from pyswarm.overlay.registry.model import OverlayState
from pyswarm.overlay.vips.service import VipService

__all__ = [
    "RESOLVER_ADDR",
    "VXLAN_OVERHEAD_BYTES",
    "LocalNetwork",
    "Overlay",
    "OverlayError",
    "bridge_name",
    "bridge_network_options",
    "engine_range",
    "remove_leftover_devices",
    "vxlan_name",
]

log = get_logger("overlay")

RESYNC_S = 30.0
_DEBOUNCE_S = 0.05
_BUSY_FACTOR = 4.0  # wait this many times as long as a pass took, so that news in a stream takes a fifth of a core
_MAX_PAUSE_S = 1.0
_RETRY_FIRST_S = 0.5
_LET_IN_PATIENCE_S = 2.0
_MESH = "published ports"  # beside the networks' ids, what may be out of order

T = TypeVar("T")


def engine_range(subnet: str) -> str | None:
    """The slice of a subnet that the engine may allocate from by itself; None if the subnet is too small.

    Containers of the cluster always come with an address. The slice at the end of the subnet only keeps the
    engine's own allocator, should anybody make it allocate, away from the beginning, where the cluster's starts.
    """
    net = ipaddress.ip_network(subnet, strict=False)
    if net.prefixlen > net.max_prefixlen - 3:
        return None
    last = int(net.broadcast_address) - 3
    return f"{ipaddress.ip_address(last)}/{net.max_prefixlen - 2}"


def bridge_network_options(network: LocalNetwork) -> dict[str, Any]:
    """The body for the engine's ``POST /networks/create``, but for name and labels."""
    config = {"Subnet": network.subnet, "Gateway": network.gateway}
    if (ip_range := engine_range(network.subnet)) is not None:
        config["IPRange"] = ip_range
    return {
        "Driver": "bridge",
        "Internal": True,
        "IPAM": {"Driver": "default", "Config": [config]},
        "Options": {
            "com.docker.network.bridge.name": bridge_name(network.vni),
            "com.docker.network.driver.mtu": str(network.mtu),
        },
    }


async def remove_leftover_devices() -> list[str]:
    """Remove every VXLAN device of ours, on a host that is in no swarm; their names. One that stays would hold
    the port a new overlay needs. The resolver's address and the mesh's rules go too."""
    await asyncio.to_thread(remove_local_addr, RESOLVER_ADDR)
    await asyncio.to_thread(MeshKeeper("", "", 0).remove)
    return await asyncio.to_thread(lambda: Reconciler("", "", 0).prune((), ()))


class Overlay:
    """The data plane of this host."""

    def __init__(
        self,
        *,
        node_id: str,
        underlay_addr: str,
        clock: Clock,
        registry: CollectorRegistry | None = None,
        vxlan_port: int = 4789,
        resync_s: float = RESYNC_S,
        dns_addr: str = RESOLVER_ADDR,
        dns_port: int = RESOLVER_PORT,
        resolv_conf: str = RESOLV_CONF,
        on_applied: Callable[[tuple[int, int], bool], None] = lambda _fence, _asked: None,
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self._clock = clock
        self._resync_s = resync_s
        self._metrics = OverlayMetrics(registry)
        self._reconciler = Reconciler(node_id, underlay_addr, vxlan_port)
        self._mesh: MeshKeeper | None = MeshKeeper(node_id, underlay_addr, vxlan_port)
        self._monitor = Monitor(self._wake)
        self._nft_monitor = NftMonitor(self._wake)
        self._tasks = TaskGroupOwner("overlay", on_failure)
        self._name_service = NameService(
            clock=clock,
            registry=registry,
            put_addr=lambda: self._in_thread(lambda: put_local_addr(dns_addr)),
            addr=dns_addr,
            port=dns_port,
            resolv_conf=resolv_conf,
            on_failure=on_failure,
        )
        self._vips = VipService(registry, self._name_service.tables_loaded, on_failure)
        self._news = asyncio.Event()
        self._updated = asyncio.Event()
        self._node_id = node_id
        self._dns_addr = dns_addr
        self._heard = asyncio.Event()  # the same, for those who wait for a task to be known
        self._executor: ThreadPoolExecutor | None = None
        self._lock = asyncio.Lock()
        self._work = asyncio.Event()
        self._in_force = InForce(on_applied)
        self._state: OverlayState | None = None
        self._attached: dict[str, LocalNetwork] = {}
        self._ways_in: dict[str, str] = {}  # of this host's tasks; empty for one that has ended
        self._reported: dict[str, str] = {}  # what was last logged of each network, to say it once
        self._last_pass_s = 0.0
        self._retrying = False

    async def start(self) -> None:
        """Begin to watch, to repair, and to answer names. No network is touched before it is attached."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay-netlink")
        self._monitor.start()
        self._nft_monitor.start()
        self._tasks.spawn(self._run(), "reconcile")
        self._tasks.spawn(self._tick(), "resync")
        self._tasks.spawn(self._find(), "find")
        await self._vips.start()
        await self._name_service.start()

    async def stop(self) -> None:
        """Watch and answer no more. The data plane stays in place, and containers go on talking."""
        await self._name_service.stop()
        await self._vips.stop()
        self._monitor.stop()
        self._nft_monitor.stop()
        await self._tasks.stop()
        if self._executor is not None:
            executor, self._executor = self._executor, None
            async with self._lock:  # a pass under way ends first
                executor.shutdown(wait=False)

    def update(self, state: OverlayState) -> None:
        """Take the newest desired state; what it changes is in the kernel, and then in answers, soon after."""
        self._state = state
        self._in_force.heard(state.mark)
        self._news.set()
        self._updated.set()
        self._heard.set()
        self._wake()

    async def attach(self, network: LocalNetwork) -> None:
        """Take part in a network whose bridge the engine has made. Returns once it is in the kernel."""
        async with self._lock:
            outcome = await self._pass([network])
            if (error := outcome.failures.get(network.network_id)) is not None:
                raise error
            self._attached[network.network_id] = network
            self._publish()

    async def detach(self, network_id: str) -> None:
        """Take part no more. The bridge is the engine's to remove, before or after."""
        async with self._lock:
            network = self._attached.pop(network_id, None)
            self._reported.pop(network_id, None)
            vni = network.vni if network is not None else None
            await self._in_thread(lambda: self._reconciler.remove(network_id, vni))
            self._publish()

    async def prune(self, keep_network_ids: Iterable[str] = ()) -> None:
        """Remove what an earlier process left of networks that are neither attached nor to be kept."""
        keep = set(keep_network_ids)
        async with self._lock:
            attached = tuple(self._attached.values())
            removed = await self._in_thread(lambda: self._reconciler.prune(attached, keep))
        if removed:
            log.info("removed leftover network devices", devices=removed)

    async def leave_mesh(self) -> None:
        """Lead published ports nowhere any more and answer no names, for good: this host leaves the swarm."""
        async with self._lock:
            mesh, self._mesh = self._mesh, None
            if mesh is not None:
                await self._in_thread(mesh.remove)
        await self._name_service.stop()
        await self._in_thread(lambda: remove_local_addr(self._dns_addr))

    async def until_withdrawn(self) -> None:
        """Wait until the registry leads nobody to a container of this host, as after the node was given up."""
        while (state := self._state) is not None:
            self._updated.clear()
            if not any(endpoint.node_id == self._node_id for endpoint in state.endpoints.values()):
                return
            await self._updated.wait()

    def set_client(
        self,
        client_id: str,
        addrs: Iterable[str],
        network_ids: Iterable[str],
        *,
        egress_addr: str = "",
        pid: int = 0,
    ) -> None:
        """A container of this host asks for names from any of ``addrs``, and may see what is on these networks.

        Containers with a way out of the host ask from their address there (``egress_addr``), not from one of a
        cluster network, and are led to by it what comes to their published ports. ``pid`` is one of its processes
        once it runs: services' virtual IPs lead somewhere from then on.
        """
        addrs, network_ids = tuple(addrs), tuple(network_ids)
        self._name_service.set_client(client_id, (*addrs, egress_addr) if egress_addr else addrs, network_ids)
        self._vips.set_client(client_id, addrs, network_ids, pid)
        if egress_addr and self._ways_in.get(client_id) != egress_addr:
            self._ways_in[client_id] = egress_addr
            self._wake()

    async def let_in(self, client_id: str, egress_addr: str) -> None:
        """Lead to a container what comes for it from other hosts. Returns once that is in force, so that nobody
        hears of a task before it can be reached; without the registry's word of it, after a moment."""
        self._ways_in[client_id] = egress_addr
        try:
            async with asyncio.timeout(_LET_IN_PATIENCE_S):
                while self._state is None or all(client_id != task for _, task in self._state.endpoints):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            log.warning("the registry does not know a task that runs here", task=client_id)
        async with self._lock:
            await self._mesh_pass(self._state)

    def forget_client(self, client_id: str) -> None:
        """The container asks no more, and answers no more; one never heard of is fine."""
        self._name_service.forget_client(client_id)
        self._vips.forget_client(client_id)
        self._ways_in[client_id] = ""  # until the registry has forgotten it too
        self._wake()

    def attached(self) -> tuple[LocalNetwork, ...]:
        """The networks this host takes part in."""
        return tuple(self._attached.values())

    async def underlay_mtu(self) -> int:
        """The MTU of the device that holds this host's address between hosts."""
        return await self._in_thread(self._reconciler.underlay_mtu)

    async def reconcile(self) -> None:
        """Compare and repair everything now; raises the first failure. For tests and after an engine restart."""
        async with self._lock:
            outcome = await self._pass(list(self._attached.values()))
            if self._state is not None and self._mesh is not None:
                mesh, state, ways = self._mesh, self._state, dict(self._ways_in)
                await self._in_thread(lambda: mesh.run(state, ways))
        for error in outcome.failures.values():
            raise error

    # --- inside ---

    def _wake(self) -> None:
        self._work.set()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(self._resync_s)
            self._vips.resync()
            self._wake()

    async def _run(self) -> None:
        retry_s = _RETRY_FIRST_S
        while True:
            await self._work.wait()
            # News come in bursts; what a longer pass would make of each is not worth a core.
            await self._clock.sleep(min(max(_DEBOUNCE_S, _BUSY_FACTOR * self._last_pass_s), _MAX_PAUSE_S))
            self._work.clear()
            async with self._lock:
                state = self._state
                outcome = await self._pass(list(self._attached.values()))
                led = await self._mesh_pass(state)
            if led and state is not None:
                self._in_force.led(state.mark)
            if led and not outcome.failures:
                retry_s = _RETRY_FIRST_S
            elif not self._retrying:
                # Beside this loop: one network that cannot succeed must not hold up the others' news.
                self._retrying = True
                self._tasks.spawn(self._retry(retry_s), "retry")
                retry_s = min(retry_s * 2, self._resync_s)

    async def _find(self) -> None:
        """Have containers find what is there now; a virtual IP leads somewhere before anybody is told of it.

        Beside the forwarding entries, which a task has long before anybody is led to it.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            if (state := self._state) is not None:
                await self._vips.apply(state)
                self._name_service.update(state)
                # A network that failed has no part in who is found.
                self._in_force.found(state.mark)

    async def _retry(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._retrying = False
        self._wake()

    async def _pass(self, networks: list[LocalNetwork]) -> Outcome:
        """One look at ``networks``, with the lock held."""
        state, started = self._state, self._clock.monotonic()
        outcome = await self._in_thread(lambda: self._reconciler.run(state, networks))
        self._last_pass_s = self._clock.monotonic() - started
        self._metrics.reconcile_seconds.observe(self._last_pass_s)
        self._metrics.repairs.inc(outcome.repairs)
        self._metrics.failures.inc(len(outcome.failures))
        self._publish()
        self._report(networks, outcome)
        return outcome

    async def _mesh_pass(self, state: OverlayState | None) -> bool:
        """One look at published ports, with the lock held; whether they lead where ``state`` says."""
        if state is None or (mesh := self._mesh) is None:
            return True
        started, ways = self._clock.monotonic(), dict(self._ways_in)
        try:
            outcome = await self._in_thread(lambda: mesh.run(state, ways))
        except OverlayError as exc:
            self._metrics.failures.inc()
            self._say(_MESH, str(exc))
            return False
        there = {endpoint_id for _, endpoint_id in state.endpoints}
        for client_id in [c for c, way in self._ways_in.items() if not way and c not in there]:
            del self._ways_in[client_id]
        self._last_pass_s += self._clock.monotonic() - started
        self._metrics.mesh(mesh.publications, self._clock.monotonic() - started)
        self._metrics.repairs.inc(outcome.repairs)
        if outcome.repairs:
            log.warning("undid changes to published ports by another hand", changes=outcome.repairs)
        if self._reported.pop(_MESH, None) is not None:
            log.info("published ports are in order again")
        self._publish()
        return True

    def _publish(self) -> None:
        watched = self._reconciler.watched()
        if self._mesh is not None and (device := self._mesh.watched()) is not None:
            index, entries_there = device
            watched.ports[index] = watched.bridges[index] = entries_there
        self._monitor.watch(watched)
        entries = self._reconciler.entries_in_place()
        self._metrics.networks.set(len(self._attached))
        self._metrics.fdb_entries.set(sum(len(e.fdb) for e in entries))
        self._metrics.neighbours.set(sum(len(e.neighbours) for e in entries))

    def _report(self, networks: Iterable[LocalNetwork], outcome: Outcome) -> None:
        if outcome.repairs:
            log.warning("undid changes to the overlay by another hand", changes=outcome.repairs)
        if outcome.host_failure is not None:
            self._say("", str(outcome.host_failure))
        for network in networks:
            if (error := outcome.failures.get(network.network_id)) is not None:
                self._say(network.network_id, str(error), network=network.name)
            elif network.name in outcome.unknown:
                reason = "the registry does not know this network; its entries stay as they are"
                self._say(network.network_id, reason, network=network.name)
            elif network.name in outcome.clamped:
                reason = "the network's MTU does not fit into packets between hosts; large packets will be lost"
                self._say(network.network_id, reason, network=network.name)
            elif self._reported.pop(network.network_id, None) is not None:
                log.info("network is in order again", network=network.name)

    def _say(self, key: str, reason: str, **fields: Any) -> None:
        if self._reported.get(key) != reason:
            self._reported[key] = reason
            log.warning("overlay is not as it should be", reason=reason, **fields)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            raise OverlayError("the overlay is not running on this host")
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread cannot be stopped half-way; nobody else may start before it is done.
            await asyncio.wait([future])
            raise
