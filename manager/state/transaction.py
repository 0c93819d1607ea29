"""A transaction being built: reads see its own changes, and the result is one record for the log. Pure."""

from datetime import datetime

import msgspec

from pyswarm.common.errors import AlreadyExists, FailedPrecondition, NotFound, UpdateOutOfSequence
from pyswarm.common.types import Task, Version
from pyswarm.manager.state.entry import Action, Stored, TransactionRecord, encode_object, kind_of
from pyswarm.manager.state.naming import has_unique_name, name_of, taken_message
from pyswarm.manager.state.view import StagedView, View

#: How many changes a planner puts into one transaction: larger ones would hold up everybody else's.
MAX_CHANGES = 200

#: No record may be larger: entries travel in one message each.
MAX_RECORD_BYTES = 1_500_000


class Transaction:
    """Handed to ``Store.update``'s builder. Nothing happens unless the builder returns."""

    def __init__(self, live: View, now: datetime) -> None:
        self._now = now
        self._view = StagedView(live)

    @property
    def view(self) -> View:
        """The state as changed so far by this transaction."""
        return self._view

    @property
    def now(self) -> datetime:
        """The time this transaction stamps on what it changes."""
        return self._now

    @property
    def changes(self) -> int:
        """How many objects it creates, updates or deletes."""
        return sum(len(table.staged) for table in self._view.tables.values())

    def create(self, obj: Stored) -> None:
        """Add an object; its version and times are set here. Raises AlreadyExists for its id or its name."""
        table = self._view.tables[kind_of(obj)]
        if obj.id in table:
            raise AlreadyExists(f"{table.kind} {obj.id} already exists")
        if table.staged.get(obj.id, obj) is None:
            raise FailedPrecondition(f"{table.kind} {obj.id} cannot be deleted and created at once")
        self._check_name(obj)
        stamped = _stamp(obj, Version(), created_at=self._now, updated_at=self._now)
        table.stage(obj.id, stamped)

    def update(self, obj: Stored) -> None:
        """Replace an object. ``obj`` carries the version it was read with; raises UpdateOutOfSequence when the
        stored one is newer, NotFound when there is none, AlreadyExists for its new name."""
        table = self._view.tables[kind_of(obj)]
        current = table.get(obj.id)
        if current is None:
            raise NotFound(f"{table.kind} {obj.id} not found")
        if current.version != obj.version:
            raise UpdateOutOfSequence()
        if current == obj:
            return
        if isinstance(obj, Task) and isinstance(current, Task):
            _check_task(current, obj)
        if name_of(obj) != name_of(current):
            self._check_name(obj)
        stamped = _stamp(obj, obj.version, created_at=current.created_at, updated_at=self._now)
        table.stage(obj.id, stamped)

    def delete(self, obj: Stored) -> None:
        """Remove an object, read at any version. Raises NotFound when there is none."""
        table = self._view.tables[kind_of(obj)]
        if table.get(obj.id) is None:
            raise NotFound(f"{table.kind} {obj.id} not found")
        if self._live_version(table.kind, obj.id) is None:
            table.unstage(obj.id)
        else:
            table.stage(obj.id, None)

    def record(self, request_id: str) -> TransactionRecord | None:
        """What to propose; None when nothing changes. Deletes come first, so that their names are free."""
        deletes: list[Action] = []
        puts: list[Action] = []
        for kind, table in self._view.tables.items():
            for object_id, obj in table.staged.items():
                replaced = self._live_version(kind, object_id)
                if obj is None:
                    deletes.append(Action("delete", kind, object_id, replaced or 0))
                elif replaced is None:
                    puts.append(Action("create", kind, object_id, 0, encode_object(obj)))
                else:
                    puts.append(Action("update", kind, object_id, replaced, encode_object(obj)))
        actions = (*deletes, *puts)
        return TransactionRecord(request_id, actions) if actions else None

    def _live_version(self, kind: str, object_id: str) -> int | None:
        live = self._view.tables[kind].live.get(object_id)
        return None if live is None else live.version.index

    def _check_name(self, obj: Stored) -> None:
        if not has_unique_name(obj) or not name_of(obj):
            return
        holders = self._view.tables[kind_of(obj)].named(name_of(obj))
        if any(holder.id != obj.id for holder in holders):
            raise AlreadyExists(taken_message(obj))


def _check_task(old: Task, new: Task) -> None:
    """Tasks only move forward; whoever writes an older state has lost a race, and must not win it."""
    if new.status.state.rank < old.status.state.rank:
        raise FailedPrecondition(
            f"task {old.id} cannot go back from {old.status.state.value} to {new.status.state.value}"
        )
    if new.desired_state.rank < old.desired_state.rank:
        raise FailedPrecondition(
            f"task {old.id} cannot be wanted {new.desired_state.value} again: "
            f"it is to be {old.desired_state.value}"
        )


def _stamp(obj: Stored, version: Version, *, created_at: datetime, updated_at: datetime) -> Stored:
    return msgspec.structs.replace(obj, version=version, created_at=created_at, updated_at=updated_at)
