"""A task is stopped only when neither names nor published ports lead to it: the slower of the two counts."""

from pyswarm.overlay.inforce import InForce
from pyswarm.overlay.registry.model import SyncMark


def test_the_slower_way_counts_whichever_it_is() -> None:
    told: list[tuple[tuple[int, int], bool]] = []
    force = InForce(lambda fence, asked: told.append((fence, asked)))
    first, second, third = SyncMark((1, 10)), SyncMark((1, 20), asked=True), SyncMark((1, 30))
    force.heard(first)
    force.found(first)
    assert told == [], "ports are not led yet"
    force.led(first)
    assert told.pop() == ((1, 10), False)
    force.heard(second)
    force.found(second)
    assert told.pop() == ((1, 10), False), "only names are as of the second"
    force.heard(third)
    force.led(third)
    assert told.pop() == ((1, 20), True), "only ports are as of the third"
    force.found(third)
    assert told.pop() == ((1, 30), False), "what was asked is said once"


def test_a_mark_that_was_passed_over_was_asked_all_the_same() -> None:
    told: list[tuple[tuple[int, int], bool]] = []
    force = InForce(lambda fence, asked: told.append((fence, asked)))
    for number in (1, 2, 3):
        force.heard(SyncMark((1, number), asked=number == 2))
    force.led(SyncMark((1, 3)))
    force.found(SyncMark((1, 3)))
    assert told == [((1, 3), True)]


def test_a_state_without_a_mark_is_nothing_to_tell() -> None:
    told: list[object] = []
    force = InForce(lambda fence, asked: told.append((fence, asked)))
    force.heard(None)
    force.found(None)
    force.led(SyncMark((1, 3)))
    assert told == []
