"""What must hold whatever happens: told of everything that happens, it says what was wrong."""

import bisect
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pyswarm.common.types import Config
from pyswarm.manager.raft.messages import Append, SnapshotChunk, Vote, VoteReply, decode
from pyswarm.manager.state import Store
from pyswarm.manager.state.entry import decode_entry, decode_snapshot
from sim.linearizable import Operation, is_linearizable

#: Logged by the product when a rule of Raft is broken.
ALARMS = (
    "another leader in the same term; its message is dropped",
    "member lost entries it had acknowledged",
    "the state machine failed on an entry; it counts as applied",
    "a change was refused",
    "background task failed",
    "task does not stop",
    "applying failed while stopping",
    "a listener of leadership failed",
)
#: Logged by the product, and of interest in the summary.
COUNTED = {
    "installed a snapshot": "snapshots installed",
    "cut an unfinished write at the end of the journal": "torn tails cut",
    "no space for the raft log; waiting": "waits for space",
}
#: The state is validated in full after every so many entries.
_VALIDATE_EVERY = 8


class Violation(Exception):
    """Something that must never happen."""


def value_of(config: Config | None) -> str | None:
    """The value of a register."""
    return None if config is None else config.spec.data.decode()


class Checks:
    """One world's conscience."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.violations: list[str] = []
        self._leader_of: dict[int, str] = {}
        self._applied_before_term: dict[int, int] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._indexes: list[int] = []
        self._log: list[tuple[int, int, int]] = []
        self._states: dict[int, int] = {}
        self._effects: dict[tuple[str, str], int] = {}
        self._denied: set[tuple[str, str]] = set()
        self._acknowledged: set[tuple[str, str]] = set()
        self._pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
        self._history: defaultdict[str, list[Operation]] = defaultdict(list)

    @property
    def acknowledged(self) -> int:
        """How many writes were."""
        return len(self._acknowledged)

    @property
    def terms_led(self) -> int:
        """In how many terms there was a leader."""
        return len(self._leader_of)

    @property
    def highest_applied(self) -> int:
        """The newest entry anybody has applied."""
        return self._indexes[-1] if self._indexes else 0

    def fail(self, text: str) -> None:
        """Write a violation down, and end what led to it."""
        self.violations.append(text)
        self._note(f"VIOLATION: {text}")
        raise Violation(text)

    # -- messages -----------------------------------------------------------------------------------------

    def message(self, sender: str, to: str, payload: bytes) -> None:
        """One leader per term, one vote per term and voter, whatever crashed in between."""
        message = decode(payload)
        if isinstance(message, Append | SnapshotChunk):
            self._applied_before_term.setdefault(message.term, self.highest_applied)
            first = self._leader_of.setdefault(message.term, sender)
            if first != sender:
                self.fail(f"two leaders in term {message.term}: {first} and {sender}")
        elif isinstance(message, Vote) and not message.pre:
            self._vote(sender, message.term, sender)
        elif isinstance(message, VoteReply) and message.granted and not message.pre:
            self._vote(sender, message.term, to)

    def _vote(self, voter: str, term: int, candidate: str) -> None:
        first = self._votes.setdefault((voter, term), candidate)
        if first != candidate:
            self.fail(f"{voter} voted twice in term {term}: for {first} and for {candidate}")

    def leads(self, name: str, term: int, applied: int) -> None:
        """A new leader has everything anybody had applied before its first message."""
        missing_from = self._applied_before_term.get(term, self.highest_applied)
        if applied < missing_from:
            self.fail(f"{name} leads in term {term} with entry {applied}, but {missing_from} was committed before")

    # -- state machines -----------------------------------------------------------------------------------

    def position_after(self, index: int) -> int:
        """Where in the one log of commands a state as of ``index`` stands."""
        return bisect.bisect_right(self._indexes, index)

    def applied(self, name: str, position: int, index: int, command: bytes, result: bytes, store: Store) -> None:
        """Every node applies the same commands at the same indexes, with the same results."""
        entry = (index, zlib.crc32(command), zlib.crc32(result))
        if position == len(self._log):
            self._log.append(entry)
            self._indexes.append(index)
            self._note_effects(index, command, store)
        elif self._log[position] != entry:
            self.fail(f"{name} applied {entry} where another node applied {self._log[position]}")
        if index % _VALIDATE_EVERY == 0:
            self.valid(name, store)

    def valid(self, name: str, store: Store) -> None:
        """The invariants of the state."""
        try:
            store.validate()
        except AssertionError as exc:
            self.fail(f"{name}: the state is not valid: {exc}")

    def _note_effects(self, index: int, command: bytes, store: Store) -> None:
        for record in decode_entry(command):
            for action in record.actions:
                config = store.view.configs.get(action.id)
                if config is None or config.version.index != index:
                    continue
                effect = (action.id, value_of(config) or "")
                if self._effects.setdefault(effect, index) != index:
                    self.fail(f"{effect} was written twice, at {self._effects[effect]} and {index}")
                if effect in self._denied:
                    self.fail(f"{effect} was written at {index} after the client was told that nothing happened")

    def captured(self, name: str, index: int, data: bytes) -> None:
        """Snapshots of the same moment contain the same state."""
        digest = zlib.crc32(repr(canonical(data)).encode())
        if self._states.setdefault(index, digest) != digest:
            self.fail(f"{name}: the state at {index} is not that of another node")

    # -- clients ------------------------------------------------------------------------------------------

    def acknowledge(self, key: str, value: str) -> None:
        """A write whose caller was told that it is stored."""
        self._acknowledged.add((key, value))
        if (key, value) not in self._effects:
            self.fail(f"{(key, value)} was acknowledged, but never applied")

    def deny(self, key: str, value: str) -> None:
        """A write whose caller was told that nothing happened."""
        self._denied.add((key, value))
        if (key, value) in self._effects:
            self.fail(f"the client was told that nothing happened, but {(key, value)} is there")

    def pair(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Two effects of one transaction."""
        self._pairs.append((one, other))

    def record(self, key: str, operation: Operation) -> None:
        """An operation of unknown outcome, or one that took place."""
        self._history[key].append(operation)

    # -- the end ------------------------------------------------------------------------------------------

    def finish(self, final: dict[str, str | None]) -> None:
        """``final`` is what is stored at the end."""
        for key, history in sorted(self._history.items()):
            if not is_linearizable(history):
                listed = "\n".join(f"    {o}" for o in sorted(history, key=lambda o: o.invoked_at))
                self.fail(f"what clients saw of {key} cannot have happened in any order:\n{listed}")
        last: dict[str, tuple[int, str]] = {}
        for (key, value), index in self._effects.items():
            last[key] = max(last.get(key, (0, "")), (index, value))
        for key, (index, value) in last.items():
            if final.get(key) != value:
                self.fail(f"{key} is {final.get(key)} at the end, but {value} was written last, at {index}")
        for one, other in self._pairs:
            if self._effects.get(one) != self._effects.get(other):
                self.fail(f"of one transaction, {one} and {other} were not written at once")


