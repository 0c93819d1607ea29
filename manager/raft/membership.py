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


class _AwaitEntry(Protocol):
    def __call__(self, index: int, term: int, waiter: Waiter) -> None: ...


class MembershipChanges:
    """The change under way, if any."""

    def __init__(
        self,
        engine: Engine,
        fail: Callable[[Waiter, Exception], None],
        resolve: Callable[[Waiter, Any], None],
        await_entry: _AwaitEntry,
    ) -> None:
        self._engine = engine
        self._fail = fail
        self._resolve = resolve
        self._await_entry = await_entry
        self._change: Change | None = None

    @property
    def busy(self) -> bool:
        """Whether a change needs ``advance``."""
        return self._change is not None

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
        if self._change is not None:
            self._fail(self._change, error)
            self._drop()

    def _drop(self) -> None:
        change, self._change = self._change, None
        if change is not None and change.learning:
            self._engine.drop_learner(change.member.node_id)

    def advance(self, now: float) -> None:
        """Do what can be done now."""
        change, engine = self._change, self._engine
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
            self._remove(change)

    def _advance_add(self, change: Change) -> None:
        engine, member = self._engine, change.member
        if change.learning:
            match = engine.match_of(member.node_id)
            if match >= max(change.catch_up_to, engine.journal.last_index - _CLOSE_ENOUGH_ENTRIES):
                self._append(change, (*engine.members, member))
            return
        current = next((m for m in engine.members if m.node_id == member.node_id), None)
        if current == member:
            self._done(change)
        elif current is not None:
            self._append(change, tuple(member if m is current else m for m in engine.members))
        else:
            change.learning = True
            change.catch_up_to = engine.journal.last_index
            engine.add_learner(member.node_id)

    def _remove(self, change: Change) -> None:
        engine = self._engine
        remaining = tuple(m for m in engine.members if m.node_id != change.member.node_id)
        if len(remaining) == len(engine.members):
            self._done(change)
        elif change.member.node_id == engine.config.node_id:
            # The commit rule counts the leader itself, so it may not lead a membership without it.
            self._fail(change, NotLeader())
            self._drop()
        else:
            self._append(change, remaining)

    def _append(self, change: Change, members: tuple[Member, ...]) -> None:
        engine = self._engine
        index, term = engine.append(encode_members(members))
        log.info("managers change", index=index, members=[m.node_id for m in members])
        self._await_entry(index, term, change)
        self._change = None

    def _done(self, change: Change) -> None:
        self._resolve(change, self._engine.members)
        self._change = None
