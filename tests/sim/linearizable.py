"""Whether what clients of one register saw can have happened one after the other. Wing and Gong, with a memory."""

import math
from collections.abc import Iterable

import msgspec

#: A write that does not say what it replaced.
ANY = "?"


class Operation(msgspec.Struct, frozen=True):
    """A read of ``value``, or a write of it that replaced ``before``. Values written are unique.

    ``returned_at`` is infinite when the outcome is not known: it may take effect at any later time, or never.
    """

    kind: str
    value: str | None
    invoked_at: float
    returned_at: float = math.inf
    before: str | None = ANY

    def after(self, state: str | None) -> tuple[bool, str | None]:
        """Whether it can happen in ``state``, and the state it leaves."""
        if self.kind == "read":
            return self.value == state, state
        return self.before in (ANY, state), self.value


def is_linearizable(history: Iterable[Operation]) -> bool:
    """Whether an order exists that respects time and in which each read sees the write before it."""
    operations = sorted(_that_matter(list(history)), key=lambda o: o.invoked_at)
    required = sum(1 << i for i, o in enumerate(operations) if o.returned_at < math.inf)
    start: tuple[int, str | None] = (0, None)
    seen, waiting = {start}, [start]
    while waiting:
        done, state = waiting.pop()
        if done & required == required:
            return True
        # An operation may come next unless another one had returned before it was invoked.
        horizon = min(o.returned_at for i, o in enumerate(operations) if not done >> i & 1)
        for i, operation in enumerate(operations):
            if operation.invoked_at > horizon:
                break
            if done >> i & 1:
                continue
            possible, new_state = operation.after(state)
            following = (done | 1 << i, new_state)
            if possible and following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


def _that_matter(history: list[Operation]) -> list[Operation]:
    """Without the writes of unknown outcome that nobody saw: they need not have happened."""
    observed = {o.value for o in history if o.kind == "read"} | {o.before for o in history if o.kind == "write"}
    return [o for o in history if o.returned_at < math.inf or (o.kind == "write" and o.value in observed)]
