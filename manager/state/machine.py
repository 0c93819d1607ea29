"""The replicated state machine: applies entries, makes and reads snapshots, checks itself. Pure.

``apply`` never raises: every manager must get past every entry in the same way, and an exception would be met by
each of them, for ever, at each start.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pyswarm.common.errors import PyswarmError
from pyswarm.common.types import Service, Task, Version
from pyswarm.manager.state import entry as fmt
from pyswarm.manager.state.entry import Action, Outcome, Stored, TransactionRecord
from pyswarm.manager.state.event import Event
from pyswarm.manager.state.invariants import clash_of, problems_of, removal_clash_of
from pyswarm.manager.state.view import LiveView

#: How many answered request ids are remembered. A proposer gives up long before so many others were answered.
DEDUPE_WINDOW = 4096


class StateDamaged(PyswarmError):
    """A snapshot cannot be read. The manager must not go on with half a state."""

    code = "state_damaged"


class _Refused(Exception):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Machine:
    """State and window of answered requests. Deterministic: it knows entries and nothing else."""

    def __init__(self) -> None:
        self.view = LiveView()
        self._recent: OrderedDict[str, Outcome] = OrderedDict()

    def apply(self, index: int, command: bytes) -> tuple[bytes, tuple[Event, ...]]:
        """Apply one entry; returns the encoded outcomes and what changed."""
        self.view.applied = index
        try:
            records = fmt.decode_entry(command)
        except msgspec.MsgspecError as exc:
            return fmt.encode_outcomes((_internal(f"log entry {index} cannot be read: {exc}"),)), ()
        events: list[Event] = []
        outcomes = [self._apply_record(index, record, events) for record in records]
        return fmt.encode_outcomes(outcomes), tuple(events)

    def _apply_record(self, index: int, record: TransactionRecord, events: list[Event]) -> Outcome:
        known = self._recent.get(record.request_id)
        if known is not None:
            return known
        done: list[Event] = []
        try:
            for action in record.actions:
                done.append(self._perform(index, action))
        except _Refused as refusal:
            self._undo(done)
            outcome = refusal.outcome
        except Exception as exc:  # noqa: BLE001 - nothing may escape: see the module's docstring
            self._undo(done)
            outcome = _internal(f"log entry {index} cannot be applied: {type(exc).__name__}: {exc}")
        else:
            events.extend(done)
            outcome = Outcome("ok", index)
        self._recent[record.request_id] = outcome
        if len(self._recent) > DEDUPE_WINDOW:
            self._recent.popitem(last=False)
        return outcome

    def _perform(self, index: int, action: Action) -> Event:
        table = self.view.tables[action.kind]
        old = table.get(action.id)
        if (0 if old is None else old.version.index) != action.replaces or (
            old is not None and action.op == "create"
        ):
            raise _Refused(Outcome("conflict", index, message=f"{action.kind} {action.id} changed meanwhile"))
        if action.op == "delete":
            refusal = None if old is None else removal_clash_of(self.view, old)
            if refusal is not None:
                raise _Refused(refusal)
            table.remove(action.id)
            return Event("remove", old, None)
        obj = fmt.decode_object(action.kind, action.obj)
        obj = msgspec.structs.replace(obj, version=Version(index=index))
        if isinstance(obj, Task):
            obj = self._share_spec(obj, old)
        clash = clash_of(self.view, obj)
        if clash is not None:
            raise _Refused(clash)
        table.put(obj)
        return Event("create" if old is None else "update", old, obj)

    def _undo(self, done: list[Event]) -> None:
        for event in reversed(done):
            if event.old is not None:
                self.view.tables[fmt.kind_of(event.old)].put(event.old)
            elif event.new is not None:
                self.view.tables[fmt.kind_of(event.new)].remove(event.new.id)

    def _share_spec(self, task: Task, old: Stored | None) -> Task:
        """Tasks hold their service's own spec object, or their predecessor's: a tenth of the memory, and equal
        specs are recognised without comparing them."""
        if isinstance(old, Task) and old.spec == task.spec:
            return msgspec.structs.replace(task, spec=old.spec, service_labels=old.service_labels)
        service = self.view.services.get(task.service_id)
        if service is not None:
            return _with_spec_of(task, service)
        return task

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the state now; the returned function serialises it, on any thread."""
        index = self.view.applied
        tables = {kind: table.copy() for kind, table in self.view.tables.items()}
        recent = list(self._recent.items())

        def serialise() -> bytes:
            return b"".join(_giving_way(fmt.snapshot_pieces(index, tables, recent)))

        return serialise

    def restore(self, data: bytes, index: int) -> None:
        """Replace the whole state. Raises StateDamaged, and then keeps the state it had."""
        view = LiveView()
        try:
            body = fmt.decode_snapshot(data)
            # Services before their tasks, which share their specs.
            for kind, raws in sorted(body.objects.items(), key=lambda item: item[0] == "task"):
                table = view.tables[kind]
                for raw in raws:
                    obj = fmt.decode_object(kind, raw)
                    service = view.services.get(obj.service_id) if isinstance(obj, Task) else None
                    table.put(_with_spec_of(obj, service) if isinstance(obj, Task) and service else obj)
        except (msgspec.MsgspecError, KeyError) as exc:
            raise StateDamaged(f"the snapshot at index {index} cannot be read: {exc}") from exc
        view.applied = index
        self.view = view
        self._recent = OrderedDict(body.recent)

    def validate(self) -> None:
        """Raises AssertionError naming every invariant that does not hold."""
        problems = list(problems_of(self.view))
        if len(self._recent) > DEDUPE_WINDOW:
            problems.append(f"{len(self._recent)} request ids are remembered")
        if problems:
            raise AssertionError("; ".join(problems))


def _giving_way(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces``, letting other threads run after each. The interpreter alone would let a loop that wakes up wait
    for its whole switch interval, each time; and no call into C lasts longer than one piece."""
    for piece in pieces:
        yield piece
        time.sleep(0)


def _with_spec_of(task: Task, service: Service) -> Task:
    for spec in (service.spec, service.previous_spec):
        if spec is not None and spec.task_template == task.spec:
            labels = spec.labels if spec.labels == task.service_labels else task.service_labels
            return msgspec.structs.replace(task, spec=spec.task_template, service_labels=labels)
    return task


def _internal(message: str) -> Outcome:
    return Outcome("error", code="internal", message=message)
