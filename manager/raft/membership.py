"""Changes of membership on the leader: one at a time, and a new member catches up before it counts."""

from collections.abc import Callable
from typing import Any, Protocol

from pyswarm.common.errors import NotLeader, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.manager.raft.engine import Engine
from pyswarm.manager.raft.entries import encode_members
from pyswarm.manager.raft.types import Member
from pyswarm.manager.raft.waiters import Change, Waiter

log = get_logger("raft")

#: How far behind a new member may be when it starts to count, while writes go on.
_CLOSE_ENOUGH_ENTRIES = 256
#: How long a removed member is still told about its removal.
_FAREWELL_S = 2.0


class _AwaitEntry(Protocol):
    def __call__(self, index: int, term: int, waiter: Waiter) -> None: ...


class _Farewell:
    """A removed member is replicated to until it knows that its removal is committed, or for a while."""

    def __init__(self, node_id: str, index: int, deadline: float) -> None:
        self.node_id = node_id
        self._index = index
        self._deadline = deadline
        self._mark: int | None = None

    def is_over(self, engine: Engine, now: float) -> bool:
        """Whether nothing more needs to be sent."""
        if self._mark is None and engine.commit_index >= self._index <= engine.match_of(self.node_id):
            self._mark = engine.mark()
            engine.send_soon(beat=True)
        told = self._mark is not None and engine.answered_since(self.node_id, self._mark)
        return told or now >= self._deadline


class MembershipChanges:
    """The change under way, if any."""

    def __init__(
        self,
        engine: Engine,
        fail: Callable[[Waiter, Exception], None],
        resolve: Callable[[Waiter, Any], None],
        await_entry: _AwaitEntry,
        forget: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._fail = fail
        self._resolve = resolve
        self._await_entry = await_entry
        self._forget = forget
        self._change: Change | None = None
        self._farewell: _Farewell | None = None

    @property
    def busy(self) -> bool:
        """Whether a change needs ``advance``."""
        return self._change is not None or self._farewell is not None

    @property
    def departing(self) -> str | None:
        """The removed member that is still replicated to."""
        return self._farewell.node_id if self._farewell is not None else None

    @property
    def learner(self) -> Member | None:
        """The member that is catching up."""
        return self._change.member if self._change is not None and self._change.learning else None

    def begin(self, change: Change) -> None:
        """Start a change, unless one is under way."""
        if self._change is not None:
            self._fail(change, Unavailable("another change of the managers is under way; try again"))
            return
        self._change = change

    def abandon(self, error: Exception) -> None:
        """Leadership is gone, and with it a change that has no entry yet."""
        self._end_farewell()
        if self._change is not None:
            self._fail(self._change, error)
            self._drop()

    def _drop(self) -> None:
        change, self._change = self._change, None
        if change is not None and change.learning:
            self._engine.drop_learner(change.member.node_id)

    def _end_farewell(self) -> None:
        if self._farewell is not None:
            node_id, self._farewell = self._farewell.node_id, None
            self._engine.drop_learner(node_id)
            self._forget(node_id)

    def advance(self, now: float) -> None:
        """Do what can be done now."""
        change, engine = self._change, self._engine
        if self._farewell is not None and self._farewell.is_over(engine, now):
            self._end_farewell()
        if change is None:
            return
        if now >= change.deadline:
            what = "did not catch up with the log" if change.learning else "could not be changed"
            self._fail(
                change, Unavailable(f"manager {change.member.node_id} ({change.member.addr}) {what} in time")
            )
            self._drop()
            return
        # Nothing before an entry of this leadership is committed, nothing beside an uncommitted change.
        if engine.commit_index < engine.noop_index or engine.journal.config[0] > engine.commit_index:
            return
        if change.add:
            self._advance_add(change)
        else:
            self._remove(change, now)

    def _advance_add(self, change: Change) -> None:
        engine, member = self._engine, change.member
        if change.learning:
            match = engine.match_of(member.node_id)
            if match >= max(change.catch_up_to, engine.journal.last_index - _CLOSE_ENOUGH_ENTRIES):
                self._append(change, (*engine.members, member))
            return
        if self.departing == member.node_id:
            self._end_farewell()
        current = next((m for m in engine.members if m.node_id == member.node_id), None)
        if current == member:
            self._done(change)
        elif current is not None:
            self._append(change, tuple(member if m is current else m for m in engine.members))
        else:
            change.learning = True
            change.catch_up_to = engine.journal.last_index
            engine.add_learner(member.node_id)

    def _remove(self, change: Change, now: float) -> None:
        engine = self._engine
        remaining = tuple(m for m in engine.members if m.node_id != change.member.node_id)
        if len(remaining) == len(engine.members):
            self._done(change)
        elif change.member.node_id == engine.config.node_id:
            # The commit rule counts the leader itself, so it may not lead a membership without it.
            self._fail(change, NotLeader())
            self._drop()
        else:
            self._end_farewell()
            index = engine.journal.last_index + 1
            self._farewell = _Farewell(change.member.node_id, index, now + _FAREWELL_S)
            self._append(change, remaining)
            engine.add_learner(change.member.node_id)

    def _append(self, change: Change, members: tuple[Member, ...]) -> None:
        engine = self._engine
        index, term = engine.append(encode_members(members))
        log.info("managers change", index=index, members=[m.node_id for m in members])
        engine.adopt_membership()
        self._await_entry(index, term, change)
        self._change = None

    def _done(self, change: Change) -> None:
        self._resolve(change, self._engine.members)
        self._change = None