def canonical(data: bytes) -> dict[str, Any]:
    """A snapshot's content without the order of tables."""
    body = decode_snapshot(data)
    return {
        "objects": {kind: sorted(bytes(raw) for raw in raws) for kind, raws in sorted(body.objects.items())},
        "recent": body.recent,
    }


class Observed:
    """A store as the state machine of a node, under observation."""

    def __init__(self, name: str, store: Store, checks: Checks) -> None:
        self._name = name
        self._store = store
        self._checks = checks
        self._position = 0
        self._index = 0

    def apply(self, index: int, command: bytes) -> bytes:
        """In order, without gaps, once."""
        if index <= self._index:
            self._checks.fail(f"{self._name} applied entry {index} after {self._index}")
        result = self._store.apply(index, command)
        self._index = index
        self._checks.applied(self._name, self._position, index, command, result, self._store)
        self._position += 1
        return result

    def snapshot(self) -> Callable[[], bytes]:
        """Compared with those of other nodes."""
        serialise, index = self._store.snapshot(), self._index

        def checked() -> bytes:
            data = serialise()
            self._checks.captured(self._name, index, data)
            return data

        return checked

    def restore(self, data: bytes, index: int) -> None:
        """Never back to an older state."""
        if index < self._index:
            self._checks.fail(f"{self._name} went back from entry {self._index} to {index}")
        self._store.restore(data, index)
        self._position = self._checks.position_after(index)
        self._index = index
        self._checks.valid(self._name, self._store)
