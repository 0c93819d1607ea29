"""The loop's side: applies committed entries in order, answers callers, takes snapshots, tells of leadership.

Everything here runs on one asyncio loop, in short slices: thousands of entries after a restart never hold
up the loop's other work for long.
"""

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Callable

from pyswarm.common.errors import OutcomeUnknown, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.manager.raft import effects as fx
from pyswarm.manager.raft.entries import MEMBERSHIP, REGULAR, Snapshot, decode_members
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.raft.types import Member, RaftConfig, StateMachine
from pyswarm.manager.raft.waiters import Waiter

log = get_logger("raft")

_SLICE_S = 0.005
_ANSWERS = (fx.Readable, fx.Resolve, fx.Fail)


class Applier:
    """Owns what the loop knows: how far the state machine is, and whether this node leads it."""

    def __init__(
        self,
        config: RaftConfig,
        machine: StateMachine,
        snapshots: SnapshotStore,
        start: Snapshot,
        on_saved: Callable[[Snapshot], None],
        on_failure: Callable[[Exception], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._machine = machine
        self._snapshots = snapshots
        self._on_saved = on_saved
        self._on_failure = on_failure
        self._monotonic = monotonic
        self._queue: deque[fx.Effect] = deque()
        self._position = 0
        self._scheduled = False
        self._running = True
        self.applied_index = start.index
        self._applied_term = start.term
        self._members: tuple[Member, ...] = start.members
        self._snapshot_index = start.index
        self._bytes_since_snapshot = 0
        self._saving: asyncio.Future[None] | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "raft-snapshot")
        self._leading: fx.Leading | None = None
        self._readers: list[fx.Readable] = []
        self._callbacks: list[Callable[[bool, int], None]] = []
        #: The term in which this node leads with a state that is current; None otherwise.
        self.leads_in: int | None = None
        self.apply_failures = 0

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Called with (True, term) and (False, term)."""
        self._callbacks.append(callback)

    def take(self, effects: list[fx.Effect]) -> None:
        """Effects of one step of the Raft thread; called on the loop."""
        self._queue.extend(effects)
        if not self._scheduled:
            self._drain()

    def _drain(self) -> None:
        self._scheduled = False
        until = self._monotonic() + _SLICE_S
        try:
            while self._queue:
                if self._monotonic() > until:
                    self._scheduled = True
                    asyncio.get_running_loop().call_soon(self._drain)
                    break
                if self._carry_out(self._queue[0], until):
                    self._queue.popleft()
        except Exception as exc:  # noqa: BLE001 - a state that could not be restored must not be served
            self._fail_queued(exc)
            self._on_failure(exc)

    def _fail_queued(self, exc: Exception) -> None:
        queued, self._position = list(self._queue), 0
        self._queue.clear()
        for effect in queued:
            waiters = effect.waiters.values() if isinstance(effect, fx.Committed) else ()
            for waiter in (*waiters, *([effect.waiter] if isinstance(effect, _ANSWERS) else ())):
                if not waiter.future.done():
                    waiter.future.set_exception(OutcomeUnknown(f"this manager stopped: {exc}"))

    def _carry_out(self, effect: fx.Effect, until: float) -> bool:
        """Carry out one effect; False if the rest of it is for the next slice."""
        match effect:
            case fx.Committed():
                return self._apply(effect, until)
            case fx.Restore():
                self._restore(effect)
            case fx.Leading():
                self._leading = effect
                self._progressed()
            case fx.Lost():
                self._leading = None
                if self.leads_in is not None:
                    term, self.leads_in = self.leads_in, None
                    self._tell(False, term)
            case fx.Readable():
                self._readers.append(effect)
                self._progressed()
            case fx.Resolve():
                self._resolve(effect.waiter, effect.result)
            case fx.Fail():
                if not effect.waiter.future.done():
                    effect.waiter.future.set_exception(effect.error)
        return True

    def _apply(self, batch: fx.Committed, until: float) -> bool:
        entries = batch.entries
        while self._position < len(entries):
            command, index, term = entries[self._position]
            self._position += 1
            if index <= self.applied_index:
                continue
            waiter = batch.waiters.pop(index, None) if batch.waiters else None
            result: object = b""
            error: Exception | None = None
            kind = command[:1]
            self._bytes_since_snapshot += len(command)
            if kind == REGULAR:
                try:
                    result = self._machine.apply(index, command[1:])
                except Exception as exc:
                    self.apply_failures += 1
                    log.exception("the state machine failed on an entry; it counts as applied", index=index)
                    error = PyswarmError(f"the change could not be applied: {exc}")
            elif kind == MEMBERSHIP:
                self._members = decode_members(command)
                result = self._members
            self.applied_index, self._applied_term = index, term
            if waiter is not None:
                if error is None:
                    self._resolve(waiter, result)
                elif not waiter.future.done():
                    waiter.future.set_exception(error)
            if self._position % 32 == 0 and self._monotonic() > until:
                break
        self._progressed()
        if self._position < len(entries):
            return False
        self._position = 0
        self._maybe_snapshot()
        return True

    def _restore(self, effect: fx.Restore) -> None:
        snapshot = effect.snapshot
        if snapshot.index <= self.applied_index:
            return
        self._machine.restore(effect.data, snapshot.index)
        self.applied_index, self._applied_term = snapshot.index, snapshot.term
        self._members = snapshot.members
        self._snapshot_index = max(self._snapshot_index, snapshot.index)
        self._progressed()

    def _resolve(self, waiter: Waiter, result: object) -> None:
        if not waiter.future.done():
            waiter.future.set_result(result)

    def _progressed(self) -> None:
        leading = self._leading
        if leading is not None and self.applied_index >= leading.index:
            self._leading = None
            self.leads_in = leading.term
            self._tell(True, leading.term)
        if self._readers:
            for reader in self._readers:
                if reader.index <= self.applied_index:
                    self._resolve(reader.waiter, self.applied_index)
            self._readers = [r for r in self._readers if r.index > self.applied_index]

    def _tell(self, leads: bool, term: int) -> None:
        for callback in self._callbacks:
            try:
                callback(leads, term)
            except Exception:
                log.exception("a listener of leadership failed", leads=leads, term=term)

    # -- snapshots -------------------------------------------------------------------------------------------

    def _maybe_snapshot(self) -> None:
        due = (
            self.applied_index - self._snapshot_index >= self._config.snapshot_every_entries
            or self._bytes_since_snapshot >= self._config.snapshot_every_bytes
        )
        if due and self._saving is None and self._running:
            self._bytes_since_snapshot = 0
            snapshot = Snapshot(self.applied_index, self._applied_term, self._members)
            serialise = self._machine.snapshot()
            loop = asyncio.get_running_loop()
            self._saving = loop.run_in_executor(self._executor, self._save, snapshot, serialise)
            self._saving.add_done_callback(lambda done: self._saved(snapshot, done))

    def _save(self, snapshot: Snapshot, serialise: Callable[[], bytes]) -> None:
        self._snapshots.save(snapshot, serialise())

    def _saved(self, snapshot: Snapshot, done: "asyncio.Future[None]") -> None:
        self._saving = None
        # Also after a failure: the next attempt comes when as many entries were applied again.
        self._snapshot_index = max(self._snapshot_index, snapshot.index)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.error("snapshot failed; the log grows until one succeeds", index=snapshot.index, reason=str(error))
        elif not done.cancelled() and self._running:
            self._on_saved(snapshot)

    def _carry_out_all(self) -> None:
        while self._queue:
            if self._carry_out(self._queue[0], float("inf")):
                self._queue.popleft()

    async def stop(self) -> None:
        """Answer everybody who is still waiting, and finish what is being written."""
        self._running = False
        try:
            self._carry_out_all()
        except Exception as exc:  # noqa: BLE001 - stopping already
            log.error("applying failed while stopping", reason=str(exc))
        if self._saving is not None:
            await asyncio.wait([self._saving])
        self._executor.shutdown(wait=True)
