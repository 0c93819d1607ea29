"""Keeps every container's table of virtual IPs as the registry says.

Tables are loaded by one thread of their own, so that thousands of forwarding entries do not hold up a container
that has just been started. What a table holds is remembered, and read again at each ``resync``.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.vips import Namespace, NamespaceGone
from pyswarm.overlay.registry.model import OverlayState
from pyswarm.overlay.vips.plan import VipTable, tables

log = get_logger("vips")


class _Client(msgspec.Struct):
    """A container. ``known``: ``have`` is what its table holds (None: it has none)."""

    addrs: frozenset[str]
    networks: frozenset[str]
    pid: int
    namespace: Namespace | None = None
    known: bool = False
    have: VipTable | None = None
    complaint: str = ""


class _Result(msgspec.Struct):
    """What came of one container's turn."""

    client_id: str
    namespace: Namespace | None
    have: VipTable | None = None
    repaired: bool = False
    error: str = ""


class VipService:
    """``on_loaded`` is told of each container whose virtual IPs lead to tasks as of the newest state."""

    def __init__(
        self,
        registry: CollectorRegistry | None,
        on_loaded: Callable[[str], None],
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._on_loaded = on_loaded
        self._tasks = TaskGroupOwner("vips", on_failure)
        self._clients: dict[str, _Client] = {}
        self._state: OverlayState | None = None
        self._lock = asyncio.Lock()
        self._work = asyncio.Event()
        self._executor: ThreadPoolExecutor | None = None
        self._tables = Gauge("pyswarm_vip_tables", "Containers with a table of virtual IPs.", registry=registry)
        self._failing = Gauge(
            "pyswarm_vip_failing", "Containers whose table of virtual IPs cannot be kept.", registry=registry
        )
        self._repairs = Counter(
            "pyswarm_vip_repairs_total", "Tables of virtual IPs that another hand had changed.", registry=registry
        )
        self._seconds = Histogram(
            "pyswarm_vip_load_seconds", "Time to bring all tables up to date.", registry=registry
        )

    async def start(self) -> None:
        """Begin to load tables."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay-vips")
        self._tasks.spawn(self._run(), "load")

    async def stop(self) -> None:
        """Load no more; the tables stay, and lead where they led."""
        await self._tasks.stop()
        async with self._lock:
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown(wait=False)
            self._clients.clear()

    def set_client(self, client_id: str, addrs: Iterable[str], network_ids: Iterable[str], pid: int) -> None:
        """A container of this host, on these networks; ``pid`` is one of its processes, 0 before it runs."""
        wanted = _Client(frozenset(addrs), frozenset(network_ids), pid)
        known = self._clients.get(client_id)
        if known is not None and (known.addrs, known.networks, known.pid) == (
            wanted.addrs,
            wanted.networks,
            wanted.pid,
        ):
            return
        self.forget_client(client_id)
        self._clients[client_id] = wanted
        if pid:
            self._work.set()

    def forget_client(self, client_id: str) -> None:
        """The container is no more; its table went with it."""
        self._clients.pop(client_id, None)

    async def apply(self, state: OverlayState) -> None:
        """Bring all tables to this state; returns once they are."""
        self._state = state
        await self._pass()

    def resync(self) -> None:
        """Look what the tables really hold, and repair them."""
        for client in self._clients.values():
            client.known = False
        self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            await self._pass()

    async def _pass(self) -> None:
        async with self._lock:
            state, executor = self._state, self._executor
            if state is None or executor is None:
                return
            running = {client_id: client for client_id, client in self._clients.items() if client.pid}
            want = tables(state, (client.networks for client in running.values()))
            jobs = [
                (client_id, client, want[client.networks])
                for client_id, client in running.items()
                if not (client.known and (client.have or {}) == want[client.networks])
            ]
            if jobs:
                with self._seconds.time():
                    loop = asyncio.get_running_loop()
                    results = await asyncio.shield(loop.run_in_executor(executor, lambda: _carry_out(jobs)))
                for (client_id, client, _), result in zip(jobs, results, strict=True):
                    self._take(client_id, client, result)
            for client_id in running:
                if self._clients.get(client_id) is running[client_id] and running[client_id].known:
                    self._on_loaded(client_id)
            self._count()

    def _take(self, client_id: str, client: _Client, result: _Result) -> None:
        client.namespace, client.have, client.known = result.namespace, result.have, not result.error
        if self._clients.get(client_id) is not client:
            return  # it was forgotten meanwhile
        if result.repaired:
            self._repairs.inc()
            log.warning("repaired a table of virtual IPs that another hand had changed", task=client_id)
        if result.error and result.error != client.complaint:
            log.info("a container's virtual IPs are not up to date", task=client_id, reason=result.error)
        client.complaint = result.error

    def _count(self) -> None:
        self._tables.set(sum(1 for client in self._clients.values() if client.have))
        self._failing.set(sum(1 for client in self._clients.values() if client.complaint))


def _carry_out(jobs: Sequence[tuple[str, _Client, VipTable]]) -> list[_Result]:
    """In the worker thread: look at each container, and load what differs."""
    return [_bring(client_id, client, want) for client_id, client, want in jobs]


def _bring(client_id: str, client: _Client, want: VipTable) -> _Result:
    namespace, have, repaired = client.namespace, client.have, False
    try:
        if namespace is None:
            namespace = Namespace(client.pid, client.addrs)
        if not client.known:
            seen = namespace.read()
            repaired = client.have is not None and not client.complaint and seen != client.have
            have = seen
        if (have or {}) != want:
            namespace.bring(want, have)
            have = want
    except NamespaceGone:
        # Its end will be reported; until then there is nothing to keep.
        return _Result(client_id, namespace, want)
    except OverlayError as exc:
        return _Result(client_id, namespace, None, error=str(exc))
    return _Result(client_id, namespace, have, repaired)
