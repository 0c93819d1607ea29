"""Tasks that are to stop, held until no host leads anybody to them any more.

A running task is found by name, by its service's virtual IP and through published ports, on every host. So an
agent is told to stop it only after the leader has written to etcd that it is not ready (``synced``), and every
host that is heard of has said that it has that in force (``applied``); at the latest after ``PATIENCE_S``, which
is as long as Docker's swarm always waits. Until then its agent is shown the task as if it were to run on.

A request that was led there a moment before is then on its way, or being answered by a program that ends without
further ado when told to: it gets ``LINGER_S`` more.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.types import Task, TaskState
from pyswarm.overlay.registry.model import Fence

#: A host whose etcd or data plane is not in order must not keep tasks from stopping for ever.
PATIENCE_S = 2.0
LINGER_S = 0.2
#: How often time is looked at while tasks are held.
TICK_S = 0.05
#: An agent's stream looks at a task at most 0.1 s after it was changed; by then so many later writes may be known.
REMEMBERED = 64
_NOTHING: Fence = (0, 0)


class _Held(msgspec.Struct):
    """``index`` is the store's at which the task was to stop; ``fence`` what hosts must have in force, once known.
    ``free_at_s``: when its agent may know, once every host has answered. ``released``: it does."""

    node_id: str
    index: int
    until_s: float
    fence: Fence | None = None
    free_at_s: float | None = None
    released: bool = False


def is_found(task: Task) -> bool:
    """Whether others may be led to it, as far as the store knows."""
    return task.status.state is TaskState.RUNNING and any(attached.addr for attached in task.networks)


class Withdrawals:
    """``hosts`` are the nodes whose word is waited for; ``release`` is told of a task (and its node) that need not
    be held any longer."""

    def __init__(self, clock: Clock, *, patience_s: float = PATIENCE_S, linger_s: float = LINGER_S) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._linger_s = linger_s
        self._holding = asyncio.Event()
        self._held: dict[str, _Held] = {}
        self._applied: dict[str, Fence] = {}
        self._synced: deque[tuple[int, Fence]] = deque(maxlen=REMEMBERED)
        self._hosts: Callable[[], Collection[str]] = tuple
        self._release: Callable[[str, str], None] = lambda _node_id, _task_id: None

    def begin(self, hosts: Callable[[], Collection[str]], release: Callable[[str, str], None]) -> None:
        """Leadership was gained: nothing is known."""
        self._hosts, self._release = hosts, release
        self._held, self._applied = {}, {}
        self._synced.clear()

    async def run(self) -> None:
        """Release what only time holds, until cancelled."""
        while True:
            await self._holding.wait()
            await self._clock.sleep(TICK_S)
            self.look()
            if all(held.released for held in self._held.values()):
                self._holding.clear()

    def shown(self, task: Task) -> Task:
        """The task as its agent is to see it now."""
        if task.desired_state.rank <= TaskState.RUNNING.rank or not is_found(task):
            self._held.pop(task.id, None)
            return task
        held = self._held.get(task.id)
        if held is None:
            until_s = self._clock.monotonic() + self._patience_s
            held = self._held[task.id] = _Held(task.node_id, task.version.index, until_s)
            self._note_fence(held)
            self._holding.set()
        held.released = held.released or self._is_free(held)
        if held.released:
            return task
        return msgspec.structs.replace(task, desired_state=TaskState.RUNNING)

    def synced(self, index: int, fence: Fence) -> None:
        """etcd holds what the store said at ``index``; ``fence`` is the mark of the last write that it took."""
        self._synced.append((index, fence))
        for held in self._held.values():
            self._note_fence(held)
        self.look()

    def _note_fence(self, held: _Held) -> None:
        """The first mark that covers it: hosts are not asked about later ones."""
        if held.fence is None:
            held.fence = next((fence for index, fence in self._synced if held.index <= index), None)

    def applied(self, node_id: str, fence: Fence) -> None:
        """A host has in force what was written up to ``fence``."""
        self._applied[node_id] = max(fence, self._applied.get(node_id, _NOTHING))
        self.look()

    def look(self) -> None:
        """Release what can be released now: after news, when a host is lost, and when time has passed."""
        for task_id, held in list(self._held.items()):
            if not held.released and self._is_free(held):
                held.released = True
                self._release(held.node_id, task_id)

    def forget(self, task_id: str) -> None:
        """The task is gone, or has ended."""
        self._held.pop(task_id, None)

    def _is_free(self, held: _Held) -> bool:
        now_s, fence = self._clock.monotonic(), held.fence
        if fence is not None and held.free_at_s is None:
            answered = all(self._applied.get(host, _NOTHING) >= fence for host in self._hosts())
            held.free_at_s = now_s + self._linger_s if answered else None
        return now_s >= min(held.until_s, held.free_at_s if held.free_at_s is not None else held.until_s)
