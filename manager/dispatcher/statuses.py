"""Status reports of agents on their way into the store: coalesced per task, written in batches.

A report is answered once it is committed, so an agent that was answered need not repeat it to the next leader.
"""

import asyncio

from msgspec.structs import replace

from pyswarm.common.clock import Clock
from pyswarm.common.errors import FailedPrecondition, InvalidArgument, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.types import Task, TaskState, TaskStatus
from pyswarm.manager.dispatcher.batching import Batcher
from pyswarm.manager.state import MAX_CHANGES, Store, Transaction

#: Statuses that cannot be stored, and why.
Refused = dict[str, PyswarmError]

log = get_logger("dispatcher")


def next_status(task: Task, reported: TaskStatus) -> TaskStatus | None:
    """What to store of a report; None when it brings nothing new. Observed states never go back, and a task that
    has ended stays as it ended."""
    now = task.status
    if now.state.ended or reported.state.rank < now.state.rank:
        return None
    return None if replace(reported, timestamp=now.timestamp) == now else reported


class StatusWriter:
    """Runs on the leader; ``run`` is one of the dispatcher's loops."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._pending: dict[str, TaskStatus] = {}
        self._batcher = Batcher(clock)
        self._committed: asyncio.Future[Refused] | None = None

    async def report(self, statuses: dict[str, TaskStatus]) -> None:
        """Return once the statuses are stored, or superseded; raises what the commit raised, or why one of these
        cannot be stored."""
        if not statuses:
            return
        for task_id, status in statuses.items():
            waiting = self._pending.get(task_id)
            if waiting is None or status.state.rank >= waiting.state.rank:
                self._pending[task_id] = status
            self._batcher.ring(urgent=status.state.rank >= TaskState.RUNNING.rank)
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
        # Several reports wait for one commit; one caller that hangs up must not cancel it for the others.
        refused = await asyncio.shield(self._committed)
        for task_id in statuses.keys() & refused.keys():
            raise type(refused[task_id])(f"task {task_id}: {refused[task_id]}")

    async def run(self) -> None:
        """Commit batches until cancelled."""
        while True:
            await self._batcher.wait()
            committed, self._committed = self._committed, None
            batch, self._pending = self._pending, {}
            if committed is None:
                continue
            try:
                refused = await self._commit(batch)
            except PyswarmError as exc:
                _settle(committed, exc)
            except BaseException:
                self._committed = committed
                raise
            else:
                _settle(committed, refused)

    def close(self, error: PyswarmError) -> None:
        """Answer everyone still waiting with ``error``."""
        committed, self._committed = self._committed, None
        self._pending = {}
        if committed is not None:
            _settle(committed, error)

    async def _commit(self, batch: dict[str, TaskStatus]) -> Refused:
        """Write all that can be written; one status that cannot is nobody else's failure."""
        items, refused = list(batch.items()), Refused()
        for start in range(0, len(items), MAX_CHANGES):
            await self._write(items[start : start + MAX_CHANGES], refused)
        return refused

    async def _write(self, items: list[tuple[str, TaskStatus]], refused: Refused) -> None:
        def build(tx: Transaction) -> None:
            for task_id, reported in items:
                task = tx.view.tasks.get(task_id)
                status = next_status(task, reported) if task is not None else None
                if task is not None and status is not None:
                    tx.update(replace(task, status=status))

        try:
            await self._store.update(build, reason="task status")
        except (FailedPrecondition, InvalidArgument) as exc:
            # Tasks with large specs: each change carries the whole task, and a record has a size limit.
            if len(items) == 1:
                refused[items[0][0]] = exc
                log.warning("a status cannot be stored", task=items[0][0], reason=str(exc))
                return
            middle = len(items) // 2
            await self._write(items[:middle], refused)
            await self._write(items[middle:], refused)


def _settle(committed: "asyncio.Future[Refused]", outcome: Refused | PyswarmError) -> None:
    if committed.done():
        return
    if isinstance(outcome, dict):
        committed.set_result(outcome)
    else:
        committed.set_exception(outcome)
        committed.exception()  # the callers may all have hung up
