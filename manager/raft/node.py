"""``RaftNode``: what the rest of pyswarm uses. A thread for Raft, the caller's loop for everything else."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from prometheus_client import CollectorRegistry

from pyswarm.common.errors import InvalidArgument, OutcomeUnknown, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.manager.raft import effects as fx
from pyswarm.manager.raft.applier import Applier
from pyswarm.manager.raft.core import RaftCore
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.driver import BEFORE_SYNC, Driver, Pause, RaftThread
from pyswarm.manager.raft.entries import Snapshot
from pyswarm.manager.raft.generation import Generation
from pyswarm.manager.raft.journal import GENESIS_INDEX, GENESIS_TERM
from pyswarm.manager.raft.metrics import RaftMetrics
from pyswarm.manager.raft.storage import Storage, open_storage
from pyswarm.manager.raft.types import Member, PeerSender, RaftConfig, StateMachine, StorageFullError
from pyswarm.manager.raft.waiters import Barrier, Change, HandOver, Proposal, Waiter

log = get_logger("raft")

_FULL_RETRY_S = 0.2
#: How long callers wait for space on the disk before they are told.
_FULL_PATIENCE_S = 2.0


class RaftNode:
    """One member of the replicated log.

    ``initial_members`` are given once: exactly this node to begin a new cluster, the leader's list to join
    one. A folder that already holds data goes on from there whatever is given. ``on_failure`` is called on
    the loop if the node had to stop by itself; after that every call fails.
    """

    def __init__(
        self,
        config: RaftConfig,
        state_machine: StateMachine,
        sender: PeerSender,
        *,
        initial_members: Sequence[Member] | None = None,
        registry: CollectorRegistry | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        disk: Disk | None = None,
        driver: Driver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._machine = state_machine
        self._sender = sender
        self._initial_members = None if initial_members is None else tuple(initial_members)
        self._on_failure = on_failure
        self._disk = disk or Disk()
        self._monotonic = monotonic
        self._metrics = RaftMetrics(registry)
        self._metrics.applied_index.set_function(lambda: self.applied_index)
        self._callbacks: list[Callable[[bool, int], None]] = []
        self._driver = driver or RaftThread()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._storage: Storage | None = None
        self._core: RaftCore | None = None
        self._applier: Applier | None = None
        self._changing = asyncio.Lock()
        self._outstanding = 0
        self._limits: set[asyncio.Timeout] = set()
        #: Why nothing can be stored here at the moment, or empty.
        self.trouble = ""
        self.failure: Exception | None = None
        #: Which group this node belongs to; valid once started.
        self.generation = Generation()

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the data folder, restore the state machine and start the thread.

        Raises RaftStorageError if the data is damaged, missing, in use or somebody else's.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        try:
            storage = await asyncio.to_thread(
                open_storage, self._config, self._initial_members, self._disk, self._metrics.journal_bytes.inc
            )
        except StorageFullError as exc:
            raise Unavailable(f"no space left for the raft log in {self._config.data_dir}: {exc}") from exc
        self.generation = storage.generation
        try:
            if storage.journal.cut_bytes:
                log.warning("cut an unfinished write at the end of the journal", bytes=storage.journal.cut_bytes)
            start = Snapshot(GENESIS_INDEX, GENESIS_TERM, storage.journal.config_at(GENESIS_INDEX))
            if storage.restored is not None:
                start, data = storage.restored
                self._machine.restore(data, start.index)
                storage.restored = None
            self._core = RaftCore(self._config, storage, self._sender, self._emit, self._monotonic)
        except BaseException:
            storage.close()
            raise
        self._storage = storage
        self._applier = Applier(
            self._config,
            self._machine,
            storage.snapshots,
            start,
            self._snapshot_saved,
            self._failed,
            self._monotonic,
        )
        for callback in self._callbacks:
            self._applier.on_leadership(callback)
        self._metrics.update(self._core.status)
        self._driver.start(self._work(self._core))

    async def stop(self) -> None:
        """Stop the thread and close the files. Callers still waiting get an error."""
        self._stopping = True
        self._driver.wake()
        await self._driver.stopped()
        # Lets in what the thread handed over last, so that nobody is left waiting.
        await asyncio.sleep(0)
        if self._applier is not None:
            await self._applier.stop()
        if self._storage is not None:
            self._storage.close()
            self._storage = None

    def _work(self, core: RaftCore) -> Iterator[Pause]:
        """What the Raft thread does, as the pauses it makes."""
        try:
            while not self._stopping:
                yield Pause(core.idle_for(), until_woken=True)
                core.step()
                yield BEFORE_SYNC
                yield from self._finish(core)
        except Exception as exc:
            log.exception("raft stopped")
            self.failure = exc
            self._on_loop(self._failed, exc)
        finally:
            core.abandon()

    def _finish(self, core: RaftCore) -> Iterator[Pause]:
        while True:
            try:
                core.finish()
            except StorageFullError as exc:
                # Nothing left this process; the others elect a new leader if this one led.
                self._metrics.storage_full.set(1)
                if not self.trouble:
                    log.error("no space for the raft log; waiting", folder=self._config.data_dir, reason=str(exc))
                    self.trouble = (
                        f"no space left on this manager for the raft log in {self._config.data_dir}: "
                        "make space, then it goes on by itself"
                    )
                    core.withhold_leadership()
                    self._on_loop(self._hurry)
                if self._stopping:
                    return
                yield Pause(_FULL_RETRY_S)
                continue
            if core.sync_s is not None:
                self._metrics.fsync_seconds.observe(core.sync_s)
            self._metrics.storage_full.set(0)
            if self.trouble:
                log.info("there is space for the raft log again", folder=self._config.data_dir)
                self.trouble = ""
            self._metrics.update(core.status)
            return

    def _on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("the loop is closed")

    def _hurry(self) -> None:
        """Nobody waits to the end of a long limit for a disk that is full."""
        soon = asyncio.get_running_loop().time() + _FULL_PATIENCE_S
        for limit in self._limits:
            when = limit.when()
            if when is None or when > soon:
                limit.reschedule(soon)

    def _emit(self, effects: list[fx.Effect]) -> None:
        if effects:
            self._on_loop(self._take, effects)

    def _take(self, effects: list[fx.Effect]) -> None:
        if self._applier is not None:
            self._applier.take(effects)

    def _failed(self, exc: Exception) -> None:
        if self.failure is None:
            log.error("raft stopped", reason=str(exc))
            self.failure = exc
        self._stopping = True
        self._driver.wake()
        if self._on_failure is not None:
            self._on_failure(exc)

    def _snapshot_saved(self, snapshot: Snapshot) -> None:
        if self._core is not None:
            self._core.snapshot_saved(snapshot)
            self._driver.wake()

    # -- the network's side; any thread ----------------------------------------------------------------------

    def deliver(self, from_node_id: str, payload: bytes) -> None:
        """A message of a peer whose certificate says ``from_node_id``."""
        core = self._core
        if core is not None and not self._stopping:
            core.deliver(from_node_id, payload)
            self._driver.wake()

    def peer_connected(self, node_id: str) -> None:
        """A fresh stream to that peer is open; messages before it may be lost."""
        core = self._core
        if core is not None:
            core.connected(node_id)
            self._driver.wake()

    def peer_disconnected(self, node_id: str) -> None:
        """Its stream broke. Raft's own timeouts say what that means."""

    # -- callers on the loop ---------------------------------------------------------------------------------

    async def propose(self, command: bytes, *, timeout_s: float = 10.0) -> bytes:
        """Commit a command on a majority; returns what ``apply`` answered.

        Raises NotLeader (nothing happened), Unavailable (nothing happened), OutcomeUnknown (it may be stored).
        """
        if len(command) > self._config.max_command_bytes:
            raise InvalidArgument(
                f"the change is {len(command)} bytes, at most {self._config.max_command_bytes} fit into one"
            )
        if self._outstanding >= self._config.max_outstanding:
            raise Unavailable("too many changes are waiting to be stored; try again")
        self._metrics.proposals.inc()
        self._outstanding += 1
        try:
            return cast(bytes, await self._ask(Proposal(self._future(), command), timeout_s, "store a change"))
        finally:
            self._outstanding -= 1

    async def read_barrier(self, *, timeout_s: float = 5.0) -> int:
        """Return once everything committed before the call is applied here; raises NotLeader elsewhere."""
        waiter = Barrier(self._future())
        try:
            return cast(int, await self._ask(waiter, timeout_s, "confirm the leadership"))
        except OutcomeUnknown as exc:
            raise Unavailable("no majority of the managers confirmed the leadership in time") from exc

    async def add_member(self, member: Member, timeout_s: float) -> tuple[Member, ...]:
        """Make a node a voting member, or change its address. It first catches up, then counts."""
        return await self._change(member, True, timeout_s)

    async def remove_member(self, node_id: str, timeout_s: float) -> tuple[Member, ...]:
        """Take a member out. A leader asked to remove itself hands over first and answers NotLeader."""
        if node_id == self._config.node_id and len(self.members) > 1 and self.is_leader:
            await self.transfer_leadership(timeout_s)
        return await self._change(Member(node_id, ""), False, timeout_s)

    async def _change(self, member: Member, add: bool, timeout_s: float) -> tuple[Member, ...]:
        deadline = self._monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._changing.acquire()
        except TimeoutError as exc:
            raise Unavailable("another change of the managers is under way; try again") from exc
        try:
            # The Raft thread keeps the deadline and says what was in the way; this is for when it cannot.
            patience_s = deadline - self._monotonic() + 0.5
            waiter = Change(self._future(), member, add, deadline)
            return cast(tuple[Member, ...], await self._ask(waiter, patience_s, "change the managers"))
        finally:
            self._changing.release()

    async def transfer_leadership(self, timeout_s: float) -> None:
        """Let the member that is most up to date lead. Returns once this node does not."""
        deadline = self._monotonic() + timeout_s
        await self._ask(HandOver(self._future(), deadline), timeout_s + 0.5, "hand over the leadership")

    def _future(self) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    async def _ask(self, waiter: Waiter, timeout_s: float, what: str) -> Any:
        core = self._core
        if core is None or self._stopping:
            raise Unavailable(
                f"this manager is stopping: {self.failure}" if self.failure else "this manager is stopping"
            )
        core.submit(waiter)
        self._driver.wake()
        try:
            async with asyncio.timeout(min(timeout_s, _FULL_PATIENCE_S) if self.trouble else timeout_s) as limit:
                self._limits.add(limit)
                try:
                    return await waiter.future
                finally:
                    self._limits.discard(limit)
        except TimeoutError as exc:
            within = "" if self.trouble else f" within {timeout_s:g} s"
            if waiter.claim():
                raise Unavailable(f"could not {what}{within}: {self._reach()}") from exc
            raise OutcomeUnknown(f"could not {what}{within}; it may still happen: {self._reach()}") from exc

    def _reach(self) -> str:
        if self.trouble:
            return self.trouble
        leader = self.leader
        return "no leader" if leader is None else f"the leader is {leader.addr}"

    # -- what anybody may read -------------------------------------------------------------------------------

    @property
    def _status(self) -> fx.Status:
        return self._core.status if self._core is not None else fx.Status()

    @property
    def node_id(self) -> str:
        """Who this node is."""
        return self._config.node_id

    @property
    def is_leader(self) -> bool:
        """Whether this node leads and its state holds everything committed before."""
        return self._applier is not None and self._applier.leads_in is not None

    @property
    def term(self) -> int:
        """The current term."""
        return self._status.term

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this node knows."""
        return self._status.leader

    @property
    def members(self) -> tuple[Member, ...]:
        """The newest membership in this node's log."""
        return self._status.members

    @property
    def commit_index(self) -> int:
        """The newest entry this node knows to be committed."""
        return self._status.commit_index

    @property
    def applied_index(self) -> int:
        """The newest entry the state machine has applied."""
        return self._applier.applied_index if self._applier is not None else 0

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Call ``callback(leads, term)`` on the loop: True once the state is current, False when it ends."""
        self._callbacks.append(callback)
        if self._applier is not None:
            self._applier.on_leadership(callback)
