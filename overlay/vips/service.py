"""Keeps every container's table of virtual IPs as the registry says.

Tables are loaded by one thread of their own, so that thousands of forwarding entries do not hold up a container
that has just been started. What a table holds is remembered, and read again at each ``resync``.

Containers are visited in batches: a change costs a third of a millisecond each, but the kernel's tidying up behind
it fifteen, which are waited for once for all of a batch, when that is already in force.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.vips import Namespace, NamespaceGone
from pyswarm.overlay.registry.model import OverlayState
from pyswarm.overlay.vips.plan import VipTable, gone, tables, withdrawn

log = get_logger("vips")

#: Each holds up to three descriptors until its batch is closed, of which libnftables allows few.
BATCH = 100


class _Client(msgspec.Struct):
    """A container. ``known``: ``have`` is what its table holds (None: it has none); ``quiet_at``: as for
    ``Namespace.lead_anew``."""

    addrs: frozenset[str]
    networks: frozenset[str]
    pid: int
    namespace: Namespace | None = None
    known: bool = False
    have: VipTable | None = None
    quiet_at: int | None = None
    complaint: str = ""


class _Job(msgspec.Struct):
    """One container's turn: what is to be done, and what came of it. ``anew``: its table was made anew;
    ``withdrawn``: its virtual IPs that some task is behind no more; ``lost``: addresses of such tasks that are not
    even ``there`` any more, where all tasks are that run or end."""

    client_id: str
    client: _Client
    want: VipTable
    there: frozenset[str]
    namespace: Namespace | None = None
    have: VipTable | None = None
    quiet_at: int | None = None
    anew: bool = False
    withdrawn: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    repaired: bool = False
    error: str = ""
    flows_error: str = ""


class VipService:
    """``on_loaded`` is told of each container whose virtual IPs lead to tasks."""

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
        self._flows_complaint = ""
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
            there = frozenset(endpoint.addr for endpoint in state.endpoints.values())
            jobs = [
                _Job(client_id, client, want[client.networks], there)
                for client_id, client in running.items()
                if not (client.known and (client.have or {}) == want[client.networks])
            ]
            # Those that have no table yet keep somebody waiting.
            jobs.sort(key=lambda job: job.client.have is not None)
            with self._seconds.time():
                for first in range(0, len(jobs), BATCH):
                    batch = jobs[first : first + BATCH]
                    await self._in_thread(executor, batch)
                    for job in batch:
                        self._take(job)
                        self._say_loaded(job.client_id, job.client)
            for client_id in running.keys() - {job.client_id for job in jobs}:
                self._say_loaded(client_id, running[client_id])
            self._count()

    async def _in_thread(self, executor: ThreadPoolExecutor, batch: Sequence[_Job]) -> None:
        """Carry out a batch; returns once it is in force, while the thread still closes what it left open."""
        closing = ExitStack()
        working = executor.submit(_carry_out, batch, closing)
        executor.submit(closing.close)  # the one thread's next piece of work, whatever came of this one
        await asyncio.shield(asyncio.wrap_future(working))

    def _say_loaded(self, client_id: str, client: _Client) -> None:
        if client.known and self._clients.get(client_id) is client:
            self._on_loaded(client_id)

    def _take(self, job: _Job) -> None:
        client = job.client
        client.namespace, client.have, client.known = job.namespace, job.have, not job.error
        client.quiet_at = job.quiet_at
        if self._clients.get(job.client_id) is not client:
            return  # it was forgotten meanwhile
        if job.repaired:
            self._repairs.inc()
            log.warning("repaired a table of virtual IPs that another hand had changed", task=job.client_id)
        if job.error and job.error != client.complaint:
            log.info("a container's virtual IPs are not up to date", task=job.client_id, reason=job.error)
        if job.flows_error and job.flows_error != self._flows_complaint:
            self._flows_complaint = job.flows_error
            log.warning("UDP senders may stay with tasks that are gone", reason=job.flows_error)
        client.complaint = job.error

    def _count(self) -> None:
        self._tables.set(sum(1 for client in self._clients.values() if client.have))
        self._failing.set(sum(1 for client in self._clients.values() if client.complaint))


def _carry_out(batch: Sequence[_Job], closing: ExitStack) -> None:
    """In the worker thread: first every table, then the flows that the changes leave behind."""
    for job in batch:
        job.namespace, job.have, job.quiet_at = job.client.namespace, job.client.have, job.client.quiet_at
        try:
            _bring(job, closing)
        except NamespaceGone:
            job.have = job.want  # its end will be reported; until then there is nothing to keep
        except OverlayError as exc:
            job.have, job.error = None, str(exc)
        except Exception as exc:
            # What is in one container's namespace, where its root may do as it likes, must not end this for all.
            log.exception("a container's virtual IPs cannot be looked at", task=job.client_id)
            job.have, job.error = None, f"unexpected: {exc!r}"[:200]
    for job in batch:
        try:
            _lead_anew(job, closing)
        except NamespaceGone:
            continue
        except OverlayError as exc:
            job.flows_error = str(exc)


def _bring(job: _Job, closing: ExitStack) -> None:
    client = job.client
    if job.namespace is None:
        job.namespace = Namespace(client.pid, client.addrs)
    if not client.known:
        seen = job.namespace.read()
        job.repaired = client.have is not None and not client.complaint and seen != client.have
        job.have = seen
    if (job.have or {}) != job.want:
        job.withdrawn = withdrawn(job.have or {}, job.want)
        job.lost = gone(job.have or {}, job.want, job.there)
        job.anew = job.namespace.bring(job.want, job.have, closing)
        job.have = job.want


def _lead_anew(job: _Job, closing: ExitStack) -> None:
    if job.namespace is None or job.error:
        return
    if job.anew:
        job.quiet_at = None
        job.namespace.lead_first(job.want, closing)
    elif job.withdrawn:
        # Asked again if this fails.
        before, job.quiet_at = job.quiet_at, None
        job.quiet_at = job.namespace.lead_anew(job.withdrawn, job.lost, job.want, before, closing)
